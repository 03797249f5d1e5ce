# Metrics for Prometheus: counters from the journal (mtail) and Dovecot's own.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  metricsSockets = import ./metrics-socket.nix { inherit cfg lib; };
  # Dovecot and mtail listen on loopback, because they do not start if metrics.listenAddress does not exist yet.
  proxied = {
    dovecot = {
      name = "Dovecot";
      public = 3904;
      loopback = 10904;
    };
    mtail = {
      name = "mtail";
      public = 3903;
      loopback = 10903;
    };
  };
  loopback = lib.hasPrefix "127." cfg.metrics.listenAddress || cfg.metrics.listenAddress == "::1";

  # mtail counts lines of its standard input. The script reads the journal in batches and saves its position only after
  # it has passed on a complete batch: a kill at any moment neither loses lines nor counts them twice, and lines logged
  # while mtail was down are counted later. Counting begins when the unit starts for the first time. The trap ends mtail
  # with its feeder; otherwise it would wait forever for more lines.
  mtail = pkgs.writeShellScript "chatmail-mtail" ''
    set -u
    cd "$STATE_DIRECTORY"
    journal() {
      ${pkgs.systemd}/bin/journalctl --quiet --cursor-file=next "$@" && ${pkgs.coreutils}/bin/mv next cursor
    }
    feed() {
      trap "kill $$" EXIT
      [ -e cursor ] || journal --lines=1 >/dev/null
      while ${pkgs.coreutils}/bin/cp cursor next; do
        journal --output=short-iso
        ${pkgs.coreutils}/bin/sleep 2
      done
    }
    exec ${lib.getExe cfg.metrics.package} --address=127.0.0.1 --port=${toString proxied.mtail.loopback} \
      --progs=${./files/relay.mtail} --logs=- --logtostderr < <(feed)
  '';

  # A label of a metric.
  label = name: { _section = { inherit name; }; };
  # A histogram in microseconds with one bucket per power of ten.
  histogram =
    name: from: to:
    label name
    // {
      "method exponential" = {
        base = 10;
        min_magnitude = from;
        max_magnitude = to;
      };
    };
  duration = histogram "duration";

  finished = "event=imap_command_finished";
  idle = "${finished} AND cmd_name=IDLE";
  unhibernated = "event=imap_client_unhibernated";
  delivered = "event=mail_delivery_finished";

  # Events that Dovecot counts, with the names of the reference relay.
  dovecotMetrics = {
    imap_command = {
      filter = finished;
      fields = [
        "bytes_in"
        "bytes_out"
        "lock_wait_usecs"
        "running_usecs"
      ];
      group_by = [
        (label "cmd_name")
        (label "tagged_reply_state")
      ];
    };
    imap_command_duration = {
      filter = finished;
      group_by = [
        (label "cmd_name")
        (duration 1 8)
      ];
    };
    imap_command_slow = {
      filter = "${finished} AND duration>1000000 AND NOT cmd_name=IDLE";
      group_by = [ (label "cmd_name") ];
    };
    imap_idle = {
      filter = idle;
      fields = [
        "bytes_in"
        "bytes_out"
        "running_usecs"
      ];
      group_by = [ (label "tagged_reply_state") ];
    };
    imap_idle_duration = {
      filter = idle;
      group_by = [ (duration 5 11) ];
    };
    imap_idle_commands = {
      filter = idle;
      group_by = [ (label "tagged_reply_state") ];
    };
    imap_idle_failed.filter = "${idle} AND NOT tagged_reply_state=OK";

    imap_hibernated.filter = "event=imap_client_hibernated";
    imap_hibernated_failed.filter = "event=imap_client_hibernated AND error=*";
    imap_unhibernated = {
      filter = unhibernated;
      fields = [ "hibernation_usecs" ];
    };
    imap_unhibernated_reason = {
      filter = unhibernated;
      fields = [ "hibernation_usecs" ];
      group_by = [ (label "reason") ];
    };
    imap_unhibernated_reason_sleep = {
      filter = unhibernated;
      group_by = [
        (label "reason")
        (histogram "hibernation_usecs" 4 8)
      ];
    };
    imap_unhibernated_failed.filter = "${unhibernated} AND error=*";
    imap_hibernation_duration = {
      filter = unhibernated;
      group_by = [
        (label "reason")
        (duration 5 11)
      ];
    };

    auth_request = {
      filter = "event=auth_request_finished";
      group_by = [ (label "success") ];
    };
    auth_request_duration = {
      filter = "event=auth_request_finished";
      group_by = [
        (label "success")
        (duration 2 6)
      ];
    };
    # A failed request has no field `success`.
    auth_failed.filter = "event=auth_request_finished AND NOT success=yes";
    auth_passdb = {
      filter = "event=auth_passdb_request_finished";
      group_by = [
        (label "result")
        (label "cache")
      ];
    };
    auth_master_login.filter = "event=auth_master_client_login_finished";
    auth_master_login_failed.filter = "event=auth_master_client_login_finished AND error=*";

    mail_delivery.filter = delivered;
    mail_delivery_duration = {
      filter = delivered;
      group_by = [ (duration 3 7) ];
    };
    mail_delivery_failed.filter = "${delivered} AND error=*";

    client_connected.filter = "event=client_connection_connected AND category=\"service:imap\"";
    client_disconnected = {
      filter = "event=client_connection_disconnected AND category=\"service:imap\"";
      fields = [
        "bytes_in"
        "bytes_out"
      ];
    };
  };

  RestrictAddressFamilies = [
    "AF_INET"
    "AF_INET6"
    "AF_UNIX"
  ];
  reachable = if loopback then { IPAddressAllow = "localhost"; } else { IPAddressDeny = ""; };
