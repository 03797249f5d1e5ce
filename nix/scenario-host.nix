# A scenario host: what scenarios expect of a relay, in the lab and in virtual machines.
{
  services.chatmail = {
    enable = true;
    adminAddress = "admin@example.org";
    # Machines that run scenarios are busy.
    accounts = {
      maxLoad1m = 1000;
      minMemoryAvailable = 0;
      minDiskFree = 0;
    };
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
  };

  services.unbound = {
    # The world of the scenarios has a root of its own, without signatures.
    enableRootTrustAnchor = false;
    settings.server = {
      domain-insecure = [ "." ];
      # A reserved name that unbound would answer for itself.
      local-zone = [ "\"test.\" nodefault" ];
    };
  };
}
