# What must hold, with the way out in each message.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  onPort443 = lib.attrNames (
    lib.filterAttrs (
      _: host: lib.any (listen: listen.port == 443) host.listen
    ) config.services.nginx.virtualHosts
  );
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
        assertion = config.services.nginx.defaultSSLListenPort != 443 && onPort443 == [ ];
        message = "Port 443 is shared between web, IMAP and SMTP by services.chatmail. ${
          if onPort443 == [ ] then
            "Leave services.nginx.defaultSSLListenPort at 8443"
          else
            "Remove the listen entries with port 443 from services.nginx.virtualHosts.\"${lib.head onPort443}\""
        }: sites are then served on port 443 through the relay's front.";
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
