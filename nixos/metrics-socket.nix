# Sockets that Prometheus connects to. systemd holds them, so that no daemon has to wait for an address that appears
# later. The unit's name contains the address: NixOS does not restart changed sockets, but a new name stops the old
# socket.
{ cfg, lib }:
let
  host = cfg.metrics.listenAddress;
in
rec {
  at =
    port: if lib.hasInfix ":" host then "[${host}]:${toString port}" else "${host}:${toString port}";

  # Name of a daemon's metrics unit, without the suffix.
  unit = daemon: "${daemon}-metrics-${lib.replaceStrings [ "." ":" "%" ] [ "-" "-" "-" ] host}";

  # Socket unit that starts `service`.
  socket = daemon: address: service: {
    description = "Socket of ${daemon} for Prometheus";
    wantedBy = [ "sockets.target" ];
    socketConfig = {
      ListenStream = address;
      FreeBind = true;
      Service = "${service}.service";
      FileDescriptorName = "metrics";
      TriggerLimitIntervalSec = 0;
    };
  };
}
