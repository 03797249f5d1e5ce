# A resolver on loopback, for Postfix and for DKIM keys.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
in
{
  config = lib.mkIf (cfg.enable && cfg.resolver.enable) {
    services.unbound = {
      enable = true;
      settings.server = {
        # A record that was just added, or an outage that just ended, must not be missed for as long as the zone's
        # owner thought fit for names that do not exist.
        cache-max-negative-ttl = lib.mkDefault 0;
        do-ip6 = lib.mkDefault cfg.enableIPv6;
        prefetch = lib.mkDefault true;
        qname-minimisation = lib.mkDefault true;
      };
    };
    # Mail that arrives while a new system is activated needs names.
    systemd.services.unbound.stopIfChanged = false;
  };
}
