# A relay with a certificate from an ACME server, which a scenario starts.
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
  };

  # Not started at boot, when the ACME server does not exist yet. Postfix and Dovecot still start it.
  systemd.services."acme-e.test".wantedBy = lib.mkForce [ ];
  systemd.targets."acme-finished-e.test".wantedBy = lib.mkForce [ ];
}
