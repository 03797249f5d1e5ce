# Certificates: from an ACME server, from files of the operator, or made by the relay itself.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  mode = cfg.tls.mode;

  # Since NixOS 25.11 a unit of its own orders the certificate; before, the one that nginx must not wait for did.
  ordersApart =
    let
      # An option that those releases removed.
      before = options.security.acme.preliminarySelfsigned or { visible = false; };
    in
    !(before.visible or true);

  # They load the certificate when they start and when they reload.
  users = [
    "dovecot.service"
    "nginx.service"
    "postfix.service"
  ];

  subjectAltName = if cfg.byAddress then "IP:$1" else "DNS:$1,DNS:www.$1,DNS:mta-sts.$1";

  # Files are often replaced one after the other: a certificate waits for its key. systemd tells nothing of changes
  # while this runs, so what was replaced meanwhile is looked for here. A key that only the daemons can read cannot be
  # compared.
  reload = pkgs.writeShellScript "chatmail-certificate-reload" ''
    set -eu
    state() {
      ${pkgs.coreutils}/bin/stat -Lc '%i %z' "$1" "$2"
    }
    fits() {
      key=$(${lib.getExe pkgs.openssl} pkey -in "$2" -pubout 2>/dev/null) || return 0
      [ "$(${lib.getExe pkgs.openssl} x509 -in "$1" -noout -pubkey)" = "$key" ]
    }
    for second in {1..300}; do
      before=$(state "$@")
      if fits "$@"; then
        ${pkgs.systemd}/bin/systemctl try-reload-or-restart ${lib.concatStringsSep " " users}
        if [ "$before" = "$(state "$@")" ]; then
          exit 0
        fi
      else
        if [ "$second" = 1 ]; then
          echo "The key does not belong to the certificate; waiting for the other file"
        fi
        ${pkgs.coreutils}/bin/sleep 1
      fi
    done
    echo "The key does not belong to the certificate: the daemons keep the old ones" >&2
    exit 1
  '';

  selfSigned = pkgs.writeShellScript "chatmail-selfsigned" ''
    set -eu
    cd "$STATE_DIRECTORY"
    if [ -s key.pem ] && [ -s fullchain.pem ]; then
      exit 0
    fi
    ${lib.getExe pkgs.openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
      -subj "/CN=$1" -addext "subjectAltName=${subjectAltName}" \
      -addext basicConstraints=critical,CA:FALSE -keyout key.pem.new -out fullchain.pem.new
    chmod 0640 key.pem.new
    chmod 0644 fullchain.pem.new
    # The key comes last: a run that was cut short starts over.
    mv fullchain.pem.new fullchain.pem
    mv key.pem.new key.pem
  '';
in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.chatmail.tls.files =
          {
            acme = {
              certificate = "/var/lib/acme/${cfg.domain}/fullchain.pem";
              key = "/var/lib/acme/${cfg.domain}/key.pem";
            };
            # Without files an assertion says so; the paths only have to be paths until then.
            external = {
              certificate = lib.defaultTo "/var/empty/certificate" cfg.tls.certificateFile;
              key = lib.defaultTo "/var/empty/key" cfg.tls.keyFile;
            };
            self-signed = {
              certificate = "/var/lib/chatmail-tls/fullchain.pem";
              key = "/var/lib/chatmail-tls/key.pem";
            };
          }
          .${mode};
      }

      (lib.mkIf (mode == "acme") {
        security.acme.certs.${cfg.domain} = {
          extraDomainNames = [
            "mta-sts.${cfg.domain}"
            "www.${cfg.domain}"
          ];
          group = lib.mkDefault "nginx";
          reloadServices = users;
          webroot = lib.mkIf (config.security.acme.certs.${cfg.domain}.dnsProvider == null) (
            lib.mkDefault "/var/lib/acme/acme-challenge"
          );
        };

        # The unit makes a temporary certificate when there is none yet.
        systemd.services =
          lib.genAttrs
            (
              [
                "dovecot"
                "postfix"
              ]
              ++ lib.optional ordersApart "nginx"
            )
            (_: {
              wants = [ "acme-${cfg.domain}.service" ];
              after = [ "acme-${cfg.domain}.service" ];
            })
          // lib.optionalAttrs ordersApart {
            # nginx answers the challenge. An order that fails, as before DNS records are known, is repeated after the
            # pause that NixOS sets for it.
            "acme-order-renew-${cfg.domain}" = {
              wants = [ "nginx.service" ];
              after = [ "nginx.service" ];
              serviceConfig.Restart = lib.mkDefault "on-failure";
            };
          };
      })

      (lib.mkIf (mode == "external") {
        systemd.paths.chatmail-certificate = {
          description = "Change of the relay's certificate";
          wantedBy = [ "multi-user.target" ];
          pathConfig.PathChanged = [
            cfg.tls.files.certificate
            cfg.tls.files.key
          ];
        };
        systemd.services.chatmail-certificate = {
          description = "Reload after a change of the relay's certificate";
          startLimitIntervalSec = 0;
          serviceConfig = hardening // {
            Type = "oneshot";
            ExecStart = "${reload} ${cfg.tls.files.certificate} ${cfg.tls.files.key}";
            CapabilityBoundingSet = "CAP_DAC_READ_SEARCH";
            PrivateNetwork = true;
            # The key may be another user's.
            PrivateUsers = false;
          };
        };
      })

      (lib.mkIf (mode == "self-signed") {
        systemd.services.chatmail-selfsigned = {
          description = "Certificate that the relay makes itself";
          wantedBy = [ "multi-user.target" ];
          # A certificate that exists stays, and who requires this unit would be stopped with it.
          restartIfChanged = false;
          requiredBy = users;
          before = users;
          serviceConfig = hardening // {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = "${selfSigned} ${cfg.domain}";
            Group = "nginx";
            StateDirectory = "chatmail-tls";
            StateDirectoryMode = "0755";
            PrivateNetwork = true;
            PrivateUsers = false;
          };
        };
      })
    ]
  );
}
