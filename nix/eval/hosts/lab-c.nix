# A host with the operator's own certificate and another web site.
{ lib, ... }:
{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "c.test";
    addresses = [ "198.18.25.13" ];
    tls = {
      mode = "external";
      certificateFile = "/etc/chatmail/tls/fullchain.pem";
      keyFile = "/etc/chatmail/tls/key.pem";
    };
    federation.https.send = false;
    web.statusPage.enable = true;
    # One address gets a fifth of it.
    connections.smtp = 60;
    connections.imap = 200;
    # Limits that a scenario reaches within seconds.
    mailboxes = {
      maxFolders = 20;
      maxMessages = 200;
    };
    metadata.maxEntries = 10;
    # Scenarios run the backup.
    backup = {
      repository = "/srv/backup";
      passwordFile = "/etc/chatmail-backup-password";
      timer = null;
    };
    imap = {
      compress = true;
      rawlog = true;
    };
  };

  # Sessions hibernate within seconds.
  services.dovecot2.settings.imap_hibernate_timeout = lib.mkForce "1 s";

  services.nginx.virtualHosts."site.c.test" = {
    forceSSL = true;
    sslCertificate = "/etc/site/fullchain.pem";
    sslCertificateKey = "/etc/site/key.pem";
    root = "/srv/site";
    locations."/inside".extraConfig = ''
      allow 127.0.0.1;
      deny all;
    '';
  };
}
