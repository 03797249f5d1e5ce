# nginx: shares port 443 between web, IMAP and SMTP, and serves the relay's web site.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  inherit (cfg) settings;
  d = cfg.domain;
  selfSigned = cfg.tls.mode == "self-signed";
  receivesOverHttps = cfg.federation.https.receive;
  v6 = cfg.enableIPv6;

  newemail = "http://unix:${settings.newemail.socket}:/new";

  file = name: text: "alias ${pkgs.writeText name text};";

  # Clients that read this document need no further lookups of ports and names.
  autoconfig = import ./autoconfig.nix { inherit lib; } d;

  # The site in all its languages. Invalid sources fail the build, before the system is switched.
  site = pkgs.callPackage ../nix/packages/website.nix { chatmail = cfg.package; } {
    inherit (cfg) settingsFile;
    inherit sources;
  };
  sources = [ ../www ] ++ lib.optional (cfg.web.source != null) cfg.web.source;
  inherit (cfg.web) languages;

  # The first of the visitor's languages that the site is available in.
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

  # No third-party resources, no scripts, no frames.
  pageHeaders = ''
    add_header Content-Security-Policy "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" always;
    add_header X-Content-Type-Options nosniff always;
    add_header Referrer-Policy no-referrer always;
  '';

  nginx = config.services.nginx;
  # Listeners of sites: the front, the direct port that uses no PROXY protocol, and HTTP.
  at =
    ports:
    lib.concatMap (port: map (addr: { inherit addr; } // port) nginx.defaultListenAddresses) ports;
  front = {
    addr = cfg.front.https;
    ssl = true;
    proxyProtocol = true;
  };
  directly = at [
    {
      port = 8443;
      ssl = true;
    }
  ];
  plain = at [ { port = nginx.defaultHTTPListenPort; } ];

  # The relay answers for unknown names, unless one of the host's own sites is the default. nginx does not start with
  # two default sites on one address and port.
  others = lib.attrValues (removeAttrs nginx.virtualHosts ours);
  claims =
    listen: host:
    if host.listen == [ ] then
      host.default
    else
      lib.any (
        own:
        own.addr == listen.addr
        && own.port == listen.port or null
        && (host.default || lib.elem "default_server" own.extraParameters)
      ) host.listen;
  asDefault = map (
    listen:
    listen // { extraParameters = lib.optional (!lib.any (claims listen) others) "default_server"; }
  );
  unknown = "chatmail-unknown.invalid";
  ours = [
    d
    "www.${d}"
    unknown
  ];

  # Each session through port 443 takes two connections of nginx, and two more if nginx forwards it to itself.
  sessions = cfg.connections.imap + cfg.connections.smtp;
  throughFront = sessions + cfg.connections.web;
  workerConnections =
    (if cfg.webSocket.enable then 4 else 2) * sessions + 5 * cfg.connections.web + 512;
  share = connections: toString (lib.max 1 (connections / 5));
  # A state takes 64 or 128 bytes, and there are at most as many states as connections.
  zone =
    name: connections:
    "limit_conn_zone $chatmail_network zone=${name}:${toString (connections / 8 + 64)}k;";
  network = ''
    # An IPv6 client has at least a /64 network.
    map $binary_remote_addr $chatmail_network {
      default $binary_remote_addr;
      "~(?s)^(?<chatmail_prefix>.{8}).{8}$" $chatmail_prefix;
    }
  '';

  # Logs contain what was requested, but not by whom.
  privateLogs = ''
    access_log syslog:server=unix:/dev/log,nohostname,tag=nginx chatmail;
    error_log stderr crit;
    limit_conn_log_level info;
  '';

  # Silent and slow clients cannot occupy a connection.
  hurry = ''
    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 30s;
    reset_timedout_connection on;
    limit_conn chatmail_web ${share cfg.connections.web};
    limit_conn_status 429;
  '';

  certificate = {
    useACMEHost = lib.mkIf (cfg.tls.mode == "acme") d;
    sslCertificate = lib.mkIf (cfg.tls.mode != "acme") cfg.tls.files.certificate;
    sslCertificateKey = lib.mkIf (cfg.tls.mode != "acme") cfg.tls.files.key;
    forceSSL = true;
  };

  # The other relay would send a message again whose delivery is cut off, and it would arrive twice. Like `nginx -s quit`,
  # this lets requests finish, but only these: sessions of clients through port 443 can last for days.
  stop = pkgs.writeShellScript "nginx-stop" ''
    if [ -z "''${MAINPID:-}" ] || ! kill -QUIT "$MAINPID" 2>/dev/null; then
      exit 0
    fi
    for attempt in {1..30}; do
      if ! ${pkgs.gnugrep}/bin/grep --extended-regexp --quiet ' 03 +[0-9]+ ${lib.escapeRegex settings.mxdeliv.socket}$' /proc/self/net/unix; then
        exit 0
      fi
      ${pkgs.coreutils}/bin/sleep 0.1
    done
  '';

  # Mail from other relays, passed on unbuffered: filtermail-mxdeliv disconnects slow clients, and Postfix limits the
  # connections of one address.
  mxdeliv = {
    proxyPass = "http://unix:${settings.mxdeliv.socket}:/mxdeliv";
    extraConfig = ''
      client_max_body_size ${toString cfg.messages.maxSize};
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_connect_timeout 5s;
      proxy_send_timeout 30s;
      # Longer than Postfix waits for the filter.
      proxy_read_timeout 200s;
      error_page 413 @mxdeliv_too_large;
      error_page 502 504 @mxdeliv_unavailable;
    '';
  };
  # Sessions of clients over WebSocket. The service and the mail servers behind it end those that do nothing.
  webSocket = {
    proxyPass = "http://unix:${settings.websocket.socket}";
    extraConfig = ''
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $http_connection;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_connect_timeout 5s;
      # As at the front.
      proxy_read_timeout 35m;
      proxy_send_timeout 60s;
      limit_conn chatmail_websocket ${share sessions};
    '';
  };
  plainText = status: text: ''
    default_type text/plain;
    return ${toString status} '${text}';
  '';

  newAddress = {
    proxyPass = newemail;
    extraConfig = ''
      client_max_body_size 4k;
      # newemail enforces the limit and returns the reason.
      error_page 429 502 504 = @new_busy;
    '';
  };

  # The page of an invitation contains links with the token of the request, which needs no script. Only texts that look
  # like a token get there.
  byInvitation = cfg.registration.mode == "invitation";

  # A page that nginx completes for each visitor, in the language of the path or in that of the visitor.
  completed = name: headers: {
    "~ ^/([A-Za-z0-9-]+/)?${name}(\\.html)?$" = {
      # Before the expression for all pages.
      priority = 900;
      tryFiles = "/$chatmail_page_language/${name}.html /${name}.html =404";
      extraConfig = ''
        ${pageHeaders}
        add_header Vary Accept-Language always;
        ${headers}
        ssi on;
      '';
    };
  };
in
{
  # Sites without `listen` or `listenAddresses` are behind the front.
  options.services.nginx.virtualHosts = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule (
        { config, ... }:
        let
          hasTls = config.onlySSL || config.addSSL || config.forceSSL || config.rejectSSL;
          saysWhere = config.listenAddresses != [ ] || nginx.defaultListen != [ ];
          everywhere = lib.elem "0.0.0.0" nginx.defaultListenAddresses;
        in
        {
          config.listen = lib.mkIf (cfg.enable && hasTls && everywhere && !saysWhere) (
            lib.mkDefault ([ front ] ++ directly ++ lib.optionals (!config.onlySSL) plain)
          );
        }
      )
    );
  };

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
      # A reload lets old workers finish the sessions through port 443.
      enableReload = lib.mkDefault true;
      # All sites of the host are behind the front on port 443.
      defaultSSLListenPort = lib.mkDefault 8443;
      eventsConfig = lib.mkDefault "worker_connections ${toString workerConnections};";

      commonHttpConfig = ''
        # The front passes on the client's address.
        set_real_ip_from unix:;
        real_ip_header proxy_protocol;
        ${network}
        ${zone "chatmail_web" cfg.connections.web}
        ${lib.optionalString cfg.webSocket.enable (zone "chatmail_websocket" sessions)}
        log_format chatmail '"$request_method $uri" $status $body_bytes_sent $request_time';
        # NixOS redirects from port 80 with servers that cannot be configured, whose requests nginx logs to this file by
        # default. Requests to the host's other sites are still logged there.
        map $server_name $chatmail_not_ours {
          default 1;
          ${d} 0;
          www.${d} 0;
          ${unknown} 0;
        }
        access_log /var/log/nginx/access.log combined if=$chatmail_not_ours;
      ''
      + language
      + lib.optionalString byInvitation ''
        map $arg_token $chatmail_token {
          "~^[A-Za-z0-9]{22}$" $arg_token;
        }
      ''
      + lib.optionalString (byInvitation || cfg.web.statusPage.enable) ''
        # The language in the path, or that of the visitor.
        map $uri $chatmail_page_language {
          default $chatmail_language;
          "~^/(?<chatmail_path_language>[^/]+)/(?:invite|status)" $chatmail_path_language;
        }
      '';

      streamConfig = ''
        map $ssl_preread_alpn_protocols $chatmail_upstream {
          default ${cfg.front.https};
          ~\bsmtp\b ${cfg.front.smtp};
          ~\bimap\b ${cfg.front.imap};
        }
        ${network}
        ${zone "chatmail_front" throughFront}
        server {
          listen 0.0.0.0:443;
          ${lib.optionalString v6 "listen [::]:443;"}
          error_log stderr crit;
          limit_conn chatmail_front ${share throughFront};
          limit_conn_log_level info;
          ssl_preread on;
          # Time for the complete ClientHello.
          preread_timeout 10s;
          proxy_protocol on;
          proxy_pass $chatmail_upstream;
          proxy_connect_timeout 10s;
          # Longer than any client stays in IDLE.
          proxy_timeout 35m;
          tcp_nodelay on;
        }
      '';

      virtualHosts.${d} = lib.mkMerge [
        certificate
        {
          # Answers for unknown names over TLS, unless one of the host's own sites does.
          listen = asDefault ([ front ] ++ directly) ++ plain;
          serverAliases = lib.optionals (!cfg.byAddress) [
            "autoconfig.${d}"
            "mta-sts.${d}"
          ];
          inherit (cfg.web) root;
          extraConfig = ''
            ${privateLogs}
            ${hurry}
            # nginx listens on a different port than the one that visitors see.
            absolute_redirect off;
          ''
          + lib.optionalString receivesOverHttps ''
            # A field for each recipient of a message.
            large_client_header_buffers 8 8k;
          '';

          locations = {
            "/" = {
              index = "index.html";
              tryFiles = "$uri $uri/ =404";
              extraConfig = pageHeaders;
            };
            # Visitors get pages at the root in their language. nginx has already rewritten "/" to "/index.html".
            "~ ^/[^/]+\\.html$" = {
              tryFiles = "/$chatmail_language$uri $uri =404";
              extraConfig = ''
                ${pageHeaders}
                add_header Vary Accept-Language always;
              '';
            };
            "= /new" = newAddress;
            # For printed QR codes of older relays.
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
        (lib.mkIf byInvitation {
          # The page contains a secret.
          locations = completed "invite" "add_header Cache-Control no-store always;";
        })
        (lib.mkIf cfg.web.statusPage.enable {
          locations = completed "status" "add_header Cache-Control max-age=60 always;" // {
            "= /status-values".extraConfig = ''
              internal;
              default_type text/html;
              types { }
              ssi on;
              root ${dirOf cfg.web.statusPage.file};
              try_files /${baseNameOf cfg.web.statusPage.file} @status_unknown;
            '';
            # The timer has not run yet.
            "@status_unknown".extraConfig = ''
              internal;
              default_type text/html;
              return 200 "";
            '';
          };
        })
        (lib.mkIf receivesOverHttps {
          locations = {
            "= /mxdeliv" = mxdeliv;
            "@mxdeliv_too_large".extraConfig = plainText 413 "552 Message exceeds maximum size";
            "@mxdeliv_unavailable".extraConfig = plainText 503 "451 4.3.0 Mail server temporarily unavailable";
          };
        })
        (lib.mkIf cfg.webSocket.enable {
          locations = lib.genAttrs [ "= /imap" "= /smtp" ] (_: webSocket);
        })
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
            listen = [ front ] ++ directly ++ plain;
            extraConfig = privateLogs + hurry;
          }
        ]
      );

      # Over HTTP, the settings of the default server apply until the client has sent the Host header.
      virtualHosts.${unknown} = {
        listen = asDefault plain;
        extraConfig = privateLogs + hurry;
        locations."/".return = "301 https://$host$request_uri";
      };
    };

    systemd.services.nginx = {
      # Restarts until everything it needs exists, such as a certificate or an address.
      startLimitIntervalSec = lib.mkForce 0;
      serviceConfig = import ./share-of-memory.nix { inherit lib; } "30%" // {
        RestartSec = lib.mkForce "2s";
        ExecStop = lib.mkIf receivesOverHttps stop;
        # Failures of the relay's own servers name the client. Those of the host's other sites are kept.
        LogFilterPatterns = [
          "~client: [^ ]+, server: (${
            lib.concatMapStringsSep "|" lib.escapeRegex ours
          }|[^ ]+:443|unix:[^ ]+)(,|$)"
        ];
        LimitNOFILE = lib.mkDefault 524288;
      };
    };
  };
}
