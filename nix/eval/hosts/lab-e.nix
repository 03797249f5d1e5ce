# A relay with a certificate from an ACME server, which a scenario starts. The server does not exist at boot.
{ lib, ... }:
{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "e.test";
    addresses = [ "198.18.25.15" ];
  };

  security.acme = {
    acceptTerms = true;
    defaults = {
      email = "admin@example.org";
      server = "https://198.18.25.2:14000/dir";
    };
    # Debian's lego cannot derive it from the certificate.
    certs."e.test".validMinDays = 30;
  };

  # NixOS repeats a failed order after 15 minutes, which is too long for a scenario.
  systemd.services."acme-order-renew-e.test".serviceConfig.RestartSec = lib.mkForce 10;
}
