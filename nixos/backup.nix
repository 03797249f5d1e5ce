# The complete state of a relay, and backups of it with restic.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  backup = cfg.backup;
  # An assertion reports a missing password.
  enabled = cfg.enable && backup.repository != null && backup.passwordFile != null;

  # The table "State" of docs/operator-guide.md, in its order; a test compares the two. `required` folders exist on every
  # relay with these settings. The queue is not backed up: restoring an old queue sends mail twice. The numeric IDs are
  # not restored: files get the IDs that their owners have on the new host.
  entry = path: owner: {
    inherit path owner;
    required = true;
    backup = true;
    restore = true;
  };
  optional = path: owner: entry path owner // { required = false; };
  state = [
    (entry cfg.mailboxes.directory "vmail")
  ]
  ++ lib.optional (!cfg.byAddress) (entry "/var/lib/chatmail-dkim" "opendkim")
  ++ lib.optional (cfg.tls.mode == "acme") (entry "/var/lib/acme" "acme")
  ++ lib.optional (cfg.tls.mode == "self-signed") (entry "/var/lib/chatmail-tls" "root")
  ++ lib.optional (cfg.turn.enable && cfg.turn.secretFile == null) (
    entry "/var/lib/chatmail-turn" "root"
  )
  ++ [
    (entry "/var/lib/chatmail-metadata" "vmail")
    (
      entry config.services.postfix.settings.main.queue_directory "postfix"
      // {
        backup = false;
        restore = false;
      }
    )
    (entry "/var/lib/chatmail" "root")
    # Snapshots of earlier releases do not contain it.
    (optional (import ./registration.nix).directory "vmail")
    (optional "/etc/chatmail-nocreate" "root")
    (optional "/var/lib/nixos" "root" // { restore = false; })
  ];

  # restic only prints a warning about a missing folder, for example of a disk that is not mounted.
  paths = ''
    #!${pkgs.runtimeShell}
    set -eu
    for path in ${
      lib.concatMapStringsSep " " (entry: entry.path) (
        lib.filter (entry: entry.backup && entry.required) state
      )
    }; do
      if [ ! -d "$path" ]; then
        echo "$path is missing: there is nothing to back up" >&2
        exit 1
      fi
      echo "$path"
    done
    for path in ${
      lib.concatMapStringsSep " " (entry: entry.path) (
        lib.filter (entry: entry.backup && !entry.required) state
      )
    }; do
      if [ -e "$path" ]; then
        echo "$path"
      fi
    done
  '';

  # `chatmail migrate import` and `chatmail restore` create these files, and remove them at their end.
  whole.unitConfig.ConditionPathExists = [
    "!/var/lib/chatmail/import-unfinished"
    "!/var/lib/chatmail/restore-incomplete"
  ];

  # Snapshots are found by these, whatever the host is called.
  ofThisRelay = [
    "--tag chatmail"
    "--host ${cfg.domain}"
    "--group-by host,tags"
  ];
in
{
  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      services.chatmail.settings = {
        inherit state;
        backup =
          if !enabled then
            null
          else
            {
              inherit (backup) repository;
              password_file = backup.passwordFile;
              environment_file = backup.environmentFile;
              restic = "${backup.package}/bin/restic";
            };
      };
      # After a reboot in the middle of an import or a restore, nobody may get the address of an account that is still
      # missing.
      systemd.services = lib.genAttrs [ "dovecot" "postfix" ] (_: whole);
    })

    (lib.mkIf enabled {
      services.restic.backups.chatmail = {
        inherit (backup)
          package
          repository
          passwordFile
          environmentFile
          ;
        timerConfig = backup.timer;
        dynamicFilesFrom = paths;
        # What Dovecot is still writing; the sender of such a message has it until it is complete.
        exclude = [
          "${cfg.mailboxes.directory}/*/tmp/*"
          "${cfg.mailboxes.directory}/*/.*/tmp/*"
        ];
        extraBackupArgs = ofThisRelay;
        pruneOpts = lib.optionals (backup.keep != [ ]) (ofThisRelay ++ backup.keep);
      };
      systemd.services.restic-backups-chatmail = whole // {
        description = "Backup of the relay";
        # Mail has precedence.
        serviceConfig = {
          Nice = 10;
          IOSchedulingClass = "idle";
        };
      };
      systemd.timers.restic-backups-chatmail = lib.mkIf (backup.timer != null) {
        description = "Backup of the relay";
      };
    })
  ];
}
