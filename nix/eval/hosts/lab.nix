# Common settings of the lab's relays.
{ lib, ... }:
{
  imports = [ ../../scenario-host.nix ];

  system.stateVersion = "26.05";

  services.chatmail = {
    # The lab's network is not public. Calls are relayed to no other address in it.
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
    # A zone whose name servers never answer. unbound tracks the health of servers per zone: without an entry of its
    # own, this zone would make it consider the name server of all others dead.
    {
      name = "tarpit.test.";
      forward-addr = [ "198.18.25.2" ];
    }
  ];

  networking.enableIPv6 = lib.mkDefault false;
}
