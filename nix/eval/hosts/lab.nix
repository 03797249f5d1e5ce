# What the relays of the lab have in common.
{ lib, ... }:
{
  imports = [ ../../scenario-host.nix ];

  system.stateVersion = "26.05";

  services.chatmail = {
    # The lab's network is not public. Relays refuse all of it but this address.
    turn.allowedPeers = [ "198.18.25.13" ];
    delivery.allowedNetworks = [ "198.18.25.0/24" ];
    metrics = {
      enable = true;
      publicCounts = true;
      textfileDirectory = "/var/lib/node-exporter";
    };
  };

  services.unbound.settings.forward-zone = [
    {
      name = ".";
      forward-addr = [ "198.18.25.2" ];
    }
    # A zone whose name servers never answer. The resolver judges servers by zone: without its own, it would take the
    # name server of all others for dead.
    {
      name = "tarpit.test.";
      forward-addr = [ "198.18.25.2" ];
    }
  ];

  networking.enableIPv6 = lib.mkDefault false;
}
