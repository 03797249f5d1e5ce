# Postfix: takes mail from other servers and from clients, passes it through the filters, delivers it.
#
#   other servers  25 ──────> filtermail-incoming ──> filtered-incoming ──> queue ──> Dovecot (LMTP)
#   clients  465, 587 ──────> filtermail-outgoing ──> filtered-outgoing ──> queue ──> other servers, or Dovecot
#                                                     OpenDKIM, header cleanup
#
# The filters and the two services behind them are reached over Unix sockets, or over the ports 10080, 10081, 10025 and
# 10026 of loopback (filter.transport).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  settings = cfg.settings;

  regexp =
    name: lines:
    "regexp:${pkgs.writeText "postfix-${name}" (lib.concatMapStrings (l: l + "\n") lines)}";

  drop = header: "/^${header}:/ IGNORE";

  # What tells about the sender's device and network; the real subject is inside the encrypted part.
  submissionCleanup = regexp "submission-header-cleanup" (
    map drop [
      "Received"
      "X-Originating-IP"
      "X-Mailer"
      "User-Agent"
      # RFC 8689: a message does not decide how it is delivered, here or at the next relay.
      "TLS-Required"
      "Require-TLS-ESMTP"
    ]
    ++ [ "/^Subject:/ REPLACE Subject: [...]" ]
  );

  # What is of no use once the message was accepted, and says which way it went.
  deliveryCleanup = regexp "lmtp-header-cleanup" (
    map drop [
      "DKIM-Signature"
      "Authentication-Results"
      "Received"
    ]
  );

  logFilters = import ./log-filters.nix;
  sockets = import ./sockets.nix;

  reserved = import ./reserved-addresses.nix { inherit lib; };
  # Networks that are not public and that mail may go to nevertheless.
  allowedNetworks = cfg.delivery.allowedNetworks ++ lib.optional cfg.byAddress "${cfg.domain}/32";
  unlessAllowed =
    before: after: lines:
    if allowedNetworks == [ ] then
      lines
    else
      [ "if !/${before}${reserved.alternatives allowedNetworks}${after}/" ] ++ lines ++ [ "endif" ];

  # Senders choose domains, and whoever has a domain chooses addresses. The answers that smtp(8) connects by are looked at,
  # so that nobody can exchange them afterwards. An MX whose name is an address, in any form that the C library reads
  # (`127.0.0.1`, `0x7f.1`, `::1`), would be looked up nowhere.
  addressFilter = regexp "address-filter" (
    unlessAllowed " A " "$" [ "/ A ${reserved.ipv4}$/ IGNORE" ]
    ++ [
      "if / AAAA /"
      "!/ AAAA ${reserved.ipv6.global}/ IGNORE"
      "/ AAAA ${reserved.ipv6.reserved}/ IGNORE"
      "endif"
      "/ MX [0-9]+ [^ ]*:/ IGNORE"
      "/ MX [0-9]+ ([^ ]*\\.)?([0-9]+|0x[0-9a-f]*)\\.?$/ IGNORE"
    ]
  );

  # The same for addresses that recipients are written with. Of host names in brackets the certificate would not be
  # verified.
  refusedDestination = "error:5.1.2 Mail is delivered to public addresses only";
  destinations = regexp "destinations" (
    [ "if /@\\[/" ]
    ++ unlessAllowed "@\\[" "\\]$" [ "/@\\[${reserved.ipv4}\\]$/ ${refusedDestination}" ]
    ++ [
      "/@\\[ipv6:${reserved.ipv6.reserved}/ ${refusedDestination}"
      "!/@\\[(ipv6:${reserved.ipv6.global}[0-9a-f:]*|(${octet}\\.){3}${octet})\\]$/ ${refusedDestination}"
      "endif"
      "/[@.]([0-9]+|0x[0-9a-f]*)$/ ${refusedDestination}"
    ]
  );
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

  # Mail that the host itself has for its administrator. Nobody else can use these names: they stand for mail that
  # sendmail(1) hands in.
  hostAliases =
    let
      names = lib.unique [
        cfg.mailDomain
        "localhost"
        config.networking.fqdnOrHostName
      ];
      alias =
        localpart: target:
        lib.optional (target != "")
          "/^${localpart}@(${lib.concatMapStringsSep "|" lib.escapeRegex names})$/ ${target}";
    in
    regexp "host-aliases" (
      alias "postmaster" config.services.postfix.postmasterAlias
      ++ alias "root" config.services.postfix.rootAlias
    );

  options = lib.mapAttrsToList (name: value: "-o ${name}=${value}");

  lmtp = "unix:private/dovecot-lmtp";
  perMailbox = lib.min 8 cfg.connections.delivery;

  # A relay without a name says hello with the name that its address has in the DNS.
  hostname =
    if cfg.byAddress then
      lib.concatStringsSep "." (lib.reverseList (lib.splitString "." cfg.domain)) + ".in-addr.arpa"
    else
      cfg.domain;
  signing = lib.optional (!cfg.byAddress) "unix:/run/opendkim/opendkim.sock";

  # Behind the filters nothing needs to be checked or slowed down again.
  reinjection = {
    smtpd_client_connection_count_limit = "0";
    smtpd_client_restrictions = "permit_mynetworks,reject";
    smtpd_error_sleep_time = "0";
    smtpd_helo_restrictions = "";
    smtpd_proxy_filter = "";
    smtpd_relay_restrictions = "permit_mynetworks,reject";
    smtpd_sender_restrictions = "";
    smtpd_tls_security_level = "none";
  };

  submission = {
    smtpd_client_connection_count_limit = toString (lib.max 1 (cfg.connections.smtp / 5));
    smtpd_client_restrictions = "permit_sasl_authenticated,reject";
    smtpd_helo_restrictions = "";
    smtpd_milters = "$chatmail_limit_milter";
    smtpd_proxy_filter = settings.filtermail.outgoing_listen;
    smtpd_recipient_restrictions = "";
    smtpd_relay_restrictions = "permit_sasl_authenticated,reject";
    smtpd_sasl_auth_enable = "yes";
    smtpd_sender_restrictions = "reject_sender_login_mismatch,permit_sasl_authenticated,reject";
    smtpd_tls_mandatory_protocols = ">=TLSv1.3";
    smtpd_tls_security_level = "encrypt";
  };

  # The setup of NixOS, made beside the directory that a running Postfix reads and put in its place in one step: at no
  # time are there no settings. It stands under a fixed path, so that new settings leave the unit as it is.
  directory = "/var/lib/postfix/conf";
  configure = pkgs.writeShellScript "chatmail-postfix-configure" ''
    set -eu
    ${lib.replaceStrings [ directory ] [ "${directory}.new" ]
      config.systemd.services.postfix-setup.script
    }
    ${pkgs.coreutils}/bin/mv --exchange --no-target-directory ${directory}.new ${directory}
    rm -rf ${directory}.new
  '';

  smtpd =
    endpoint: attrs: opts:
    {
      name = baseNameOf endpoint;
      type = if lib.hasPrefix "unix:" endpoint then "unix" else "inet";
      private = false;
      command = "smtpd";
      args = options opts;
    }
    // attrs;
