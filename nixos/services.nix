# The settings file, and the relay's own services with their sockets.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  reserved = import ./reserved-addresses.nix { inherit lib; };
  registration = import ./registration.nix;
  sockets = import ./sockets.nix;
  headerFields = import ./header-fields.nix;
  limits = import ./limits.nix;
  metricsSockets = import ./metrics-socket.nix { inherit cfg lib; };

  # A service with its socket and a socket for its metrics. systemd keeps both open while the service restarts, so that
  # no connection is refused.
  daemon =
    {
      name,
      description,
      command ? [ name ],
      socket,
      metrics,
      service,
    }:
    let
      metricsSocket = "${metricsSockets.unit name}";
      sockets = [
        "${name}.socket"
      ]
      ++ lib.optional cfg.metrics.enable "${metricsSocket}.socket";
    in
    {
      systemd.sockets.${metricsSocket} = lib.mkIf cfg.metrics.enable (
        metricsSockets.socket name metrics name
      );

      systemd.sockets.${name} = {
        description = "Socket of ${name}";
        wantedBy = [ "sockets.target" ];
        socketConfig = {
          # A service that fails to start must not close its socket permanently.
          TriggerLimitIntervalSec = 0;
        }
        // socket;
      };

      systemd.services.${name} = {
        inherit description;
        wantedBy = [ "multi-user.target" ];
        requires = [ "${name}.socket" ];
        # Only wanted: a failed metrics socket must not stop the service.
        wants = sockets;
        after = sockets;
        startLimitIntervalSec = 0;
        # Stopping it first would close the socket during the activation of a new system.
        stopIfChanged = false;
        serviceConfig =
          hardening
          // {
            Type = "notify";
            ExecStart = utils.escapeSystemdExecArgs (
              [ "${cfg.package}/bin/${lib.head command}" ]
              ++ lib.tail command
              ++ [
                "--settings"
                "${cfg.settingsFile}"
              ]
            );
            Restart = "always";
            RestartSec = "1s";
            WatchdogSec = "30s";
            LimitNOFILE = 65536;
            TasksMax = 512;
          }
          // service;
      };
    };

  # Another socket of a service, for Postfix's questions.
  secondSocket =
    {
      name,
      unit ? "filtermail-${name}",
      service,
      purpose,
      socket,
    }:
    {
      systemd.sockets.${unit} = {
        description = "Socket of ${service} for ${purpose}";
        wantedBy = [ "sockets.target" ];
        socketConfig = socket // {
          Service = "${service}.service";
          FileDescriptorName = name;
          TriggerLimitIntervalSec = 0;
        };
      };
      systemd.services.${service} = rec {
        requires = [ "${unit}.socket" ];
        after = requires;
      };
    };

  unixSocket = path: owner: {
    ListenStream = path;
    SocketMode = "0660";
    SocketUser = owner.user;
    SocketGroup = owner.group;
    RemoveOnStop = true;
  };

  datagramSocket =
    path: owner: removeAttrs (unixSocket path owner) [ "ListenStream" ] // { ListenDatagram = path; };

  tcpSocket = address: {
    ListenStream = address;
    NoDelay = true;
  };

  vmail = {
    user = "vmail";
    group = "vmail";
  };

  # PrivateUsers would hide the owner of the mailboxes. `/home` contains only the mailboxes.
  mailboxOwner = {
    User = "vmail";
    Group = "vmail";
    PrivateUsers = false;
    ProtectHome = "tmpfs";
  };

  # An endpoint of the settings as a socket unit.
  endpointSocket =
    endpoint:
    if lib.hasPrefix "unix:" endpoint then
      unixSocket (lib.removePrefix "unix:" endpoint) {
        inherit (config.services.postfix) user group;
      }
    else
      tcpSocket endpoint;

  # Endpoints between Postfix and the filters. Postfix creates its sockets with mode 0666, in a folder that only the
  # group of its setgid programs can enter.
  overUnix = cfg.filter.transport == "unix";
  queue = config.services.postfix.settings.main.queue_directory;
  filterSockets =
    if overUnix then
      {
        outgoing_listen = "unix:/run/filtermail/outgoing.socket";
        outgoing_reinject = "unix:${queue}/public/filtered-outgoing";
        incoming_listen = "unix:/run/filtermail/incoming.socket";
        incoming_reinject = "unix:${queue}/public/filtered-incoming";
      }
    else
      {
        outgoing_listen = "127.0.0.1:10080";
        outgoing_reinject = "127.0.0.1:10025";
        incoming_listen = "127.0.0.1:10081";
        incoming_reinject = "127.0.0.1:10026";
      };
  inGroups =
    groups:
    lib.optionalAttrs (groups != [ ]) {
      SupplementaryGroups = groups;
      # The host's groups have no effect in a user namespace.
      PrivateUsers = false;
    };
  inPostfixGroup = inGroups [ config.services.postfix.setgidGroup ];
  # What the filters connect to: sockets of Postfix, and those for deliveries to mailboxes.
  behindFilters =
    lib.optional overUnix config.services.postfix.setgidGroup
    ++ lib.optional cfg.filter.directDelivery "chatmail-delivery";

  loopback = {
    RestrictAddressFamilies = [
      "AF_INET"
      "AF_INET6"
      "AF_UNIX"
    ];
    IPAddressAllow = "localhost";
  };

  # Maximum memory of a service that receives messages on this number of connections: a few large messages at once, each
  # in a buffer that grows by doubling and in a second copy without base64; on every other connection, a buffer for a
  # smaller message with the recipients. The rest is for concurrent checks, two for each large message, each with a header
  # of 256 KiB and 1000 fields, parsed and in signed form (1 MiB), for the sessions that ask for the rate limit, and for
  # the program and its keys.
  filterMemory =
    connections:
    3 * (limits.large.at_once * cfg.messages.maxSize + connections * limits.large.above)
    + 128 * 1048576;

  settings = cfg.settings;

