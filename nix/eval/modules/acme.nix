# Replaces security.acme if the available modules are older than nixos-26.05: options, units and their order are those of
# that release, written anew. It does not contain certificate signing requests, S3, and messages about removed options.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  cfg = config.security.acme;

  state = "/var/lib/acme";
  # RuntimeDirectory of acme-setup.service, which stays active.
  locks = "/run/acme";
  owner = if cfg.useRoot then "root" else "acme";

  hash = text: lib.substring 0 20 (builtins.hashString "sha256" text);
  isAddress = name: lib.hasInfix ":" name || builtins.match "([0-9]+\\.){3}[0-9]+" name != null;
  webroots = lib.unique (
    lib.filter (root: root != null) (lib.catAttrs "webroot" (lib.attrValues cfg.certs))
  );

  sandbox = {
    Type = "oneshot";
    User = owner;
    Group = lib.mkDefault "acme";
    UMask = "0022";
    WorkingDirectory = "/tmp";
    StateDirectoryMode = "750";
    ReadWritePaths = [
      state
      locks
    ]
    ++ lib.filter (root: !lib.hasPrefix "${state}/" root) webroots;
    CapabilityBoundingSet = [ "" ];
    DevicePolicy = "closed";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateTmp = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [
      "AF_INET"
      "AF_INET6"
      "AF_UNIX"
      "AF_NETLINK"
    ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service @resources"
      "~@privileged"
      "@chown"
    ];
  };

  # Limits how many scripts run at the same time.
  limited =
    script:
    lib.optionalString (cfg.maxConcurrentRenewals > 0) ''
      echo "Waiting to acquire lock in ${locks}"
      until [ -n "''${locked-}" ]; do
        for slot in {1..${toString cfg.maxConcurrentRenewals}}; do
          exec {lock}>"${locks}/$slot.lock"
          if ${pkgs.flock}/bin/flock -n "$lock"; then
            locked=$slot
            break
          fi
          exec {lock}>&-
        done
        [ -n "''${locked-}" ] || sleep 1
      done
    ''
    + script;

  # Gives folders to the certificate's group.
  share = group: folders: ''
    for folder in ${folders}; do
      if [ -d "$folder" ]; then
        chmod -R u=rwX,g=rX,o= "$folder"
        chown -R ${owner}:${group} "$folder"
      fi
    done
  '';

  setup = {
    description = "Set up the ACME certificate renewal infrastructure";
    path = [ pkgs.minica ];
    script = lib.mkBefore ''
      set -euo pipefail
      test -e ca/key.pem || minica --ca-key ca/key.pem --ca-cert ca/cert.pem --domains selfsigned.local
    '';
    serviceConfig = sandbox // {
      RemainAfterExit = true;
      BindPaths = "${state}/.minica:/tmp/ca";
      ExecStartPre =
        "+"
        + lib.getExe (
          pkgs.writeShellScriptBin "acme-setup-privileged" (
            ''
              set -euo pipefail
              cd ${state}
              chmod -R u=rwX,g=,o= .lego/accounts
              chown -R ${owner} .lego/accounts
            ''
            + lib.concatStrings (
              lib.mapAttrsToList (
                name: cert: share cert.group "${lib.escapeShellArg name} .lego/${lib.escapeShellArg name}"
              ) cfg.certs
            )
          )
        );
      RuntimeDirectory = "acme";
      RuntimeDirectoryMode = "0700";
      StateDirectory = [
        "acme"
        "acme/.lego"
        "acme/.lego/accounts"
        "acme/.minica"
      ];
      StateDirectoryMode = "0755";
      UMask = "0077";
    };
  };

  unitsOf =
    name: cert:
    let
      # Files of wildcard certificates have an underscore in their name.
      file = builtins.replaceStrings [ "*" ] [ "_" ] cert.domain;
      names = [ cert.domain ] ++ cert.extraDomainNames;
      account = hash "${toString cert.server} ${cert.keyType} ${lib.defaultTo "noemail@example.com" cert.email}";
      settings = hash (
        builtins.toJSON [
          cert.extraLegoFlags
          cert.extraLegoRunFlags
          cert.extraLegoRenewFlags
          cert.server
          cert.dnsProvider
          cert.ocspMustStaple
          cert.keyType
          cert.profile
        ]
      );

      challenge =
        if cert.dnsProvider != null then
          [
            "--dns"
            cert.dnsProvider
          ]
          ++ lib.optional (!cert.dnsPropagationCheck) "--dns.propagation-disable-ans"
          ++ lib.optionals (cert.dnsResolver != null) [
            "--dns.resolvers"
            cert.dnsResolver
          ]
        else if cert.listenHTTP != null then
          [
            "--http"
            "--http.port"
            cert.listenHTTP
          ]
        else
          [
            "--http"
            "--http.webroot"
            cert.webroot
          ];
      common = [
        "--accept-tos"
        "--path"
        "."
      ]
      ++ lib.optionals (cert.email != null) [
        "--email"
        cert.email
      ]
      ++ challenge
      ++ lib.optionals (cert.server != null) [
        "--server"
        cert.server
      ]
      ++ [
        "--key-type"
        cert.keyType
      ]
      ++ lib.concatMap (name: [
        "-d"
        name
      ]) names
      ++ cert.extraLegoFlags;
      lego =
        verb: more:
        lib.escapeShellArgs (
          [ "lego" ]
          ++ common
          ++ verb
          ++ lib.optional cert.ocspMustStaple "--must-staple"
          ++ lib.optional (cert.profile != null) "--profile=${cert.profile}"
          ++ more
        );
      run = lego [ "run" ] cert.extraLegoRunFlags;
      renew = lego [
        "renew"
        "--no-random-sleep"
      ] cert.extraLegoRenewFlags;
      due = if cert.validMinDays == null then "--dynamic" else "--days ${toString cert.validMinDays}";
      # A failed renewal is ignored while the certificate is valid for more seconds than this.
      needed =
        if cert.validMinDays == null then
          "total / (total < 864000 ? 2 : 3)"
        else
          "(${toString cert.validMinDays} + 1) * 86400 - 1";
    in
    {
      services."acme-${name}" = {
        description = "Ensure certificate for ${name}";
        wantedBy = [ "multi-user.target" ];
        wants = [
          "acme-setup.service"
          "acme-order-renew-${name}.service"
        ];
        after = [ "acme-setup.service" ];
        before = [ "acme-order-renew-${name}.service" ];
        restartTriggers = [ config.systemd.services."acme-order-renew-${name}".script ];
        unitConfig.StartLimitIntervalSec = 0;
        path = [ pkgs.minica ];
        script = limited ''
          set -ex
          # Skipped after the first order that succeeded.
          if [ -e out/acme-success ]; then
            exit 0
          fi
          minica --ca-cert=ca/cert.pem --ca-key=ca/key.pem \
            --domains=${
              lib.escapeShellArg (lib.concatStringsSep "," (lib.filter (name: !isAddress name) names))
            } \
            --ip-addresses=${lib.escapeShellArg (lib.concatStringsSep "," (lib.filter isAddress names))}
          cp -v '${file}/cert.pem' '${file}/key.pem' out/
          cat out/cert.pem ca/cert.pem > out/fullchain.pem
          cp ca/cert.pem out/chain.pem
          cat out/key.pem out/fullchain.pem > out/full.pem
          ${share cert.group "out certificates"}
        '';
        serviceConfig = sandbox // {
          Group = cert.group;
          RemainAfterExit = true;
          BindPaths = [
            "${state}/.minica:/tmp/ca"
            "${state}/${name}:/tmp/out"
          ];
          StateDirectory = "acme/${name}";
          UMask = "0027";
        };
      };

      services."acme-order-renew-${name}" = {
        description = "Order (and renew) ACME certificate for ${name}";
        wants = [
          "network-online.target"
          "acme-setup.service"
          "acme-${name}.service"
        ];
        after = [
          "network.target"
          "network-online.target"
          "nss-lookup.target"
          "acme-setup.service"
          "acme-${name}.service"
        ];
        path = [
          pkgs.coreutils
          pkgs.diffutils
          pkgs.lego
          pkgs.openssl
        ];
        script = limited ''
          ${lib.optionalString cert.enableDebugLogs "set -x"}
          set -euo pipefail

          # Whether a failed renewal can be ignored.
          lasts() {
            [ -e "$1" ]
            from=$(date -d "$(openssl x509 -in "$1" -noout -startdate | cut -d= -f2)" +%s)
            to=$(date -d "$(openssl x509 -in "$1" -noout -enddate | cut -d= -f2)" +%s)
            total=$((to - from))
            [ $((to - $(date +%s))) -gt $((${needed})) ]
          }

          echo '${hash "${lib.concatStringsSep " " cert.extraDomainNames} ${cert.domain}"}' > domainhash.txt
          if cmp -s domainhash.txt certificates/domainhash.txt \
            && [ -e 'certificates/${file}.key' ] && [ -e 'certificates/${file}.crt' ] \
            && [ -n "$(find accounts -name '${lib.defaultTo "noemail@example.com" cert.email}.key')" ]; then
            if ! ${renew} ${due}; then
              lasts out/full.pem || exit 11
              echo "nixos-acme: Ignoring failed renewal because expiration isn't due yet" >&2
            fi
          elif ! ${run}; then
            echo "Failed to fetch certificates: the self-signed ones stay" >&2
            exit 10
          fi
          mv domainhash.txt certificates/
          touch out/acme-success

          if ! cmp -s 'certificates/${file}.crt' out/fullchain.pem; then
            touch out/renewed
            cp -v 'certificates/${file}.crt' out/fullchain.pem
            cp -v 'certificates/${file}.key' out/key.pem
            cp -v 'certificates/${file}.issuer.crt' out/chain.pem
            ln -sf fullchain.pem out/cert.pem
            cat out/key.pem out/fullchain.pem > out/full.pem
          fi
          ${share cert.group "out certificates"}
          chmod -R u=rwX,g=,o= accounts/.
        '';
        serviceConfig = sandbox // {
          Group = cert.group;
          BindPaths = [
            "${state}/.lego/accounts/${account}:/tmp/accounts"
            "${state}/${name}:/tmp/out"
            "${state}/.lego/${name}/${settings}:/tmp/certificates"
          ];
          StateDirectory = [
            "acme/${name}"
            "acme/.lego/${name}"
            "acme/.lego/${name}/${settings}"
            "acme/.lego/accounts/${account}"
          ];
          Environment = lib.mapAttrsToList (key: _: ''"${key}=%d/${key}"'') cert.credentialFiles;
          EnvironmentFile = lib.mkIf (cert.environmentFile != null) cert.environmentFile;
          LoadCredential = lib.mapAttrsToList (key: file: "${key}:${file}") cert.credentialFiles;
          RestartSec = 15 * 60;
          ExecStartPost =
            "+"
            + pkgs.writeShellScript "acme-postrun" ''
              cd ${state}/${lib.escapeShellArg name}
              if [ -e renewed ]; then
                rm renewed
                ${cert.postRun}
                ${lib.optionalString (
                  cert.reloadServices != [ ]
                ) "systemctl --no-block try-reload-or-restart ${lib.escapeShellArgs cert.reloadServices}"}
              fi
            '';
        };
      };

      timers."acme-renew-${name}" = {
        description = "Renew ACME Certificate for ${name}";
        wantedBy = [ "timers.target" ];
        unitConfig.X-OnlyManualStart = true;
        timerConfig = {
          OnCalendar = cert.renewInterval;
          Unit = "acme-order-renew-${name}.service";
          Persistent = "yes";
          AccuracySec = "${toString (86400 / lib.length (lib.attrNames cfg.certs))}s";
          FixedRandomDelay = true;
          RandomizedDelaySec = cert.renewJitter;
        };
      };

      inherit account;
      unit = "acme-order-renew-${name}.service";
      viaDns = cert.dnsProvider != null;
    };

  units = lib.mapAttrs unitsOf cfg.certs;
  merged = kind: lib.mkMerge (map (of: of.${kind}) (lib.attrValues units));

  # The first certificate of an account creates the account; the others wait for it.
  accounts = lib.mapAttrs' (
    account: members:
    let
      dns = lib.filter (of: of.viaDns) members;
      leader = (lib.head (if dns == [ ] then members else dns)).unit;
      followers = lib.filter (unit: unit != leader) (lib.catAttrs "unit" members);
    in
    lib.nameValuePair "acme-account-${account}" {
      requires = [ leader ];
      after = [ leader ];
      requiredBy = followers;
      before = followers;
      unitConfig.RefuseManualStart = true;
    }
  ) (lib.groupBy (of: of.account) (lib.attrValues units));

  inherited =
    ofDefaults:
    { config, ... }:
    {
      options =
        lib.mapAttrs
          (
            name:
            { type, default }:
            mkOption {
              inherit type;
              default = if ofDefaults || !config.inheritDefaults then default else cfg.defaults.${name};
            }
          )
          {
            credentialFiles = {
              type = types.attrsOf types.path;
              default = { };
            };
            dnsPropagationCheck = {
              type = types.bool;
              default = true;
            };
            dnsProvider = {
              type = types.nullOr types.str;
              default = null;
            };
            dnsResolver = {
              type = types.nullOr types.str;
              default = null;
            };
            email = {
              type = types.nullOr types.str;
              default = null;
            };
            enableDebugLogs = {
              type = types.bool;
              default = true;
            };
            environmentFile = {
              type = types.nullOr types.path;
              default = null;
            };
            extraLegoFlags = {
              type = types.listOf types.str;
              default = [ ];
            };
            extraLegoRenewFlags = {
              type = types.listOf types.str;
              default = [ ];
            };
            extraLegoRunFlags = {
              type = types.listOf types.str;
              default = [ ];
            };
            group = {
              type = types.str;
              default = "acme";
            };
            keyType = {
              type = types.str;
              default = "ec256";
            };
            listenHTTP = {
              type = types.nullOr types.str;
              default = null;
            };
            ocspMustStaple = {
              type = types.bool;
              default = false;
            };
            postRun = {
              type = types.lines;
              default = "";
            };
            profile = {
              type = types.nullOr types.str;
              default = null;
            };
            reloadServices = {
              type = types.listOf types.str;
              default = [ ];
            };
            renewInterval = {
              type = types.str;
              default = "daily";
            };
            renewJitter = {
              type = types.str;
              default = "24h";
            };
            server = {
              type = types.nullOr types.str;
              default = "https://acme-v02.api.letsencrypt.org/directory";
            };
            webroot = {
              type = types.nullOr types.str;
              default = null;
            };
          }
        // {
          # Certificates do not inherit this default.
          validMinDays = mkOption {
            type = types.nullOr types.int;
            default = null;
          };
        };
    };

  ofCertificate =
    { name, ... }:
    {
      options = {
        directory = mkOption {
          type = types.str;
          default = "${state}/${name}";
          readOnly = true;
        };
        domain = mkOption {
          type = types.str;
          default = name;
        };
        extraDomainNames = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        inheritDefaults = mkOption {
          type = types.bool;
          default = true;
        };
      };
    };
