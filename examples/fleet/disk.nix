# The layout of the disk, for machines with BIOS and with UEFI. disko creates it during the installation; a change
# affects only relays that are installed later.
{ lib, pkgs, ... }:
let
  inherit (pkgs.stdenv.hostPlatform) isx86_64;
in
{
  disko.devices.disk.main = {
    type = "disk";
    content = {
      type = "gpt";
      partitions =
        # GRUB's boot code for BIOS, which exists only on this architecture.
        lib.optionalAttrs isx86_64 {
          bios = {
            size = "1M";
            type = "EF02";
          };
        }
        // {
          ESP = {
            size = "512M";
            type = "EF00";
            content = {
              type = "filesystem";
              format = "vfat";
              mountpoint = "/boot";
              mountOptions = [ "umask=0077" ];
            };
          };
          root = {
            size = "100%";
            content = {
              type = "filesystem";
              format = "ext4";
              mountpoint = "/";
            };
          };
        };
    };
  };

  boot.loader.grub = {
    efiSupport = true;
    efiInstallAsRemovable = true;
    # disko sets the device on machines that can boot with BIOS.
    device = lib.mkIf (!isx86_64) "nodev";
  };
}