in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.chatmail.settings = {
          domain = cfg.mailDomain;
          addresses = cfg.addresses;
          admin_address = cfg.adminAddress;
          accounts = {
            username_min_length = cfg.accounts.usernameMinLength;
            username_max_length = cfg.accounts.usernameMaxLength;
            password_min_length = cfg.accounts.passwordMinLength;
            max_load_1m = cfg.accounts.maxLoad1m;
            min_memory_available = cfg.accounts.minMemoryAvailable;
            min_disk_free = cfg.accounts.minDiskFree;
          };
          registration = {
            inherit (cfg.registration) mode;
            max_per_hour = cfg.registration.maxPerHour;
            nocreate_files = [
              "/var/lib/chatmail/nocreate"
              # The file of the reference relay, for hosts with a writable /etc.
              "/etc/chatmail-nocreate"
            ];
            directory = registration.directory;
          };
          mailboxes = {
            inherit (cfg.mailboxes) directory quota;
            max_messages = cfg.mailboxes.maxMessages;
            delete_messages_after = cfg.mailboxes.deleteMessagesAfter;
            delete_large_messages_after = cfg.mailboxes.deleteLargeMessagesAfter;
            large_message_size = cfg.mailboxes.largeMessageSize;
            delete_inactive_accounts_after = cfg.mailboxes.deleteInactiveAccountsAfter;
            trim_to_percent = limits.trimToPercent;
          };
          messages = {
            inherit (cfg.messages) burst;
            max_size = cfg.messages.maxSize;
            max_recipients = cfg.messages.maxRecipients;
            max_per_minute = cfg.messages.maxPerMinute;
          };
          connections = {
            inherit (cfg.connections) filter;
          };
          tls = {
            inherit (cfg.tls) mode;
            acme = cfg.tls.account;
          };
          dkim = {
            inherit (cfg.dkim) selector;
            key_file = "/var/lib/chatmail-dkim/${cfg.dkim.selector}.private";
          };
          dns = {
            # Changes exactly when the policy changes (RFC 8461 section 3.1).
            mta_sts_id = builtins.substring 0 20 (builtins.hashString "sha256" cfg.web.mtaStsPolicy);
            acme_account_uri = cfg.dns.acmeAccountUri;
          };
          push = {
            notification_url = cfg.push.notificationUrl;
            queue_dir = "/var/lib/chatmail-metadata/pending_notifications";
          };
          web = {
            new_addresses_per_minute = cfg.web.newAddressesPerMinute;
            status_page = cfg.web.statusPage.enable;
            privacy = {
              postal_address = cfg.web.privacy.postalAddress;
              data_protection_officer = cfg.web.privacy.dataProtectionOfficer;
              supervisory_authority = cfg.web.privacy.supervisoryAuthority;
            };
          };
          turn = lib.mkDefault null;
          iroh = {
            inherit (cfg.iroh) url;
          };
          metadata = {
            socket = "/run/chatmail-metadata/metadata.socket";
            delivered_socket = sockets.delivered;
            app_versions =
              if cfg.metadata.appVersions == null then
                null
              else
                (pkgs.formats.json { }).generate "appversions.json" cfg.metadata.appVersions;
            max_app_versions_bytes = limits.appVersionsKib * 1024;
            max_entries = cfg.metadata.maxEntries;
            max_entry_bytes = cfg.metadata.maxEntryBytes;
          };
          doveauth = {
            socket = "/run/doveauth/doveauth.socket";
            # Sign-ups, and logins that need a hash, that wait at once. A hash takes about 35 ms of CPU time, so the last of
            # them waits about a second on a machine with one processor.
            max_hashing = 24;
            sasl = {
              socket = sockets.sasl;
              # Ports 465 and 587, their front on port 443, and WebSocket.
              max_connections = 4 * cfg.connections.smtp;
            };
          };
          lastlogin.socket = "/run/chatmail-lastlogin/lastlogin.socket";
          filtermail = {
            limit_socket = sockets.limit;
            deliveries_socket = sockets.deliveries;
            destinations_file = "/run/filtermail-outgoing/destinations.json";
            rules_socket = if cfg.federation.hasRules then sockets.rules else null;
            # Postfix keeps one connection for each session on ports 465 and 587.
            max_sessions = 2 * cfg.connections.smtp;
            inherit (limits) large;
            resolver = "127.0.0.1:53";
            direct_delivery =
              if cfg.filter.directDelivery then
                {
                  lmtp = "unix:${sockets.lmtp}";
                  reports_socket = sockets.delivered;
                  max_connections = cfg.connections.delivery;
                  dropped_fields = headerFields.delivered ++ headerFields.always;
                  dropped_submitted_fields = headerFields.submitted;
                  submitted_subject = headerFields.subject;
                }
              else
                null;
          }
          // filterSockets;
          newemail.socket = "/run/newemail/newemail.socket";
          mxdeliv = {
            socket = sockets.mxdeliv;
            postfix = "unix:${queue}/public/mxdeliv";
            max_connections = cfg.connections.smtp;
          };
          transport = {
            listen = sockets.transport;
            lookup_socket = sockets.lookup;
            results_socket = sockets.results;
            # Each smtp(8), and each trivial-rewrite(8), of which there are up to 100 (default_process_limit).
            max_lookups = 2 * cfg.connections.remoteDelivery + 100;
            port = 443;
            max_connections = 2 * cfg.connections.remoteDelivery;
            reserved_networks = reserved.reserved;
            allowed_networks = reserved.allowed cfg;
            # Other relays accept `user@[address]` only from that address.
            ipv6 = cfg.enableIPv6 && !cfg.byAddress;
          };
          federation = {
            inherit (cfg.federation) allow block;
            https = { inherit (cfg.federation.https) send receive; };
            smtp = { inherit (cfg.federation.smtp) send receive; };
          };
          websocket = {
            socket = "/run/chatmail-websocket/websocket.socket";
            imap = cfg.front.webSocketImap;
            smtp = "unix:${queue}/public/websocket";
            origins = [ "https://${cfg.domain}" ] ++ cfg.webSocket.origins;
            max_connections = cfg.connections.imap + cfg.connections.smtp;
          };
          metrics =
            if cfg.metrics.enable then
              {
                doveauth = metricsSockets.at 3905;
                filtermail_outgoing = metricsSockets.at 3906;
                filtermail_incoming = metricsSockets.at 3907;
                metadata = metricsSockets.at 3908;
                newemail = metricsSockets.at 3909;
                lastlogin = metricsSockets.at 3910;
                filtermail_mxdeliv = metricsSockets.at 3911;
                filtermail_transport = metricsSockets.at 3912;
                websocket = metricsSockets.at 3913;
              }
            else
              null;
        };

        services.chatmail.settingsFile = (pkgs.formats.json { }).generate "chatmail-settings.json" settings;

        environment.etc."chatmail/settings.json".source = cfg.settingsFile;
        # The build of the system fails if the services would refuse their settings.
        system.checks = [
          (pkgs.runCommand "chatmail-settings-check" { } ''
            ${cfg.package}/bin/doveauth --settings ${cfg.settingsFile} --check-config >$out
          '')
        ];
        environment.systemPackages = [
          cfg.package
          # For `chatmail migrate import` and `export`.
          pkgs.openssl
          pkgs.rsync
        ];
      }

      (daemon {
        name = "doveauth";
        description = "Logins and account creation of the relay";
        # Not open to the owner of the mailboxes: other services run as that user and must not try passwords.
        socket = unixSocket settings.doveauth.socket {
          user = "root";
          group = "doveauth";
        };
        metrics = settings.metrics.doveauth;
        service = mailboxOwner // {
          BindPaths = [ cfg.mailboxes.directory ];
          ReadWritePaths = [ registration.directory ];
          PrivateNetwork = true;
          # doveauth reads the load and the available memory before it creates an account.
          ProcSubset = "all";
          # The memory of each hash is returned to the system at once; by default the allocator raises this threshold.
          Environment = [ "MALLOC_MMAP_THRESHOLD_=1048576" ];
          MemoryMax = "512M";
        };
      })

      # Only Postfix itself: the filters are in its group and must not try passwords.
      (secondSocket {
        name = "sasl";
        unit = "doveauth-sasl";
        service = "doveauth";
        purpose = "logins of Postfix";
        socket = unixSocket settings.doveauth.sasl.socket {
          inherit (config.services.postfix) user;
          group = "doveauth";
        };
      })

      (daemon {
        name = "lastlogin";
        description = "Days of the last logins";
        socket = unixSocket settings.lastlogin.socket vmail;
        metrics = settings.metrics.lastlogin;
        service = mailboxOwner // {
          BindPaths = [ cfg.mailboxes.directory ];
          PrivateNetwork = true;
          MemoryMax = "256M";
        };
      })

      (daemon {
        name = "chatmail-metadata";
        description = "Server metadata and push notifications of the relay";
        socket = unixSocket settings.metadata.socket vmail;
        metrics = settings.metrics.metadata;
        service = mailboxOwner // {
          BindPaths = [ cfg.mailboxes.directory ];
          StateDirectory = "chatmail-metadata";
          StateDirectoryMode = "0700";
          # Connects to the server in push.notificationUrl.
          RestrictAddressFamilies = loopback.RestrictAddressFamilies;
          IPAddressDeny = "";
          MemoryMax = "512M";
        };
      })

      # Postfix and the filters report deliveries here.
      (secondSocket {
        name = "delivered";
        unit = "chatmail-metadata-delivered";
        service = "chatmail-metadata";
        purpose = "reports of deliveries";
        socket = unixSocket settings.metadata.delivered_socket {
          inherit (config.services.postfix) user;
          group = "chatmail-delivery";
        };
      })

      (daemon {
        name = "filtermail-outgoing";
        description = "Filter for submitted mail";
        command = [
          "filtermail"
          "outgoing"
        ];
        socket = endpointSocket settings.filtermail.outgoing_listen;
        metrics = settings.metrics.filtermail_outgoing;
        service =
          (if overUnix then { PrivateNetwork = true; } else loopback)
          // inGroups (
            # filtermail-transport, which learns results here, has a socket in the same group.
            lib.unique (
              behindFilters ++ lib.optional cfg.federation.https.send config.services.postfix.setgidGroup
            )
          )
          // {
            DynamicUser = true;
            MemoryMax = filterMemory cfg.connections.filter;
            # The results of deliveries, which `chatmail` reads; they last until the next boot.
            RuntimeDirectory = "filtermail-outgoing";
            RuntimeDirectoryMode = "0700";
            RuntimeDirectoryPreserve = true;
          };
      })

      # Postfix logs deliveries to other servers here.
      (secondSocket {
        name = "deliveries";
        service = "filtermail-outgoing";
        purpose = "results of deliveries";
        socket = datagramSocket settings.filtermail.deliveries_socket {
          inherit (config.services.postfix) user group;
        };
      })

      # Postfix asks here whether a sender may send another message, before the message is sent.
      (secondSocket {
        name = "limit";
        service = "filtermail-outgoing";
        purpose = "the rate limit";
        socket = unixSocket settings.filtermail.limit_socket {
          user = "root";
          group = config.services.postfix.group;
        };
      })

      (daemon {
        name = "filtermail-incoming";
        description = "Filter for arriving mail";
        command = [
          "filtermail"
          "incoming"
        ];
        socket = endpointSocket settings.filtermail.incoming_listen;
        metrics = settings.metrics.filtermail_incoming;
        service =
          mailboxOwner
          // loopback
          // inGroups behindFilters
          // {
            BindReadOnlyPaths = [ cfg.mailboxes.directory ];
            MemoryMax = filterMemory cfg.connections.filter;
          };
      })

      # Postfix asks here whether a server may send mail, before it sends it.
      (lib.mkIf cfg.federation.hasRules (secondSocket {
        name = "rules";
        service = "filtermail-incoming";
        purpose = "the rules of federation";
        socket = unixSocket settings.filtermail.rules_socket {
          user = "root";
          group = config.services.postfix.group;
        };
      }))

      (lib.mkIf cfg.federation.https.send (
        lib.mkMerge [
          (daemon {
            name = "filtermail-transport";
            description = "Delivery to other relays over HTTPS";
            command = [
              "filtermail"
              "transport"
            ];
            socket = tcpSocket settings.transport.listen;
            metrics = settings.metrics.filtermail_transport;
            service = {
              DynamicUser = true;
              # Connects to other relays, and asks the kernel for the owners of connections (sock_diag).
              RestrictAddressFamilies = loopback.RestrictAddressFamilies ++ [ "AF_NETLINK" ];
              IPAddressDeny = "";
              # It compares the owners of connections with Postfix, which a user namespace hides.
              PrivateUsers = false;
              MemoryMax = filterMemory settings.transport.max_connections;
            };
          })
          # Postfix looks up here how to reach a destination. The owner of this socket is the only user who can use the
          # other one.
          (secondSocket {
            name = "lookup";
            service = "filtermail-transport";
            purpose = "lookups";
            socket = unixSocket settings.transport.lookup_socket {
              inherit (config.services.postfix) user group;
            };
          })
          # filtermail-outgoing tells here which destinations accept mail.
          (secondSocket {
            name = "results";
            service = "filtermail-transport";
            purpose = "results of deliveries";
            socket = datagramSocket settings.transport.results_socket {
              user = "root";
              group = config.services.postfix.setgidGroup;
            };
          })
        ]
      ))

      (lib.mkIf cfg.federation.https.receive (daemon {
        name = "filtermail-mxdeliv";
        description = "Mail from other relays over HTTPS";
        command = [
          "filtermail"
          "mxdeliv"
        ];
        socket = unixSocket settings.mxdeliv.socket {
          user = "root";
          group = "nginx";
        };
        metrics = settings.metrics.filtermail_mxdeliv;
        service = inPostfixGroup // {
          DynamicUser = true;
          PrivateNetwork = true;
          # For each message, it holds the part that has just arrived and the head of the request.
          MemoryMax = cfg.connections.smtp * 256 * 1024 + 64 * 1048576;
        };
      }))

      (lib.mkIf cfg.webSocket.enable (daemon {
        name = "chatmail-websocket";
        description = "IMAP and submission over WebSocket";
        socket = unixSocket settings.websocket.socket {
          user = "root";
          group = "nginx";
        };
        metrics = settings.metrics.websocket;
        service =
          inPostfixGroup
          // loopback
          // {
            DynamicUser = true;
            # Two sockets for each session.
            LimitNOFILE = 2 * settings.websocket.max_connections + 1024;
            # An idle session takes a few KiB; one that transfers data has a buffer in each direction.
            MemoryMax = settings.websocket.max_connections * 48 * 1024 + 64 * 1048576;
          };
      }))

      (daemon {
        name = "newemail";
        description = "New addresses over HTTP";
        socket = unixSocket settings.newemail.socket {
          user = "root";
          group = "nginx";
        };
        metrics = settings.metrics.newemail;
        # Reads the invitations.
        service = inGroups [ registration.group ] // {
          DynamicUser = true;
          PrivateNetwork = true;
          MemoryMax = "128M";
        };
      })
    ]
  );
}
