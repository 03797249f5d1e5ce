# The release of the available nixpkgs, and which of its modules are too old to use.
{
  lib,
  tree,
  ...
}:
let
  path = folder: /. + toString folder;
  nixpkgs = import ./nixpkgs.nix {
    lib = path lib;
    tree = path tree;
  };
  version = path tree + "/.version";
  modules = path tree + "/nixos/modules/module-list.nix";
in
{
  lib = nixpkgs.lib.trivial.release;
  modules =
    if builtins.pathExists version then
      nixpkgs.lib.fileContents version
    else
      "without a version, whose module-list.nix has the SHA-256 ${builtins.hashFile "sha256" modules}";
  inherit (nixpkgs) standIns;
}
