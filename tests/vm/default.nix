# NixOS tests in virtual machines. What clients do there are scenarios of the lab, played by the same program as in its
# containers; the scripts only bring machines into a state and say which scenarios hold in it. scenarios.json lists those, so
# that a test of the lab can tell that it knows them all.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  common = import ./common.nix {
    inherit lib pkgs self;
    inherit (self.packages.${system}) lab;
  };
  scenarios = lib.importJSON ./scenarios.json;

  test =
    name:
    pkgs.testers.runNixOSTest {
      imports = [ (import (./. + "/${name}.nix") (common // { scenarios = scenarios.${name}; })) ];
      name = "relay-${name}";
    };
in
lib.genAttrs (lib.attrNames scenarios) test
