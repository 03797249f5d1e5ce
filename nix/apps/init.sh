#!/usr/bin/env bash
# `nix run URL#init -- DOMAIN...`: writes a folder with the flake, the hosts and the disk layout of new relays.
set -euo pipefail
program=init
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR source=checks.sh
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

usage() {
  cat <<'END'
Usage: init [OPTIONS] DOMAIN...

Writes a folder that `nix run .#install` and `nix run .#deploy` turn into relays, one for each DOMAIN: a full domain
name, or the IPv4 address of a relay without a name. Asks for required values that no option sets.

  --input URL       flake of the chatmail relay, as given to `nix run`, without `#init`
  --ssh-key KEY     public SSH key that logs in as root, or a file with such keys; repeatable
  --email ADDRESS   mail address for the certificate authority
  --address IP      public IP address of the relay; repeatable, with a single DOMAIN only
  --disk DEVICE     disk to install on (default: /dev/sda)
  --system SYSTEM   x86_64-linux (default) or aarch64-linux
  --directory DIR   folder to write (default: the domain, or "relays" for several)
  --help            print this help
END
}

readonly release=26.05
readonly terms=https://letsencrypt.org/repository/

# Stops if a check rejects the value of an option.
check() {
  local option=$1 value=$2 wrong
  wrong=$("wrong_$3" "$value")
  [[ -z $wrong ]] || fail "$option \"$value\" $wrong"
}

# Prompts until the answer is valid, and sets the variable `answer`.
ask() {
  local question=$1 default=$2 check=$3 wrong
  while :; do
    read -r -p "$question${default:+ [$default]}: " answer || fail "no answer"
    answer=${answer:-$default}
    [[ -n $answer ]] || continue
    wrong=$("$check" "$answer")
    [[ -n $wrong ]] || return 0
    printf '"%s" %s\n' "$answer" "$wrong" >&2
  done
}

flake_nix() {
  cat <<END
{
  description = "Chatmail relays";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-$release";
  inputs.chatmail.url = $(quoted "$input");
  inputs.chatmail.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, chatmail, ... }:
    let
      # Each relay has its settings in hosts/DOMAIN.
      relays = $(list '      ' "${domains[@]}")
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs relays (
        domain:
        nixpkgs.lib.nixosSystem {
          modules = [
            chatmail.nixosModules.default
            chatmail.nixosModules.disko
            ./disk.nix
            ./shared.nix
            (./hosts + "/\${domain}")
          ];
        }
      );

      # \`nix run .#install\` and \`nix run .#deploy\`
      inherit (chatmail) apps;
    };
}
END
}

disk_nix() {
  cat <<'END'
# The layout of the disk, for machines with BIOS and with UEFI. disko creates it during the installation; a change
# affects only relays that are installed later.
{ lib, pkgs, ... }:
let
  inherit (pkgs.stdenv.hostPlatform) isx86_64;
in
{
  disko.devices.disk.main = {
    type = "disk";
    content = {
      type = "gpt";
      partitions =
        # GRUB's boot code for BIOS, which exists only on this architecture.
        lib.optionalAttrs isx86_64 {
          bios = {
            size = "1M";
            type = "EF02";
          };
        }
        // {
          ESP = {
            size = "512M";
            type = "EF00";
            content = {
              type = "filesystem";
              format = "vfat";
              mountpoint = "/boot";
              mountOptions = [ "umask=0077" ];
            };
          };
          root = {
            size = "100%";
            content = {
              type = "filesystem";
              format = "ext4";
              mountpoint = "/";
            };
          };
        };
    };
  };

  boot.loader.grub = {
    efiSupport = true;
    efiInstallAsRemovable = true;
    # disko sets the device on machines that can boot with BIOS.
    device = lib.mkIf (!isx86_64) "nodev";
  };
}
END
}

shared_nix() {
  cat <<'END'
# Settings of all relays.
{
  services.chatmail.enable = true;
END
  if [[ -n $email ]]; then
    cat <<END

  # The terms of the certificate authority: $terms
  security.acme = {
    acceptTerms = true;
    defaults.email = $(quoted "$email");
  };
END
  fi
  cat <<END

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };
  users.users.root.openssh.authorizedKeys.keys = $(list '  ' "${keys[@]}")
}
END
}

host_nix() {
  local domain=$1 host=relay parent='' public=("${addresses[@]}")
  if is_ipv4 "$domain"; then
    # The address of a relay without a name is its domain.
    ((${#public[@]} > 0)) || public=("$domain")
  else
    host=${domain%%.*}
    host=${host#_}
    parent=${domain#*.}
  fi
  cat <<END
# The relay $domain.
{ lib, ... }:
{
  # \`nix run .#install\` writes these files.
  imports = lib.filter builtins.pathExists [
    ./addresses.nix
    ./hardware-configuration.nix
  ];

  nixpkgs.hostPlatform = "$system";
  disko.devices.disk.main.device = "$disk";

  # The host gets its address from DHCP. The operator guide describes static addresses.
  networking.hostName = "${host:-relay}";
END
  [[ -z $parent ]] || printf '  networking.domain = "%s";\n' "$parent"
  cat <<END

  services.chatmail = {
    domain = "$domain";
END
  if ((${#public[@]} > 0)); then
    printf '    addresses = %s\n' "$(list '    ' "${public[@]}")"
  fi
  cat <<END
  };

  # The release that the relay was installed with; upgrades do not change it.
  system.stateVersion = "$release";
}
END
}

input=
email=
disk=/dev/sda
system=x86_64-linux
directory=
keys=()
key_sources=()
addresses=()
domains=()

while (($# > 0)); do
  case $1 in
  --help)
    usage
    exit 0
    ;;
  --input | --email | --address | --disk | --system | --directory | --ssh-key)
    [[ -n ${2:-} ]] || fail "$1 needs a value; see --help"
    case $1 in
    --input) input=$2 ;;
    --email) email=$2 ;;
    --address) addresses+=("$2") ;;
    --disk) disk=$2 ;;
    --system) system=$2 ;;
    --directory) directory=$2 ;;
    --ssh-key) key_sources+=("$2") ;;
    esac
    shift 2
    ;;
  --)
    shift
    domains+=("$@")
    break
    ;;
  -*) fail "unknown option $1; see --help" ;;
  *)
    domains+=("$1")
    shift
    ;;
  esac
