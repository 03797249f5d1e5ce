# Every assertion of the module, each with a configuration that must fail with its message. Returns the number of cases
# and a list of complaints.
{
  lib,
  tree,
  host,
}:
let
  evaluate =
    modules:
    import ./. {
      inherit lib tree host;
      inherit modules;
    };
  bare = evaluate [ ];
in
let
  # From here on, `lib` is the library and not its folder.
  inherit (bare) lib;

  # By name: a module that is added to the host, and a part of the only message that it must cause.
  cases = {
    domain-not-full = {
      module.services.chatmail.domain = lib.mkForce "relay";
      message = "set it to a full domain name in lower case";
    };
    domain-no-address = {
      module.services.chatmail.domain = lib.mkForce "192.0.2.256";
      message = "or to an IPv4 address";
    };
    domain-ipv6 = {
      module.services.chatmail.domain = lib.mkForce "2001:db8::1";
      message = "a relay without a name needs an IPv4 address";
    };
    address-with-acme = {
      module.services.chatmail = {
        domain = lib.mkForce "192.0.2.1";
        tls.mode = "acme";
      };
      message = "leave services.chatmail.tls.mode at \"self-signed\"";
    };
    no-way-out = {
      module.services.chatmail.federation = {
        smtp.enable = false;
        https.send = false;
      };
      message = "set services.chatmail.federation.https.send = true";
    };
    no-way-in = {
      module.services.chatmail.federation = {
        smtp.receive = false;
        https.receive = false;
      };
      message = "set services.chatmail.federation.https.receive = true";
    };
    relay-blocks-itself = {
      module =
        { config, ... }:
        {
          services.chatmail.federation.block = [ config.services.chatmail.domain ];
        };
      message = "remove it from services.chatmail.federation.block";
    };
    allowed-and-blocked = {
      module.services.chatmail.federation = {
        allow = [
          "example.net"
          "mail.example.com"
        ];
        block = [ "example.com" ];
      };
      message = "federation.allow contains \"mail.example.com\"";
    };
    username-lengths = {
      module.services.chatmail.accounts.usernameMinLength = 10;
      message = "usernameMinLength is 10, which is above usernameMaxLength; set it to 9 or less";
    };
    backup-without-password = {
      module = {
        services.chatmail.backup.repository = "/srv/backup";
      };
      message = "set services.chatmail.backup.passwordFile";
    };
    app-versions-too-long = {
      module.services.chatmail.metadata.appVersions = lib.genList toString 5000;
      message = "the relay announces at most 16384";
    };
    external-without-files = {
      module.services.chatmail.tls.mode = "external";
      message = "set services.chatmail.tls.certificateFile and services.chatmail.tls.keyFile";
    };
    files-without-external = {
      module.services.chatmail.tls.keyFile = "/run/secrets/key.pem";
      message = "set the mode to \"external\" or remove the files";
    };
    acme-without-mail = {
      module.security.acme.defaults.email = lib.mkForce null;
      message = "set security.acme.defaults.email";
    };
    acme-without-terms = {
      module.security.acme.acceptTerms = lib.mkForce false;
      message = "set security.acme.acceptTerms = true";
    };
    only-ipv6-addresses = {
      module.services.chatmail = {
        enableIPv6 = false;
        addresses = [ "2001:db8::1" ];
      };
      message = "add the IPv4 address or set services.chatmail.enableIPv6 = true";
    };
    port-443-by-default = {
      module.services.nginx.defaultSSLListenPort = 443;
      message = "set services.nginx.defaultSSLListenPort to 8443";
    };
    port-443-of-a-site = {
      module.services.nginx.virtualHosts."site.example.org".listen = [
        {
          addr = "0.0.0.0";
          port = 443;
        }
      ];
      message = "remove the `listen` with port 443 from services.nginx.virtualHosts.\"site.example.org\"";
    };
    port-443-of-all-sites = {
      module.services.nginx.defaultListen = [
        {
          addr = "0.0.0.0";
          port = 443;
          ssl = true;
        }
      ];
      message = "remove the entries with port 443 from services.nginx.defaultListen";
    };
    port-443-in-lines-of-a-site = {
      module.services.nginx.virtualHosts."site.example.org".extraConfig = "listen 443 ssl;";
      message = "remove the `listen` with port 443 from services.nginx.virtualHosts.\"site.example.org\"";
    };
    port-443-of-a-stream = {
      module.services.nginx.streamConfig = "server { listen [::]:443; proxy_pass 10.0.0.1:443; }";
      message = "remove the server that listens on port 443 from services.nginx.streamConfig";
    };
    port-443-in-lines = {
      module.services.nginx.appendHttpConfig = "server { listen 192.0.2.1:443 ssl; }";
      message = "remove the server that listens on port 443 from services.nginx.appendHttpConfig";
    };
    nginx-verbatim = {
      module.services.nginx.httpConfig = "server { listen 80; }";
      message = "services.nginx.httpConfig replaces the nginx configuration that the relay needs";
    };
    own-stream = {
      module.services.nginx.appendConfig = "stream { server { listen 5432; proxy_pass 10.0.0.1:5432; } }";
      message = "move the content of the block to services.nginx.streamConfig";
    };
    address-of-visitors = {
      module.services.nginx.commonHttpConfig = "real_ip_header CF-Connecting-IP;";
      message = "move real_ip_header and set_real_ip_from to the extraConfig of the virtual hosts";
    };
    http3 = {
      module.services.nginx.virtualHosts."site.example.org" = {
        onlySSL = true;
        sslCertificate = "/etc/site/fullchain.pem";
        sslCertificateKey = "/etc/site/key.pem";
        quic = true;
      };
      message = "set services.nginx.virtualHosts.\"site.example.org\".quic = false";
    };
    own-destinations = {
      module.services.postfix.settings.main.mydestination = [ "host.example.org" ];
      message = "services.postfix.settings.main.mydestination names domains";
    };
    path-with-spaces = {
      module.services.chatmail.mailboxes.directory = "/srv/my mail";
      message = "services.chatmail.mailboxes.directory is \"/srv/my mail\"; choose a path";
    };
    path-with-specifier = {
      module.services.chatmail.turn.secretFile = "/run/secrets/%i";
      message = "services.chatmail.turn.secretFile is \"/run/secrets/%i\"; choose a path";
    };
    turn-ports = {
      module.services.chatmail.turn.minPort = 53000;
      message = "set it to 52999 or less";
    };
    old-dovecot = {
      module.services.chatmail.dovecot.package = lib.mkForce (
        bare.config.services.chatmail.dovecot.package // { version = "2.3.21"; }
      );
      message = "is Dovecot 2.3.21; the relay needs 2.4 or newer";
    };
    exim = {
      module.services.exim.enable = true;
      message = "Set services.exim.enable = false";
    };
    opensmtpd = {
      module.services.opensmtpd = {
        enable = true;
        serverConfiguration = "";
      };
      message = "Set services.opensmtpd.enable = false";
    };
    maddy = {
      module.services.maddy.enable = true;
      message = "Set services.maddy.enable = false";
    };
    stalwart = {
      module.services.${if bare.config.services ? stalwart then "stalwart" else "stalwart-mail"}.enable =
        true;
      message = "Set services.stalwart";
    };
    apache = {
      module.services.httpd.enable = true;
      message = "services.httpd listens on port 80 or 443";
    };
    caddy = {
      module.services.caddy.enable = true;
      message = "services.caddy listens on port 80 or 443";
    };
    haproxy = {
      module.services.haproxy = {
        enable = true;
        config = "frontend web\n  bind *:443";
      };
      message = "services.haproxy listens on port 80 or 443";
    };
    sslh = {
      module.services.sslh.enable = true;
      message = "services.sslh listens on port 80 or 443";
    };
    traefik = {
      module.services.traefik.enable = true;
      message = "services.traefik listens on port 80 or 443";
    };
    lighttpd = {
      module.services.lighttpd.enable = true;
      message = "services.lighttpd listens on port 80 or 443";
    };
    dnsmasq = {
      module.services.dnsmasq.enable = true;
      message = "or move services.dnsmasq to another address";
    };
    bind = {
      module.services.bind.enable = true;
      message = "or move services.bind to another address";
    };
    kresd = {
      module.services.kresd.enable = true;
      message = "or move services.kresd to another address";
    };
    pdns-recursor = {
      module.services.pdns-recursor.enable = true;
      message = "or move services.pdns-recursor to another address";
    };
    opendkim = {
      module.services.opendkim = {
        enable = true;
        selector = "other";
      };
      message = "set services.opendkim.enable = false";
    };
    coturn = {
      module.services.coturn.enable = true;
      message = "set services.chatmail.turn.port or services.coturn.listening-port";
    };
    passthrough-senders = {
      module.services.chatmail.passthroughSenders = [ "a@example.org" ];
      message = "passthroughSenders";
    };
    passthrough-recipients = {
      module.services.chatmail.passthroughRecipients = [ "a@example.org" ];
      message = "passthroughRecipients";
    };
  };

  # Settings of the daemons that a host may add or override: the relay must keep the host's values.
  decided = {
    services.postfix.settings.main = {
      maximal_queue_lifetime = "5d";
      smtpd_timeout = "120s";
    };
    services.postfix.settings.master.slow = {
      command = "smtp";
    };
    services.dovecot2.settings = {
      mail_fsync = "optimized";
      mail_log_events = "delete";
    };
    services.nginx.virtualHosts."chat.example.org".locations."/status".return = "204";
    services.unbound.settings.server.prefetch = false;
    services.journald.storage = "persistent";
  };
  deciding = (evaluate [ decided ]).config;
  ignored = lib.filter (path: lib.getAttrFromPath path deciding != lib.getAttrFromPath path decided) (
    lib.collect lib.isList (lib.mapAttrsRecursiveCond (_: true) (path: _: path) decided)
  );

  # Sites that answer for unknown names behind the front. nginx does not start with two of them.
  ownDefault = {
    services.nginx.virtualHosts."site.example.org" = {
      default = true;
      onlySSL = true;
      sslCertificate = "/etc/site/fullchain.pem";
      sslCertificateKey = "/etc/site/key.pem";
    };
  };
  answering =
    sys:
    lib.attrNames (
      lib.filterAttrs (
        _: site:
        lib.any (
          listen:
          listen.addr == sys.config.services.chatmail.front.https
          && (site.default || lib.elem "default_server" listen.extraParameters)
        ) site.listen
      ) sys.config.services.nginx.virtualHosts
    );
  defaults = [
    {
      found = answering bare;
      wanted = [ bare.config.services.chatmail.domain ];
    }
    {
      found = answering (evaluate [ ownDefault ]);
      wanted = [ "site.example.org" ];
    }
  ];

  # A site that a derivation makes is built with the system, not during evaluation.
  builtLater = evaluate [
    { services.chatmail.web.source = bare.pkgs.runCommand "site" { } "false"; }
  ];

  # The host's own journal settings take precedence and cause a warning.
  journal = evaluate [
    { services.journald.extraConfig = "MaxRetentionSec=30d"; }
  ];
  warned = sys: lib.any (lib.hasInfix "services.journald") sys.config.warnings;

  # Assertions of the relay's module, identified by file and position.
  ours =
    sys:
    lib.concatMap
      (
        definition:
        lib.imap0 (
          position: assertion: assertion // { id = "${definition.file}#${toString position}"; }
        ) definition.value
      )
      (
        lib.filter (
          definition: lib.hasPrefix (toString ../../nixos) definition.file
        ) sys.options.assertions.definitionsWithLocations
      );

  failing = lib.mapAttrs (
    _: case: lib.filter (assertion: !assertion.assertion) (ours (evaluate [ case.module ]))
  ) cases;

  complaints = lib.mapAttrsToList (
    name: failed:
    let
      messages = map (assertion: assertion.message) failed;
      wanted = cases.${name}.message;
    in
    if lib.any (lib.hasInfix wanted) messages && lib.length failed == 1 then
      null
    else
      "${name}: expected one message with \"${wanted}\", got ${builtins.toJSON messages}"
  ) failing;

  tested = lib.concatMap (map (assertion: assertion.id)) (lib.attrValues failing);
  untested = lib.filter (assertion: !lib.elem assertion.id tested) (ours bare);
in
{
  cases = lib.length (lib.attrNames cases);
  complaints =
    lib.filter (complaint: complaint != null) complaints
    ++ map (assertion: "no configuration fails with: ${assertion.message}") untested
    ++ lib.concatMap (
      case:
      lib.optional (
        case.found != case.wanted
      ) "${toString case.found} answer for unknown names, not ${toString case.wanted}"
    ) defaults
    ++ lib.optional (
      !lib.elem "de" builtLater.config.services.chatmail.web.languages
    ) "a site from a derivation removes the relay's own languages"
    ++ lib.optional (
      warned bare || !warned journal
    ) "the warning about a journal that is kept for longer is missing, or appears without one"
    ++ lib.optional (
      !lib.hasSuffix "MaxRetentionSec=30d\n" (journal.config.services.journald.extraConfig + "\n")
    ) "a host cannot set how long its journal is kept"
    ++ map (path: "a host cannot override ${lib.concatStringsSep "." path}") ignored;
}
