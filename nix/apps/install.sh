#!/usr/bin/env bash
# `nix run .#install`: turns a machine with SSH into a relay of this folder.
set -euo pipefail
program=install
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: install [OPTIONS] [DOMAIN] USER@ADDRESS

Installs the relay DOMAIN of this folder on the machine ADDRESS, which runs any Linux with SSH, and erases its disk.
Waits until the relay is ready, and prints the DNS records that are still missing. A folder with several relays needs
DOMAIN. USER is root, or may use sudo without a password.

  --yes           do not ask before the disk is erased
  --wait SECONDS  how long to wait until the relay is ready (default: 900)
  --help          print this help
END
}

confirmed=
limit=900
arguments=()
while (($# > 0)); do
  case $1 in
  --help)
    usage
    exit 0
    ;;
  --yes) confirmed=yes ;;
  --wait)
    limit=${2:-}
    check_seconds "$limit"
    shift
    ;;
  *) arguments+=("$1") ;;
  esac
  shift
done
read_arguments "${arguments[@]}"
[[ -n $destination ]] || fail "no machine; give its SSH destination, such as root@192.0.2.1"
[[ -n $confirmed || -t 0 ]] ||
  fail "standard input is not a terminal, so the option --yes is required: it confirms that the disk may be erased"
choose_relay

attribute=.\"$relay\".config
disk=$(evaluate "$attribute.disko.devices.disk.main.device") || fail "cannot evaluate the relay $relay"
system=$(evaluate "$attribute.nixpkgs.hostPlatform.system") || fail "cannot evaluate the relay $relay"
settings=hosts/$relay/default.nix

# Prints facts about the machine, one per line. Its shell need not be bash.
# shellcheck disable=SC2016 # the machine expands this
facts='
  disk=$1
  echo "machine $(uname -m)"
  echo "address $(echo "$SSH_CONNECTION" | cut -d " " -f 3)"
  echo "memory $(sed -n "s/^MemTotal: *\([0-9]*\) kB$/\1/p" /proc/meminfo)"
  ! grep -q "^VARIANT_ID=\"\{0,1\}installer" /etc/os-release || echo "installer yes"
  [ ! -b "$disk" ] || echo "found yes"
  lsblk --nodeps --noheadings --output PATH,SIZE,TYPE | while read -r path size type; do
    [ "$type" != disk ] || echo "disk $path ($size)"
  done
'
echo "Checking $destination."
answer=$(printf '%s\n' "$facts" |
  ssh -o ConnectTimeout=10 -o StrictHostKeyChecking=accept-new "$destination" sh -s -- "$(printf '%q' "$disk")") ||
  fail "cannot connect to $destination over SSH; check that \`ssh $destination\` logs in"
fact() {
  sed -n "s|^$1 ||p" <<<"$answer"
}

machine=$(fact machine)
[[ -n $machine ]] ||
  fail "$destination does not run shell commands${answer:+ and prints: ${answer##*$'\n'}}; log in as root, or as a user with sudo"
[[ $machine == "${system%-linux}" ]] ||
  fail "$destination has the architecture $machine, but $settings says nixpkgs.hostPlatform = \"$system\"; change that line"
disks=$(fact disk)
[[ $(fact found) == yes ]] ||
  fail "$destination has no disk $disk, but: ${disks//$'\n'/, }; change disko.devices.disk.main.device in $settings"
memory=$(fact memory)
[[ $memory =~ ^[0-9]+$ ]] || fail "$destination does not report its memory"
options=()
# The NixOS installer runs in memory. Providers reserve part of a gigabyte.
if [[ $(fact installer) != yes ]]; then
  ((memory >= 900000)) ||
    fail "$destination has only $((memory / 1024)) MiB of memory, and the installation needs 1 GB; boot the machine from an image of the NixOS installer, or rent a larger one for the installation"
  # Partitioning tools then come with the installer.
  ((memory >= 1400000)) || options+=(--no-disko-deps)
fi

# The DNS records need the public addresses.
addresses=$(evaluate "$attribute.services.chatmail.addresses" --apply toString) || fail "cannot evaluate the relay $relay"
address=
if [[ -z $addresses ]] && ! is_ipv4 "$relay"; then
  address=${destination#*@}
  is_ipv4 "$address" || is_ipv6 "$address" || address=$(fact address)
  is_ipv4 "$address" || is_ipv6 "$address" || address=none
  [[ ! $address =~ ^(none$|10\.|127\.|192\.168\.|172\.(1[6-9]|2[0-9]|3[01])\.|f[cde]) ]] ||
    fail "cannot find out the public address of $destination (found: $address); set services.chatmail.addresses in $settings"
fi

echo "This erases $disk of $destination and installs the relay $relay there. Its disks: ${disks//$'\n'/, }"
if [[ -z $confirmed ]]; then
  read -r -p "Type $relay to continue: " answer || true
  [[ ${answer:-} == "$relay" ]] || fail "nothing was changed"
fi

if [[ -n $address ]]; then
  cat >"hosts/$relay/addresses.nix" <<END
# The public addresses of the host, for its DNS records.
{
  services.chatmail.addresses = $(list '  ' "$address")
}
END
  ! git rev-parse --is-inside-work-tree >/dev/null 2>&1 ||
    git add --intent-to-add --force -- "hosts/$relay/addresses.nix"
fi

# Keep the host keys, so that SSH recognizes the machine afterwards.
nixos-anywhere --flake "path:$PWD#$relay" --target-host "$destination" --copy-host-keys \
  --generate-hardware-config nixos-generate-config "$PWD/hosts/$relay/hardware-configuration.nix" \
  "${options[@]}" ||
  fail "nixos-anywhere failed; its messages are above. You can run the command again"

# After the installation, only root accepts the keys in shared.nix.
destination=root@${destination#*@}
wait_for_relay "$limit"
