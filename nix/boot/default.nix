# Builds a host as a NixOS system that boots in the lab; runs in the lab's Debian tree (crates/lab/src/machine/nixos.rs).
# A whole nixpkgs provides the packages; otherwise, they are links to Debian's files.
#   lib        nixpkgs' lib folder
#   tree       a whole nixpkgs, or a folder with nixos/lib and nixos/modules
#   host       path of the host's configuration
#   programs   a folder with the project's programs
#   irohRelay  a folder with the program iroh-relay
#   authority  certificate of an authority that the host trusts, PEM
#   debianKey  a string that differs for each Debian tree
#   ourKey     a string that changes the store path of the project's programs
{
  lib,
  tree,
  host,
  debianKey,
  ourKey,
  ...
}@arguments:
let
  path = name: /. + toString arguments.${name};
  whole = builtins.pathExists (path "tree" + "/pkgs/top-level");

  ofNixpkgs =
    { lib, pkgs, ... }:
    {
      nixpkgs.pkgs = import (path "tree") {
        system = "x86_64-linux";
        config = { };
        overlays = [ ];
      };
      security.pki.certificateFiles = [ (path "authority") ];
      services.chatmail.package = lib.mkIf (ourKey != "") (
        pkgs.symlinkJoin {
          name = "chatmail${ourKey}";
          paths = [ (import ../packages pkgs).chatmail ];
        }
      );
    };
in
(import ../eval {
  inherit lib tree host;
  modules = [ ./container.nix ] ++ (if whole then [ ofNixpkgs ] else [ ./debian.nix ]);
  real =
    if whole then
      null
    else
      import ./packages.nix {
        lib = import (path "lib");
        programs = path "programs";
        irohRelay = path "irohRelay";
        authority = path "authority";
        inherit debianKey ourKey;
      };
}).config.system.build.toplevel
