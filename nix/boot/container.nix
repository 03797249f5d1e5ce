# What a host needs in order to boot in a container of the lab.
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

  # The lab's commands are Debian's, in a read-only /usr that has /usr/bin/env.
  system.activationScripts.usrbinenv = lib.mkForce "";
  environment.ldso = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
  environment.stub-ld.enable = false;

  systemd.tmpfiles.settings.lab = {
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
  xdg = {
    autostart.enable = false;
    icons.enable = false;
    mime.enable = false;
    sounds.enable = false;
  };
}
