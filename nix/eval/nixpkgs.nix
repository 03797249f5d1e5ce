# Stands in for the flake's input nixpkgs: made from the parts that evaluation needs, with packages that are never
# built.
#   lib   nixpkgs' lib folder
#   tree  a folder with nixos/lib and nixos/modules
#   real  what makes the packages buildable; see stub-pkgs.nix
{
  lib,
  tree,
  real ? null,
}:
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
      inherit real system;
      lib = nixpkgsLib;
      versions = {
        dovecot = "2.4.4";
        nginxStable = "1.30.0";
        nix = "2.28.0";
        opendkim = "2.11.0";
        postfix = "3.11";
        systemd = "257";
      };
    };

  moduleAt = path: tree + "/nixos/modules/${path}";
  # Stand-ins, with the options and units of nixos-26.05, replace modules of older releases. A module that contains the
  # text `since` is not older.
  standIns =
    nixpkgsLib.filterAttrs
      (_: { module, since, ... }: !nixpkgsLib.hasInfix since (builtins.readFile (moduleAt module)))
      {
        acme = {
          module = "security/acme/default.nix";
          since = "acme-order-renew-";
          replaced = [ "security/acme" ];
        };
        dovecot = {
          module = "services/mail/dovecot.nix";
          since = "dovecot_config_version";
          replaced = [ "services/mail/dovecot.nix" ];
        };
        # This stand-in changes the older module.
        nginx = {
          module = "services/web-servers/nginx/default.nix";
          since = "acme-order-renew-";
          replaced = [ "services/web-servers/nginx/default.nix" ];
          by = import ./modules/nginx.nix (moduleAt "services/web-servers/nginx/default.nix");
        };
        postfix = {
          module = "services/mail/postfix.nix";
          since = "settings.main";
          # The other modules set options that the stand-in does not have.
          replaced = [
            "services/mail/mailman.nix"
            "services/mail/mlmmj.nix"
            "services/mail/postfix.nix"
            "services/mail/public-inbox.nix"
            "services/mail/rspamd.nix"
            "services/mail/schleuder.nix"
            "services/mail/sympa.nix"
            "services/mail/zeyple.nix"
            "services/misc/gitlab.nix"
            "services/misc/sourcehut"
            "services/monitoring/parsedmarc.nix"
            "services/web-apps/discourse.nix"
            "services/web-apps/mastodon.nix"
            "services/web-apps/peertube.nix"
          ];
        };
      };
  release = {
    imports = nixpkgsLib.mapAttrsToList (
      name: standIn: standIn.by or (./modules + "/${name}.nix")
    ) standIns;
    disabledModules = map moduleAt (
      nixpkgsLib.concatMap (standIn: standIn.replaced) (nixpkgsLib.attrValues standIns)
    );
  };
  # Building the manual needs more of nixpkgs than its modules.
  noManual.documentation.nixos.enable = nixpkgsLib.mkDefault false;
  common = [
    noManual
    release
  ];

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
  standIns = nixpkgsLib.attrNames standIns;
  legacyPackages = nixpkgsLib.genAttrs nixpkgsLib.systems.flakeExposed (
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
