# Stands in for the flake's input nixpkgs: made from the parts that evaluation needs, with packages that are never
# built.
#   lib   nixpkgs' lib folder
#   tree  a folder with nixos/lib and nixos/modules
{ lib, tree }:
let
  # Older evaluators lack readFileType; reading the folder that contains the path gives its type.
  typeOf =
    path:
    if dirOf path == /. + builtins.storeDir then
      "directory"
    else
      (builtins.readDir (dirOf path)).${baseNameOf path};
  pathType = builtins.readFileType or typeOf;
  nixpkgsLib = (import lib).extend (
    _: original: {
      filesystem = original.filesystem // {
        inherit pathType;
        pathIsDirectory = path: builtins.pathExists path && pathType path == "directory";
        pathIsRegularFile = path: builtins.pathExists path && pathType path == "regular";
      };
    }
  );

  packagesOf =
    system:
    import ./stub-pkgs.nix {
      inherit system;
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
  release = {
    imports = [
      ./modules/dovecot.nix
      ./modules/postfix.nix
    ];
    # These modules set options that the stand-ins do not have.
    disabledModules = map (name: services + "/${name}") [
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
      "web-apps/mastodon.nix"
      "web-apps/peertube.nix"
    ];
  };
  # Building the manual needs more of nixpkgs than its modules.
  noManual.documentation.nixos.enable = nixpkgsLib.mkDefault false;
  common = [ noManual ] ++ nixpkgsLib.optional outdated release;

  # Hosts of the flake set only their system.
  withPackages =
    { config, ... }:
    {
      nixpkgs.pkgs = nixpkgsLib.mkDefault (packagesOf config.nixpkgs.hostPlatform.system);
    };

  nixosSystem =
    arguments:
    import (tree + "/nixos/lib/eval-config.nix") (
      {
        lib = nixpkgsLib;
        system = null;
      }
      // arguments
      // {
        modules = common ++ [ withPackages ] ++ arguments.modules;
      }
    );

  # A test of the NixOS test framework, as a derivation with its script and nodes.
  runNixOSTest =
    pkgs: test:
    (import (tree + "/nixos/lib/testing") { lib = nixpkgsLib; }).runTest {
      imports = [ test ];
      hostPkgs = pkgs;
      node.pkgs = pkgs;
      extraBaseModules.imports = common;
    };
in
{
  lib = nixpkgsLib.extend (_: _: { inherit nixosSystem; });
  # Names of the modules that are not those of the tree.
  standIns = nixpkgsLib.optionals outdated [
    "dovecot"
    "postfix"
  ];
  legacyPackages = nixpkgsLib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
    system:
    let
      pkgs = packagesOf system;
    in
    pkgs
    // {
      # Tests do not depend on the system and take long to evaluate, so they are evaluated once.
      testers.runNixOSTest = if system == "x86_64-linux" then runNixOSTest pkgs else _: pkgs.hello;
    }
  );
}
