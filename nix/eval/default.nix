# Evaluates one host with the NixOS module system and packages that are not built.
#   lib   nixpkgs' lib folder
#   tree  a folder with nixos/lib and nixos/modules
#   host  the host's configuration
#   modules  further ones, as values; may be left out
arguments:
let
  # Strings become paths, which is what the module system compares modules by.
  path = name: /. + toString arguments.${name};
  tree = path "tree";
  nixpkgsLib = import (path "lib");
  pkgs = import ./stub-pkgs.nix {
    lib = nixpkgsLib;
    versions = {
      dovecot = "2.4.4";
      nix = "2.28.0";
      opendkim = "2.11.0";
      postfix = "3.11";
      systemd = "257";
    };
  };

  services = tree + "/nixos/modules/services";
  # Modules from before nixos-26.05 give way to stand-ins with the options of that release.
  outdated =
    !nixpkgsLib.hasInfix "settings.main" (builtins.readFile (services + "/mail/postfix.nix"));
  standIns = nixpkgsLib.optionals outdated [
    ./modules/dovecot.nix
    ./modules/postfix.nix
  ];
  # Some others set options that only the replaced ones have.
  replaced = nixpkgsLib.optionals outdated (
    map (name: services + "/${name}") [
      "mail/dovecot.nix"
      "mail/mailman.nix"
      "mail/mlmmj.nix"
      "mail/postfix.nix"
      "mail/public-inbox.nix"
      "mail/rspamd.nix"
      "mail/schleuder.nix"
      "mail/sympa.nix"
      "mail/zeyple.nix"
      "misc/gitlab.nix"
      "misc/sourcehut"
      "monitoring/parsedmarc.nix"
      "web-apps/discourse.nix"
      "web-apps/peertube.nix"
      "web-apps/mastodon.nix"
    ]
  );
in
import (tree + "/nixos/lib/eval-config.nix") {
  lib = nixpkgsLib;
  system = null;
  baseModules =
    nixpkgsLib.subtractLists replaced (import (tree + "/nixos/modules/module-list.nix")) ++ standIns;
  modules = [
    (import ../../nixos { packagesFor = import ../packages; })
    (path "host")
    {
      nixpkgs.pkgs = pkgs;
      nixpkgs.hostPlatform = "x86_64-linux";
      boot.loader.grub.enable = nixpkgsLib.mkDefault false;
      fileSystems."/" = {
        device = nixpkgsLib.mkDefault "none";
        fsType = nixpkgsLib.mkDefault "tmpfs";
      };
    }
  ]
  ++ arguments.modules or [ ];
}
