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
  limits = import ./limits.nix;
  packages = packagesFor pkgs;

  # Path of a file that is read at run time. It stays a string: Nix would copy a path to the world-readable store.
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

  # False if a derivation makes the folder: reading it would build the derivation during evaluation.
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

  # Domain in lower case without a final dot, or address literal (RFC 5321 section 4.1.3).
  mailDomain = types.strMatching "([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\\.)*[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?|\\[[0-9]+(\\.[0-9]+){3}]|\\[IPv6:[0-9a-fA-F:.]+]";

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
        Mail domain and host name of the relay: the part after the `@` of every address, the name that clients connect to, and the MX that other servers deliver to.

        Clients accept a name that begins with `_` without a certificate chain; {option}`tls.mode` then defaults to `self-signed`.

        A relay without a name uses its IPv4 address, such as `192.0.2.1`.
        Its accounts are `user@[192.0.2.1]`, and users sign up with the `dclogin:` link or QR code on the web site.
        Such a relay has no DNS records and no DKIM, and {option}`tls.mode` can only be `self-signed`.
        Only relays that check the sender's IP address instead of a DKIM signature, as this one does, accept its mail.
        IPv6 addresses are not supported.
      '';
    };

    byAddress = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      default = builtins.match "[0-9.]+" cfg.domain != null;
      description = "Whether the relay has an IPv4 address in place of a domain name.";
    };

    mailDomain = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = if cfg.byAddress then "[${cfg.domain}]" else cfg.domain;
      description = "Part of an address after the `@` (RFC 5321 section 4.1.3).";
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
        Public IP addresses of the relay.
        `chatmail dns --zone` prints them as A and AAAA records, and Postfix and TURN treat them as addresses of this host.
        No service binds to them.
      '';
    };

    adminAddress = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "privacy@example.org";
      description = ''
        Mail address of the operator, for questions about privacy and anything else.
        The privacy page shows it, and clients receive it as METADATA entry `/shared/admin`.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to open the ports of the relay in the firewall: TCP 25, 80, 143, 443, 465, 587 and 993, and the ports of TURN if {option}`turn.enable` is set.
        On by default, because a relay cannot work without them.
      '';
    };

    enableIPv6 = mkOption {
      type = types.bool;
      default = config.networking.enableIPv6;
      defaultText = lib.literalExpression "config.networking.enableIPv6";
      description = "Whether the relay also listens and delivers over IPv6.";
    };

    accounts = {
      usernameMinLength = mkOption {
        type = types.ints.between 1 64;
        default = 9;
        description = "Minimum length of the local part of a new address, in characters.";
      };
      usernameMaxLength = mkOption {
        type = types.ints.between 1 64;
        default = 9;
        description = "Maximum length of the local part of a new address, in characters; `/new` always generates this length.";
      };
      passwordMinLength = mkOption {
        type = types.ints.positive;
        default = 9;
        description = "Minimum length of a new account's password, in characters.";
      };
      maxLoad1m = mkOption {
        type = types.numbers.positive;
        default = 5;
        description = "Highest one-minute load average at which doveauth still creates accounts. Existing accounts are not affected.";
      };
      minMemoryAvailable = mkOption {
        type = types.ints.unsigned;
        default = 200 * 1024 * 1024;
        defaultText = lib.literalExpression "200 * 1024 * 1024";
        description = "Available memory, in bytes, below which doveauth creates no accounts.";
      };
      minDiskFree = mkOption {
        type = types.ints.unsigned;
        default = 1024 * 1024 * 1024;
        defaultText = lib.literalExpression "1024 * 1024 * 1024";
        description = "Free space on the file system of the mailboxes, in bytes, below which doveauth creates no accounts.";
      };
    };

    registration = {
      mode = mkOption {
        type = types.enum [
          "open"
          "closed"
          "invitation"
        ];
        default = "open";
        description = ''
          Who can create an account with a first login. Existing accounts are not affected.

          - `open`: everybody.
          - `closed`: nobody; only `chatmail account create` creates accounts.
          - `invitation`: everybody who has an invitation, which `chatmail invite create` prints as a link and as a QR code.

          The file `/var/lib/chatmail/nocreate` closes registration for as long as it exists, whatever this option says.
        '';
      };
      maxPerHour = mkOption {
        type = types.nullOr (types.ints.between 1 1000000);
        default = null;
        example = 100;
        description = ''
          Maximum number of accounts that first logins create within an hour, for all clients together.
          Without it, only {option}`web.newAddressesPerMinute` and the limits in {option}`accounts` apply.
        '';
      };
    };

    mailboxes = {
      directory = mkOption {
        type = runtimePath;
        default = "/home/vmail/mail/${cfg.domain}";
        defaultText = lib.literalExpression ''"/home/vmail/mail/''${config.services.chatmail.domain}"'';
        description = "Folder with one folder per account, named after the full address. The layout is that of the reference relay.";
      };
      quota = mkOption {
        type = bytes;
        default = 500 * 1024 * 1024;
        defaultText = lib.literalExpression "500 * 1024 * 1024";
        description = "Maximum size of one mailbox, in bytes. Above ${toString limits.trimAtPercent} % of it, the oldest messages are removed until ${toString limits.trimToPercent} % are left; those of the last day stay.";
      };
      maxMessages = mkOption {
        type = types.ints.between 10 1000000;
        default = 50000;
        description = ''
          Maximum number of messages in one mailbox, whatever their size: even a message of one byte takes a file and a disk block.
          Above ${toString limits.trimAtPercent} % of it, the oldest messages are removed until ${toString limits.trimToPercent} % are left; those of the last day stay.
        '';
      };
      maxFolders = mkOption {
        type = types.ints.between 10 10000;
        default = 100;
        description = ''
          Maximum number of folders in one mailbox.
          Delta Chat uses three at most; even an empty folder takes about ten files and directories on the disk.
        '';
      };
      deleteMessagesAfter = mkOption {
        type = days;
        default = 20;
        description = "Age at which a message is removed, in days.";
      };
      deleteLargeMessagesAfter = mkOption {
        type = days;
        default = 7;
        description = "Age at which a message larger than {option}`mailboxes.largeMessageSize` is removed, in days. A message that no client has seen yet is kept until {option}`mailboxes.deleteMessagesAfter`.";
      };
      largeMessageSize = mkOption {
        type = bytes;
        default = 200000;
        description = "Size above which a message counts as large, in bytes.";
      };
      deleteInactiveAccountsAfter = mkOption {
        type = days;
        default = 90;
        description = "Time without a login after which an account is removed with all its mail, in days.";
      };
    };

    messages = {
      maxSize = mkOption {
        type = bytes;
        default = 52428800;
        description = "Maximum size of a message as transferred, in bytes. Encoding makes an attachment a third larger than its file.";
      };
      maxRecipients = mkOption {
        type = types.ints.positive;
        default = 1000;
        description = "Maximum number of recipients of one submitted message; announced to clients as METADATA entry `maxsmtprecipients`.";
      };
      maxPerMinute = mkOption {
        type = types.ints.positive;
        default = 60;
        description = "Maximum number of messages that one address can submit per minute after its burst is used up.";
      };
      burst = mkOption {
        type = types.ints.positive;
        default = 10;
        description = "Number of messages that one address can submit at once.";
      };
    };

    federation.allow = mkOption {
      type = types.nullOr (types.listOf mailDomain);
      default = null;
      example = [
        "example.org"
        "[192.0.2.7]"
      ];
      description = ''
        The only domains with which the relay exchanges mail, in both directions; if null, all domains.
        An empty list separates the relay from all others.
        Users of the relay can always write to each other.

        An entry includes all subdomains; `[192.0.2.7]` names a relay without a domain name.
        Internationalized domains are in their ASCII form, such as `xn--bcher-kva.example`.

        Senders on both sides get the reply `554 5.7.1 This relay exchanges no mail with DOMAIN`:
        users when they add the recipient to a message, and other servers before they send a message, over SMTP and HTTPS.
        For mail from other servers, the domains of the envelope sender and of the `From` field count, the latter also in bounces.
        Mail that is in the queue when a rule is added returns to its sender, with {option}`federation.https.send`.
      '';
    };
    federation.block = mkOption {
      type = types.listOf mailDomain;
      default = [ ];
      example = [ "spam.example" ];
      description = ''
        Domains with which the relay exchanges no mail, in both directions, even if {option}`federation.allow` contains them or a domain above them.
        Entries and replies are as for {option}`federation.allow`.

        Anybody can use a new domain or an IP address instead; only {option}`federation.allow` keeps out unknown senders.
      '';
    };
    federation.hasRules = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      default = cfg.federation.allow != null || cfg.federation.block != [ ];
      description = "Whether {option}`federation.allow` or {option}`federation.block` excludes a domain.";
    };
    federation.https = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether the relay exchanges mail with other relays over HTTPS.
        '';
      };
      send = mkOption {
        type = types.bool;
        default = cfg.federation.https.enable;
        defaultText = lib.literalExpression "config.services.chatmail.federation.https.enable";
        description = ''
          Whether the relay delivers over HTTPS first, at `/mxdeliv` of other relays, for example because port 25 is blocked.
          If a destination does not accept mail over HTTPS, Postfix delivers over SMTP within the same attempt.
          The relay then tries HTTPS again after 30 minutes.
        '';
      };
      receive = mkOption {
        type = types.bool;
        default = cfg.federation.https.enable;
        defaultText = lib.literalExpression "config.services.chatmail.federation.https.enable";
        description = ''
          Whether other relays can also deliver over HTTPS, at `/mxdeliv`, for example because port 25 is blocked.
          The same rules apply as on port 25.
        '';
      };
    };
    federation.smtp = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether the relay exchanges mail with other servers over SMTP, on port 25.
          On a host where port 25 is blocked, set this to false: otherwise each message to a server without HTTPS waits for connections that never open.
          Mail then only travels over HTTPS ({option}`federation.https.send`, {option}`federation.https.receive`), and other servers that support only SMTP cannot exchange mail with this relay.
        '';
      };
      send = mkOption {
        type = types.bool;
        default = cfg.federation.smtp.enable;
        defaultText = lib.literalExpression "config.services.chatmail.federation.smtp.enable";
        description = ''
          Whether the relay delivers over SMTP to servers that do not accept mail over HTTPS.
          If false, mail to them is deferred with this reason, and returned to the sender when it expires.
          Set only this to false if the provider blocks outgoing connections to port 25 but not incoming ones.
        '';
      };
      receive = mkOption {
        type = types.bool;
        default = cfg.federation.smtp.enable;
        defaultText = lib.literalExpression "config.services.chatmail.federation.smtp.enable";
        description = "Whether the relay accepts mail from other servers on port 25. If false, nothing listens there and the firewall keeps the port closed.";
      };
      tlsExceptions = mkOption {
        type = types.attrsOf (
          types.enum [
            "encrypt"
            "may"
          ]
        );
        default = { };
        example = {
          "old.example.org" = "encrypt";
        };
        description = ''
          Domains of recipients to which the relay delivers over SMTP with less than a verified certificate, by Postfix' TLS level:

          - `encrypt`: TLS without a verified certificate.
          - `may`: TLS if the server supports it, and cleartext otherwise.

          Every network on the way can then read or redirect mail to that domain; its chats stay end-to-end encrypted.
          HTTPS still needs a valid certificate.
        '';
      };
    };
    webSocket = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether clients can use IMAP and submission over WebSocket, at `wss://<domain>/imap` and `wss://<domain>/smtp`, for networks and browsers that allow only HTTPS.
          The payloads of the binary messages are an ordinary session without STARTTLS.
          The limits of the mail ports apply, and one client address gets at most a fifth of {option}`connections.imap` and {option}`connections.smtp` together.
        '';
      };
      origins = mkOption {
        type = types.listOf (types.strMatching "https?://[^/ ]+");
        default = [ ];
        example = [ "https://app.example.net" ];
        description = ''
          Other web sites whose pages may use the WebSocket, as `scheme://host`.
          Pages of the relay's own site always may; clients that are not browsers are not affected.
          Pages of unknown sites may not, because they could make their visitors guess passwords and create accounts.
        '';
      };
    };

    filter.directDelivery = mkOption {
      type = types.bool;
      default =
        let
          main = config.services.postfix.settings.main;
        in
        lib.all
          (
            name:
            lib.elem (main.${name} or "") [
              ""
              [ ]
              null
            ]
          )
          [
            "always_bcc"
            "header_checks"
            "recipient_bcc_maps"
            "recipient_canonical_maps"
            "sender_bcc_maps"
            "virtual_alias_maps"
          ];
      defaultText = lib.literalMD ''
        `true`, unless `services.postfix.settings.main` contains `always_bcc`, `header_checks`, `recipient_bcc_maps`, `recipient_canonical_maps`, `sender_bcc_maps` or `virtual_alias_maps`
      '';
      description = ''
        Whether the filters pass messages between mailboxes of this relay, and from other relays to mailboxes here, directly to Dovecot.
        Postfix then confirms such a message once its recipients have it, and neither queues nor signs it, which takes half the CPU time.
        Messages that Dovecot cannot store at once, and messages to anybody else, go through Postfix's queue.
        Set this to `false` if settings of Postfix's queue have to apply to every message.
      '';
    };

    filter.transport = mkOption {
      type = types.enum [
        "unix"
        "tcp"
      ];
      default = "unix";
      description = ''
        Type of the sockets between Postfix and the filters.

        - `unix`: sockets in `/run/filtermail` and in Postfix's queue directory, to which only Postfix and the filters can connect.
        - `tcp`: the ports of the reference relay on loopback, 10080 and 10081 to the filters, 10025 and 10026 back to Postfix.
          Every process on the host can then bypass the filters and submit mail under any sender address, signed by the relay.
      '';
    };

    delivery.allowedNetworks = mkOption {
      type = types.listOf (types.strMatching "([0-9]{1,3}\\.){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])");
      default = [ ];
      example = [ "192.168.7.0/24" ];
      description = ''
        Non-public IPv4 networks to which Postfix delivers mail, for relays in a private network.
        Postfix rejects recipients in all other private, loopback, link-local and reserved networks, and ignores such addresses in the DNS.
        Otherwise users could reach services on the host and on other machines of its network.
      '';
    };

    connections = {
      imap = mkOption {
        type = types.ints.positive;
        default = 10000;
        description = "Maximum number of concurrent IMAP sessions. One client address gets at most a fifth of the connections through port 443.";
      };
      imapPerAccount = mkOption {
        type = types.ints.positive;
        default = 100;
        description = ''
          Maximum number of concurrent IMAP sessions of one account from one client address.
          A device keeps one session for each folder that it watches, and after a change of networks its old sessions stay until the relay detects that they are dead.
          A user with ten devices behind one address still stays well below the default, which is a hundredth of the default of {option}`connections.imap`.
        '';
      };
      smtp = mkOption {
        type = types.ints.positive;
        default = 1000;
        description = "Maximum number of concurrent SMTP sessions on each of the ports 25, 465 and 587, and of those through port 443. On the client ports, one client address gets at most a fifth of it.";
      };
      web = mkOption {
        type = types.ints.positive;
        default = 2000;
        description = ''
          Maximum number of concurrent connections of browsers and other web clients.
          nginx has room for these and for the IMAP and SMTP sessions through port 443.
          One client address, or one IPv6 /64 network, gets at most a fifth of it.
        '';
      };
      filter = mkOption {
        type = types.ints.positive;
        default = 100;
        description = ''
          Maximum number of messages that each of the two filters checks at once; further messages wait.
          A check keeps the whole message in memory, so this and {option}`messages.maxSize` bound the memory of the filters.
        '';
      };
      delivery = mkOption {
        type = types.ints.positive;
        default = 20;
        description = ''
          Maximum number of concurrent deliveries to mailboxes from Postfix's queue, and from each of the two filters; further messages wait in the queue without being deferred.
          Each delivery takes one Dovecot process, and one Postfix process if it comes from the queue.
        '';
      };
      remoteDelivery = mkOption {
        type = types.ints.positive;
        default = 250;
        description = ''
          Maximum number of concurrent deliveries to other mail servers; further messages wait in the queue without being deferred.
          Servers that have accepted mail within a day, the last message within 10 s, share as many again, so that their mail never waits for servers that do not answer; of the domains of one owner, six at a time.
          Each delivery takes one Postfix process.
          A mail server that does not answer occupies two of them for about a minute, and then its mail waits for the next attempt.
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
        webSocketImap = "127.0.0.1:10143";
      };
      description = ''
        Addresses to which the front on port 443, and the service for WebSocket, pass connections, with the PROXY protocol, which carries the client's address.
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
          Source of the TLS certificate.

          - `acme`: {option}`security.acme`, which answers the HTTP-01 challenge on port 80 unless the host configures `security.acme.certs.<domain>` otherwise, such as with a DNS provider.
          - `external`: {option}`tls.certificateFile` and {option}`tls.keyFile`. Postfix, Dovecot and nginx reload when these files change.
          - `self-signed`: a certificate that the relay generates once.
            Clients accept it only for names that begin with `_` and for accounts added with a `dclogin:` link that allows it.
            Other relays deliver only to names that begin with `_`.
        '';
      };
      certificateFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/certificates/chat.example.org/fullchain.pem";
        description = "PEM file with the certificate followed by its chain. Only for {option}`tls.mode` `external`.";
      };
      keyFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/certificates/chat.example.org/key.pem";
        description = ''
          PEM file with the private key of {option}`tls.certificateFile`.
          Postfix and Dovecot read it as root, nginx as a member of the group `nginx`.
          Only for {option}`tls.mode` `external`.
        '';
      };
      files = mkOption {
        type = types.attrsOf types.str;
        internal = true;
        readOnly = true;
        description = "Paths of the `certificate` and the `key` in every mode.";
      };
      account = mkOption {
        type = types.nullOr (types.attrsOf types.str);
        internal = true;
        readOnly = true;
        description = "Where `security.acme` keeps the ACME account that orders the certificate, or null.";
      };
    };

    dkim = {
      selector = mkOption {
        type = types.strMatching "[a-z0-9]([a-z0-9-]*[a-z0-9])?";
        default = "opendkim";
        description = "DKIM selector; the public key is published at `<selector>._domainkey.<domain>`.";
      };
      package = mkPackage "opendkim" ''
        OpenDKIM package, used for signing only.
        The flake's package is that of nixpkgs with the published fixes applied; nixpkgs marks its own package as insecure.
      '';
    };

    dns = {
      acmeAccountUri = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://acme-v02.api.letsencrypt.org/acme/acct/123456";
        description = "URI of the only ACME account that the CAA record printed by `chatmail dns --zone` allows; if null, the record allows every account of the issuer.";
      };
    };

    imap.compress = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to offer IMAP COMPRESS (RFC 4978).
        Sessions that use it cannot hibernate, so each idle one keeps a process and its memory.
      '';
    };

    imap.rawlog = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to record every IMAP session in files, for debugging.

        ::: {.warning}
        The files contain everything that clients and Dovecot send each other after the login: account names, message headers, encrypted messages.
        Enable this for hours only, and tell your users.
        The files are in {file}`/var/lib/chatmail-rawlog`, which only root and the owner of the mailboxes can read.
        They are deleted after a day; `rm -r /var/lib/chatmail-rawlog/*` deletes them earlier.
        Nothing else limits their size: a busy relay writes as much as it serves.
        :::
      '';
    };

    dovecot.package = mkPackage "dovecot" ''
      Dovecot 2.4 package, built with Lua.
      The package of nixpkgs is built without Lua, and is Dovecot 2.3 on hosts with an older {option}`system.stateVersion`.
    '';

    resolver.enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to run unbound on loopback for the relay's DNS lookups.
        Mail needs a resolver of its own, because block lists and rate limits of public resolvers delay it.
        Disable this if the host already has a resolver on 127.0.0.1.
      '';
    };

    push.notificationUrl = mkOption {
      type = types.str;
      default = "https://notifications.delta.chat/notify";
      description = "URL of the notification server. It receives the device tokens of clients that have new messages, but no content and no mail addresses.";
    };

    web = {
      source = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = lib.literalExpression "./www";
        description = ''
          Folder with your own sources of the web site.
          Its files are added to those in `www/` of the flake and replace files with the same path.
          A folder with a `language.json` adds a language.
        '';
      };
      languages = mkOption {
        type = types.listOf (types.strMatching "[A-Za-z0-9-]+");
        default = lib.unique (
          lib.concatMap languagesOf ([ ../www ] ++ lib.optional readable cfg.web.source)
        );
        defaultText = lib.literalMD "folders with a `language.json` in `www/` of the flake and, unless a derivation makes it, in {option}`web.source`";
        description = ''
          Languages of the web site; visitors get the one that their browser prefers.
          Set this if a derivation makes {option}`web.source` and adds languages, because they are unknown until it is built.
        '';
      };
      root = mkOption {
        type = types.path;
        defaultText = lib.literalMD "the site made from `www/` of the flake and {option}`web.source`";
        description = ''
          Folder that nginx serves at `https://<domain>/`.
          In place of a page at its root, visitors get the page with the same name in the folder of their language, such as `de/`.
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
          description = "Name and postal address of the person or organisation responsible for the relay, shown on its privacy page.";
        };
        dataProtectionOfficer = mkOption {
          type = types.nullOr types.lines;
          default = null;
          description = "Data protection officer, shown on the privacy page.";
        };
        supervisoryAuthority = mkOption {
          type = types.nullOr types.str;
          default = null;
          description = "Data protection authority that receives complaints, shown on the privacy page.";
        };
      };
      statusPage.enable = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the web site has a page `/status`, in all its languages, which shows whether a message to the relay itself arrives, the number of accounts and the uptime.
          A timer determines them every ten minutes; visitors cause no work.
          The page contains no personal data.
          Its text is `status.md` in the sources of the web site; with a {option}`web.root` of your own, the page is missing.
        '';
      };
      statusPage.file = mkOption {
        type = types.str;
        internal = true;
        readOnly = true;
        description = "File with the values of the status page.";
      };
      newAddressesPerMinute = mkOption {
        type = types.ints.positive;
        default = 120;
        description = "Maximum number of addresses that `/new` generates per minute, for all clients together.";
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
        description = "Whether to run a TURN server (coturn) for calls and to give clients credentials for it.";
      };
      package = lib.mkPackageOption pkgs "coturn" { };
      port = mkOption {
        type = types.port;
        default = 3478;
        description = "UDP and TCP port that clients connect to.";
      };
      minPort = mkOption {
        type = types.port;
        default = 50000;
        description = "First UDP port for relayed calls. Each call takes one or two ports.";
      };
      maxPort = mkOption {
        type = types.port;
        default = 52999;
        description = "Last UDP port for relayed calls.";
      };
      lifetime = mkOption {
        type = types.ints.positive;
        default = 5 * 24 * 3600;
        defaultText = lib.literalExpression "5 * 24 * 3600";
        description = ''
          Maximum lifetime of credentials, in seconds.
          An account gets the same credentials until four fifths of this time have passed, so credentials are always valid for at least a fifth of it.
          Clients request new credentials half a day before the old ones expire.
        '';
      };
      secretFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/run/secrets/turn";
        description = ''
          File with the secret from which credentials are derived, for example to share one TURN server among several relays.
          If null, the relay generates a secret once.
        '';
      };
      allowedPeers = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "192.168.7.0-192.168.7.255" ];
        description = ''
          Addresses and ranges that calls can be relayed to although they are not public or belong to this host.
          TURN refuses all other private, loopback and reserved ranges and addresses of the host.
        '';
      };
    };

    iroh = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether to run an iroh relay for realtime connections between devices.";
      };
      package = mkPackage "iroh-relay" "Package of iroh-relay 0.35; clients do not support the protocol of later versions.";
      url = mkOption {
        type = types.nullOr types.str;
        default = if cfg.iroh.enable then "https://${cfg.domain}" else null;
        defaultText = lib.literalExpression ''if config.services.chatmail.iroh.enable then "https://''${config.services.chatmail.domain}" else null'';
        example = "https://iroh.example.org";
        description = "URL of the iroh relay that is announced to clients; if null, clients choose one themselves.";
      };
    };

    metadata.maxEntries = mkOption {
      type = types.ints.between 1 1000;
      default = 100;
      description = ''
        Maximum number of METADATA entries (RFC 5464) that the clients of one account can store on the relay.
        A further entry replaces the one that was set longest ago.
        Device tokens do not count.
      '';
    };

    metadata.maxEntryBytes = mkOption {
      type = types.ints.between 1024 262144;
      default = 32768;
      description = "Maximum total size of the METADATA entries of one account, in bytes.";
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
        Newest versions of apps, from which clients installed from the relay's own site can tell their users about updates.
        The JSON text can have at most ${toString limits.appVersionsKib} KiB.
        If null, nothing is announced.
      '';
    };

    metrics = {
      enable = lib.mkEnableOption "metrics for Prometheus: counters from the journal (mtail) on port 3903, Dovecot's on port 3904, and those of the relay's own services on ports 3905 to 3913; docs/metrics.md lists them";
      package = lib.mkPackageOption pkgs "mtail" { };
      listenAddress = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "10.0.0.2";
        description = "IP address of this host on which the metrics ports listen. The module does not open these ports in the firewall.";
      };
      textfileDirectory = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/var/lib/prometheus-node-exporter";
        description = ''
          Folder that the node exporter's textfile collector reads.
          Every hour, `chatmail-fsreport` writes the sizes of the mailboxes to `fsreport.prom` in it.
          The user `vmail` must be able to write to the folder.
          If null, the file is not written.
        '';
      };
      publicCounts = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the web site publishes the numbers of accounts at `/metrics`.";
      };
    };

    backup = {
      repository = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "sftp:backup@backup.example.org:/srv/relay";
        description = ''
          Repository of restic for backups of the relay; if null, there are none.
          `chatmail backup init` creates it once.
          The backup contains the state of the relay, which the operator guide lists, and nothing else.
        '';
      };
      passwordFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/run/secrets/backup-password";
        description = ''
          File with the password that encrypts the repository.
          Keep a copy outside of the relay: nobody can read the backup without it.
        '';
      };
      environmentFile = mkOption {
        type = types.nullOr runtimePath;
        default = null;
        example = "/run/secrets/backup-environment";
        description = "File with environment variables for restic, such as the credentials of an S3 repository, in the format of {manpage}`systemd.exec(5)`.";
      };
      timer = mkOption {
        type = types.nullOr (types.attrsOf (types.either types.bool types.str));
        default = {
          OnCalendar = "03:30";
          RandomizedDelaySec = "1h";
          Persistent = true;
        };
        description = "When the backup runs, see {manpage}`systemd.timer(5)`; if null, only `chatmail backup run` runs it.";
      };
      keep = mkOption {
        type = types.listOf types.str;
        default = [ "--keep-daily 7" ];
        example = [
          "--keep-daily 7"
          "--keep-weekly 4"
        ];
        description = ''
          Options of `restic forget` that determine which snapshots remain.
          Messages and accounts that the relay has removed stay in old snapshots.
          If empty, all snapshots remain.
        '';
      };
      package = lib.mkPackageOption pkgs "restic" { };
    };

    journal.private = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to keep the journal of the host in memory only, and for at most three days, to protect the privacy of the users.
        This affects all services of the host.
      '';
    };

    settings = mkOption {
      type = (pkgs.formats.json { }).type;
      internal = true;
      description = "Settings of the relay's own services, as crates/chatmail-core/src/settings.rs defines them.";
    };

    settingsFile = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      description = "JSON file with {option}`settings`.";
    };
  };
}
