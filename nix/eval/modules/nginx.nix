# Changes `old`, the nginx module of an older release, to the units and ciphers of nixos-26.05: self-signed certificates
# exist before nginx starts, certificates are ordered after nginx started, and a new certificate reloads nginx.
old:
{
  config,
  lib,
  pkgs,
  ...
}@arguments:
let
  cfg = config.services.nginx;
  module = import old (arguments // { inherit pkgs; });
  inherit (module.config) content;
  inherit (content.systemd) services;

  certificates = lib.unique (
    lib.concatMap (
      { name, value }:
      if value.useACMEHost != null then
        [ value.useACMEHost ]
      else
        lib.optional value.enableACME (if value.serverName == null then name else value.serverName)
    ) (lib.attrsToList cfg.virtualHosts)
  );
  units = prefix: map (name: "${prefix}${name}.service") certificates;
  early = units "acme-";
  orders = units "acme-order-renew-";
  atStart = lib.optionals (!cfg.enableReload);
  atReload = lib.optionals cfg.enableReload;

  nginx = services.nginx // {
    wants = atStart early;
    after = [ "network.target" ] ++ atStart early;
    before = atStart orders;
    serviceConfig = services.nginx.serviceConfig // {
      SystemCallFilter = [
        "~@cpu-emulation @debug @keyring @mount @obsolete @privileged @setuid"
      ]
      ++ lib.optional cfg.enableQuicBPF "bpf";
    };
  };
  reload = services.nginx-config-reload.content;
  nginx-config-reload = lib.mkIf (cfg.enableReload || certificates != [ ]) (
    reload
    // {
      wantedBy = [ "multi-user.target" ] ++ atReload early;
      after = atReload early;
      before = atReload orders;
      unitConfig = reload.unitConfig // {
        StartLimitIntervalSec = 0;
      };
    }
  );
in
module
// {
  config = lib.mkIf cfg.enable (
    content
    // {
      security.acme.certs = lib.mkMerge [
        content.security.acme.certs
        (lib.genAttrs certificates (_: {
          reloadServices = [ "nginx.service" ];
        }))
      ];
      services = lib.mkMerge [
        content.services
        {
          nginx.sslCiphers = lib.mkOverride 1400 (
            lib.concatStringsSep ":" [
              "ECDHE-ECDSA-AES128-GCM-SHA256"
              "ECDHE-RSA-AES128-GCM-SHA256"
              "ECDHE-ECDSA-AES256-GCM-SHA384"
              "ECDHE-RSA-AES256-GCM-SHA384"
              "ECDHE-ECDSA-CHACHA20-POLY1305"
              "ECDHE-RSA-CHACHA20-POLY1305"
            ]
          );
        }
      ];
      systemd = content.systemd // {
        services =
          services
          // {
            inherit nginx nginx-config-reload;
          }
          # Defined in the units of the certificates: an additional certificate does not change nginx's own unit.
          // lib.genAttrs (map (name: "acme-${name}") (atReload certificates)) (_: {
            before = [ "nginx.service" ];
            wantedBy = [ "nginx.service" ];
          });
      };
    }
  );
}
