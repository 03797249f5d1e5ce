# Stands in for services.postfix of nixos-26.05 if the available modules are older: the options that this project uses,
# rendered as in that release.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  cfg = config.services.postfix;

  mainValue =
    value:
    if builtins.isList value then
      "\n  " + lib.concatStringsSep ",\n  " value
    else if builtins.isBool value then
      if value then " yes" else " no"
    else
      " ${toString value}";

  mainCf = pkgs.writeText "postfix-main.cf" (
    lib.concatStrings (
      lib.mapAttrsToList (name: value: "${name} =${mainValue value}\n") (
        lib.filterAttrs (_: value: value != null) cfg.settings.main
      )
    )
  );

  yesNo = value: if value then "y" else "n";

  masterEntry =
    { config, options, ... }:
    let
      column = option: print: if options.${option}.isDefined then print config.${option} else "-";
      argument = arg: (lib.optionalString (lib.hasPrefix "-" arg) "\n ") + " ${arg}";
    in
    {
      options = {
        name = mkOption {
          type = types.str;
          default = config._module.args.name;
        };
        type = mkOption {
          type = types.enum [
            "inet"
            "unix"
            "unix-dgram"
            "fifo"
            "pass"
          ];
          default = "unix";
        };
        private = mkOption { type = types.bool; };
        privileged = mkOption { type = types.bool; };
        chroot = mkOption { type = types.bool; };
        wakeup = mkOption { type = types.int; };
        wakeupUnusedComponent = mkOption { type = types.bool; };
        maxproc = mkOption { type = types.int; };
        command = mkOption {
          type = types.str;
          default = config._module.args.name;
        };
        args = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        line = mkOption {
          type = types.str;
          internal = true;
        };
      };

      config.line = lib.concatStringsSep "  " [
        config.name
        config.type
        (column "private" yesNo)
        (column "privileged" (value: yesNo (!value)))
        (column "chroot" yesNo)
        (column "wakeup" (
          value:
          toString value
          + lib.optionalString (options.wakeupUnusedComponent.isDefined && !config.wakeupUnusedComponent) "?"
        ))
        (column "maxproc" toString)
        (config.command + lib.concatMapStrings argument config.args)
      ];
    };

  masterCf = pkgs.writeText "postfix-master.cf" (
    lib.concatStrings (lib.mapAttrsToList (_: entry: "${entry.line}\n") cfg.settings.master)
    + cfg.extraMasterConf
  );

  aliases = lib.concatStrings [
    (lib.optionalString (cfg.postmasterAlias != "") "postmaster: ${cfg.postmasterAlias}\n")
    (lib.optionalString (cfg.rootAlias != "") "root: ${cfg.rootAlias}\n")
    cfg.extraAliases
  ];

  tables =
    command: files:
    lib.concatStrings (
      lib.mapAttrsToList (name: file: ''
        ln -sf ${file} /var/lib/postfix/conf/${name}
        ${command} /var/lib/postfix/conf/${name}
      '') files
    );

  program = lib.getExe' cfg.package;

  # Programs that every user may run with the group of Postfix's drop folder.
  setgid = name: {
    program = name;
    source = program name;
    owner = "root";
    group = cfg.setgidGroup;
    setuid = false;
    setgid = true;
  };

  text =
    default:
    mkOption {
      type = types.lines;
      inherit default;
    };
  name =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
