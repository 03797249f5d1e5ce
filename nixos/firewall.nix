# Ports that clients and other servers connect to.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
in
{
  config = lib.mkIf (cfg.enable && cfg.openFirewall) {
    networking.firewall.allowedTCPPorts = [
      80 # redirects to HTTPS; ACME challenges
      143 # IMAP with STARTTLS
      443 # HTTPS, and IMAP and SMTP for networks that block all other ports
      465 # submission over TLS
      587 # submission with STARTTLS
      993 # IMAP over TLS
    ]
    # SMTP from other servers.
    ++ lib.optional cfg.federation.smtp.receive 25;
  };
}