in
{
  imports = [
    (lib.mkRemovedOptionModule [
      "security"
      "acme"
      "preliminarySelfsigned"
    ] "Self-signed certificates are always made until a server has given others.")
  ];

  options.security.acme = {
    acceptTerms = mkOption {
      type = types.bool;
      default = false;
    };
    maxConcurrentRenewals = mkOption {
      type = types.int;
      default = 5;
    };
    useRoot = mkOption {
      type = types.bool;
      default = false;
    };
    defaults = mkOption {
      type = types.submodule (inherited true);
      default = { };
    };
    certs = mkOption {
      type = types.attrsOf (
        types.submodule [
          (inherited false)
          ofCertificate
        ]
      );
      default = { };
    };
  };

  config = lib.mkIf (cfg.certs != { }) {
    assertions = [
      {
        assertion = cfg.acceptTerms;
        message = "security.acme.acceptTerms must be true: certificate authorities have terms of service.";
      }
    ]
    ++ lib.mapAttrsToList (name: cert: {
      assertion =
        lib.count (value: value != null) [
          cert.dnsProvider
          cert.listenHTTP
          cert.webroot
        ] == 1;
      message = "security.acme.certs.${name} needs exactly one of dnsProvider, listenHTTP and webroot.";
    }) cfg.certs;

    systemd.services = lib.mkMerge [
      { acme-setup = setup; }
      (merged "services")
    ];
    systemd.timers = merged "timers";
    systemd.targets = accounts;

    systemd.tmpfiles.settings."10-acme" =
      lib.genAttrs
        (lib.concatMap (root: [
          root
          "${root}/.well-known"
          "${root}/.well-known/acme-challenge"
        ]) webroots)
        (_: {
          d = {
            mode = "0755";
            user = owner;
            group = "acme";
          };
        });

    users.groups.acme = { };
    users.users.acme = {
      isSystemUser = true;
      group = "acme";
      home = state;
      homeMode = "755";
    };
  };
}
