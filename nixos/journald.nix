# Logs of a relay are kept in memory and for three days.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
in
{
  config = lib.mkIf (cfg.enable && cfg.journal.private) {
    services.journald = {
      storage = lib.mkDefault "volatile";
      extraConfig = ''
        MaxRetentionSec=3d
      '';
    };
  };
}
