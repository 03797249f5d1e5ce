# What a host needs whose packages are links to Debian's files.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  utils = import (modulesPath + "/../lib/utils.nix") { inherit config lib pkgs; };
  systemd = utils.systemdUtils.lib;
  # Debian's systemd is older or newer than the modules, and lacks what Debian has in other packages: skips units that
  # it does not have.
  generateUnits =
    arguments:
    let
      folder = if arguments.type == "user" then "user" else "system";
      exists = unit: builtins.pathExists (/usr/lib/systemd + "/${folder}/${unit}");
    in
    systemd.generateUnits (
      arguments
      // {
        upstreamUnits = lib.filter exists (lib.flatten arguments.upstreamUnits);
        upstreamWants = lib.filter exists arguments.upstreamWants;
      }
    );
in
{
  _module.args.utils = lib.mkForce (
    utils
    // {
      systemdUtils = utils.systemdUtils // {
        lib = systemd // {
          inherit generateUnits;
        };
      };
    }
  );
  # Debian has these in other packages.
  systemd.coredump.enable = false;
  systemd.oomd.enable = false;

  # Debian's libraries look for modules of the name service in /usr/lib.
  services.nscd.enable = false;
  system.nssModules = lib.mkForce [ ];

  # Debian's Postfix loads its types of tables from here.
  services.postfix.settings.main.shlib_directory = "/usr/lib/postfix";

  # Dovecot before 2.4.4 looks for this user even if another one is set.
  users.users.dovecot = {
    isSystemUser = true;
    group = "dovecot";
  };
  users.groups.dovecot = { };

  # Debian's nginx stores request bodies in a folder that its unit on NixOS cannot write to.
  systemd.tmpfiles.settings.lab."/var/lib/nginx"."L+".argument = "/var/cache/nginx";
}
