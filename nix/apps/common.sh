# Functions that the other scripts share. `program` is the name of the running script.
# shellcheck shell=bash

export LC_ALL=C
# For users whose Nix configuration does not enable flakes.
export NIX_CONFIG="${NIX_CONFIG:-}
extra-experimental-features = nix-command flakes"

# Seconds between two attempts to connect to a relay, and the timeout of one attempt in seconds.
readonly pause=5 patience=60

fail() {
  printf '%s: %s\n' "${program:?}" "$1" >&2
  exit 1
}

is_ipv4() {
  local octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  [[ $1 =~ ^($octet\.){3}$octet$ ]]
}

is_ipv6() {
  local groups
  [[ $1 == *:*:* && $1 =~ ^[0-9A-Fa-f:]+$ && $1 != *:::* && $1 != *::*::* ]] || return 1
  [[ ! $1 =~ [0-9A-Fa-f]{5} ]] || return 1
  IFS=: read -r -a groups <<<"$1"
  if [[ $1 == *::* ]]; then
    ((${#groups[@]} <= 8))
  else
    ((${#groups[@]} == 8)) && [[ $1 != :* && $1 != *: ]]
  fi
}

# A Nix string.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//\$\{/\\\$\{}
  printf '"%s"' "$text"
}

# A Nix list at the end of a line, with one element on each line.
list() {
  local indent=$1 element
  shift
  echo '['
  for element; do
    printf '%s  %s\n' "$indent" "$(quoted "$element")"
  done
  printf '%s];\n' "$indent"
}

# Evaluates an attribute of the flake in this folder; options of `nix eval` follow.
evaluate() {
  local attribute=$1
  shift
  # `path:` includes files that Git does not know.
  nix eval --raw "path:$PWD#nixosConfigurations$attribute" "$@"
}

# Reads the arguments [DOMAIN] [USER@ADDRESS] into `relay` and `destination`; both may stay empty.
read_arguments() {
  local argument
  relay=
  destination=
  for argument; do
    if [[ $argument == -* ]]; then
      fail "unknown option $argument; see --help"
    elif [[ $argument == *@* && -z $destination ]]; then
      [[ $argument =~ ^[A-Za-z_][A-Za-z0-9_.-]*@[A-Za-z0-9_][A-Za-z0-9_.:%-]*$ ]] ||
        fail "\"$argument\" is not an SSH destination; use the form root@192.0.2.1"
      destination=$argument
    elif [[ $argument != *@* && -z $relay ]]; then
      relay=$argument
    else
      fail "unexpected argument \"$argument\"; see --help"
    fi
  done
}

# Checks that this folder contains `relay`; if it contains a single relay, the name is optional.
choose_relay() {
  local names
  [[ -f flake.nix ]] || fail "there is no flake.nix in $PWD; run this in the folder that \`init\` wrote"
  # Nix reads this path as part of a URL.
  [[ $PWD =~ ^[A-Za-z0-9/._+~@=-]+$ ]] ||
    fail "the path of this folder contains spaces or special characters, which flakes do not support: $PWD"
  names=$(evaluate '' --apply 'hosts: builtins.concatStringsSep "\n" (builtins.attrNames hosts)') ||
    fail "cannot evaluate the flake in $PWD"
  [[ -n $names ]] || fail "the flake in $PWD has no relay; add one to its list"
  if [[ -z $relay && $names != *$'\n'* ]]; then
    relay=$names
  elif [[ -z $relay ]]; then
    fail "this folder has several relays, so name one of them: ${names//$'\n'/, }"
  elif [[ $'\n'$names$'\n' != *$'\n'"$relay"$'\n'* ]]; then
    fail "this folder has no relay \"$relay\"; it has: ${names//$'\n'/, }"
  fi
}

# Runs a command as root on the relay, without prompts.
on_relay() {
  local root=(sudo --non-interactive)
  [[ ${destination%%@*} != root ]] || root=()
  timeout "$patience" ssh -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR \
    -o ServerAliveInterval=5 -o StrictHostKeyChecking=accept-new "$destination" "${root[@]}" "$@" </dev/null 2>&1
}

# Prints the records that are missing or differ.
show_records() {
  local text
  # A relay without a name has no records.
  ! is_ipv4 "$relay" || return 0
  text=$(on_relay chatmail dns --check) || true
  printf '\n%s\n' "$text"
}

# Copies the failures in the output of `chatmail doctor`, which may have several lines each.
failures() {
  local line shown=
  while IFS= read -r line; do
    case $line in
    FAILED*) shown=yes ;;
    ' '*) ;;
    *) shown= ;;
    esac
    [[ -z $shown ]] || printf '%s\n' "$line"
  done
}

# Waits until `chatmail doctor` on the relay finds nothing that fails, for at most this many seconds; then prints the DNS records that are
# still missing.
wait_for_relay() {
  local limit=$1 started=$SECONDS text code state='' before='' shown=''
  echo
  echo "Waiting until $relay is ready, for at most $limit seconds. Ctrl-C only stops waiting."
  while :; do
    code=0
    text=$(on_relay chatmail doctor) || code=$?
    case $code in
    0) break ;;
    124) state="no response within $patience seconds" ;;
    127) state='no chatmail command on the machine yet' ;;
    255) state="no SSH connection yet${text:+: ${text##*$'\n'}}" ;;
    *)
      state=$(failures <<<"$text")
      state=${state:-${text##*$'\n'}}
      ;;
    esac
    if [[ $state != "$before" ]]; then
      printf '%s\n' "$state"
      before=$state
    fi
    # Certificates need some of the records, so they are printed before the relay can be ready.
    if [[ -z $shown && $code != 124 && $code != 127 && $code != 255 ]]; then
      show_records
      shown=yes
    fi
    if ((SECONDS - started >= limit)); then
      [[ $code == 124 || $code == 127 || $code == 255 ]] || show_records
      fail "$relay is not ready after $limit seconds; the lines above say why. Check again with: ssh $destination chatmail doctor"
    fi
    sleep "$pause"
  done
  printf '%s\n' "${text##*$'\n'}"
  show_records
}

# The value of --wait.
check_seconds() {
  [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] || fail "--wait \"$1\" is not a number of seconds from 1 to 99999"
}
