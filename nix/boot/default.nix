# Builds a host as a NixOS system that boots in the lab; runs in the lab's Debian tree (crates/lab/src/nixos/).
#   lib        nixpkgs' lib folder
#   tree       a folder with nixos/lib and nixos/modules
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
in
(import ../eval {
  inherit lib tree host;
  modules = [ ./container.nix ];
  real = import ./packages.nix {
    lib = import (path "lib");
    programs = path "programs";
    irohRelay = path "irohRelay";
    authority = path "authority";
    inherit debianKey ourKey;
  };
}).config.system.build.toplevel
