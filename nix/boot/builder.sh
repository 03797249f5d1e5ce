# Runs the commands of a derivation, with those functions of nixpkgs' standard environment that NixOS uses.
set -e -o pipefail
shopt -s inherit_errexit nullglob
export PATH=/usr/bin:/usr/sbin HOME=/homeless-shelter SHELL=/bin/bash CC=gcc
cd "$NIX_BUILD_TOP"

# substitute IN OUT [--subst-var NAME | --subst-var-by NAME VALUE | --replace-{fail,warn,quiet} OLD NEW]...
substitute() {
  local input=$1 output=$2 content name
  content=$(cat "$input" && echo x) content=${content%x}
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
    --subst-var) name=$2 content=${content//"@$name@"/"${!name}"} && shift 2 ;;
    --subst-var-by) content=${content//"@$2@"/"$3"} && shift 3 ;;
    --replace | --replace-fail | --replace-warn | --replace-quiet)
      if [ "$1" = --replace-fail ] && [[ $content != *"$2"* ]]; then
        echo "substitute: no $2 in $input" >&2
        return 1
      fi
      content=${content//"$2"/"$3"} && shift 3
      ;;
    *) echo "substitute: unknown argument $1" >&2 && return 1 ;;
    esac
  done
  printf %s "$content" >"$output"
}

# substituteInPlace [--replace... | FILE]...
substituteInPlace() {
  local -a files=()
  while [ $# -gt 0 ] && [[ $1 != --* ]]; do
    files+=("$1") && shift
  done
  local file
  for file in "${files[@]}"; do
    substitute "$file" "$NIX_BUILD_TOP/substituted" "$@"
    cat "$NIX_BUILD_TOP/substituted" >"$file"
  done
}

# Replaces every variable of the environment that begins with a lower-case letter.
substituteAll() {
  local -a arguments=()
  local name
  for name in $(compgen -e); do
    if [[ $name =~ ^[a-z][A-Za-z0-9_]*$ ]]; then
      arguments+=(--subst-var "$name")
    fi
  done
  substitute "$1" "$2" "${arguments[@]}"
}

if [ -n "${buildCommandPath-}" ]; then
  source "$buildCommandPath"
elif [ -n "${installPhase-}" ]; then
  eval "$installPhase"
else
  echo "$name has neither buildCommand nor installPhase" >&2
  exit 1
fi
