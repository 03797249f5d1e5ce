# Logs of a relay are kept in memory and for three days.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
in
{
  config = lib.mkIf (cfg.enable && cfg.journal.private) {
    services.journald = {
      storage = lib.mkDefault "volatile";
      # Each message is some ten lines of Postfix; a busy relay must not lose any that are counted.
      rateLimitBurst = lib.mkDefault 100000;
      extraConfig = ''
        MaxRetentionSec=3d
      '';
    };
  };
}
