# Dovecot 2.4: IMAP for clients, LMTP and SASL for Postfix.
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

  # Both blocks name the same script with the same settings; Dovecot loads it once.
  lua = {
    lua_file = "${./files/doveauth.lua}";
    lua_settings = {
      mailboxes_dir = cfg.mailboxes.directory;
      socket = settings.doveauth.socket;
      owner = "vmail";
    };
  };

  # Dovecot records sessions where this folder exists.
  rawlog = "/var/lib/chatmail-rawlog";

  # By name: Dovecot 2.4.1 takes `$SET:default_internal_user` of a listener for its built-in default, and sessions could
  # not wake up.
  internal = config.services.dovecot2.settings;

  # `doveadm reload` comes back before Dovecot has opened its sockets anew. Postfix reloads after Dovecot, and an smtpd that
  # finds no socket to ask for logins ends, with a pause for all of the service.
  reload = pkgs.writeShellScript "dovecot-reload" ''
    set -eu
    socket() {
      ${pkgs.coreutils}/bin/stat -c '%i %z' ${queue}/private/auth
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

  # Commands that Dovecot may name in the line about the end of a session.
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

  # Two lanes of logins in doveauth wait for hashes; a fifth of the workers is left to those that need none.
  authWorkers = settings.doveauth.max_hashing * 5 / 2;

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
        # Addresses of relays without a domain name have brackets.
        auth_username_chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567890.-_@[]";
        "passdb lua" = lua;
        "userdb lua" = lua;

        # Nothing about where users connect from.
        login_log_format_elements = "method=%{mechanism} %{secured}";
        # Nor which account a line is about: the session tells what belongs together.
        mail_log_prefix = "\"%{service}<%{session}>: \"";

        # Plugins of the same build as the running processes, also while a new system is activated.
        mail_plugin_dir = lib.mkDefault "${cfg.dovecot.package}/lib/dovecot/modules";

        mail_uid = "vmail";
        mail_gid = "vmail";
        mail_driver = "maildir";
        mail_path = "~/";
        mail_home = "${cfg.mailboxes.directory}/%{user}";
        mail_cache_max_size = lib.mkDefault "500 K";
        # A notification comes too early when the delivering process still holds the mailbox; this look finds the message.
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
          # For one account and one client address.
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

        "protocol lmtp" = {
          mail_plugins = {
            mail_lua = true;
            notify = true;
            push_notification = true;
            push_notification_lua = true;
          };
          "push_notification lua".lua_file = "${./files/push_notification.lua}";
        };
        lmtp_add_received_header = false;
        # Postfix decides how much is delivered at once (connections.delivery), since it can wait; beyond a limit of
        # Dovecot it would have to try again minutes later. Set although it is the default of some versions: 2.4.1 made
        # it 10.
        lmtp_user_concurrency_limit = "unlimited";

        ssl = "required";
        ssl_server_cert_file = cfg.tls.files.certificate;
        ssl_server_key_file = cfg.tls.files.key;
        ssl_min_protocol = "TLSv1.3";

        # A reload otherwise ends what runs with the former settings: LMTP after it has saved a message and before it says
        # so, which makes Postfix deliver it again, and all IMAP sessions six seconds later.
        shutdown_clients = lib.mkDefault false;
        default_client_limit = lib.mkDefault 20000;
        # Providers give many people one address: who guesses must not delay the others.
        "service anvil" = {
          "unix_listener anvil-auth-penalty".mode = "0";
          # LMTP, which does not run as root, counts its sessions there.
          "unix_listener anvil" = {
            mode = "0660";
            group = "vmail";
          };
        };
        "service auth"."unix_listener ${queue}/private/auth" = {
          mode = "0660";
          user = postfix;
          group = config.services.postfix.group;
        };
        # Who asks there learns whether an account exists.
        "service auth"."unix_listener auth-userdb" = {
          mode = "0600";
          user = "vmail";
        };
        # Everybody on the host may connect to these by default, and nothing of the relay does.
        "service dns-client"."unix_listener dns-client".mode = "0";
        "service imap-urlauth-login"."unix_listener imap-urlauth".mode = "0";
        "service indexer"."unix_listener indexer".mode = "0";
        "service auth-worker" = {
          user = "vmail";
          # Nobody else is in this group, which the socket of doveauth belongs to.
          extra_groups = "doveauth";
          # Each carries one login at a time to doveauth.
          process_limit = authWorkers;
        };
        "service lmtp" = {
          user = "vmail";
          # Connections that Postfix keeps for later deliveries count as well.
          process_limit = 2 * cfg.connections.delivery + 10;
          # A process of its own for each delivery costs more than the delivery.
          restart_request_count = 1000;
          # Everybody may connect to the one that Dovecot has by itself.
          "unix_listener lmtp".mode = "0";
          "unix_listener ${queue}/private/dovecot-lmtp" = {
            mode = "0600";
            user = postfix;
            group = config.services.postfix.group;
          };
        };
        # The front on port 443 tells the address of the client.
        haproxy_trusted_networks = [ "127.0.0.1" ];
        "service imap-login" = {
          "inet_listener imaps_front" =
            let
              at = lib.splitString ":" cfg.front.imap;
            in
            {
              listen = lib.head at;
              port = lib.last at;
              ssl = true;
              haproxy = true;
            };
          # Few processes serve all sessions; each also carries their TLS, so it may grow.
          restart_request_count = "unlimited";
          process_min_avail = 10;
          vsz_limit = "1 G";
        };
        "service imap" = {
          process_limit = cfg.connections.imap;
          # A login takes over a process that another session has left; starting one costs more than all else of a login.
          # All of them run as vmail. Processes that sessions leave when they hibernate soon end.
          restart_request_count = 1000;
          process_min_avail = lib.min 4 cfg.connections.imap;
          idle_kill_interval = "10 s";
          # Sessions that wake up come back through this socket.
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
        # Not by the time of access: whoever reads a record must not keep it.
        age = "mc:1d";
      };
    };

    systemd.services.dovecot = {
      # They connect to sockets of ours, which systemd holds from the start.
      after = [
        "chatmail-metadata.socket"
        "doveauth.socket"
        "lastlogin.socket"
        # The queue of Postfix holds sockets of Dovecot.
        "postfix-setup.service"
      ];
      wants = [ "postfix-setup.service" ];
      # Sessions outlive new settings.
      stopIfChanged = false;
      # It comes up when what it waits for is there, such as a certificate.
      startLimitIntervalSec = lib.mkForce 0;
      restartTriggers = lib.mkForce [ ];
      reloadTriggers = [ config.environment.etc."dovecot/dovecot.conf".source ];
      serviceConfig = {
        ExecReload = lib.mkForce reload;
        Restart = lib.mkForce "always";
        RestartSec = lib.mkForce "2s";
        LimitNOFILE = 65536;
        # Failures name the account by its path, and folders by the names that their owners gave to them.
        LogFilterPatterns = [
          logFilters.namesNobody
          ": msgid=[^ ]*: (saved mail to INBOX|save failed to .*Quota exceeded \\(mailbox for user is full\\))$"
          "quota-expire: removed "
          "~: Mailbox [^ ]"
          "~: Aborted [A-Z]+ request for "
          # A client may send a name as a command, or as a mechanism.
          "~\\((?!(UID )?(${lib.concatStringsSep "|" imapCommands}) )[^()]* (finished|running) "
          "~tried to use unsupported auth mechanism"
          "~passdb-lua: doveauth asks to try again later"
        ];
      };
    };
  };
}
