# Assertions about other services of the host that would take a port or a unit of the relay.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config) services;

  mailServer = name: service: {
    clash = service.enable or false;
    message = "services.${name} listens on the mail ports that the relay needs; a host can have only one mail server. Set services.${name}.enable = false, or run the relay on a host of its own.";
  };

  webServer = name: clash: {
    inherit clash;
    message = "services.${name} listens on port 80 or 443, which the relay's nginx needs; move its sites to services.nginx.virtualHosts, or move services.${name} to another port and let a virtual host of nginx forward to it.";
  };

  resolver = name: clash: {
    clash = cfg.resolver.enable && clash;
    message = "services.${name} listens on port 53 of 127.0.0.1, which the relay's unbound needs; set services.chatmail.resolver.enable = false to use the existing resolver, or move services.${name} to another address.";
  };

  takes = ports: lib.any (port: lib.elem port ports);
  web = takes [
    80
    443
  ];
  apachePorts =
    host:
    if host.listen != [ ] then
      map (listen: listen.port) host.listen
    else
      [ 80 ] ++ lib.optional (host.onlySSL || host.addSSL || host.forceSSL) 443;

  # The name depends on the release; reading the old one causes a warning.
  stalwart = if services ? stalwart then "stalwart" else "stalwart-mail";

  table = [
    (mailServer "exim" services.exim)
    (mailServer "opensmtpd" services.opensmtpd)
    (mailServer "maddy" services.maddy)
    (mailServer stalwart services.${stalwart} or { })

    (webServer "httpd" (
      services.httpd.enable
      && lib.any (host: web (apachePorts host)) (lib.attrValues services.httpd.virtualHosts)
    ))
    (webServer "caddy" (services.caddy.enable && !lib.hasInfix "http_port" services.caddy.globalConfig))
    (webServer "haproxy" (
      services.haproxy.enable
      && lib.any (
        line: builtins.match "[[:space:]]*bind[[:space:]].*:(80|443)([[:space:]].*)?" line != null
      ) (lib.splitString "\n" (lib.defaultTo "" services.haproxy.config))
    ))
    (webServer "sslh" (services.sslh.enable && web [ services.sslh.port ]))
    (webServer "traefik" (
      services.traefik.enable
      && lib.any (entry: builtins.match ".*:(80|443)(/tcp)?" (entry.address or "") != null) (
        lib.attrValues (services.traefik.staticConfigOptions.entryPoints or { })
      )
    ))
    (webServer "lighttpd" (services.lighttpd.enable && web [ services.lighttpd.port ]))

    (resolver "dnsmasq" (
      services.dnsmasq.enable
      && !lib.any (key: services.dnsmasq.settings ? ${key}) [
        "interface"
        "listen-address"
        "port"
      ]
    ))
    (resolver "bind" (
      services.bind.enable
      && lib.any (address: lib.elem address services.bind.listenOn) [
        "any"
        "127.0.0.1"
      ]
    ))
    (resolver "kresd" (services.kresd.enable && lib.elem "127.0.0.1:53" services.kresd.listenPlain))
    (resolver "pdns-recursor" (services.pdns-recursor.enable && services.pdns-recursor.dns.port == 53))

    {
      clash = services.opendkim.enable;
      message = "services.opendkim and the relay both define the unit opendkim.service; set services.opendkim.enable = false, because the relay signs its mail itself.";
    }
    {
      clash =
        cfg.turn.enable && services.coturn.enable && services.coturn.listening-port == cfg.turn.port;
      message = "services.coturn listens on port ${toString cfg.turn.port}, which the relay's TURN server needs; set services.chatmail.turn.port or services.coturn.listening-port to another port, or set services.chatmail.turn.enable = false.";
    }
  ];
in
{
  config.assertions = lib.mkIf cfg.enable (
    map (row: {
      assertion = !row.clash;
      inherit (row) message;
    }) table
  );
}
