# `nix run .#vm`: a relay in a virtual machine, for trying it out.
{
  lib,
  pkgs,
  self,
}:
let
  vm = lib.nixosSystem {
    modules = [
      self.nixosModules.default
      ./configuration.nix
      { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; }
    ];
  };
in
{
  type = "app";
  program = "${vm.config.system.build.vm}/bin/run-relay-vm";
  meta.description = "A relay in a virtual machine, for trying it out";
}
