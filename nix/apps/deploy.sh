#!/usr/bin/env bash
# `nix run .#deploy`: applies the settings of this folder to one of its relays.
set -euo pipefail
program=deploy
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: deploy [OPTIONS] [DOMAIN] [USER@ADDRESS]

Builds the relay DOMAIN of this folder, switches the machine to it, waits until the relay is ready, and prints the DNS
records that are still missing. A folder with several relays needs DOMAIN. The default of USER@ADDRESS is root@DOMAIN.
If this computer has a different system than the relay, the relay builds.

  --wait SECONDS  how long to wait until the relay is ready (default: 300)
  --help          print this help
END
}

limit=300
arguments=()
while (($# > 0)); do
  case $1 in
  --help)
    usage
    exit 0
    ;;
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
choose_relay
destination=${destination:-root@$relay}

options=()
[[ ${destination%%@*} == root ]] || options+=(--sudo)
system=$(evaluate ".\"$relay\".config.nixpkgs.hostPlatform.system") || fail "cannot evaluate the relay $relay"
here=$(nix eval --raw --impure --expr builtins.currentSystem) || fail "cannot run nix"
[[ $system == "$here" ]] || options+=(--build-host "$destination")

# This nixos-rebuild is already that of the relay's nixpkgs.
nixos-rebuild switch --flake "path:$PWD#$relay" --target-host "$destination" --no-reexec --use-substitutes \
  "${options[@]}" ||
  fail "nixos-rebuild failed; its messages are above"

wait_for_relay "$limit"