in
{
  options.services.postfix = {
    enable = lib.mkEnableOption "Postfix";
    package = lib.mkPackageOption pkgs "postfix" { };
    enableSmtp = lib.mkEnableOption "port 25 and the SMTP clients" // {
      default = true;
    };
    setSendmail = lib.mkEnableOption "the sendmail wrapper" // {
      default = true;
    };
    user = name "postfix";
    group = name "postfix";
    setgidGroup = name "postdrop";
    postmasterAlias = name "root";
    rootAlias = name "";
    extraAliases = text "";
    extraMasterConf = text "";
    mapFiles = mkOption {
      type = types.attrsOf types.path;
      default = { };
    };
    aliasFiles = mkOption {
      type = types.attrsOf types.path;
      default = { };
    };
    settings.main = mkOption {
      default = { };
      type = types.submodule {
        freeformType = types.attrsOf (
          types.nullOr (
            types.oneOf [
              types.bool
              types.int
              types.path
              types.str
              (types.listOf types.str)
            ]
          )
        );
        options = {
          message_size_limit = mkOption {
            type = types.int;
            default = 10240000;
          };
          mydestination = mkOption {
            type = types.either types.str (types.listOf types.str);
            default = [
              "$myhostname"
              "localhost.$mydomain"
              "localhost"
            ];
          };
          myhostname = mkOption {
            type = types.nullOr types.str;
            default = null;
          };
          mynetworks = mkOption {
            type = types.nullOr (types.listOf types.str);
            default = null;
          };
          mynetworks_style = name "host";
          recipient_delimiter = name "";
          relay_domains = mkOption {
            type = types.listOf types.str;
            default = [ ];
          };
          relayhost = mkOption {
            type = types.nullOr (types.listOf types.str);
            default = [ ];
          };
          smtp_tls_CAfile = mkOption {
            type = types.path;
            default = "/etc/ssl/certs/ca-certificates.crt";
          };
          smtp_tls_security_level = mkOption {
            type = types.enum [
              "none"
              "may"
              "encrypt"
              "dane"
              "dane-only"
              "fingerprint"
              "verify"
              "secure"
            ];
            default = "may";
          };
          smtpd_tls_chain_files = mkOption {
            type = types.listOf types.path;
            default = [ ];
          };
          smtpd_tls_security_level = mkOption {
            type = types.enum [
              "none"
              "may"
              "encrypt"
            ];
            default = if cfg.settings.main.smtpd_tls_chain_files == [ ] then "none" else "may";
          };
        };
      };
    };
    settings.master = mkOption {
      type = types.attrsOf (types.submodule masterEntry);
      default = { };
    };
  };

  config = lib.mkIf cfg.enable {
    environment.etc.postfix.source = "/var/lib/postfix/conf";
    environment.systemPackages = [ cfg.package ];

    security.wrappers = lib.genAttrs [ "mailq" "postdrop" "postqueue" ] setgid;
    services.mail.sendmailSetuidWrapper = lib.mkIf cfg.setSendmail (setgid "sendmail");

    services.postfix.aliasFiles = lib.mkIf (aliases != "") {
      aliases = pkgs.writeText "postfix-aliases" aliases;
    };

    services.postfix.settings.main = {
      alias_maps = lib.mkIf (aliases != "") [ "hash:/etc/postfix/aliases" ];
    }
    // lib.mapAttrs (_: lib.mkDefault) {
      command_directory = "${cfg.package}/bin";
      compatibility_level = cfg.package.version;
      daemon_directory = "${cfg.package}/libexec/postfix";
      data_directory = "/var/lib/postfix/data";
      default_privs = "nobody";
      html_directory = "${cfg.package}/share/postfix/doc/html";
      mail_owner = cfg.user;
      mail_spool_directory = "/var/spool/mail/";
      mailq_path = program "mailq";
      manpage_directory = "${cfg.package}/share/man";
      meta_directory = "${cfg.package}/etc/postfix";
      newaliases_path = program "newaliases";
      queue_directory = "/var/lib/postfix/queue";
      readme_directory = false;
      sample_directory = "/etc/postfix";
      sendmail_path = program "sendmail";
      setgid_group = cfg.setgidGroup;
      shlib_directory = false;
    };

    services.postfix.settings.master = {
      anvil.maxproc = 1;
      bounce.maxproc = 0;
      cleanup = {
        maxproc = 0;
        private = false;
      };
      defer = {
        command = "bounce";
        maxproc = 0;
      };
      discard = { };
      error = { };
      flush = {
        maxproc = 0;
        private = false;
        wakeup = 1000;
        wakeupUnusedComponent = false;
      };
      lmtp = { };
      local.privileged = true;
      pickup = {
        maxproc = 1;
        private = false;
        wakeup = 60;
      };
      proxymap = { };
      proxywrite = {
        command = "proxymap";
        maxproc = 1;
      };
      qmgr = {
        maxproc = 1;
        private = false;
        wakeup = 300;
      };
      retry.command = "error";
      rewrite.command = "trivial-rewrite";
      scache.maxproc = 1;
      showq.private = false;
      tlsmgr = {
        maxproc = 1;
        wakeup = 1000;
        wakeupUnusedComponent = false;
      };
      trace = {
        command = "bounce";
        maxproc = 0;
      };
      verify.maxproc = 1;
      virtual.privileged = true;
    }
    // lib.optionalAttrs cfg.enableSmtp {
      smtp = { };
      relay = {
        command = "smtp";
        args = [
          "-o"
          "smtp_fallback_relay="
        ];
      };
      smtp_inet = {
        name = "smtp";
        type = "inet";
        private = false;
        command = "smtpd";
      };
    };

    systemd.services.postfix-setup = {
      description = "Setup for Postfix mail server";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
      script = ''
        mkdir -p /var/lib/postfix/queue/{pid,public,maildrop}
        chmod 0755 /var/lib/postfix
        chown root:root /var/lib/postfix

        rm -rf /var/lib/postfix/conf
        mkdir -p /var/lib/postfix/conf
        chmod 0755 /var/lib/postfix/conf
        ln -sf ${cfg.package}/etc/postfix/postfix-files /var/lib/postfix/conf/postfix-files
        ln -sf ${mainCf} /var/lib/postfix/conf/main.cf
        ln -sf ${masterCf} /var/lib/postfix/conf/master.cf

        ${tables "${program "postalias"} -o -p" cfg.aliasFiles}
        ${tables (program "postmap") cfg.mapFiles}

        mkdir -p /var/spool/mail
        chown root:root /var/spool/mail
        chmod a+rwxt /var/spool/mail

        ${program "postfix"} set-permissions config_directory=/var/lib/postfix/conf
      '';
    };

    systemd.services.postfix = {
      description = "Postfix mail server";
      documentation = [ "man:postfix(1)" ];
      wantedBy = [ "multi-user.target" ];
      requires = [ "postfix-setup.service" ];
      after = [
        "network.target"
        "postfix-setup.service"
      ];
      path = [ cfg.package ];
      serviceConfig = {
        Type = "forking";
        Restart = "always";
        PIDFile = "/var/lib/postfix/queue/pid/master.pid";
        ExecStart = "${program "postfix"} start";
        ExecStop = "${program "postfix"} stop";
        ExecReload = "${program "postfix"} reload";
        CapabilityBoundingSet = [ "~CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE" ];
        MemoryDenyWriteExecute = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectControlGroups = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "full";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
      };
    };

    users.users = lib.mkIf (cfg.user == "postfix") {
      postfix = {
        description = "Postfix mail server user";
        uid = config.ids.uids.postfix;
        group = cfg.group;
      };
    };
    users.groups = {
      ${cfg.group}.gid = config.ids.gids.postfix;
      ${cfg.setgidGroup}.gid = config.ids.gids.postdrop;
    };
  };
}
