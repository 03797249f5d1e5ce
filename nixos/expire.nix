# Timers that process all mailboxes: removal of old mail and accounts, reports, counts.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;

  limits = import ./limits.nix;

  # Arguments that Dovecot passes to chatmail-quota-expire.
  makeRoom.args = "${
    toString (cfg.mailboxes.quota * limits.trimToPercent / 100 / 1048576)
  } ${cfg.mailboxes.directory}/%{user}";

  # A run over all mailboxes, at lower priority than mail.
  job =
    {
      name,
      description,
      command,
      at,
      service ? { },
    }:
    {
      systemd.timers.${name} = {
        inherit description;
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnCalendar = at;
          # A machine that was off at that time runs the job later.
          Persistent = true;
        };
      };
      systemd.services.${name} = {
        inherit description;
        serviceConfig =
          hardening
          // {
            Type = "oneshot";
            ExecStart = utils.escapeSystemdExecArgs (
              [ "${cfg.package}/bin/${lib.head command}" ]
              ++ lib.tail command
              ++ [
                "--settings"
                "${cfg.settingsFile}"
              ]
            );
            User = "vmail";
            Group = "vmail";
            PrivateUsers = false;
            PrivateNetwork = true;
            ProtectHome = "tmpfs";
            BindReadOnlyPaths = [ cfg.mailboxes.directory ];
            Nice = 19;
            IOSchedulingClass = "idle";
            # The kernel's cache of the folders that the job reads counts too.
            MemoryMax = "1G";
            TasksMax = 512;
            # The filter in hardening.nix excludes the system calls that set thread priorities.
            SystemCallFilter = [ "@system-service" ];
          }
          // service;
      };
    };
in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      (job {
        name = "chatmail-expire";
        description = "Removal of old messages and inactive accounts";
        command = [
          "chatmail-expire"
          "--remove"
        ];
        at = "*-*-* 00:02:00";
        service = {
          BindReadOnlyPaths = [ ];
          BindPaths = [ cfg.mailboxes.directory ];
        };
      })

      (job {
        name = "chatmail-fsreport";
        description = "Report on mailboxes and logins";
        command = [ "chatmail-fsreport" ];
        at = "*-*-* 08:02:00";
      })

      (lib.mkIf (cfg.metrics.textfileDirectory != null) (job {
        name = "chatmail-fsreport-textfile";
        description = "Sizes of mailboxes for Prometheus";
        command = [
          "chatmail-fsreport"
          "--textfile"
          "${cfg.metrics.textfileDirectory}/fsreport.prom"
        ];
        at = "hourly";
        service = {
          ReadWritePaths = [ cfg.metrics.textfileDirectory ];
          UMask = "0022";
        };
      }))

      (lib.mkIf cfg.metrics.publicCounts (job {
        name = "chatmail-metrics";
        description = "Account counts that the web site serves";
        command = [
          "chatmail-fsreport"
          "--legacy-metrics"
          "/var/lib/chatmail-metrics/metrics"
        ];
        at = "*:0/5";
        service = {
          StateDirectory = "chatmail-metrics";
          StateDirectoryMode = "0755";
          UMask = "0022";
        };
      }))

      (lib.mkIf cfg.metrics.publicCounts {
        services.nginx.virtualHosts.${cfg.domain}.locations."= /metrics".extraConfig = ''
          default_type text/plain;
          types { }
          alias /var/lib/chatmail-metrics/metrics;
        '';
      })

      {
        services.dovecot2.settings = {
          "quota \"User quota\"" = {
            "warning nearly-full" = {
              quota_storage_percentage = limits.trimAtPercent;
              "execute quota-warning" = makeRoom;
            };
            "warning many-messages" = {
              quota_warning_resource = "message";
              quota_message_percentage = limits.trimAtPercent;
              "execute quota-warning" = makeRoom;
            };
          };
          "service quota-warning" = {
            executable = "script ${cfg.package}/bin/chatmail-quota-expire --settings ${cfg.settingsFile}";
            user = "vmail";
            "unix_listener quota-warning" = {
              user = "vmail";
              mode = "0600";
            };
          };
        };
      }
    ]
  );
}
