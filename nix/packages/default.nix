# Our packages, made from the nixpkgs given.
pkgs:
let
  chatmail = pkgs.callPackage ./chatmail.nix { };
in
{
  inherit chatmail;
  dovecot = pkgs.callPackage ./dovecot.nix { };
  iroh-relay = pkgs.callPackage ./iroh-relay.nix { };
  lab = pkgs.callPackage ./lab.nix { };
  opendkim = pkgs.callPackage ./opendkim.nix { };
  # As it looks before an operator says anything about the relay.
  website = pkgs.callPackage ./website.nix { inherit chatmail; } {
    settingsFile = ../../crates/chatmail-core/testdata/settings.json;
    sources = [ ../../www ];
  };
}
