# The packages of the flake, built from the given nixpkgs.
pkgs:
let
  chatmail = pkgs.callPackage ./chatmail.nix { };
in
{
  inherit chatmail;
  dovecot = pkgs.callPackage ./dovecot.nix { };
  iroh-relay = pkgs.callPackage ./iroh-relay.nix { };
  mailtest = pkgs.callPackage ./mailtest.nix { };
  opendkim = pkgs.callPackage ./opendkim.nix { };
  # The web site with default settings.
  website = pkgs.callPackage ./website.nix { inherit chatmail; } {
    settingsFile = ../../crates/chatmail-core/testdata/settings.json;
    sources = [ ../../www ];
  };
}
