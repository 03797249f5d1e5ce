# Logs of a relay are kept in memory and for three days.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config.services) journald;
  # journald takes the last one.
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
        "services.journald of this host keeps the journal for another time than three days in memory, which the privacy page of the relay promises. Say so to your users, and set services.chatmail.journal.private = false.";

    # The kernel would log the address of everybody who tries a closed port.
    networking.firewall.logRefusedConnections = lib.mkDefault false;
    services.journald = {
      storage = lib.mkDefault "volatile";
      # Each message is some ten lines of Postfix; a busy relay must not lose any that are counted.
      rateLimitBurst = lib.mkDefault 100000;
      # First: what the host says comes after it and counts.
      extraConfig = lib.mkBefore days;
    };
  };
}