done

((${#domains[@]} > 0)) || fail "no domain; run: init chat.example.org"

needs_email=
unnamed=()
for domain in "${domains[@]}"; do
  check 'the domain' "$domain" domain
  if [[ $domain == _* ]] || is_ipv4 "$domain"; then
    unnamed+=("$domain")
  else
    needs_email=yes
  fi
done
twice=$(printf '%s\n' "${domains[@]}" | sort | uniq --repeated | head -n 1)
[[ -z $twice ]] || fail "the domain \"$twice\" is given twice"

[[ -z $input ]] || check --input "$input" input
[[ -z $email ]] || check --email "$email" email
check --disk "$disk" disk
check --system "$system" system
((${#addresses[@]} == 0 || ${#domains[@]} == 1)) ||
  fail "--address is for a single domain; with several, set \`addresses\` in hosts/DOMAIN/default.nix"
for address in "${addresses[@]}"; do
  check --address "$address" address
done
for source in "${key_sources[@]}"; do
  # Not in a subshell: this fills `keys`.
  wrong=$(read_keys "$source")
  [[ -z $wrong ]] || fail "--ssh-key \"$source\" $wrong"
  read_keys "$source"
done

if [[ -z $directory ]]; then
  directory=relays
  ((${#domains[@]} > 1)) || directory=${domains[0]}
fi
refuse_existing() {
  if [[ -e $directory || -L $directory ]]; then
    [[ -d $directory && ! -L $directory ]] || fail "$directory exists and is not a folder; choose another --directory"
    [[ -z $(ls -A -- "$directory") ]] ||
      fail "$directory exists and is not empty; choose another --directory, or remove it"
  fi
}
refuse_existing

# Values that only the operator knows.
if [[ -t 0 ]]; then
  keys_of() {
    read_keys "$1"
  }
  if [[ -z $input ]]; then
    ask 'Flake of the chatmail relay, as given to "nix run", without #init' '' wrong_input
    input=$answer
  fi
  if ((${#keys[@]} == 0)); then
    default=
    for name in id_ed25519 id_ecdsa id_rsa; do
      [[ -n $default || ! -f ${HOME:-}/.ssh/$name.pub ]] || default=$HOME/.ssh/$name.pub
    done
    ask 'Public SSH key that logs in as root, or its file' "$default" keys_of
    read_keys "$answer"
  fi
  if [[ -n $needs_email && -z $email ]]; then
    ask 'Your mail address, for the certificate authority' '' wrong_email
    email=$answer
  fi
else
  missing=()
  [[ -n $input ]] || missing+=('--input URL')
  ((${#keys[@]} > 0)) || missing+=('--ssh-key KEY')
  [[ -z $needs_email || -n $email ]] || missing+=('--email ADDRESS')
  if ((${#missing[@]} > 0)); then
    named=$(printf ', %s' "${missing[@]}")
    fail "standard input is not a terminal, so these options are required: ${named:2}"
  fi
fi

[[ -n $needs_email ]] || email=
# Creates the folder atomically.
mkdir -p -- "$(dirname -- "$directory")"
unfinished=$(mktemp -d -- "${directory%/}.XXXXXX")
trap 'rm -rf -- "$unfinished"' EXIT
flake_nix >"$unfinished/flake.nix"
disk_nix >"$unfinished/disk.nix"
shared_nix >"$unfinished/shared.nix"
for domain in "${domains[@]}"; do
  mkdir -p "$unfinished/hosts/$domain"
  host_nix "$domain" >"$unfinished/hosts/$domain/default.nix"
done
chmod -R u=rwX,go=rX "$unfinished"
refuse_existing
mv -T -- "$unfinished" "$directory"
trap - EXIT

echo "Wrote $directory:"
(cd -- "$directory" && find . -type f | sort | sed 's|^\./|  |')
echo
for domain in "${unnamed[@]}"; do
  echo "$domain uses a self-signed certificate, which Delta Chat accepts and most other mail programs reject."
done
if [[ -n $email ]]; then
  echo "The relays accept the terms of the certificate authority: $terms"
fi
if git -C "$directory" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  echo "The folder is in a Git repository; Nix reads only files that Git knows: git add $(printf '%q' "$directory")"
fi
name=
machine=${addresses[0]:-ADDRESS}
if ((${#domains[@]} > 1)); then
  name='DOMAIN '
elif is_ipv4 "${domains[0]}"; then
  machine=${domains[0]}
fi
cat <<END

Rent a machine with SSH (Debian, Ubuntu or another Linux, 1 GB of memory or more), then run:

  cd $(printf '%q' "$directory")
  nix run .#install -- ${name}root@$machine

The installation erases $disk of that machine. Later, this applies changes of the folder:

  nix run .#deploy${name:+ -- ${name% }}
END
