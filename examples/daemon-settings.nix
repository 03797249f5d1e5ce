# A relay that changes settings of the daemons themselves.
{ lib, ... }:
{
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
  };

  services.postfix.settings.main = {
    maximal_queue_lifetime = "5d";
    # The relay sets this one without lib.mkDefault.
    smtpd_tls_mandatory_protocols = lib.mkForce ">=TLSv1.3";
  };

  services.dovecot2.settings = {
    imap_hibernate_timeout = "5 mins";
    "protocol imap".imap_idle_notify_interval = "3 mins";
  };

  services.nginx.virtualHosts."chat.example.org".locations."= /.well-known/security.txt".alias =
    "/srv/www/security.txt";

  services.unbound.settings.server.msg-cache-size = "16m";

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  system.stateVersion = "26.05";
}
