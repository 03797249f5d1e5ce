# Checks of the values that an operator passes to init.sh. Each check prints what is wrong with a value and what is
# allowed, or nothing.
# shellcheck shell=bash

wrong_domain() {
  local domain=$1 label labels
  local allowed='use a full domain name in lower case, such as chat.example.org, or an IPv4 address'
  local name='([a-z0-9_]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?'
  if [[ -z $domain ]]; then
    echo "is empty; $allowed"
  elif [[ $domain == *://* || $domain == */* ]]; then
    echo "is a URL or a path; $allowed"
  elif [[ $domain == *@* ]]; then
    echo "is a mail address; use only the part after the @"
  elif [[ $domain == \[* ]] || is_ipv6 "$domain"; then
    echo "is not supported: a relay without a name needs an IPv4 address, without brackets"
  elif [[ $domain == *:* ]]; then
    echo "contains a port or a colon; $allowed"
  elif is_ipv4 "$domain"; then
    :
  elif [[ $domain =~ ^[0-9.]+$ ]]; then
    echo "is not an IPv4 address: it has four numbers from 0 to 255, without leading zeros"
  elif [[ $domain == *[$'\x80'-$'\xff']* ]]; then
    echo "contains characters outside ASCII; write the name in its xn-- form"
  elif [[ $domain =~ [A-Z] ]]; then
    echo "contains capital letters; write ${domain,,}"
  elif [[ $domain == *. ]]; then
    echo "ends with a dot; leave the dot out"
  elif [[ $domain != *.* ]]; then
    echo "has only one label; $allowed"
  elif ((${#domain} > 253)); then
    echo "has ${#domain} characters; a domain name has at most 253"
  elif [[ ! $domain =~ ^$name$ ]]; then
    echo "is not a domain name: labels consist of a to z, 0 to 9 and inner hyphens, and only a first character may be _"
  else
    IFS=. read -r -a labels <<<"$domain"
    for label in "${labels[@]}"; do
      ((${#label} <= 63)) || echo "has a label of ${#label} characters ($label); a label has at most 63"
    done
  fi
}

wrong_email() {
  local domain
  if [[ ! $1 =~ ^[A-Za-z0-9._%+-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$ ]]; then
    echo "is not a mail address; use the form you@example.org"
    return
  fi
  for domain in "${domains[@]:?}"; do
    [[ ${1#*@} != "$domain" ]] ||
      echo "is an address of the new relay, which rejects the unencrypted mail of the certificate authority; use another"
  done
}

wrong_address() {
  is_ipv4 "$1" || is_ipv6 "$1" || echo "is not an IP address; use the form 192.0.2.1 or 2001:db8::1"
}

wrong_disk() {
  [[ $1 =~ ^/dev/[A-Za-z0-9][A-Za-z0-9/_.:+-]*$ && $1 != *..* ]] ||
    echo "is not a device; use the path of a whole disk, such as /dev/sda, /dev/vda or /dev/disk/by-id/..."
}

wrong_system() {
  [[ $1 == x86_64-linux || $1 == aarch64-linux ]] || echo "is not supported; use x86_64-linux or aarch64-linux"
}

wrong_input() {
  if [[ $1 == *'#'* ]]; then
    echo "names an output; leave out the part from the # on"
  elif [[ ! $1 =~ ^[A-Za-z0-9+.:/_~@%?=\&,-]+$ ]]; then
    echo "contains characters that a flake URL cannot have"
  elif [[ $1 =~ ^path: && ! $1 =~ ^path:/ ]]; then
    echo "is a relative path; write path: and the absolute path"
  elif [[ ! $1 =~ ^(github|gitlab|sourcehut|path|https|file|git\+https|git\+ssh|git\+file|tarball\+https|flake):.+$ ]]; then
    echo "is not a flake URL; use a form such as github:OWNER/REPOSITORY, git+https://HOST/REPOSITORY or path:/FOLDER"
  fi
}

wrong_key() {
  local kind blob rest bytes
  read -r kind blob rest <<<"$1"
  case $kind in
  ssh-ed25519 | ssh-rsa | ecdsa-sha2-nistp256 | ecdsa-sha2-nistp384 | ecdsa-sha2-nistp521) ;;
  sk-ssh-ed25519@openssh.com | sk-ecdsa-sha2-nistp256@openssh.com) ;;
  -----BEGIN*)
    echo "is a private key; use the public key, which is in the file whose name ends with .pub"
    return
    ;;
  *)
    echo "does not begin with the type of a public key, such as ssh-ed25519 or ssh-rsa"
    return
    ;;
  esac
  # A key repeats its type, after the length of it in four bytes.
  if [[ ! $blob =~ ^[A-Za-z0-9+/]+={0,2}$ ]] || ! bytes=$(base64 --decode <<<"$blob" 2>/dev/null | wc -c) ||
    [[ $(base64 --decode <<<"$blob" 2>/dev/null | tail -c +5 | head -c ${#kind}) != "$kind" ]]; then
    echo "is not a complete public key: the part after $kind is damaged"
  elif [[ $kind == ssh-ed25519 && $bytes -ne 51 ]] || ((bytes < 51)); then
    echo "is not a complete public key: characters are missing or added after $kind"
  elif [[ $rest =~ [^[:print:]] ]]; then
    echo "has a comment with unprintable characters"
  fi
}

# Adds the keys of an argument, a key or a file, to `keys`; prints what is wrong like a check.
read_keys() {
  local file=$1 line wrong number=0 found=()
  if [[ $file =~ ^(ssh-|ecdsa-|sk-)[^/]*[[:space:]] ]]; then
    wrong=$(wrong_key "$file")
    [[ -z $wrong ]] || { echo "$wrong" && return; }
    keys+=("$file")
    return
  fi
  # The shell does not expand ~ in an answer.
  [[ ${file:0:2} != \~/ ]] || file=${HOME:-}/${file:2}
  if [[ ! -f $file || ! -r $file ]]; then
    echo "is neither a public key nor a readable file with public keys"
    return
  fi
  if (($(wc -c <"$file") > 65536)); then
    echo "is larger than 64 KiB, which is too much for a file with public keys"
    return
  fi
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ -n ${line//[[:space:]]/} && $line != '#'* ]] || continue
    wrong=$(wrong_key "$line")
    [[ -z $wrong ]] || { echo "line $number $wrong" && return; }
    found+=("$line")
  done < <(tr -d '\0\r' <"$file")
  if ((${#found[@]} == 0)); then
    echo "contains no public key"
    return
  fi
  keys+=("${found[@]}")
}
