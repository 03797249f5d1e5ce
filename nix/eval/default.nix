# Evaluates one host with the NixOS module system and packages that are not built.
#   lib   nixpkgs' lib folder
#   tree  a folder with nixos/lib and nixos/modules
#   host  the host's configuration
#   modules  further ones, as values; may be left out
arguments:
let
  # Strings become paths, which is what the module system compares modules by.
  path = name: /. + toString arguments.${name};
  nixpkgs = import ./nixpkgs.nix {
    lib = path "lib";
    tree = path "tree";
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
