# What a host needs in order to boot in a container whose /usr is Debian's.
{ lib, ... }:
{
  boot.isContainer = true;
  # The lab prepares the root file system.
  fileSystems."/".device = lib.mkForce "tmpfs";

  # The lab configures the network before the host boots.
  networking = {
    useDHCP = false;
    useHostResolvConf = false;
  };

  # /usr is read-only and has /usr/bin/env.
  system.activationScripts.usrbinenv = lib.mkForce "";
  environment.ldso = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
  environment.stub-ld.enable = false;
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
  systemd.tmpfiles.settings.lab = {
    # Debian's nginx stores request bodies in a folder that its unit on NixOS cannot write to.
    "/var/lib/nginx"."L+".argument = "/var/cache/nginx";
    # nginx may read the operator's keys.
    "/etc/chatmail/tls/key.pem".z = {
      mode = "0640";
      group = "nginx";
    };
    "/etc/site/key.pem".z = {
      mode = "0640";
      group = "nginx";
    };
    "/var/lib/node-exporter".d = {
      user = "vmail";
      group = "vmail";
    };
  };

  # Nobody builds or logs in there.
  nix.enable = false;
  documentation.enable = false;
  environment.defaultPackages = [ ];
  fonts.fontconfig.enable = false;
  programs.command-not-found.enable = false;
  programs.nano.enable = false;
  systemd.suppressedSystemUnits = [
    "systemd-bootctl@.service"
    "systemd-bootctl.socket"
    "systemd-nspawn@.service"
    "systemd-vconsole-setup.service"
  ];
  systemd.coredump.enable = false;
  systemd.oomd.enable = false;
  xdg = {
    autostart.enable = false;
    icons.enable = false;
    mime.enable = false;
    sounds.enable = false;
  };
}
