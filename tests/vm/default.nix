# NixOS tests in virtual machines. The clients' side of each test is a list of scenarios that `mailtest` plays, as the lab does in
# its containers; the scripts only bring machines into a state. The lists are in scenarios.json, where a test of the lab
# checks that every name exists.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  test =
    name: scenarios:
    pkgs.testers.runNixOSTest {
      imports = [
        ./common.nix
        (./. + "/${name}.nix")
      ];
      name = "relay-${name}";
      inherit scenarios;
      _module.args = {
        inherit self;
        inherit (self.packages.${system}) mailtest;
      };
    };
in
lib.mapAttrs test (lib.importJSON ./scenarios.json)
