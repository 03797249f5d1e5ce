# Other services of the same host that would take a port or a unit of the relay.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config) services;

  mailServer = name: service: {
    clash = service.enable or false;
    message = "services.${name} and the relay both take the ports of mail; a host has one mail server. Turn services.${name} off, or run the relay on a host of its own.";
  };

  webServer = name: clash: {
    inherit clash;
    message = "services.${name} takes port 80 or 443, which nginx of the relay needs; move its sites to services.nginx.virtualHosts, or services.${name} to another port that a virtual host of nginx passes on to.";
  };

  resolver = name: clash: {
    clash = cfg.resolver.enable && clash;
    message = "services.${name} answers on port 53 of 127.0.0.1, and so would the relay's unbound; set services.chatmail.resolver.enable = false to use the one that is there, or move services.${name} to another address.";
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

  # Named otherwise by some releases; an old name that was read would warn.
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
      message = "services.opendkim and the relay both have a unit opendkim.service; set services.opendkim.enable = false, the relay signs by itself.";
    }
    {
      clash =
        cfg.turn.enable && services.coturn.enable && services.coturn.listening-port == cfg.turn.port;
      message = "services.coturn takes port ${toString cfg.turn.port}, and so would TURN of the relay; set services.chatmail.turn.port or services.coturn.listening-port to another one, or services.chatmail.turn.enable = false.";
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
