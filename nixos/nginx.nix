# nginx: shares port 443 between web, IMAP and SMTP, and serves the relay's web site.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  d = cfg.domain;
  selfSigned = cfg.tls.mode == "self-signed";
  v6 = cfg.enableIPv6;

  newemail = "http://unix:${cfg.settings.newemail.socket}:/new";

  file = name: text: "alias ${pkgs.writeText name text};";

  # Clients that read these files from us know ports and names without asking for more.
  autoconfig = import ./autoconfig.nix { inherit lib; } d;

  index = ''
    <!doctype html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <title>${d}</title>
    <h1>${d}</h1>
    <p>This is a chatmail relay for <a href="https://delta.chat">Delta Chat</a> and other clients with end-to-end encryption.
    <p><a href="dcaccount:${d}">Get an address</a>
  '';

  # Logs say what was asked for, not by whom.
  privateLogs = ''
    access_log syslog:server=unix:/dev/log,nohostname,tag=nginx chatmail;
    error_log stderr crit;
    limit_req_log_level info;
  '';

  certificate = {
    useACMEHost = lib.mkIf (cfg.tls.mode == "acme") d;
    sslCertificate = lib.mkIf (cfg.tls.mode != "acme") cfg.tls.files.certificate;
    sslCertificateKey = lib.mkIf (cfg.tls.mode != "acme") cfg.tls.files.key;
    forceSSL = true;
  };

  newAddress = {
    proxyPass = newemail;
    extraConfig =
      # A browser is sent to Delta Chat, which then asks with POST. It would refuse a self-signed certificate there, so
      # these relays answer with an address at once.
      lib.optionalString (!selfSigned) ''
        if ($request_method = GET) {
          return 301 dcaccount:https://${d}/new;
        }
      ''
      + ''
        client_max_body_size 4k;
        limit_req zone=chatmail_new burst=20 nodelay;
        limit_req_status 429;
        error_page 429 502 504 = @new_busy;
      '';
  };
in
{
  config = lib.mkIf cfg.enable {
    services.chatmail.web.mtaStsPolicy = ''
      version: STSv1
      mode: enforce
      mx: ${d}
      max_age: 2419200
    '';

    services.nginx = {
      enable = true;
      # Sessions through port 443 live as long as a worker does.
      enableReload = lib.mkDefault true;
      # All sites of the host are behind the front on port 443, ours like others.
      defaultSSLListenPort = lib.mkDefault 8443;

      commonHttpConfig = ''
        log_format chatmail '"$request_method $uri" $status $body_bytes_sent $request_time';
        # Through port 443 all clients have one address, so the limit is one for all of them.
        limit_req_zone $server_name zone=chatmail_new:32k rate=2r/s;
      '';

      streamConfig = ''
        map $ssl_preread_alpn_protocols $chatmail_upstream {
          default    127.0.0.1:8443;
          ~\bsmtp\b  127.0.0.1:465;
          ~\bimap\b  127.0.0.1:993;
        }
        server {
          listen 0.0.0.0:443;
          ${lib.optionalString v6 "listen [::]:443;"}
          error_log stderr crit;
          ssl_preread on;
          proxy_pass $chatmail_upstream;
          # Longer than any client waits in IDLE.
          proxy_timeout 35m;
          tcp_nodelay on;
        }
      '';

      virtualHosts.${d} = lib.mkMerge [
        certificate
        {
          default = lib.mkDefault true;
          serverAliases = [
            "autoconfig.${d}"
            "mta-sts.${d}"
          ];
          root = lib.mkIf (cfg.web.root != null) cfg.web.root;
          extraConfig = privateLogs;

          locations = {
            "/" = {
              index = "index.html";
              tryFiles = "$uri $uri/ =404";
            };
            "= /new" = newAddress;
            # Printed QR codes of older relays.
            "= /cgi-bin/newemail.py" = newAddress;
            "@new_busy".extraConfig = ''
              default_type application/json;
              return 429 '{"reason": "Too many new addresses at the moment. Try again in a minute."}';
            '';

            "= /.well-known/autoconfig/mail/config-v1.1.xml".extraConfig = ''
              default_type text/xml;
              types { }
              ${file "autoconfig.xml" autoconfig}
            '';
            "= /mail/config-v1.1.xml".extraConfig = ''
              default_type text/xml;
              types { }
              ${file "autoconfig.xml" autoconfig}
            '';
            "= /robots.txt".extraConfig = ''
              default_type text/plain;
              types { }
              ${file "robots.txt" ''
                User-agent: *
                Disallow: /
              ''}
            '';
          };
        }
        (lib.mkIf (cfg.web.root == null) {
          root = "/var/empty";
          locations."= /".extraConfig = "rewrite ^ /index.html last;";
          locations."= /index.html".extraConfig = ''
            default_type text/html;
            types { }
            ${file "index.html" index}
          '';
        })
        (lib.mkIf (!selfSigned) {
          locations."= /.well-known/mta-sts.txt".extraConfig = ''
            default_type text/plain;
            types { }
            ${file "mta-sts.txt" cfg.web.mtaStsPolicy}
          '';
        })
      ];

      virtualHosts."www.${d}" = lib.mkMerge [
        certificate
        {
          globalRedirect = d;
          extraConfig = privateLogs;
        }
      ];
    };
  };
}
