# The journal of a relay is kept in memory and for at most three days.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config.services) journald;
  # journald uses the last value.
  retention = lib.findFirst (lib.hasPrefix "MaxRetentionSec=") "" (
    lib.reverseList (map lib.trim (lib.splitString "\n" journald.extraConfig))
  );
  days = "MaxRetentionSec=3d";
in
{
  config = lib.mkIf (cfg.enable && cfg.journal.private) {
    warnings =
      lib.optional
        (
          !lib.elem journald.storage [
            "volatile"
            "none"
          ]
          || retention != days
        )
        "services.journald of this host does not keep the journal in memory for three days, as the relay's privacy page promises. Remove the setting, or tell your users and set services.chatmail.journal.private = false.";

    # Otherwise the kernel logs the address of every client that tries a closed port.
    networking.firewall.logRefusedConnections = lib.mkDefault false;
    services.journald = {
      storage = lib.mkDefault "volatile";
      # Postfix logs about ten lines per message, and mtail must not lose the lines that it counts.
      rateLimitBurst = lib.mkDefault 100000;
      # First, so that the host's own settings follow and take precedence.
      extraConfig = lib.mkBefore days;
    };
  };
}