in
{
  config = lib.mkIf cfg.enable {
    services.postfix = {
      enable = true;
      enableSmtp = true;

      settings.main = {
        # Pinned: a newer Postfix must not change what these settings mean.
        compatibility_level = "3.11";
        myhostname = hostname;
        mydomain = hostname;
        myorigin = cfg.mailDomain;
        smtpd_banner = lib.mkDefault "$myhostname ESMTP";
        inet_protocols = if cfg.enableIPv6 then "all" else "ipv4";
        mynetworks = [ "127.0.0.0/8" ] ++ lib.optional cfg.enableIPv6 "[::1]/128";
        biff = false;
        append_dot_mydomain = false;
        notify_classes = lib.mkDefault "";

        # Every address of the domain is taken, and what Dovecot does not know comes back as a bounce: whether an
        # address exists is not told to whoever asks.
        mydestination = lib.mkDefault "";
        virtual_mailbox_domains = [ cfg.mailDomain ];
        virtual_transport = "lmtp:${lmtp}";
        # What Postfix delivers `user@[address]` with, for an address of the host. Users of the operating system have no
        # mailboxes.
        local_transport = if cfg.byAddress then "$virtual_transport" else "error:5.1.1 No such user";
        proxy_interfaces = cfg.addresses;
        allow_percent_hack = false;
        swap_bangpath = false;
        virtual_mailbox_maps = "";
        virtual_alias_maps = "";
        local_recipient_maps = "";
        recipient_delimiter = "+";
        lmtp_header_checks = deliveryCleanup;
        # Header checks are for the header of the message, not for those of its parts.
        disable_mime_input_processing = true;
        # What is signed leaves as it is: no line is folded, and nothing is encoded for servers without 8BITMIME. Clients may
        # not submit what needs either; reports quote what others have sent.
        disable_mime_output_conversion = true;
        smtp_line_length_limit = 0;
        lmtp_line_length_limit = 0;

        message_size_limit = cfg.messages.maxSize;
        mailbox_size_limit = 0;
        smtpd_recipient_limit = cfg.messages.maxRecipients;
        # IPv6 gives one client at least a /64; limits for an address hold for it.
        smtpd_client_ipv6_prefix_length = 64;
        maximal_queue_lifetime = lib.mkDefault "2d";
        bounce_queue_lifetime = lib.mkDefault "2d";

        # No pause where nobody gains by it.
        in_flow_delay = "0s";
        smtpd_peername_lookup = false;
        # With one recipient per delivery, the destination whose concurrency qmgr(8) limits is the address: deliveries to
        # one mailbox take turns anyway, and a burst to it leaves processes to the others.
        lmtp_destination_recipient_limit = 1;
        lmtp_destination_concurrency_limit = perMailbox;
        lmtp_initial_destination_concurrency = perMailbox;
        # A connection serves one delivery after the other, and so does the process of Dovecot behind it.
        lmtp_connection_cache_destinations = lib.removePrefix "unix:" lmtp;
        # People wait for their mail: what could not be delivered, as while Dovecot opens its sockets anew, is tried again
        # within a minute or two and not within ten. The pauses still double with the age of a message.
        queue_run_delay = lib.mkDefault "60s";
        minimal_backoff_time = lib.mkDefault "60s";
        # An smtpd that starts while Dovecot has no socket ends at once; nobody could write for a minute.
        service_throttle_time = lib.mkDefault "2s";

        # Says no to senders above their rate at the first recipient, before the message is sent. While it cannot be asked,
        # the filter counts the messages themselves.
        chatmail_limit_milter = "{ unix:${sockets.limit}, default_action=accept, connect_timeout=5s, command_timeout=10s }";

        # The filter waits up to 20 s for DKIM keys. It gets a message only once all of it has arrived, so that slow
        # clients occupy a file and not the filter.
        smtpd_proxy_timeout = "180s";
        smtpd_proxy_options = "speed_adjust";

        # Arriving mail: encrypted, and for our own addresses only.
        smtpd_relay_restrictions = [ "reject_unauth_destination" ];
        smtpd_tls_chain_files = [
          cfg.tls.files.key
          cfg.tls.files.certificate
        ];
        smtpd_tls_security_level = "encrypt";
        smtpd_tls_mandatory_protocols = ">=TLSv1.2";
        smtpd_tls_protocols = ">=TLSv1.2";
        smtpd_tls_exclude_ciphers = [
          "aNULL"
          "RC4"
          "MD5"
          "DES"
        ];
        tls_preempt_cipherlist = true;

        smtpd_sasl_type = "dovecot";
        smtpd_sasl_path = "private/auth";
        smtpd_tls_auth_only = true;
        smtpd_sender_login_maps = regexp "login-map" [ "/^(.*)$/ \${1}" ];

        # Mail to other relays: encrypted, and only for who proves the name. Names with `_` and addresses cannot.
        smtp_tls_security_level = "verify";
        smtp_tls_mandatory_protocols = ">=TLSv1.2";
        smtp_tls_protocols = ">=TLSv1.2";
        smtp_tls_servername = "hostname";
        smtp_tls_CAfile = lib.mkDefault "/etc/ssl/certs/ca-certificates.crt";
        smtp_tls_policy_maps = regexp "tls-policy" [
          "/^_/ encrypt"
          "/^\\[/ encrypt"
        ];
        # No cache of client sessions: after a resumed TLS 1.3 handshake the server has nothing to send, so its kernel
        # delays the acknowledgement that Nagle's algorithm makes our EHLO wait for, 40 ms on each connection. A full
        # handshake costs 2 ms.
        smtp_tls_session_cache_database = "";

        # Whoever sends a message does not decide how it is delivered: RFC 8689 in both directions.
        tls_required_enable = false;
        transport_maps = lib.mkBefore [ destinations ];
        smtp_dns_reply_filter = addressFilter;
        # The sender hears of it at once.
        smtp_delivery_status_filter = regexp "delivery-status" [
          "/^4(\\.[0-9.]+ .*DNS reply filter drops all results.*)$/ 5$1"
        ];
        # Receipts tell when mail was delivered, ETRN and BDAT nobody needs here.
        smtpd_discard_ehlo_keywords = [
          "silent-discard"
          "chunking"
          "dsn"
          "etrn"
        ];
        # Headers of accepted mail stay as they are. Otherwise names without a domain would get ours.
        local_header_rewrite_clients = "";

        # What sendmail(1) hands in passes no filter and is signed, and the queue names senders and recipients.
        authorized_submit_users = lib.mkDefault "root";
        authorized_mailq_users = lib.mkDefault "root";
        authorized_flush_users = lib.mkDefault "root";

        # Bounces are mail of ours too: other relays take them only with a signature.
        non_smtpd_milters = signing;
        internal_mail_filter_classes = "bounce";
        milter_macro_daemon_name = "ORIGINATING";
      }
      // lib.optionalAttrs (lib.versionAtLeast config.services.postfix.package.version "3.11") {
        requiretls_enable = false;
        requiretls_esmtp_header = false;
      };

      settings.master = {
        smtp_inet = {
          maxproc = cfg.connections.smtp;
          args = options { smtpd_proxy_filter = settings.filtermail.incoming_listen; };
        };
        submission = smtpd "submission" { maxproc = cfg.connections.smtp; } (
          submission // { syslog_name = "postfix/submission"; }
        );
        submissions = smtpd "submissions" { maxproc = cfg.connections.smtp; } (
          submission
          // {
            smtpd_tls_wrappermode = "yes";
            syslog_name = "postfix/submissions";
          }
        );
        # Behind the front on port 443, which tells the address of the client.
        ${cfg.front.smtp} = smtpd cfg.front.smtp { maxproc = cfg.connections.smtp; } (
          submission
          // {
            smtpd_tls_wrappermode = "yes";
            smtpd_upstream_proxy_protocol = "haproxy";
            syslog_name = "postfix/submissions";
          }
        );
        filtered-outgoing =
          smtpd settings.filtermail.outgoing_reinject { maxproc = cfg.connections.filter; }
            (
              reinjection
              // {
                cleanup_service_name = "submission-cleanup";
                smtpd_milters = lib.concatStringsSep "," signing;
                syslog_name = "postfix/reinject";
              }
            );
        filtered-incoming = smtpd settings.filtermail.incoming_reinject {
          maxproc = cfg.connections.filter;
        } (reinjection // { syslog_name = "postfix/reinject_incoming"; });
        # Dovecot takes all that this many processes bring: dovecot.nix.
        lmtp.maxproc = cfg.connections.delivery;
        submission-cleanup = {
          private = false;
          maxproc = 0;
          command = "cleanup";
          args = options {
            header_checks = submissionCleanup;
            always_add_missing_headers = "yes";
          };
        };
        pickup.args = options { cleanup_service_name = "host-cleanup"; };
        host-cleanup = {
          private = false;
          maxproc = 0;
          command = "cleanup";
          args = options { virtual_alias_maps = hostAliases; };
        };
      };
    };

    environment.etc."chatmail/postfix-configure".source = configure;

    # At boot; afterwards Postfix does it itself. A restart of this unit would stop Postfix, which requires it.
    systemd.services.postfix-setup.restartIfChanged = false;

    systemd.services.postfix = {
      wants = lib.optional (!cfg.byAddress) "opendkim.service";
      after = [ "dovecot.service" ] ++ lib.optional (!cfg.byAddress) "opendkim.service";
      # Without Dovecot it would tell clients that their password is wrong: it stops before and starts after it.
      partOf = [ "dovecot.service" ];
      stopIfChanged = false;
      startLimitIntervalSec = lib.mkForce 0;
      reloadTriggers = [ configure ];
      # What Postfix does not take over while it runs.
      restartTriggers = [
        config.services.postfix.settings.main.inet_protocols
        (config.services.postfix.settings.main.inet_interfaces or "all")
      ];
      serviceConfig = {
        ExecStartPre = "/etc/chatmail/postfix-configure";
        RestartSec = lib.mkForce "2s";
        ExecReload = lib.mkForce [
          "/etc/chatmail/postfix-configure"
          "${lib.getExe' config.services.postfix.package "postfix"} reload"
        ];
        LimitNOFILE = 65536;
        # Postfix names clients, senders and recipients in most of its lines. Of these stay what mtail counts, what tells
        # that a limit of the relay is reached, and what other servers are like: docs/logs.md. Why mail is stuck is told
        # by postqueue.
        LogFilterPatterns = [
          logFilters.namesNobody
          "^[0-9A-Za-z]+: (resent-)?message-id="
          "^NOQUEUE: reject: "
          "^[0-9A-Za-z]+: timeout after DATA "
          "^warning: [A-Za-z ]+ limit exceeded: "
          "^(connect to|(server )?certificate verification failed for) [^@]*$"
          # Of submission, where clients are people.
          "~^NOQUEUE: reject: .*( sasl_username=|: Client host rejected: )"
          "~^NOQUEUE: reject: (AUTH|ETRN|VRFY|EHLO|HELO|STARTTLS|CONNECT|UNKNOWN) "
          # Each message has these, and counters tell them better.
          "~^statistics: "
          "~^[0-9A-Za-z]+: replace: header "
        ];
      };
    };
  };
}
