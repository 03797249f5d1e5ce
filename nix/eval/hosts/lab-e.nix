# Its certificate comes from an ACME server, which a scenario starts.
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

  # Nothing waits for it at boot, when there is no server yet. Postfix and Dovecot ask for it all the same.
  systemd.services."acme-e.test".wantedBy = lib.mkForce [ ];
  systemd.targets."acme-finished-e.test".wantedBy = lib.mkForce [ ];
}
