# A resolver on loopback, for Postfix and for DKIM key lookups.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
in
{
  config = lib.mkIf (cfg.enable && cfg.resolver.enable) {
    services.unbound = {
      enable = true;
      settings.server = {
        # A cached negative answer would hide a record that was just added, or the end of an outage, for as long as the
        # zone's SOA record says.
        cache-max-negative-ttl = lib.mkDefault 0;
        do-ip6 = lib.mkDefault cfg.enableIPv6;
        prefetch = lib.mkDefault true;
        qname-minimisation = lib.mkDefault true;
      };
    };
    # Mail that arrives during the activation of a new system needs DNS.
    systemd.services.unbound.stopIfChanged = false;
  };
}
