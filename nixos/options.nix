# Every option of the relay. Defaults are those of the reference relay (chatmail/relay 1.12).
{ packagesFor }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  cfg = config.services.chatmail;
  packages = packagesFor pkgs;

  # A file that is read at run time: a string, so that Nix never copies it to the world-readable store.
  runtimePath = types.pathWith {
    inStore = false;
    absolute = true;
  };

  mkPackage =
    name: description:
    mkOption {
      type = types.package;
      default = packages.${name};
      defaultText = lib.literalExpression "packages.\${system}.${name} of the chatmail flake, built with this host's nixpkgs";
      inherit description;
    };

  # What a derivation makes is not looked into: it would have to be built before the rest is evaluated.
  readable =
    let
      context = builtins.getContext (toString cfg.web.source);
    in
    cfg.web.source != null && lib.all (from: from.path or false) (lib.attrValues context);
  languagesOf =
    source:
    lib.filter (name: builtins.pathExists (source + "/${name}/language.json")) (
      lib.attrNames (builtins.readDir source)
    );

  bytes = types.ints.positive;
  days = types.ints.positive;
in
{
  options.services.chatmail = {
    enable = lib.mkEnableOption "a chatmail relay: mail for Delta Chat and other end-to-end encrypting clients";

    domain = mkOption {
      type = types.str;
      example = "chat.example.org";
      description = ''
        Mail domain of the relay and its host name: what stands behind the `@` of every address, what clients connect to
        and what other servers find as MX.

        A name that begins with `_` is one that clients accept without a certificate chain; {option}`tls.mode` then
        defaults to `self-signed`.

        For a relay without a name, its IPv4 address, such as `192.0.2.1`: accounts are then `user@[192.0.2.1]`, and
        people sign up with the `dclogin:` link or QR code of the web site. There are no DNS records, no DKIM and no other
        {option}`tls.mode` than `self-signed`; relays that check the sender's address instead, as this one does, take its
        mail. IPv6 addresses are not supported.
      '';
    };

    byAddress = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      default = builtins.match "[0-9.]+" cfg.domain != null;
      description = "Whether the relay has no name but an IPv4 address.";
    };

    mailDomain = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = if cfg.byAddress then "[${cfg.domain}]" else cfg.domain;
      description = "What stands behind the `@` of addresses (RFC 5321 section 4.1.3).";
    };

    package = mkPackage "chatmail" "Package with the relay's own services and the `chatmail` command.";

    addresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "192.0.2.1"
        "2001:db8::1"
      ];
      description = ''
        Public addresses of the relay. They are what `chatmail dns --zone` prints as A and AAAA records; nothing binds to
        them.
      '';
    };

    adminAddress = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "privacy@example.org";
      description = ''
        Mail address that users reach the operator at, for questions of privacy among others. Announced to clients as
        METADATA `/shared/admin`.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to open the ports of the relay in the firewall: TCP 25, 80, 143, 443, 465, 587 and 993. A relay is of no
        use without them, so this is on by default.
      '';
    };

    enableIPv6 = mkOption {
      type = types.bool;
      default = config.networking.enableIPv6;
      defaultText = lib.literalExpression "config.networking.enableIPv6";
      description = "Whether the relay listens and delivers over IPv6 too.";
    };

    accounts = {
      usernameMinLength = mkOption {
        type = types.ints.between 1 64;
        default = 9;
        description = "Fewest characters before the `@` of a new address.";
      };
      usernameMaxLength = mkOption {
        type = types.ints.between 1 64;
        default = 9;
        description = "Most characters before the `@` of a new address; what `/new` gives out is this long.";
      };
      passwordMinLength = mkOption {
        type = types.ints.positive;
        default = 9;
        description = "Fewest characters of a new account's password.";
      };
      maxLoad1m = mkOption {
        type = types.numbers.positive;
        default = 5;
        description = "No account is created while the load average of one minute is above this. Existing accounts are not affected.";
      };
      minMemoryAvailable = mkOption {
        type = types.ints.unsigned;
        default = 200 * 1024 * 1024;
        defaultText = lib.literalExpression "200 * 1024 * 1024";
        description = "No account is created while fewer bytes of memory are available.";
      };
      minDiskFree = mkOption {
        type = types.ints.unsigned;
        default = 1024 * 1024 * 1024;
        defaultText = lib.literalExpression "1024 * 1024 * 1024";
        description = "No account is created while fewer bytes are free where the mailboxes are.";
      };
    };

    mailboxes = {
      directory = mkOption {
        type = runtimePath;
        default = "/home/vmail/mail/${cfg.domain}";
        defaultText = lib.literalExpression ''"/home/vmail/mail/''${config.services.chatmail.domain}"'';
        description = "Folder that holds one folder per account, named by the full address. Same layout as the reference relay's.";
      };
      quota = mkOption {
        type = bytes;
        default = 500 * 1024 * 1024;
        defaultText = lib.literalExpression "500 * 1024 * 1024";
        description = "Bytes that one mailbox may hold.";
      };
      maxMessages = mkOption {
        type = types.ints.between 10 1000000;
        default = 50000;
        description = ''
          Messages that one mailbox may hold, whatever their size: a message of one byte takes a file and a block of the
          disk. From three quarters on the oldest are removed until 70 % are left; those of the last day stay.
        '';
      };
      maxFolders = mkOption {
        type = types.ints.between 10 10000;
        default = 100;
        description = ''
          Folders that one mailbox may have. Delta Chat uses three at most; each takes about ten files and folders of the
          disk even while it is empty.
        '';
      };
      deleteMessagesAfter = mkOption {
        type = days;
        default = 20;
        description = "Days after which a message is removed.";
      };
      deleteLargeMessagesAfter = mkOption {
        type = days;
        default = 7;
        description = "Days after which a message larger than {option}`mailboxes.largeMessageSize` is removed.";
      };
      largeMessageSize = mkOption {
        type = bytes;
        default = 200000;
        description = "Bytes above which a message is large.";
      };
      deleteInactiveAccountsAfter = mkOption {
        type = days;
        default = 90;
        description = "Days without a login after which an account is removed with all its mail.";
      };
    };

    messages = {
      maxSize = mkOption {
        type = bytes;
        default = 31457280;
        description = "Largest message in bytes, as transferred: an attachment takes a third more than the file has.";
      };
      maxRecipients = mkOption {
        type = types.ints.positive;
        default = 1000;
        description = "Recipients that one submitted message may have; announced to clients as METADATA `maxsmtprecipients`.";
      };
      maxPerMinute = mkOption {
        type = types.ints.positive;
        default = 60;
        description = "Messages that one address may submit per minute once its burst is used up.";
      };
      burst = mkOption {
        type = types.ints.positive;
        default = 10;
        description = "Messages that one address may submit at once.";
      };
    };

    filter.transport = mkOption {
      type = types.enum [
        "unix"
        "tcp"
      ];
      default = "unix";
      description = ''
        How Postfix and the filters reach each other. With `unix`, over sockets in `/run/filtermail` and in Postfix's queue
        directory that only they may connect to. With `tcp`, over the ports of the reference relay on loopback: 10080 and
        10081 to the filters, 10025 and 10026 back to Postfix. Every process on the host can then hand in mail behind the
        filters, in any name and signed by the relay.
      '';
    };

    delivery.allowedNetworks = mkOption {
      type = types.listOf (types.strMatching "([0-9]{1,3}\\.){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])");
      default = [ ];
      example = [ "192.168.7.0/24" ];
      description = ''
        IPv4 networks that mail may be delivered to although they are not public, for relays in a private network. Postfix
        refuses recipients in all other private, loopback, link-local and reserved networks, and ignores such addresses
        in the DNS: otherwise users could reach services of the host and of its neighbours.
      '';
    };

    connections = {
      imap = mkOption {
        type = types.ints.positive;
        default = 10000;
        description = "IMAP sessions at once. One client address gets a fifth of the sessions through port 443.";
      };
      imapPerAccount = mkOption {
        type = types.ints.positive;
        default = 100;
        description = ''
          IMAP sessions that one account may have from one client address at once. A device has one for each folder that
          it watches, so a person with ten devices behind one address, whose sessions the relay has not yet found to be
          dead after a change of networks, stays well below the default, which is a hundredth of
          {option}`connections.imap`.
        '';
      };
      smtp = mkOption {
        type = types.ints.positive;
        default = 1000;
        description = "SMTP sessions of clients at once, on each of the ports 465 and 587; one client address gets a fifth of it.";
      };
      web = mkOption {
        type = types.ints.positive;
        default = 2000;
        description = ''
          Connections of browsers and other web clients at once. nginx gets room for these and for the IMAP and SMTP
          sessions through port 443; one client address, or one /64 of IPv6, gets a fifth of it.
        '';
      };
      filter = mkOption {
        type = types.ints.positive;
        default = 100;
        description = ''
          Messages that each of the two filters checks at once; further ones wait. Each takes memory for its whole
          message, so this and {option}`messages.maxSize` bound the memory of the filters.
        '';
      };
      delivery = mkOption {
        type = types.ints.positive;
        default = 20;
        description = ''
          Messages that are delivered to mailboxes at once; further ones wait in the queue, without a delay. Each takes
          one process of Postfix and one of Dovecot.
        '';
      };
    };

    front = mkOption {
      type = types.attrsOf types.str;
      internal = true;
      readOnly = true;
      default = {
        https = "unix:/run/nginx/chatmail-https.socket";
        imap = "127.0.0.1:10993";
        smtp = "127.0.0.1:10465";
      };
      description = ''
        Where the front on port 443 passes connections on to, with the PROXY protocol, which tells the address of the
        client.
      '';
    };

    tls = {
      mode = mkOption {
        type = types.enum [
          "acme"
          "external"
          "self-signed"
        ];
        default = if lib.hasPrefix "_" cfg.domain || cfg.byAddress then "self-signed" else "acme";
        defaultText = lib.literalMD "`self-signed` for a name that begins with `_` and for an IPv4 address, else `acme`";
        description = ''
          Where the certificate comes from.

          - `acme`: {option}`security.acme`, with the HTTP-01 challenge answered on port 80, or with what
            `security.acme.certs.<domain>` of the host says, such as a DNS provider.
          - `external`: {option}`tls.certificateFile` and {option}`tls.keyFile`; Postfix, Dovecot and nginx reload when they
            change.
          - `self-signed`: made once by the relay. Clients accept it only for names that begin with `_` and for accounts
            added with a `dclogin:` link that says so; other relays deliver only to names that begin with `_`.
        '';
      };
      certificateFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/certificates/chat.example.org/fullchain.pem";
        description = "Certificate followed by its chain, PEM. Only for {option}`tls.mode` `external`.";
      };
      keyFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/certificates/chat.example.org/key.pem";
        description = ''
          Private key of {option}`tls.certificateFile`, PEM. Postfix and Dovecot read it as root, nginx as member of the
          group `nginx`. Only for {option}`tls.mode` `external`.
        '';
      };
      files = mkOption {
        type = types.attrsOf types.str;
        internal = true;
        readOnly = true;
        description = "Paths of `certificate` and `key`, whatever the mode.";
      };
    };

    dkim = {
      selector = mkOption {
        type = types.strMatching "[a-z0-9]([a-z0-9-]*[a-z0-9])?";
        default = "opendkim";
        description = "DKIM selector: the key is published at `<selector>._domainkey.<domain>`.";
      };
      package = mkPackage "opendkim" ''
        OpenDKIM, used for signing only. The package of the flake is that of nixpkgs with the published fixes; nixpkgs
        marks its own as insecure.
      '';
    };

    dns = {
      acmeAccountUri = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://acme-v02.api.letsencrypt.org/acme/acct/123456";
        description = "ACME account that the CAA record of `chatmail dns --zone` admits; none: any account of the issuer.";
      };
    };

    imap.compress = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to offer IMAP COMPRESS (RFC 4978). Sessions that use it cannot be put to sleep, so each idle one keeps a
        process with its memory.
      '';
    };

    imap.rawlog = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to record every IMAP session in files, for debugging.

        ::: {.warning}
        They hold what clients and Dovecot sent each other after the login: account names, message headers, encrypted
        messages. Turn it on for hours and tell your users. The files are in {file}`/var/lib/chatmail-rawlog`, which
        only root and the owner of the mailboxes can read, and are deleted when a day old, or with
        `rm -r /var/lib/chatmail-rawlog/*`. Nothing else limits their size: a busy relay writes as much as it serves.
        :::
      '';
    };

    dovecot.package = mkPackage "dovecot" ''
      Dovecot 2.4 with Lua. Set here because nixpkgs builds it without, and gives hosts with an older
      {option}`system.stateVersion` Dovecot 2.3.
    '';

    resolver.enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to run unbound on loopback for the relay's lookups. Mail needs a resolver that nobody else shares, or
        block lists and limits of public ones delay it. Turn it off when the host has a resolver on 127.0.0.1 already.
      '';
    };

    push.notificationUrl = mkOption {
      type = types.str;
      default = "https://notifications.delta.chat/notify";
      description = "Server that gets the device tokens of clients with new messages; it sees no content and no addresses.";
    };

    web = {
      source = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = lib.literalExpression "./www";
        description = ''
          Folder with sources of your own for the web site: its files replace those of the same path in `www/` of the
          flake, and add to them. A folder with a `language.json` is a further language.
        '';
      };
      languages = mkOption {
        type = types.listOf (types.strMatching "[A-Za-z0-9-]+");
        default = lib.unique (
          lib.concatMap languagesOf ([ ../www ] ++ lib.optional readable cfg.web.source)
        );
        defaultText = lib.literalMD "folders with a `language.json` in `www/` of the flake and in {option}`web.source`, unless a derivation makes that";
        description = ''
          Languages of the web site that visitors get by the preference of their browser. Set it when a derivation makes
          {option}`web.source` and adds languages: they are not known before it is built.
        '';
      };
      root = mkOption {
        type = types.path;
        defaultText = lib.literalMD "the site made from `www/` of the flake and {option}`web.source`";
        description = ''
          Folder that nginx serves at `https://<domain>/`. Pages at its root give way to those of the same name in the
          folder of the visitor's language, such as `de/`.
        '';
      };
      privacy = {
        postalAddress = mkOption {
          type = types.nullOr types.lines;
          default = null;
          example = ''
            Example Association
            Example Street 1
            12345 Example Town
          '';
          description = "Name and postal address of who is responsible for the relay, shown on its privacy page.";
        };
        dataProtectionOfficer = mkOption {
          type = types.nullOr types.lines;
          default = null;
          description = "The data protection officer, shown on the privacy page.";
        };
        supervisoryAuthority = mkOption {
          type = types.nullOr types.str;
          default = null;
          description = "Data protection authority that complaints go to, shown on the privacy page.";
        };
      };
      newAddressesPerMinute = mkOption {
        type = types.ints.positive;
        default = 120;
        description = "Addresses that `/new` gives out per minute, over all clients.";
      };
      mtaStsPolicy = mkOption {
        type = types.lines;
        internal = true;
        description = "MTA-STS policy (RFC 8461 section 3.2).";
      };
    };

    turn = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether to run a TURN server (coturn) for calls, and to give clients credentials for it.";
      };
      package = lib.mkPackageOption pkgs "coturn" { };
      port = mkOption {
        type = types.port;
        default = 3478;
        description = "Port that clients connect to, over UDP and TCP.";
      };
      minPort = mkOption {
        type = types.port;
        default = 50000;
        description = "First UDP port that calls are relayed through. Each call takes one or two.";
      };
      maxPort = mkOption {
        type = types.port;
        default = 52999;
        description = "Last UDP port that calls are relayed through.";
      };
      lifetime = mkOption {
        type = types.ints.positive;
        default = 5 * 24 * 3600;
        defaultText = lib.literalExpression "5 * 24 * 3600";
        description = ''
          Seconds that credentials are valid for at most, and a fifth of it at least: an account has the same credentials
          until four fifths are over. Clients ask for new ones half a day before they end.
        '';
      };
      secretFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/run/secrets/turn";
        description = ''
          File with the secret that credentials are made with, for several relays that share a TURN server for example.
          None: made once by the relay.
        '';
      };
      allowedPeers = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "192.168.7.0-192.168.7.255" ];
        description = ''
          Addresses that calls may be relayed to although they are not public, or the host's own: without this, private,
          loopback and reserved ranges and the addresses of the host are refused.
        '';
      };
    };

    iroh = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether to run an iroh relay, for realtime connections between devices.";
      };
      package = mkPackage "iroh-relay" "iroh-relay 0.35: clients do not speak the protocol of later ones.";
      url = mkOption {
        type = types.nullOr types.str;
        default = if cfg.iroh.enable then "https://${cfg.domain}" else null;
        defaultText = lib.literalExpression ''"https://''${config.services.chatmail.domain}" with iroh.enable, else null'';
        example = "https://iroh.example.org";
        description = "The iroh relay that clients are told of; none: their own choice.";
      };
    };

    metadata.maxEntries = mkOption {
      type = types.ints.between 1 1000;
      default = 100;
      description = ''
        Entries of METADATA (RFC 5464) that the clients of one account may keep on the relay. A further one pushes out
        the one that was set longest ago. Device tokens do not count.
      '';
    };

    metadata.maxEntryBytes = mkOption {
      type = types.ints.between 1024 262144;
      default = 32768;
      description = "Bytes that the entries of {option}`metadata.maxEntries` may have together.";
    };

    metadata.appVersions = mkOption {
      type = types.nullOr (pkgs.formats.json { }).type;
      default = null;
      example = lib.literalExpression ''
        {
          clients = [
            {
              clientId = "deltachat-android";
              sources = [
                {
                  sourceId = "apk";
                  versionInteger = 777;
                  versionString = "2.65.0";
                  downloadUrl = "https://example.org/deltachat.apk";
                }
              ];
            }
          ];
        }
      '';
      description = ''
        Newest versions of apps, which clients that were installed from the relay's own site can tell their users of. At
        most 16 KiB as JSON. None: nothing is announced.
      '';
    };

    metrics = {
      enable = lib.mkEnableOption "metrics for Prometheus: counters of the relay on port 3903 (mtail), those of Dovecot on port 3904, and those of each service of the relay on ports 3905 to 3910; docs/metrics.md lists them";
      package = lib.mkPackageOption pkgs "mtail" { };
      listenAddress = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "10.0.0.2";
        description = "Address of this host that Prometheus reaches. The firewall is left as it is.";
      };
      textfileDirectory = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/prometheus-node-exporter";
        description = ''
          Folder that the node exporter's textfile collector reads; `fsreport.prom` with the sizes of the mailboxes is
          written there every hour. It has to be writable for the user `vmail`.
        '';
      };
      publicCounts = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the web site serves the counts of accounts at `/metrics`.";
      };
    };

    journal.private = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the journal of the host is kept in memory only and for three days, for the privacy of the users. It holds
        for all services of the host.
      '';
    };

    settings = mkOption {
      type = (pkgs.formats.json { }).type;
      internal = true;
      description = "What the relay's own services read, as crates/chatmail-core/src/settings.rs defines it.";
    };

    settingsFile = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      description = "The rendered {option}`settings`.";
    };
  };
}
