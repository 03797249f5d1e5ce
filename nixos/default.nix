# The relay as a NixOS module. `packagesFor` builds the relay's packages from the host's nixpkgs. It is an argument
# because many hosts, and every VM test, make `nixpkgs.overlays` read-only. `revision` is the commit of this project.
{
  packagesFor,
  revision ? null,
}:
{ lib, ... }:
{
  _class = "nixos";

  imports = [
    (lib.modules.importApply ./options.nix { inherit packagesFor; })
    ./renamed.nix
    ./assertions.nix
    ./conflicts.nix

    ./users.nix
    ./tls.nix
    ./firewall.nix
    ./services.nix
    ./postfix.nix
    ./opendkim.nix
    ./dovecot.nix
    ./expire.nix
    ./nginx.nix
    ./status-page.nix
    ./unbound.nix
    ./coturn.nix
    ./iroh-relay.nix
    ./metrics.nix
    ./journald.nix
    ./backup.nix
  ];

  environment.etc."chatmail-version" = lib.mkIf (revision != null) { text = "${revision}\n"; };
}
