# What must hold, with the way out in each message.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config.services) nginx postfix;

  # Everything of the host's that would make nginx listen on port 443 beside the front, by the option that says so.
  lines =
    pattern: text: lib.filter (line: builtins.match pattern line != null) (lib.splitString "\n" text);
  listensOn443 = lines "([^#]*[^#a-z_])?listen[[:space:]]+([^;[:space:]]*:)?443([[:space:];].*)?";
  takes443 = lib.any (listen: listen.port == 443);
  sites = lib.attrNames (
    lib.filterAttrs (
      _: host: takes443 host.listen || listensOn443 host.extraConfig != [ ]
    ) nginx.virtualHosts
  );
  on443 =
    lib.optional (
      nginx.defaultSSLListenPort == 443
    ) "services.nginx.defaultSSLListenPort: leave it at 8443"
    ++ lib.optional (takes443 nginx.defaultListen) "services.nginx.defaultListen: remove its entries with port 443"
    ++ map (name: "services.nginx.virtualHosts.\"${name}\": remove its `listen` with port 443") sites
    ++ lib.optional (
      lib.length (listensOn443 nginx.streamConfig) > (if cfg.enableIPv6 then 2 else 1)
    ) "services.nginx.streamConfig: remove the server that listens on port 443, or give it another port"
    ++ map (option: "services.nginx.${option}: remove the server that listens on port 443") (
      lib.filter (option: listensOn443 nginx.${option} != [ ]) [
        "appendConfig"
        "appendHttpConfig"
        "commonHttpConfig"
      ]
    );

  # Their options replace or repeat parts of the configuration that the relay needs.
  verbatim = lib.filter (option: nginx.${option} != "") [
    "config"
    "httpConfig"
  ];
  ownStream = lines "([^#]*[^#a-z_])?stream[[:space:]]*[{].*" nginx.appendConfig != [ ];
  realIp = lines "([^#]*[^#a-z_])?(real_ip_header|set_real_ip_from)[[:space:]].*";
  quic = lib.attrNames (
    lib.filterAttrs (
      _: host: host.quic && lib.any (listen: listen.addr == cfg.front.https) host.listen
    ) nginx.virtualHosts
  );
  # Files of daemons hold them without quotes.
  unquotable = lib.filterAttrs (
    _: path: path != null && builtins.match "[A-Za-z0-9._/@+,=~-]+" path == null
  ) paths;
  paths = {
    "mailboxes.directory" = cfg.mailboxes.directory;
    "tls.certificateFile" = cfg.tls.certificateFile;
    "tls.keyFile" = cfg.tls.keyFile;
    "turn.secretFile" = cfg.turn.secretFile;
    "metrics.textfileDirectory" = cfg.metrics.textfileDirectory;
  };
  isIPv4 = address: builtins.match "[0-9.]+" address != null;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion =
          let
            matches = pattern: builtins.match pattern cfg.domain != null;
            octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
          in
          lib.hasInfix ":" cfg.domain
          || matches (
            if cfg.byAddress then
              "(${octet}\\.){3}${octet}"
            else
              "([a-z0-9_]([a-z0-9-]*[a-z0-9])?\\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?"
          );
        message = "services.chatmail.domain is \"${cfg.domain}\"; set it to a full domain name in lower case, such as \"chat.example.org\", or to an IPv4 address, such as \"192.0.2.1\".";
      }
      {
        assertion = !lib.hasInfix ":" cfg.domain;
        message = "services.chatmail.domain is \"${cfg.domain}\": a relay without a name needs an IPv4 address; set it to that, without brackets and port, or to a domain name.";
      }
      {
        assertion = cfg.byAddress -> cfg.tls.mode == "self-signed";
        message = "services.chatmail.domain is an address, for which clients accept no certificate of tls.mode \"${cfg.tls.mode}\": leave services.chatmail.tls.mode at \"self-signed\" or give the relay a domain name.";
      }
      {
        assertion = cfg.accounts.usernameMinLength <= cfg.accounts.usernameMaxLength;
        message = "services.chatmail.accounts.usernameMinLength is above usernameMaxLength; set it to ${toString cfg.accounts.usernameMaxLength} or less.";
      }
      {
        assertion =
          cfg.tls.mode == "external" -> cfg.tls.certificateFile != null && cfg.tls.keyFile != null;
        message = "services.chatmail.tls.mode is \"external\": set services.chatmail.tls.certificateFile and services.chatmail.tls.keyFile.";
      }
      {
        assertion =
          cfg.tls.mode != "external" -> cfg.tls.certificateFile == null && cfg.tls.keyFile == null;
        message = "services.chatmail.tls.certificateFile and keyFile are only used with services.chatmail.tls.mode = \"external\"; set the mode or remove the files.";
      }
      {
        assertion =
          cfg.tls.mode == "acme"
          ->
            config.security.acme.defaults.email != null
            || config.security.acme.certs.${cfg.domain}.email != null;
        message = "services.chatmail.tls.mode is \"acme\": set security.acme.defaults.email to an address that the certificate authority can reach you at.";
      }
      {
        assertion = cfg.tls.mode == "acme" -> config.security.acme.acceptTerms;
        message = "services.chatmail.tls.mode is \"acme\": read the terms of the certificate authority and set security.acme.acceptTerms = true.";
      }
      {
        assertion = cfg.enableIPv6 || cfg.addresses == [ ] || lib.any isIPv4 cfg.addresses;
        message = "services.chatmail.enableIPv6 is false but services.chatmail.addresses has IPv6 addresses only; add the IPv4 address or turn IPv6 on.";
      }
      {
        assertion = on443 == [ ];
        message = "Port 443 is shared between web, IMAP and SMTP by services.chatmail, which passes other sites of the host on too. ${lib.head on443}.";
      }
      {
        assertion = verbatim == [ ];
        message = "services.nginx.${lib.head verbatim} replaces what the relay needs of nginx; move it to services.nginx.virtualHosts and services.nginx.appendHttpConfig.";
      }
      {
        assertion = !ownStream;
        message = "services.nginx.appendConfig has a block `stream`, and so has the relay; move what is in it to services.nginx.streamConfig.";
      }
      {
        assertion = lib.length (realIp (nginx.commonHttpConfig + "\n" + nginx.appendHttpConfig)) == 2;
        message = "services.nginx.commonHttpConfig or appendHttpConfig says for all sites where the address of a visitor stands, and so does the front of the relay; move real_ip_header and set_real_ip_from to the extraConfig of the virtual hosts that are behind another proxy.";
      }
      {
        assertion = quic == [ ];
        message = "HTTP/3 does not pass the relay's front on port 443; set services.nginx.virtualHosts.\"${lib.head quic}\".quic = false.";
      }
      {
        assertion =
          lib.toList postfix.settings.main.mydestination == [ "" ]
          || lib.toList postfix.settings.main.mydestination == [ ];
        message = "services.postfix.settings.main.mydestination names domains whose mail would go to Unix users of the host; remove it, the relay takes mail for services.chatmail.domain only. Mail to root goes where services.postfix.rootAlias says.";
      }
      {
        assertion = lib.hasInfix ":" cfg.domain || unquotable == { };
        message =
          let
            name = lib.head (lib.attrNames unquotable);
          in
          "services.chatmail.${name} is \"${unquotable.${name}}\"; choose a path of letters, digits and the characters . _ / @ + , = ~ - only, which the files of all daemons can hold.";
      }
      {
        assertion = cfg.turn.minPort <= cfg.turn.maxPort;
        message = "services.chatmail.turn.minPort is above services.chatmail.turn.maxPort; set it to ${toString cfg.turn.maxPort} or less.";
      }
      {
        assertion = lib.stringLength (builtins.toJSON cfg.metadata.appVersions) <= 16384;
        message = "services.chatmail.metadata.appVersions is ${toString (lib.stringLength (builtins.toJSON cfg.metadata.appVersions))} bytes of JSON; clients are told at most 16384. Leave old versions out.";
      }
      {
        assertion = lib.versionAtLeast cfg.dovecot.package.version "2.4";
        message = "services.chatmail.dovecot.package is Dovecot ${cfg.dovecot.package.version}; the relay needs 2.4 or newer, built with Lua.";
      }
    ];

    warnings =
      lib.optional (cfg.tls.mode == "self-signed" && !lib.hasPrefix "_" cfg.domain && !cfg.byAddress)
        "services.chatmail.tls.mode is \"self-signed\" but services.chatmail.domain does not begin with \"_\": other relays will not deliver to it. Use \"acme\" or \"external\", or a name that begins with \"_\".";
  };
}
