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

  # The site in all its languages. Sources that it cannot be built from are found before anything is switched.
  site = pkgs.callPackage ../nix/packages/website.nix { chatmail = cfg.package; } {
    inherit (cfg) settingsFile;
    inherit sources;
  };
  sources = [ ../www ] ++ lib.optional (cfg.web.source != null) cfg.web.source;
  languagesOf =
    source:
    lib.filter (name: builtins.pathExists (source + "/${name}/language.json")) (
      lib.attrNames (builtins.readDir source)
    );
  languages = lib.unique (lib.concatMap languagesOf sources);

  # The first of the visitor's languages that the site has.
  language =
    let
      known = "\\s*(?:${lib.concatStringsSep "|" languages})\\b";
      choice = code: ''"~*^(?:(?!${known})[^,]*,)*\s*${code}\b" ${code};'';
    in
    ''
      map $http_accept_language $chatmail_language {
        default en;
        ${lib.concatMapStringsSep "\n  " choice languages}
      }
    '';

  # Nothing of other hosts, no scripts, no frames.
  pageHeaders = ''
    add_header Content-Security-Policy "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" always;
    add_header X-Content-Type-Options nosniff always;
    add_header Referrer-Policy no-referrer always;
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
    services.chatmail.web = {
      root = lib.mkDefault site;
      mtaStsPolicy = ''
        version: STSv1
        mode: enforce
        mx: ${d}
        max_age: 2419200
      '';
    };

    services.nginx = {
      enable = true;
      # Sessions through port 443 live as long as a worker does.
      enableReload = lib.mkDefault true;
      # All sites of the host are behind the front on port 443, ours like others.
      defaultSSLListenPort = lib.mkDefault 8443;

      commonHttpConfig = ''
        log_format chatmail '"$request_method $uri" $status $body_bytes_sent $request_time';
        # NixOS redirects from port 80 with servers that nothing can be added to, and nginx logs visitors of those to this
        # file unless told otherwise. Other sites of the host are logged there as before.
        map $server_name $chatmail_not_ours {
          default 1;
          ${d} 0;
          www.${d} 0;
        }
        access_log /var/log/nginx/access.log combined if=$chatmail_not_ours;
        # Through port 443 all clients have one address, so the limit is one for all of them.
        limit_req_zone $server_name zone=chatmail_new:32k rate=2r/s;
      ''
      + language;

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
          serverAliases = lib.optionals (!cfg.byAddress) [
            "autoconfig.${d}"
            "mta-sts.${d}"
          ];
          inherit (cfg.web) root;
          extraConfig = ''
            ${privateLogs}
            # The port that we listen on is not the one that visitors see.
            absolute_redirect off;
          '';

          locations = {
            "/" = {
              index = "index.html";
              tryFiles = "$uri $uri/ =404";
              extraConfig = pageHeaders;
            };
            # Pages at the root stand for those in the visitor's language; "/" becomes "/index.html" before.
            "~ ^/[^/]+\\.html$" = {
              tryFiles = "/$chatmail_language$uri $uri =404";
              extraConfig = ''
                ${pageHeaders}
                add_header Vary Accept-Language always;
              '';
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
        (lib.mkIf (!selfSigned) {
          locations."= /.well-known/mta-sts.txt".extraConfig = ''
            default_type text/plain;
            types { }
            ${file "mta-sts.txt" cfg.web.mtaStsPolicy}
          '';
        })
      ];

      virtualHosts."www.${d}" = lib.mkIf (!cfg.byAddress) (
        lib.mkMerge [
          certificate
          {
            globalRedirect = d;
            extraConfig = privateLogs;
          }
        ]
      );
    };
  };
}
