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
# Evaluations of the flake cannot write to the store; this puts the stand-in for disko's module there.
builtins.seq nixpkgs.legacyPackages.x86_64-linux.disko.src.outputHash {
  lib = nixpkgs.lib.trivial.release;
  modules =
    if builtins.pathExists version then
      nixpkgs.lib.fileContents version
    else
      "without a version, whose module-list.nix has the SHA-256 ${builtins.hashFile "sha256" modules}";
  inherit (nixpkgs) standIns;
}
