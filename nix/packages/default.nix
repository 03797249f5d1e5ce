# Our packages, made from the nixpkgs given.
pkgs: {
  chatmail = pkgs.callPackage ./chatmail.nix { };
  dovecot = pkgs.callPackage ./dovecot.nix { };
  iroh-relay = pkgs.callPackage ./iroh-relay.nix { };
  opendkim = pkgs.callPackage ./opendkim.nix { };
}
