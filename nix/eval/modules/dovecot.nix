# Stands in for services.dovecot2 of nixos-26.05 if the available modules are older: the options that this project uses,
# rendered as in that release.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  cfg = config.services.dovecot2;

  isSection = value: builtins.isAttrs value && !lib.isDerivation value;

  scalar = value: if builtins.isBool value then if value then "yes" else "no" else toString value;

  # The settings of a section come before its subsections.
  lines =
    indent: settings:
    let
      each = print: lib.concatLists (lib.mapAttrsToList print settings);
    in
    each (
      name: value:
      let
        scalars = builtins.filter (item: !isSection item) (lib.toList value);
      in
      lib.optional (value != null && scalars != [ ]) (
        "${indent}${name} = " + lib.concatMapStringsSep " " scalar scalars
      )
    )
    ++ each (
      name: value: lib.concatMap (section indent name) (builtins.filter isSection (lib.toList value))
    );

  section =
    indent: name: value:
    let
      label = value._section or { };
      title = lib.concatStringsSep " " (
        [ (label.type or name) ] ++ lib.optional (label ? name) label.name
      );
    in
    [ "${indent}${title} {" ]
    ++ lines "${indent}  " (removeAttrs value [ "_section" ])
    ++ [ "${indent}}" ];

  versions = [
    "dovecot_config_version"
    "dovecot_storage_version"
  ];

  confFile = pkgs.writeText "dovecot.conf" (
    lib.concatMapStrings (line: "${line}\n") (
      map (name: "${name} = ${cfg.settings.${name}}") versions
      ++ map (file: "!include ${file}") cfg.includeFiles
      ++ lines "" (removeAttrs cfg.settings versions)
    )
  );

  # A fixed description, because generating one from a recursive type never ends.
  value =
    types.nullOr (
      types.oneOf [
        types.int
        types.str
        types.bool
        types.path
        (types.attrsOf value)
        (types.nonEmptyListOf value)
      ]
    )
    // {
      description = "Dovecot config value";
    };

  option =
    type: default:
    mkOption {
      inherit type default;
    };
in
{
  options.services.dovecot2 = {
    enable = lib.mkEnableOption "Dovecot";
    package = mkOption {
      type = types.package;
      default =
        if lib.versionAtLeast config.system.stateVersion "26.05" then pkgs.dovecot else pkgs.dovecot_2_3;
    };
    createMailUser = lib.mkEnableOption "the user and group that own the mail" // {
      default = true;
    };
    enablePAM = lib.mkEnableOption "logins of system users";
    includeFiles = option (types.listOf types.path) [ ];
    settings = mkOption {
      default = { };
      type = types.submodule {
        freeformType = types.attrsOf value;
        options = {
          auth_mechanisms = option (types.either (types.attrsOf types.bool) (types.listOf types.str)) [
            "plain"
            "login"
          ];
          base_dir = option types.path "/run/dovecot2";
          default_internal_user = option types.str "dovecot2";
          default_internal_group = option types.str "dovecot2";
          dovecot_config_version = option (types.nullOr types.str) null;
          dovecot_storage_version = option (types.nullOr types.str) null;
          mail_plugin_dir = option types.path "/run/current-system/sw/lib/dovecot/modules";
          maildir_copy_with_hardlinks = option types.bool true;
          sendmail_path = option types.path "/run/wrappers/bin/sendmail";
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      map (name: {
        assertion = cfg.settings.${name} != null;
        message = "services.dovecot2: since Dovecot 2.4, the option 'services.dovecot2.settings.${name}' must be explicitly set.";
      }) versions
      ++ [
        {
          assertion = !(config.systemd.services ? dovecot2);
          message = "Your configuration sets options on the `dovecot2` systemd service; the unit is `dovecot`.";
        }
      ];

    environment.etc."dovecot/dovecot.conf".source = confFile;
    environment.systemPackages = [ cfg.package ];

    systemd.services.dovecot = {
      description = "Dovecot IMAP/POP3 server";
      documentation = [
        "man:dovecot(1)"
        "https://doc.dovecot.org"
      ];
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      startLimitIntervalSec = 60;
      restartTriggers = [ confFile ];
      preStart = ''
        rm -rf /var/lib/dovecot/sieve /var/lib/dovecot/imapsieve
      '';
      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} -F";
        ExecReload = "${lib.getExe' cfg.package "doveadm"} reload";
        Restart = "on-failure";
        RestartSec = "1s";
        RuntimeDirectory = [ "dovecot2" ];
        OOMPolicy = "continue";
        CapabilityBoundingSet = map (name: "CAP_${name}") [
          "CHOWN"
          "DAC_OVERRIDE"
          "FOWNER"
          "KILL"
          "NET_BIND_SERVICE"
          "SETGID"
          "SETUID"
          "SYS_CHROOT"
          "SYS_RESOURCE"
        ];
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = false;
        PrivateDevices = true;
        PrivateTmp = true;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = lib.mkDefault false;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "full";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = false;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service @resources"
          "~@privileged"
          "@chown @setuid capset chroot"
        ];
      };
    };

    users.users = {
      dovenull = {
        description = "Dovecot user for untrusted logins";
        uid = config.ids.uids.dovenull2;
        group = "dovenull";
      };
      dovecot2 = {
        description = "Dovecot user";
        uid = config.ids.uids.dovecot2;
        group = "dovecot2";
      };
    }
    // lib.optionalAttrs (cfg.createMailUser && cfg.settings ? mail_uid) {
      ${cfg.settings.mail_uid} = {
        description = "Virtual Mail User";
        isSystemUser = true;
        group = cfg.settings.mail_gid;
      };
    };
    users.groups = {
      dovenull.gid = config.ids.gids.dovenull2;
      dovecot2.gid = config.ids.gids.dovecot2;
    }
    // lib.optionalAttrs (cfg.createMailUser && cfg.settings ? mail_gid) {
      ${cfg.settings.mail_gid} = { };
    };
  };
}
