# Dovecot 2.4: IMAP for clients, LMTP for Postfix and the filters.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  settings = cfg.settings;
  queue = config.services.postfix.settings.main.queue_directory;
  postfix = config.services.postfix.user;

  # Both blocks use the same script with the same settings, so Dovecot loads it once.
  lua = {
    lua_file = "${./files/doveauth.lua}";
    lua_settings = {
      mailboxes_directory = cfg.mailboxes.directory;
      socket = settings.doveauth.socket;
      owner = "vmail";
    };
  };

  # Dovecot records sessions if this folder exists.
  rawlog = "/var/lib/chatmail-rawlog";

  # Read here because Dovecot 2.4.1 expands `$SET:default_internal_user` in a listener to its built-in default, so that
  # sessions cannot wake up.
  internal = config.services.dovecot2.settings;

  # `doveadm reload` returns before Dovecot has reopened its sockets.
  reload = pkgs.writeShellScript "dovecot-reload" ''
    set -eu
    socket() {
      ${pkgs.coreutils}/bin/stat -c '%i %z' ${queue}/private/dovecot-lmtp
    }
    before=$(socket)
    ${lib.getExe' cfg.dovecot.package "doveadm"} reload
    for attempt in {1..300}; do
      now=$(socket 2>/dev/null) || now=$before
      if [ "$now" != "$before" ]; then
        exit 0
      fi
      ${pkgs.coreutils}/bin/sleep 0.1
    done
    echo "Dovecot did not take over its new settings within 30 s" >&2
    exit 1
  '';

  logFilters = import ./log-filters.nix;
  shareOfMemory = import ./share-of-memory.nix { inherit lib; };
  sockets = import ./sockets.nix;

  # Commands that Dovecot can name in the line about the end of a session.
  imapCommands = [
    "APPEND"
    "CANCELUPDATE"
    "CAPABILITY"
    "CHECK"
    "CLOSE"
    "COMPRESS"
    "COPY"
    "CREATE"
    "DELETE"
    "ENABLE"
    "EXAMINE"
    "EXPUNGE"
    "FETCH"
    "GENURLAUTH"
    "GETMETADATA"
    "GETQUOTA"
    "GETQUOTAROOT"
    "ID"
    "IDLE"
    "LIST"
    "LOGOUT"
    "LSUB"
    "MOVE"
    "NAMESPACE"
    "NOOP"
    "NOTIFY"
    "RENAME"
    "RESETKEY"
    "SEARCH"
    "SELECT"
    "SETMETADATA"
    "SETQUOTA"
    "SORT"
    "STATUS"
    "STORE"
    "SUBSCRIBE"
    "THREAD"
    "UNSELECT"
    "UNSUBSCRIBE"
    "URLFETCH"
  ];

  # In doveauth, two queues of logins wait for hashes; a fifth of the workers remains for logins that need no hash.
  authWorkers = settings.doveauth.max_hashing * 5 / 2;

  # A listener for connections whose client address comes from the PROXY protocol.
  behind =
    address:
    let
      at = lib.splitString ":" address;
    in
    {
      listen = lib.head at;
      port = lib.last at;
      haproxy = true;
    };

  kibibytes = bytes: "${toString (bytes / 1024)} K";
in
{
  config = lib.mkIf cfg.enable {
    services.dovecot2 = {
      enable = true;
      package = cfg.dovecot.package;
      createMailUser = false;
      enablePAM = false;

      settings = {
        dovecot_config_version = "2.4.0";
        dovecot_storage_version = "2.4.0";

        protocols = {
          imap = true;
          lmtp = true;
        };
        listen = [ "*" ] ++ lib.optional cfg.enableIPv6 "::";

        auth_mechanisms = [ "plain" ];
        # Addresses on relays without a domain name contain brackets.
        auth_username_chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567890.-_@[]";
        "passdb lua" = lua;
        # Asked in this order, by name. After a login, `prefetch` takes what the script has already returned.
        "userdb prefetch" = { };
        "userdb script" = lua // {
          driver = "lua";
        };

        # No addresses of clients.
        login_log_format_elements = "method=%{mechanism} %{secured}";
        # No account names either: the session ID connects related lines.
        mail_log_prefix = "\"%{service}<%{session}>: \"";

        # Plugins of the same build as the running processes, even during the activation of a new system.
        mail_plugin_dir = lib.mkDefault "${cfg.dovecot.package}/lib/dovecot/modules";

        mail_uid = "vmail";
        mail_gid = "vmail";
        mail_driver = "maildir";
        mail_path = "~/";
        mail_home = "${cfg.mailboxes.directory}/%{user}";
        mail_cache_max_size = lib.mkDefault "500 K";
        # A notification that arrives while the delivering process still locks the mailbox is too early; this check then
        # finds the message.
        mailbox_idle_check_interval = "5 s";
        mail_fsync = lib.mkDefault "never";
        mail_compress_write_method = "gz";
        mail_plugins = {
          mail_compress = true;
          quota = true;
        };

        "quota \"User quota\"" = {
          quota_driver = "maildir";
          quota_storage_size = kibibytes cfg.mailboxes.quota;
          quota_storage_grace = 0;
          quota_message_count = cfg.mailboxes.maxMessages;
        };
        quota_mail_size = toString cfg.messages.maxSize;
        quota_mailbox_count = cfg.mailboxes.maxFolders;

        "namespace inbox" = {
          inbox = true;
          "mailbox Drafts".special_use = "\\Drafts";
          "mailbox Junk".special_use = "\\Junk";
          "mailbox Trash".special_use = "\\Trash";
          "mailbox Sent".special_use = "\\Sent";
          "mailbox \"Sent Messages\"".special_use = "\\Sent";
        };

        mail_attribute."dict proxy" = {
          dict_proxy_name = "metadata";
          dict_proxy_socket_path = settings.metadata.socket;
        };
        mail_server_admin = lib.mkIf (cfg.adminAddress != null) "mailto:${cfg.adminAddress}";

        imap_capability = {
          XCHATMAIL = true;
          XDELTAPUSH = true;
        }
        // lib.optionalAttrs (!cfg.imap.compress) { "\"COMPRESS=DEFLATE\"" = false; };
        imap_hibernate_timeout = lib.mkDefault "30 s";
        "protocol imap" = {
          imap_metadata = true;
          # Per account and client address.
          mail_max_userip_connections = cfg.connections.imapPerAccount;
          mail_plugins = {
            imap_quota = true;
            last_login = true;
          };
          rawlog_dir = lib.mkIf cfg.imap.rawlog rawlog;
          last_login = {
            "dict proxy" = {
              dict_proxy_name = "lastlogin";
              dict_proxy_socket_path = settings.lastlogin.socket;
            };
          };
        };

        # Some revisions of NixOS set this even without Pigeonhole, and Dovecot then refuses its configuration.
        sieve_script_bin_path = lib.mkDefault null;

        lmtp_add_received_header = false;
        # Postfix limits concurrent deliveries (connections.delivery), because it can queue them; beyond a limit of
        # Dovecot, it would have to retry minutes later. Some versions have this default already; that of 2.4.1 is 10.
        lmtp_user_concurrency_limit = "unlimited";

        ssl = "required";
        ssl_server_cert_file = cfg.tls.files.certificate;
        ssl_server_key_file = cfg.tls.files.key;
        ssl_min_protocol = "TLSv1.3";

        # By default a reload ends processes with the old settings: LMTP between saving a message and confirming it,
        # which makes Postfix deliver it again, and all IMAP sessions after six seconds.
        shutdown_clients = lib.mkDefault false;
        default_client_limit = lib.mkDefault 20000;
        # Many users can share one address: somebody who guesses passwords must not delay the others.
        "service anvil" = {
          "unix_listener anvil-auth-penalty".mode = "0";
          # LMTP does not run as root and counts its sessions here.
          "unix_listener anvil" = {
            mode = "0660";
            group = "vmail";
          };
        };
        # This socket reveals whether an account exists.
        "service auth"."unix_listener auth-userdb" = {
          mode = "0600";
          user = "vmail";
        };
        # By default every user of the host can connect to these sockets, which the relay does not use.
        "service dns-client"."unix_listener dns-client".mode = "0";
        "service imap-urlauth-login"."unix_listener imap-urlauth".mode = "0";
        "service indexer"."unix_listener indexer".mode = "0";
        "service auth-worker" = {
          user = "vmail";
          # The group of doveauth's socket, which has no members.
          extra_groups = "doveauth";
          # Each worker handles one login at a time.
          process_limit = authWorkers;
        };
        "service lmtp" = {
          user = "vmail";
          # Idle connections that Postfix keeps for later deliveries count too. The filters keep as many.
          process_limit = (if cfg.filter.directDelivery then 4 else 2) * cfg.connections.delivery + 10;
          # Starting a process for each delivery takes more time than the delivery.
          restart_request_count = 1000;
          # Every user of the host could connect to Dovecot's default socket.
          "unix_listener lmtp".mode = "0";
          "unix_listener ${queue}/private/dovecot-lmtp" = {
            mode = "0600";
            user = postfix;
            group = config.services.postfix.group;
          };
          "unix_listener ${sockets.lmtp}" = lib.mkIf cfg.filter.directDelivery {
            mode = "0660";
            group = "chatmail-delivery";
          };
        };
        # The front on port 443 passes on the client's address.
        haproxy_trusted_networks = [ "127.0.0.1" ];
        "service imap-login" = {
          "inet_listener imaps_front" = behind cfg.front.imap // {
            ssl = true;
          };
          # Dovecot reads the PROXY protocol only over TCP. Its header tells that the client uses TLS with nginx.
          "inet_listener imap_websocket" = lib.mkIf cfg.webSocket.enable (behind cfg.front.webSocketImap);
          # A few processes serve all sessions, including their TLS, so each needs more memory.
          restart_request_count = "unlimited";
          process_min_avail = 10;
          vsz_limit = "1 G";
        };
        "service imap" = {
          process_limit = cfg.connections.imap;
          # A login reuses the process of an earlier session, because starting one takes more time than the rest of a
          # login. All of them run as vmail. Processes that are free because their session hibernates soon exit.
          restart_request_count = 1000;
          process_min_avail = lib.min 4 cfg.connections.imap;
          idle_kill_interval = "10 s";
          # Hibernated sessions wake up through this socket.
          "unix_listener imap-master".user = internal.default_internal_user;
          extra_groups = internal.default_internal_group;
        };
        "service imap-hibernate"."unix_listener imap-hibernate" = {
          mode = "0660";
          group = internal.default_internal_group;
        };
      };
    };

    systemd.tmpfiles.settings."10-chatmail" = lib.mkIf cfg.imap.rawlog {
      ${rawlog}.d = {
        mode = "0700";
        user = "vmail";
        group = "vmail";
        # Not by access time: reading a record must not keep it.
        age = "mc:1d";
      };
    };

    systemd.services.dovecot = {
      # Sockets that Dovecot connects to; systemd opens them at boot.
      after = [
        "chatmail-metadata.socket"
        "doveauth.socket"
        "lastlogin.socket"
        # Creates the queue directory, which contains sockets of Dovecot.
        "postfix-setup.service"
      ];
      wants = [ "postfix-setup.service" ];
      # Sessions continue after a change of settings.
      stopIfChanged = false;
      # Restarts until everything it needs exists, such as a certificate.
      startLimitIntervalSec = lib.mkForce 0;
      restartTriggers = lib.mkForce [ ];
      reloadTriggers = [ config.environment.etc."dovecot/dovecot.conf".source ];
      serviceConfig = shareOfMemory "60%" // {
        ExecReload = lib.mkForce reload;
        Restart = lib.mkForce "always";
        RestartSec = lib.mkForce "2s";
        LimitNOFILE = lib.mkDefault 65536;
        # Failures contain the path of the account and names of folders.
        LogFilterPatterns = [
          logFilters.namesNobody
          ": msgid=[^ ]*: (saved mail to INBOX|save failed to .*Quota exceeded \\(mailbox for user is full\\))$"
          "quota-expire: removed "
          "~: Mailbox [^ ]"
          "~: Aborted [A-Z]+ request for "
          # A client can send a name in place of a command or a mechanism.
          "~\\((?!(UID )?(${lib.concatStringsSep "|" imapCommands}) )[^()]* (finished|running) "
          "~tried to use unsupported auth mechanism"
          "~passdb-lua: doveauth asks to try again later"
        ];
      };
    };
  };
}
