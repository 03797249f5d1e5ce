# A relay on a host with its own web site, resolver and firewall.
{
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
    # The resolver below already listens on 127.0.0.1.
    resolver.enable = false;
    # Other servers deliver to port 25 only, and get mail there.
    federation.https.enable = false;
  };

  services.nginx.virtualHosts."www.example.net" = {
    enableACME = true;
    forceSSL = true;
    root = "/srv/www/example.net";
  };

  services.unbound = {
    enable = true;
    settings.server.interface = [
      "127.0.0.1"
      "10.0.0.1"
    ];
  };

  networking.firewall.allowedTCPPorts = [ 22 ];
  networking.firewall.interfaces.lan.allowedUDPPorts = [ 53 ];

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  system.stateVersion = "26.05";
}
