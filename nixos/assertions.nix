# Assertions and warnings about the relay's own options and about nginx and Postfix. Each message says what to change.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  inherit (config.services) nginx postfix;

  # The host's options that would make nginx listen on port 443 besides the front, each with what to do about it.
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
    lib.optional (nginx.defaultSSLListenPort == 443) "set services.nginx.defaultSSLListenPort to 8443"
    ++ lib.optional (takes443 nginx.defaultListen) "remove the entries with port 443 from services.nginx.defaultListen"
    ++ map (
      name: "remove the `listen` with port 443 from services.nginx.virtualHosts.\"${name}\""
    ) sites
    ++
      lib.optional (lib.length (listensOn443 nginx.streamConfig) > (if cfg.enableIPv6 then 2 else 1))
        "remove the server that listens on port 443 from services.nginx.streamConfig, or give it another port"
    ++ map (option: "remove the server that listens on port 443 from services.nginx.${option}") (
      lib.filter (option: listensOn443 nginx.${option} != [ ]) [
        "appendConfig"
        "appendHttpConfig"
        "commonHttpConfig"
      ]
    );

  # Options that replace or repeat parts of the configuration that the relay needs.
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
  # The daemons' configuration files contain these paths without quotes.
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
  # Entries of federation.allow that federation.block excludes with all their subdomains.
  allowedInVain = lib.filter (
    domain:
    lib.any (blocked: domain == blocked || lib.hasSuffix ".${blocked}" domain) cfg.federation.block
  ) (if cfg.federation.allow == null then [ ] else cfg.federation.allow);
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
        message = "services.chatmail.domain is \"${cfg.domain}\", which is neither a full domain name nor an IPv4 address; set it to a full domain name in lower case, such as \"chat.example.org\", or to an IPv4 address, such as \"192.0.2.1\".";
      }
      {
        assertion = !lib.hasInfix ":" cfg.domain;
        message = "services.chatmail.domain is \"${cfg.domain}\", but IPv6 addresses are not supported: a relay without a name needs an IPv4 address; set it to that address, without brackets or port, or to a domain name.";
      }
      {
        assertion = cfg.byAddress -> cfg.tls.mode == "self-signed";
        message = "services.chatmail.domain is an IP address and services.chatmail.tls.mode is \"${cfg.tls.mode}\", but a relay without a name supports only self-signed certificates; leave services.chatmail.tls.mode at \"self-signed\" or set services.chatmail.domain to a domain name.";
      }
      {
        assertion = cfg.accounts.usernameMinLength <= cfg.accounts.usernameMaxLength;
        message = "services.chatmail.accounts.usernameMinLength is ${toString cfg.accounts.usernameMinLength}, which is above usernameMaxLength; set it to ${toString cfg.accounts.usernameMaxLength} or less.";
      }
      {
        assertion =
          cfg.tls.mode == "external" -> cfg.tls.certificateFile != null && cfg.tls.keyFile != null;
        message = "services.chatmail.tls.mode is \"external\", but a file is missing; set services.chatmail.tls.certificateFile and services.chatmail.tls.keyFile.";
      }
      {
        assertion =
          cfg.tls.mode != "external" -> cfg.tls.certificateFile == null && cfg.tls.keyFile == null;
        message = "services.chatmail.tls.certificateFile or keyFile is set, but services.chatmail.tls.mode is \"${cfg.tls.mode}\", which does not use them; set the mode to \"external\" or remove the files.";
      }
      {
        assertion =
          cfg.tls.mode == "acme"
          ->
            config.security.acme.defaults.email != null
            || config.security.acme.certs.${cfg.domain}.email != null;
        message = "services.chatmail.tls.mode is \"acme\", but the ACME account has no mail address; set security.acme.defaults.email to an address at which the certificate authority can reach you.";
      }
      {
        assertion = cfg.tls.mode == "acme" -> config.security.acme.acceptTerms;
        message = "services.chatmail.tls.mode is \"acme\", but the terms of the certificate authority are not accepted; read them and set security.acme.acceptTerms = true.";
      }
      {
        assertion = cfg.enableIPv6 || cfg.addresses == [ ] || lib.any isIPv4 cfg.addresses;
        message = "services.chatmail.enableIPv6 is false, but services.chatmail.addresses contains only IPv6 addresses; add the IPv4 address or set services.chatmail.enableIPv6 = true.";
      }
      {
        assertion = cfg.federation.smtp.send || cfg.federation.https.send;
        message = "services.chatmail.federation.smtp.send and federation.https.send are both false, so the relay cannot deliver to other servers; set services.chatmail.federation.https.send = true.";
      }
      {
        assertion = cfg.federation.smtp.receive || cfg.federation.https.receive;
        message = "services.chatmail.federation.smtp.receive and federation.https.receive are both false, so other servers cannot deliver to the relay; set services.chatmail.federation.https.receive = true.";
      }
      {
        assertion = !lib.elem cfg.mailDomain cfg.federation.block;
        message = "services.chatmail.federation.block contains the domain of the relay, \"${cfg.mailDomain}\", whose users can always write to each other; remove it from services.chatmail.federation.block.";
      }
      {
        assertion = allowedInVain == [ ];
        message = "services.chatmail.federation.allow contains \"${lib.head allowedInVain}\", but services.chatmail.federation.block excludes it; remove it from one of the lists.";
      }
      {
        assertion = on443 == [ ];
        message = "services.nginx listens on port 443, but services.chatmail needs that port for its front, which shares it between web, IMAP and SMTP and also forwards to the host's own sites; ${lib.head on443}.";
      }
      {
        assertion = verbatim == [ ];
        message = "services.nginx.${lib.head verbatim} replaces the nginx configuration that the relay needs; move its content to services.nginx.virtualHosts and services.nginx.appendHttpConfig.";
      }
      {
        assertion = !ownStream;
        message = "services.nginx.appendConfig contains a `stream` block, but nginx allows only one and the relay already has it; move the content of the block to services.nginx.streamConfig.";
      }
      {
        assertion = lib.length (realIp (nginx.commonHttpConfig + "\n" + nginx.appendHttpConfig)) == 2;
        message = "services.nginx.commonHttpConfig or appendHttpConfig sets the source of client addresses for all sites, which the relay must set for its front on port 443; move real_ip_header and set_real_ip_from to the extraConfig of the virtual hosts that are behind another proxy.";
      }
      {
        assertion = quic == [ ];
        message = "services.nginx.virtualHosts.\"${lib.head quic}\" enables HTTP/3, which the relay's front on port 443 cannot forward; set services.nginx.virtualHosts.\"${lib.head quic}\".quic = false.";
      }
      {
        assertion =
          lib.toList postfix.settings.main.mydestination == [ "" ]
          || lib.toList postfix.settings.main.mydestination == [ ];
        message = "services.postfix.settings.main.mydestination names domains whose mail would go to Unix users of the host, but the relay accepts mail only for services.chatmail.domain; remove the setting. To receive mail to root, set services.postfix.rootAlias.";
      }
      {
        assertion = lib.hasInfix ":" cfg.domain || unquotable == { };
        message =
          let
            name = lib.head (lib.attrNames unquotable);
          in
          "services.chatmail.${name} is \"${unquotable.${name}}\"; choose a path of letters, digits and the characters . _ / @ + , = ~ - only, because the configuration files of some daemons cannot contain others.";
      }
      {
        assertion = cfg.turn.minPort <= cfg.turn.maxPort;
        message = "services.chatmail.turn.minPort is ${toString cfg.turn.minPort}, which is above services.chatmail.turn.maxPort; set it to ${toString cfg.turn.maxPort} or less.";
      }
      {
        assertion = cfg.backup.repository != null -> cfg.backup.passwordFile != null;
        message = "services.chatmail.backup.repository is set, but the password of the repository is missing; set services.chatmail.backup.passwordFile.";
      }
      {
        assertion =
          lib.stringLength (builtins.toJSON cfg.metadata.appVersions)
          <= cfg.settings.metadata.max_app_versions_bytes;
        message = "services.chatmail.metadata.appVersions is ${toString (lib.stringLength (builtins.toJSON cfg.metadata.appVersions))} bytes of JSON, but the relay announces at most ${toString cfg.settings.metadata.max_app_versions_bytes}; remove old versions.";
      }
      {
        assertion = lib.versionAtLeast cfg.dovecot.package.version "2.4";
        message = "services.chatmail.dovecot.package is Dovecot ${cfg.dovecot.package.version}; the relay needs 2.4 or newer, built with Lua. Remove the setting to use the package of the chatmail flake.";
      }
    ];

    warnings =
      lib.optional (cfg.tls.mode == "self-signed" && !lib.hasPrefix "_" cfg.domain && !cfg.byAddress)
        "services.chatmail.tls.mode is \"self-signed\", but services.chatmail.domain does not begin with \"_\": other relays do not deliver to this relay. Set the mode to \"acme\" or \"external\", or choose a domain that begins with \"_\".";
  };
}
