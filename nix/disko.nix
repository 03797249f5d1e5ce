# disko's NixOS module, in the version that nixpkgs packages: the package contains only the program, but its source has
# the module too. The evaluator fetches the source itself: this computer may be unable to build the derivation that
# would fetch it.
pkgs:
let
  inherit (pkgs.disko) src;
in
{
  imports = [
    "${
      builtins.fetchTarball {
        inherit (src) url;
        sha256 = src.outputHash;
      }
    }/module.nix"
  ];
}
