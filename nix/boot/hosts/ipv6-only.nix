# A host without an IPv4 address.
{ lib, ... }:
{
  imports = [ ../../eval/hosts/lab.nix ];

  services.chatmail = {
    domain = "_a.test";
    addresses = [ "fd00:198:18:25::b" ];
    metrics.listenAddress = "fd00:198:18:25::b";
  };

  services.unbound.settings.forward-zone = lib.mkForce [
    {
      name = ".";
      forward-addr = [ "fd00:198:18:25::2" ];
    }
  ];

  networking.enableIPv6 = true;
}
