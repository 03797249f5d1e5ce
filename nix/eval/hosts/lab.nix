# What the relays of the lab have in common.
{ lib, ... }:
{
  system.stateVersion = "26.05";

  services.chatmail = {
    enable = true;
    adminAddress = "admin@example.org";
    # Machines that run the lab are busy.
    accounts = {
      maxLoad1m = 1000;
      minMemoryAvailable = 0;
      minDiskFree = 0;
    };

    # Calls between clients of the lab stay in its network.
    turn.allowedPeers = [ "198.18.25.0-198.18.25.255" ];
    metadata.appVersions.clients = [
      {
        clientId = "lab";
        sources = [
          {
            sourceId = "apk";
            versionInteger = 12;
            versionString = "1.2.0";
            downloadUrl = "https://example.org/app.apk";
          }
        ];
      }
    ];
    metrics = {
      enable = true;
      publicCounts = true;
      textfileDirectory = "/var/lib/node-exporter";
    };
  };

  services.unbound = {
    # The lab has a root of its own, without signatures.
    enableRootTrustAnchor = false;
    settings = {
      server = {
        domain-insecure = [ "." ];
        # A reserved name that unbound would answer for itself.
        local-zone = [ "\"test.\" nodefault" ];
      };
      forward-zone = [
        {
          name = ".";
          forward-addr = [ "198.18.25.2" ];
        }
      ];
    };
  };

  networking.enableIPv6 = lib.mkDefault false;
}
