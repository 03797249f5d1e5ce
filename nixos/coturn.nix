# TURN, for calls between clients that cannot reach each other directly. The module defines its own unit, so that the
# secret never enters the store and the host can run another coturn.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;

  secretFile =
    if cfg.turn.secretFile != null then cfg.turn.secretFile else "/var/lib/chatmail-turn/secret";
  ownSecret = cfg.turn.secretFile == null;

  # Clients with credentials may relay to the internet, but not into networks that only the host can reach. coturn
  # treats a range that begins with `::` as having no lower end, so it would include every IPv4 address, and `::` alone
  # as everything. It refuses the unspecified address itself.
  denied = [
    "0.0.0.0-0.255.255.255"
    "10.0.0.0-10.255.255.255"
    "100.64.0.0-100.127.255.255"
    "127.0.0.0-127.255.255.255"
    "169.254.0.0-169.254.255.255"
    "172.16.0.0-172.31.255.255"
    "192.0.0.0-192.0.0.255"
    "192.0.2.0-192.0.2.255"
    "192.88.99.0-192.88.99.255"
    "192.168.0.0-192.168.255.255"
    "198.18.0.0-198.19.255.255"
    "198.51.100.0-198.51.100.255"
    "203.0.113.0-203.0.113.255"
    "240.0.0.0-255.255.255.255"
    "::1-::ffff:ffff"
    "::ffff:0:0-::ffff:ffff:ffff"
    "64:ff9b::-64:ff9b::ffff:ffff"
    "64:ff9b:1::-64:ff9b:1:ffff:ffff:ffff:ffff:ffff"
    "100::-100::ffff:ffff:ffff:ffff"
    "2001::-2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"
    "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
    "2002::-2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    "3fff::-3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"
    "5f00::-5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    "fec0::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
  ]
  # The host's services trust connections from its own addresses.
  ++ cfg.addresses
  ++ lib.optional cfg.byAddress cfg.domain;

  # An account's user name changes only once per lifetime of its credentials, so this limit applies per account.
  allocationsPerAccount = 16;

  # Clients can connect over TCP, but coturn relays only datagrams: relayed TCP connections could be used for spam.
  configFile = pkgs.writeText "turnserver.conf" ''
    realm=${cfg.domain}
    listening-port=${toString cfg.turn.port}
    min-port=${toString cfg.turn.minPort}
    max-port=${toString cfg.turn.maxPort}
    use-auth-secret
    fingerprint
    stale-nonce=600
    user-quota=${toString allocationsPerAccount}
    total-quota=${toString (cfg.turn.maxPort - cfg.turn.minPort + 1)}
    no-cli
    no-tls
    no-dtls
    no-rfc5780
    no-multicast-peers
    no-tcp-relay
    no-software-attribute
    log-file=stdout
    ${lib.concatMapStringsSep "\n" (range: "denied-peer-ip=${range}") denied}
    ${lib.concatMapStringsSep "\n" (range: "allowed-peer-ip=${range}") cfg.turn.allowedPeers}
  '';

  # coturn reads the secret only from its configuration file, so this script assembles the file at run time, with the
  # addresses that the host has at that moment.
  start = pkgs.writeShellScript "chatmail-turn" ''
    set -eu
    # ip(8) would fail: it drops its capabilities first, which the sandbox forbids.
    addresses() {
      while read -r mark address rest; do
        if [ "$mark" = "|--" ]; then
          local=$address
        elif [ "$mark $address $rest" = "/32 host LOCAL" ]; then
          echo "$local"
        fi
      done </proc/self/net/fib_trie
      if [ -e /proc/self/net/if_inet6 ]; then
        while read -r digits _; do
          address=''${digits:0:4}
          for place in 4 8 12 16 20 24 28; do
            address+=":''${digits:place:4}"
          done
          echo "$address"
        done </proc/self/net/if_inet6
      fi
    }
    {
      cat ${configFile}
      echo "static-auth-secret=$(cat "$CREDENTIALS_DIRECTORY/turn-secret")"
      addresses | ${pkgs.coreutils}/bin/sort -u | while read -r address; do
        echo "denied-peer-ip=$address"
      done
    } >"$RUNTIME_DIRECTORY/turnserver.conf"
    exec ${cfg.turn.package}/bin/turnserver -c "$RUNTIME_DIRECTORY/turnserver.conf"
  '';

  makeSecret = pkgs.writeShellScript "chatmail-turn-secret" ''
    set -eu
    if [ -s "$1" ]; then
      exit 0
    fi
    ${lib.getExe pkgs.openssl} rand -hex 32 >"$1.new"
    mv "$1.new" "$1"
  '';

  secretUnit = lib.optional ownSecret "chatmail-turn-secret.service";
in
{
  config = lib.mkIf (cfg.enable && cfg.turn.enable) {
    services.chatmail.settings.turn = {
      host = cfg.domain;
      inherit (cfg.turn) port lifetime;
      min_port = cfg.turn.minPort;
      max_port = cfg.turn.maxPort;
      secret_file = "/run/credentials/chatmail-metadata.service/turn-secret";
    };

    networking.firewall = lib.mkIf cfg.openFirewall {
      allowedTCPPorts = [ cfg.turn.port ];
      allowedUDPPorts = [ cfg.turn.port ];
      allowedUDPPortRanges = [
        {
          from = cfg.turn.minPort;
          to = cfg.turn.maxPort;
        }
      ];
    };

    systemd.services = {
      chatmail-turn-secret = lib.mkIf ownSecret {
        description = "Secret for TURN credentials";
        wantedBy = [ "multi-user.target" ];
        # An existing secret is kept, and a restart would stop the units that require this one.
        restartIfChanged = false;
        serviceConfig = hardening // {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${makeSecret} ${secretFile}";
          StateDirectory = "chatmail-turn";
          StateDirectoryMode = "0700";
          PrivateNetwork = true;
        };
      };

      chatmail-metadata = {
        requires = secretUnit;
        after = secretUnit;
        serviceConfig.LoadCredential = [ "turn-secret:${secretFile}" ];
      };

      chatmail-turn = {
        description = "TURN server of the relay";
        wantedBy = [ "multi-user.target" ];
        requires = secretUnit;
        # coturn listens only on addresses that exist when it starts.
        wants = [ "network-online.target" ];
        after = secretUnit ++ [ "network-online.target" ];
        startLimitIntervalSec = 0;
        stopIfChanged = false;
        serviceConfig = hardening // {
          Type = "simple";
          ExecStart = "${start}";
          Restart = "always";
          RestartSec = "1s";
          DynamicUser = true;
          # coturn would log the address of every client.
          LogFilterPatterns = [
            "ERROR"
            "~session"
          ]
          ++ (import ./log-filters.nix).namesSomebody;
          LoadCredential = [ "turn-secret:${secretFile}" ];
          RuntimeDirectory = "chatmail-turn";
          RuntimeDirectoryMode = "0700";
          RestrictAddressFamilies = [
            "AF_INET"
            "AF_INET6"
            # coturn looks up the host's addresses.
            "AF_NETLINK"
            "AF_UNIX"
          ];
          IPAddressDeny = "";
          LimitNOFILE = 65536;
          TasksMax = 512;
          MemoryMax = "512M";
        };
      };
    };
  };
}
