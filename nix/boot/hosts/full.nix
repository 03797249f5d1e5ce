# The example with every common option, as the lab's relay with an operator's certificate. Its address for metrics does
# not exist.
{ lib, ... }:
let
  secret = {
    mode = "0600";
    argument = "known to everybody";
  };
in
{
  imports = [
    ../../../examples/full.nix
    ../../eval/hosts/lab.nix
  ];

  services.chatmail = {
    domain = lib.mkForce "c.test";
    addresses = lib.mkForce [ "198.18.25.13" ];
    adminAddress = lib.mkForce "admin@example.org";
    accounts = {
      maxLoad1m = lib.mkForce 1000;
      minMemoryAvailable = lib.mkForce 0;
      minDiskFree = lib.mkForce 0;
    };
    metrics.textfileDirectory = lib.mkForce "/var/lib/node-exporter";
    tls.certificateFile = lib.mkForce "/etc/chatmail/tls/fullchain.pem";
    tls.keyFile = lib.mkForce "/etc/chatmail/tls/key.pem";
  };

  systemd.tmpfiles.settings.secrets = {
    "/run/secrets".d.mode = "0700";
    "/run/secrets/turn".f = secret;
    "/run/secrets/backup-password".f = secret;
  };
}
