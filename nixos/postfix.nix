# Postfix: accepts mail from other servers and from clients, passes it through the filters, and delivers it.
#
#   other servers  25 ──────> filtermail-incoming ──> Dovecot (LMTP), or filtered-incoming ──> queue ──> Dovecot
#   other relays  443 ──> nginx ──> filtermail-mxdeliv ──> mxdeliv ──> filtermail-incoming ──> the same
#   clients  443 ──> nginx ──> chatmail-websocket ──> websocket ──> filtermail-outgoing ──> as below
#   clients  465, 587 ──────> filtermail-outgoing ──> Dovecot, or filtered-outgoing ──> queue ──> other servers, Dovecot
#                                                                 OpenDKIM, header cleanup
#  queue ──> smtp(8) ──> filtermail-transport ──> 443 of other relays; port 25 if that fails (federation.https.send)
#
# Postfix and the filters connect over Unix sockets, or over the loopback ports 10080, 10081, 10025 and 10026
# (filter.transport).
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

  headerFields = import ./header-fields.nix;

  submissionCleanup = regexp "submission-header-cleanup" (
    map drop headerFields.submitted ++ [ "/^Subject:/ REPLACE Subject: ${headerFields.subject}" ]
  );

  deliveryCleanup = regexp "lmtp-header-cleanup" (map drop headerFields.delivered);

  logFilters = import ./log-filters.nix;
  shareOfMemory = import ./share-of-memory.nix { inherit lib; };
  sockets = import ./sockets.nix;

  reserved = import ./reserved-addresses.nix { inherit lib; };
  allowedNetworks = reserved.allowed cfg;
  unlessAllowed =
    before: after: lines:
    if allowedNetworks == [ ] then
      lines
    else
      [ "if !/${before}${reserved.alternatives allowedNetworks}${after}/" ] ++ lines ++ [ "endif" ];

  # Senders choose domains, and the owner of a domain chooses its addresses. This filters the very DNS replies that
  # smtp(8) uses to connect, so nobody can change them after the check. It also drops an MX whose name is an address in
  # any form that the C library parses (`127.0.0.1`, `0x7f.1`, `::1`), because such a name is never looked up in the
  # DNS.
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

  # The same for address literals of recipients. Host names in brackets are rejected because smtp(8) would not verify
  # the certificate.
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
  # With federation.https.send, filtermail-transport tells for each recipient whether it delivers over HTTPS first. Mail to
  # users of this relay does not depend on it.
  httpsHop = "[${lib.replaceStrings [ ":" ] [ "]:" ] sockets.transport}";
  ownDomain = regexp "own-domain" [ "/@${lib.escapeRegex cfg.mailDomain}$/ lmtp:${lmtp}" ];
  nextHops = [
    ownDomain
    "socketmap:unix:${sockets.lookup}:next-hops"
  ];
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

  # Mail of the host to its administrator. These aliases apply only to mail submitted with sendmail(1), so nobody else
  # can use them.
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

  # Other relays accept `user@[address]` only from that address.
  remoteArgs = lib.optionals cfg.byAddress (options {
    inet_protocols = "ipv4";
  });

  lmtp = "unix:private/dovecot-lmtp";
  perMailbox = lib.min 8 cfg.connections.delivery;

  # A relay without a domain name uses the reverse DNS name of its address in EHLO.
  hostname =
    if cfg.byAddress then
      lib.concatStringsSep "." (lib.reverseList (lib.splitString "." cfg.domain)) + ".in-addr.arpa"
    else
      cfg.domain;
  signing = lib.optional (!cfg.byAddress) "unix:/run/opendkim/opendkim.sock";

  # Mail that returns from the filters needs no further checks or delays.
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

  # A process without a client ends soon: on a small machine, those that a burst has left would take the memory of
  # others. Each takes more than 2 MB.
  sessions.max_idle = "2s";

  # While a milter is unavailable, the filter behind it judges alone.
  milter =
    socket: "{ unix:${socket}, default_action=accept, connect_timeout=5s, command_timeout=10s }";

  # Agents of deliveries to other servers log to filtermail-outgoing, which counts the results and keeps the names of
  # recipients out of the journal. Postfix takes the socket for one below its queue, and requires the name of a file that
  # it never writes.
  remote = {
    maillog_file = "/var/log/none";
    postlog_service_name =
      lib.concatStrings (lib.genList (_: "../") queueDepth) + lib.removePrefix "/" sockets.deliveries;
  };
  prompt = lib.genAttrs (map (request: "smtp_${request}_timeout") [
    "data_init"
    "helo"
    "mail"
    "rcpt"
    "starttls"
  ]) (_: "$chatmail_prompt_timeout");
  # At least the depth of `public` in the queue.
  queueDepth =
    lib.length (lib.splitString "/" config.services.postfix.settings.main.queue_directory) + 2;

  # Mail of other servers.
  incoming = {
    smtpd_proxy_filter = settings.filtermail.incoming_listen;
  }
  // lib.optionalAttrs cfg.federation.hasRules {
    smtpd_milters = "$chatmail_rules_milter";
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

  # The setup script of NixOS, writing to a new directory that then replaces the one that a running Postfix reads in one
  # step: there are settings at every moment. The script has a fixed path, so that new settings do not change the unit.
  directory = "/var/lib/postfix/conf";
  configure = pkgs.writeShellScript "chatmail-postfix-configure" ''
    set -eu
    ${lib.replaceStrings [ directory ] [ "${directory}.new" ]
      config.systemd.services.postfix-setup.script
    }
    ${pkgs.coreutils}/bin/mv --exchange --no-target-directory ${directory}.new ${directory}
    rm -rf ${directory}.new
  '';

  # An established connection to a filter, which smtpd has while it waits for the verdict on a message: state and path of
  # a Unix socket, or port 10080 or 10081 on loopback.
  filterConnections =
    if cfg.filter.transport == "unix" then
      "' 03 +[0-9]+ /run/filtermail/(outgoing|incoming)\\.socket$' /proc/net/unix"
    else
      "' 0100007F:276[01] [0-9A-F:]+ 01 ' /proc/net/tcp";

  # `postfix stop` sends SIGTERM to all processes at once. An lmtp or smtp process that waits for the reply to a whole
  # message would then leave it in the queue, and Postfix would deliver it twice; a client whose smtpd waits for a filter
  # would send its message again. Like `postfix drain`, this ends only the master: processes without work exit, and the
  # others finish the message at hand. SIGUSR1, which the master does not handle, tells this end apart from one by
  # SIGKILL, which stays a failure.
  stop = pkgs.writeShellScript "postfix-stop" ''
    if [ -z "''${MAINPID:-}" ] || ! kill -USR1 "$MAINPID" 2>/dev/null; then
      exit 0
    fi
    busy() {
      ${pkgs.procps}/bin/pgrep --pgroup "$MAINPID" --exact 'cleanup|lmtp|local|pipe|smtp|virtual' >/dev/null ||
        ${pkgs.gnugrep}/bin/grep --extended-regexp --quiet ${filterConnections}
    }
    for attempt in {1..30}; do
      if ! busy; then
        exit 0
      fi
      ${pkgs.coreutils}/bin/sleep 0.1
    done
  '';

  smtpd =
    endpoint: attrs: opts:
    {
      name = baseNameOf endpoint;
      type = if lib.hasPrefix "unix:" endpoint then "unix" else "inet";
      private = false;
      command = "smtpd";
      args = options (sessions // opts);
    }
    // attrs;
in
{
  config = lib.mkIf cfg.enable {
    services.postfix = {
      enable = true;
      enableSmtp = cfg.federation.smtp.receive;

      settings.main = {
        # Pinned, so that a newer Postfix does not change the meaning of these settings.
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

        # Postfix accepts every address of the domain and bounces mail to those that Dovecot does not know, so that
        # nobody can probe which addresses exist.
        mydestination = lib.mkDefault "";
        virtual_mailbox_domains = [ cfg.mailDomain ];
        virtual_transport = "lmtp:${lmtp}";
        # Transport for `user@[address]` with an address of the host. Users of the operating system have no mailboxes.
        local_transport = if cfg.byAddress then "$virtual_transport" else "error:5.1.1 No such user";
        proxy_interfaces = cfg.addresses;
        allow_percent_hack = false;
        swap_bangpath = false;
        virtual_mailbox_maps = "";
        virtual_alias_maps = "";
        local_recipient_maps = "";
        recipient_delimiter = "+";
        lmtp_header_checks = deliveryCleanup;
        message_drop_headers = headerFields.always;
        # Header checks apply only to the header of the message, not to those of its parts.
        disable_mime_input_processing = true;
        # Signed mail leaves unchanged: Postfix folds no line and encodes nothing for servers without 8BITMIME.
        # filtermail rejects submitted mail that would need either; reports quote what others have sent.
        disable_mime_output_conversion = true;
        smtp_line_length_limit = 0;
        lmtp_line_length_limit = 0;

        message_size_limit = cfg.messages.maxSize;
        # With less free space for the queue, smtpd(8) answers `452 4.3.1` to MAIL, also in front of a filter
        # (speed_adjust). By default that is one message and a half, but messages that arrive at once are all on the disk.
        queue_minfree = lib.mkDefault (lib.min (8 * cfg.messages.maxSize) 2147483647);
        mailbox_size_limit = 0;
        smtpd_recipient_limit = cfg.messages.maxRecipients;
        # An IPv6 client has at least a /64 network, so limits per address apply to that.
        smtpd_client_ipv6_prefix_length = 64;
        maximal_queue_lifetime = lib.mkDefault "2d";
        bounce_queue_lifetime = lib.mkDefault "2d";

        # No delay where it protects nobody.
        in_flow_delay = "0s";
        smtpd_peername_lookup = false;
        # With one recipient per delivery, qmgr(8) limits concurrency per address and not per domain. Deliveries to one
        # mailbox take turns anyway, and a burst to it leaves processes for the others.
        lmtp_destination_recipient_limit = 1;
        lmtp_destination_concurrency_limit = perMailbox;
        lmtp_initial_destination_concurrency = perMailbox;
        # A connection, and the Dovecot process behind it, serves many deliveries in turn.
        lmtp_connection_cache_destinations = lib.removePrefix "unix:" lmtp;
        # Users wait for their mail: after a failed delivery, for example while Dovecot reopens its sockets, Postfix
        # retries within two minutes, not within ten. The delay still doubles with the age of a message.
        queue_run_delay = lib.mkDefault "60s";
        minimal_backoff_time = lib.mkDefault "60s";
        # An smtpd that gets no answer from doveauth exits. By default nobody could then send for a minute.
        service_throttle_time = lib.mkDefault "2s";

        # Rejects senders above their rate limit, and recipients that the rules of federation exclude, before the message
        # is sent.
        chatmail_limit_milter = milter sockets.limit;

        # The filter waits up to 20 s for DKIM keys. Postfix sends it a message only after the whole message has
        # arrived, so that slow clients occupy a file and not the filter.
        smtpd_proxy_timeout = "180s";
        smtpd_proxy_options = "speed_adjust";

        # Incoming mail: TLS required, and only to addresses of the relay.
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
        # doveauth, in the protocol of Dovecot. Dovecot itself would report a temporary failure in a way that Postfix takes
        # for a wrong password.
        smtpd_sasl_path = sockets.sasl;
        smtpd_tls_auth_only = true;
        smtpd_sender_login_maps = regexp "login-map" [ "/^(.*)$/ \${1}" ];

        # Mail to other relays: TLS required, with a verified certificate, except for names with `_` and IP addresses,
        # which have none that can be verified.
        smtp_tls_security_level = "verify";
        smtp_tls_mandatory_protocols = ">=TLSv1.2";
        smtp_tls_protocols = ">=TLSv1.2";
        smtp_tls_servername = "hostname";
        smtp_tls_CAfile = lib.mkDefault "/etc/ssl/certs/ca-certificates.crt";
        smtp_tls_policy_maps = regexp "tls-policy" (
          # filtermail-transport, over loopback.
          lib.optional cfg.federation.https.send "/^${lib.escapeRegex httpsHop}$/ none"
          ++ lib.mapAttrsToList (
            domain: level: "/^${lib.escapeRegex domain}$/ ${level}"
          ) cfg.federation.smtp.tlsExceptions
          ++ [
            "/^_/ encrypt"
            "/^\\[/ encrypt"
          ]
        );
        # No TLS session cache for the client: after a resumed TLS 1.3 handshake the server has nothing to send, so its
        # kernel delays the acknowledgement that our EHLO waits for because of Nagle's algorithm, by 40 ms on each
        # connection. A full handshake takes 2 ms.
        smtp_tls_session_cache_database = "";

        # Servers that do not answer must not occupy all processes (connections.remoteDelivery): each gets two, one minute
        # for each reply, and two for the reply to a message, not five, five minutes and ten. Destinations get more
        # processes with each success.
        smtp_initial_destination_concurrency = lib.mkDefault 2;
        smtp_helo_timeout = lib.mkDefault "60s";
        smtp_starttls_timeout = lib.mkDefault "60s";
        smtp_mail_timeout = lib.mkDefault "60s";
        smtp_rcpt_timeout = lib.mkDefault "60s";
        smtp_data_init_timeout = lib.mkDefault "60s";
        smtp_data_done_timeout = lib.mkDefault "120s";
        # These are limits for whole replies, and not for each byte of them.
        smtp_per_request_deadline = lib.mkDefault true;
        # smtp(8) tries one address after the other. Many hosts have an IPv6 address that does not work, so that comes
        # last, and an address that does not answer costs 5 s, as over HTTPS, within which the kernel tries three times.
        smtp_address_preference = lib.mkDefault "ipv4";
        smtp_connect_timeout = lib.mkDefault "5s";
        # retry(8) defers the mail of a destination that is down, one message after the other: twenty at once, each with a
        # bounce(8), would take the processors from mail to others.
        retry_destination_concurrency_limit = lib.mkDefault 1;
        # When all messages to a destination that is down are due at once, each occupies the queue manager until the first
        # attempts have failed; above this number, other mail waits. One takes 2.5 kB of memory.
        qmgr_message_active_limit = lib.mkDefault 60000;
        # Postfix requires at least as many recipients, and warns otherwise.
        qmgr_message_recipient_limit = lib.mkDefault 60000;

        # Senders must not control how a message is delivered: RFC 8689 is off in both directions.
        tls_required_enable = false;
        transport_maps = lib.mkMerge [
          (lib.mkBefore [ destinations ])
          (lib.mkIf cfg.federation.https.send (lib.mkAfter nextHops))
        ];
        # Changes nothing: chatmail-metadata notifies the devices of the recipient.
        lmtp_delivery_status_filter = "socketmap:unix:${sockets.delivered}:delivered";
        smtp_dns_reply_filter = addressFilter;
        smtp_delivery_status_filter =
          # Changes nothing: filtermail-transport counts results, and notices servers that are unreachable over SMTP.
          lib.optional cfg.federation.https.send "socketmap:unix:${sockets.lookup}:results"
          # The message bounces at once and is not deferred. A server without TLS rarely gets it within two days, and
          # senders would not learn before that their mail does not arrive. filtermail-transport counts both as bounced.
          ++ [
            (regexp "delivery-status" [
              "/^4(\\.[0-9.]+ .*DNS reply filter drops all results.*)$/ 5$1"
              "/^4(\\.7\\.4 TLS is required, but was not offered by host .*)$/ 5$1"
              # Reasons in the words of the reference relay.
              "/^5\\.1\\.0 Domain [^ ]+ does not accept mail \\(nullMX\\)$/ 5.1.10 Permanent failure: Recipient address has null MX"
              "/^5\\.4\\.4 Host or domain name not found\\. Name service error for name=([^ ]+) type=[A-Z]+: Host not found$/ 5.1.2 Domain $1 does not exist"
            ])
          ];
        # DSN would reveal when a message was delivered; ETRN and BDAT are not needed.
        smtpd_discard_ehlo_keywords = [
          "silent-discard"
          "chunking"
          "dsn"
          "etrn"
        ];
        # Headers of accepted mail stay unchanged. Otherwise Postfix appends the relay's domain to names without one.
        local_header_rewrite_clients = "";

        # Mail submitted with sendmail(1) bypasses the filters and is signed, and the queue lists senders and
        # recipients.
        authorized_submit_users = lib.mkDefault "root";
        authorized_mailq_users = lib.mkDefault "root";
        authorized_flush_users = lib.mkDefault "root";

        # Bounces are signed too: other relays accept them only with a signature.
        non_smtpd_milters = signing;
        internal_mail_filter_classes = "bounce";
        milter_macro_daemon_name = "ORIGINATING";
      }
      // lib.optionalAttrs cfg.federation.hasRules {
        # Rejects other servers by the domain of the sender, before the message is sent.
        chatmail_rules_milter = milter sockets.rules;
      }
      // lib.optionalAttrs cfg.federation.https.send {
        prompt_initial_destination_concurrency = lib.mkDefault 2;
        # Time for each reply of a destination that has accepted its last message within as long. One that takes longer
        # gets the next attempt with the time of all others.
        chatmail_prompt_timeout = lib.mkDefault "10s";
      }
      // lib.optionalAttrs (!cfg.federation.smtp.send) {
        # Recipients for which filtermail-transport knows no next hop.
        default_transport = "error:5.1.2 This relay delivers to other servers over HTTPS only";
      }
      // lib.optionalAttrs (lib.versionAtLeast config.services.postfix.package.version "3.11") {
        requiretls_enable = false;
        requiretls_esmtp_header = false;
      };

      settings.master = {
        smtp_inet = lib.mkIf cfg.federation.smtp.receive {
          maxproc = cfg.connections.smtp;
          args = options (sessions // incoming);
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
        # Behind the front on port 443, which passes on the client's address.
        ${cfg.front.smtp} = smtpd cfg.front.smtp { maxproc = cfg.connections.smtp; } (
          submission
          // {
            smtpd_tls_wrappermode = "yes";
            smtpd_upstream_proxy_protocol = "haproxy";
            syslog_name = "postfix/submissions";
          }
        );
        # Clients over WebSocket: nginx has terminated TLS.
        ${baseNameOf settings.websocket.smtp} = lib.mkIf cfg.webSocket.enable (
          smtpd settings.websocket.smtp { maxproc = cfg.connections.smtp; } (
            submission
            // {
              smtpd_tls_auth_only = "no";
              smtpd_tls_security_level = "none";
              smtpd_upstream_proxy_protocol = "haproxy";
              syslog_name = "postfix/submissions";
            }
          )
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
        ${baseNameOf settings.mxdeliv.postfix} = lib.mkIf cfg.federation.https.receive (
          # Like port 25, for mail that nginx has received over HTTPS.
          smtpd settings.mxdeliv.postfix { maxproc = cfg.connections.smtp; } (
            incoming
            // {
              smtpd_tls_security_level = "none";
              smtpd_upstream_proxy_protocol = "haproxy";
              syslog_name = "postfix/mxdeliv";
            }
          )
        );
        # dovecot.nix allows as many LMTP processes as these need.
        lmtp.maxproc = cfg.connections.delivery;
        smtp = {
          maxproc = cfg.connections.remoteDelivery;
          args = remoteArgs ++ options remote;
        };
        # Destinations that have accepted mail lately and promptly (filtermail-transport chooses).
        prompt = lib.mkIf cfg.federation.https.send {
          command = "smtp";
          maxproc = cfg.connections.remoteDelivery;
          args = remoteArgs ++ options (remote // prompt);
        };
        error.args = options remote;
        retry.args = options remote;
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

    # This unit runs at boot; afterwards Postfix's own unit runs the setup. A restart would stop Postfix, which requires
    # it.
    systemd.services.postfix-setup.restartIfChanged = false;

    systemd.services.postfix = {
      # Without a socket for logins, each smtpd(8) on the submission ports would exit.
      wants = [ "doveauth-sasl.socket" ] ++ lib.optional (!cfg.byAddress) "opendkim.service";
      after = [
        "dovecot.service"
        "doveauth-sasl.socket"
      ]
      ++ lib.optional (!cfg.byAddress) "opendkim.service";
      stopIfChanged = false;
      startLimitIntervalSec = lib.mkForce 0;
      reloadTriggers = [ configure ];
      # Settings that Postfix does not reload.
      restartTriggers = [
        config.services.postfix.settings.main.inet_protocols
        (config.services.postfix.settings.main.inet_interfaces or "all")
        # A reload would come before systemd opens a new socket.
        config.services.postfix.settings.main.smtpd_sasl_path
      ];
      serviceConfig = shareOfMemory "50%" // {
        ExecStartPre = "/etc/chatmail/postfix-configure";
        RestartSec = lib.mkForce "2s";
        ExecStop = lib.mkForce stop;
        SuccessExitStatus = "SIGUSR1";
        ExecReload = lib.mkForce [
          "/etc/chatmail/postfix-configure"
          "${lib.getExe' config.services.postfix.package "postfix"} reload"
        ];
        LimitNOFILE = lib.mkDefault 65536;
        # Most of Postfix's lines name clients, senders and recipients. Of these, the unit keeps lines that mtail
        # counts, that report a reached limit, and that are about other servers: docs/logs.md. postqueue shows why mail
        # is stuck.
        LogFilterPatterns = [
          logFilters.namesNobody
          "^[0-9A-Za-z]+: (resent-)?message-id="
          "^NOQUEUE: reject: "
          "^[0-9A-Za-z]+: timeout after DATA "
          "^warning: [A-Za-z ]+ limit exceeded: "
          "^(connect to|(server )?certificate verification failed for) [^@]*$"
          # Lines of submission, where clients are users.
          "~^NOQUEUE: reject: .*( sasl_username=|: Client host rejected: )"
          "~^NOQUEUE: reject: (AUTH|ETRN|VRFY|EHLO|HELO|STARTTLS|CONNECT|UNKNOWN) "
          # Lines for every message, which metrics replace.
          "~^statistics: "
          "~^[0-9A-Za-z]+: replace: header "
        ];
      };
    };
  };
}
