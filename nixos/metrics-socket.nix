# Sockets that Prometheus connects to. systemd holds them, so that no daemon waits for an address that comes up later. The
# address is in the name of the unit: a change of it stops the old socket, where NixOS leaves a changed one as it is.
{ cfg, lib }:
let
  host = cfg.metrics.listenAddress;
in
rec {
  at =
    port: if lib.hasInfix ":" host then "[${host}]:${toString port}" else "${host}:${toString port}";

  # Name of the unit for a daemon, without its type.
  unit = daemon: "${daemon}-metrics-${lib.replaceStrings [ "." ":" "%" ] [ "-" "-" "-" ] host}";

  # The socket unit, which starts `service`.
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