in
{
  config = lib.mkIf (cfg.enable && cfg.metrics.enable) {
    services.dovecot2.settings = {
      "service stats"."inet_listener http" = {
        port = proxied.dovecot.loopback;
        listen = "127.0.0.1";
      };
    }
    // lib.mapAttrs' (name: lib.nameValuePair "metric ${name}") dovecotMetrics;

    systemd.sockets = lib.mapAttrs' (
      daemon: ports:
      let
        unit = metricsSockets.unit daemon;
      in
      lib.nameValuePair unit (metricsSockets.socket daemon (metricsSockets.at ports.public) unit)
    ) proxied;

    systemd.services =
      lib.mapAttrs' (
        daemon: ports:
        lib.nameValuePair (metricsSockets.unit daemon) {
          description = "Proxy from Prometheus to ${ports.name}";
          startLimitIntervalSec = 0;
          stopIfChanged = false;
          serviceConfig =
            hardening
            // {
              Type = "notify";
              ExecStart = "${pkgs.systemd}/lib/systemd/systemd-socket-proxyd --connections-max=16 127.0.0.1:${toString ports.loopback}";
              Restart = "always";
              RestartSec = "1s";
              DynamicUser = true;
              inherit RestrictAddressFamilies;
            }
            // reachable;
        }
      ) proxied
      // {
        mtail = {
          description = "Counters of the relay for Prometheus";
          wantedBy = [ "multi-user.target" ];
          startLimitIntervalSec = 0;
          serviceConfig = hardening // {
            Type = "simple";
            ExecStart = "${mtail}";
            Restart = "always";
            RestartSec = "1s";
            DynamicUser = true;
            SupplementaryGroups = [ "systemd-journal" ];
            StateDirectory = "mtail";
            StateDirectoryMode = "0700";
            # Writing to an mtail that has exited must fail.
            IgnoreSIGPIPE = false;
            # journalctl reads the boot ID from /proc.
            ProcSubset = "all";
            # The host's groups have no effect in a user namespace.
            PrivateUsers = false;
            inherit RestrictAddressFamilies;
            TasksMax = 512;
            MemoryMax = "512M";
            IPAddressAllow = "localhost";
          };
        };
      };
  };
}
