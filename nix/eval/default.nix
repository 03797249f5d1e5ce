# Evaluates one host with the NixOS module system, without building packages.
#   lib      nixpkgs' lib folder
#   tree     a folder with nixos/lib and nixos/modules
#   host     path of the host's configuration
#   modules  further modules, as values; optional
#   real     what makes the packages buildable; optional, see stub-pkgs.nix
arguments:
let
  # The module system compares modules by path, so strings are converted to paths.
  path = name: /. + toString arguments.${name};
  nixpkgs = import ./nixpkgs.nix {
    lib = path "lib";
    tree = path "tree";
    real = arguments.real or null;
  };
in
nixpkgs.lib.nixosSystem {
  modules = [
    (import ../../nixos {
      packagesFor = import ../packages;
      revision = "evaluated";
    })
    (path "host")
    {
      nixpkgs.hostPlatform = "x86_64-linux";
      boot.loader.grub.enable = nixpkgs.lib.mkDefault false;
      fileSystems."/" = {
        device = nixpkgs.lib.mkDefault "none";
        fsType = nixpkgs.lib.mkDefault "tmpfs";
      };
    }
  ]
  ++ arguments.modules or [ ];
}
