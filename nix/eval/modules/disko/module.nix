# Stands in for disko's module in evaluations without network: only the options that the folder of `nix run .#init`
# uses, and what disko makes of them for the installed system.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  filesystem = types.submodule {
    options = {
      type = mkOption { type = types.enum [ "filesystem" ]; };
      format = mkOption { type = types.str; };
      mountpoint = mkOption { type = types.str; };
      mountOptions = mkOption {
        type = types.listOf types.str;
        default = [ "defaults" ];
      };
    };
  };

  partition = types.submodule {
    options = {
      size = mkOption {
        type = types.either (types.enum [ "100%" ]) (types.strMatching "[0-9]+[KMGTP]?");
      };
      type = mkOption {
        type = types.strMatching "[A-Fa-f0-9]{4}";
        default = "8300";
      };
      content = mkOption {
        type = types.nullOr filesystem;
        default = null;
      };
    };
  };

  disk = types.submodule {
    options = {
      type = mkOption { type = types.enum [ "disk" ]; };
      device = mkOption { type = types.strMatching "/dev/.+"; };
      content = mkOption {
        type = types.submodule {
          options = {
            type = mkOption { type = types.enum [ "gpt" ]; };
            partitions = mkOption { type = types.attrsOf partition; };
          };
        };
      };
    };
  };

  disks = config.disko.devices.disk;
  partitionsOf =
    diskName:
    lib.mapAttrsToList (name: partition: {
      inherit partition;
      label = "disk-${diskName}-${name}";
    }) disks.${diskName}.content.partitions;
  partitions = lib.concatMap partitionsOf (lib.attrNames disks);
  mounted = lib.filter (found: found.partition.content != null) partitions;
  bootsWithBios =
    disk: lib.any (partition: partition.type == "EF02") (lib.attrValues disk.content.partitions);
in
{
  options.disko.devices.disk = mkOption {
    type = types.attrsOf disk;
    default = { };
  };

  config = {
    fileSystems = lib.listToAttrs (
      map (
        { label, partition }:
        lib.nameValuePair partition.content.mountpoint {
          device = "/dev/disk/by-partlabel/${label}";
          fsType = partition.content.format;
          options = partition.content.mountOptions;
        }
      ) mounted
    );
    boot.loader.grub.devices = map (disk: disk.device) (
      lib.filter bootsWithBios (lib.attrValues disks)
    );
  };
}
