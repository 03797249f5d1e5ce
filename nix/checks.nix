# What `nix flake check` builds: the packages with their tests, the example hosts, form and lints of the Nix code.
{
  lib,
  pkgs,
  self,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;

  sources = lib.fileset.toSource {
    root = ./..;
    fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ./..;
  };
  overSources =
    name: tools: command:
    pkgs.runCommand name { nativeBuildInputs = tools; } ''
      cd ${sources}
      ${command}
      touch $out
    '';

  examples = lib.filterAttrs (name: _: lib.hasSuffix ".nix" name) (builtins.readDir ../examples);
  host =
    file: _:
    lib.nameValuePair "host-${lib.removeSuffix ".nix" file}"
      (lib.nixosSystem {
        modules = [
          self.nixosModules.default
          (../examples + "/${file}")
          {
            nixpkgs.hostPlatform = system;
            boot.loader.grub.enable = false;
            fileSystems."/" = {
              device = "none";
              fsType = "tmpfs";
            };
          }
        ];
      }).config.system.build.toplevel;
in
{
  inherit (self.packages.${system})
    chatmail
    dovecot
    iroh-relay
    opendkim
    ;
  formatting = overSources "formatting" [
    pkgs.nixfmt
  ] "find . -name '*.nix' -exec nixfmt --check {} +";
  dead-code = overSources "dead-code" [ pkgs.deadnix ] "deadnix --fail .";
}
// lib.mapAttrs' host examples
