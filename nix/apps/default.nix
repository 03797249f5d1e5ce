# `nix run .#init`, `install` and `deploy`: from a laptop to a relay. The scripts run as they are, with the programs that
# they need from nixpkgs; `nix` and `ssh` are the operator's own.
{ lib, pkgs }:
let
  app =
    name:
    { description, tools }:
    {
      type = "app";
      program = lib.getExe (
        pkgs.writeShellApplication {
          inherit name;
          runtimeInputs = [
            pkgs.bash
            pkgs.coreutils
            pkgs.gitMinimal
            pkgs.gnugrep
            pkgs.gnused
          ]
          ++ tools;
          text = ''exec bash ${./.}/${name}.sh "$@"'';
        }
      );
      meta.description = description;
    };
in
lib.mapAttrs app {
  init = {
    description = "Write a folder with the flake, hosts and disk layout of new relays";
    tools = [ pkgs.findutils ];
  };
  install = {
    description = "Turn a machine with SSH into a relay of this folder";
    tools = [ pkgs.nixos-anywhere ];
  };
  deploy = {
    description = "Apply the settings of this folder to a relay";
    tools = [ pkgs.nixos-rebuild-ng ];
  };
}
