# What the relays of the lab have in common.
{ lib, ... }:
{
  imports = [ ../../played.nix ];

  system.stateVersion = "26.05";

  services.chatmail = {
    # Calls between clients of the lab stay in its network.
    turn.allowedPeers = [ "198.18.25.0-198.18.25.255" ];
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
  ];

  networking.enableIPv6 = lib.mkDefault false;
}
