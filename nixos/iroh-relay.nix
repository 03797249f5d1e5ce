# iroh-relay, through which devices in a chat find each other for realtime connections.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;

  # The TURN server answers STUN requests.
  configFile = (pkgs.formats.toml { }).generate "iroh-relay.toml" {
    enable_relay = true;
    enable_stun = false;
    enable_metrics = false;
    http_bind_addr = "127.0.0.1:3340";
  };

  proxy = {
    proxyPass = "http://127.0.0.1:3340";
  };
in
{
  config = lib.mkIf (cfg.enable && cfg.iroh.enable) {
    services.nginx.virtualHosts.${cfg.domain}.locations = {
      "= /relay" = proxy // {
        # Clients upgrade to "iroh derp http" or "websocket".
        extraConfig = ''
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection "upgrade";
          proxy_read_timeout 1h;
          proxy_send_timeout 1h;
          proxy_buffering off;
        '';
      };
      "= /ping" = proxy;
      "= /generate_204" = proxy;
    };

    systemd.services.iroh-relay = {
      description = "Relay for realtime connections between devices";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      startLimitIntervalSec = 0;
      serviceConfig = hardening // {
        Type = "simple";
        ExecStart = "${cfg.iroh.package}/bin/iroh-relay --config-path ${configFile}";
        Restart = "always";
        RestartSec = "1s";
        DynamicUser = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_UNIX"
        ];
        IPAddressAllow = "localhost";
        LimitNOFILE = 65536;
        TasksMax = 512;
        MemoryMax = "512M";
      };
    };
  };
}
