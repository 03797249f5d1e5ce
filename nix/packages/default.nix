# Our packages, made from the nixpkgs given.
pkgs: {
  chatmail = pkgs.callPackage ./chatmail.nix { };
  dovecot = pkgs.callPackage ./dovecot.nix { };
  opendkim = pkgs.callPackage ./opendkim.nix { };
}
