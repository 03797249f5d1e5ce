# Settings of a scenario host: a relay in the lab or in a virtual machine that scenarios run against.
{
  services.chatmail = {
    enable = true;
    adminAddress = "admin@example.org";
    # Machines that run scenarios are under load.
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
    # The scenarios' DNS has its own root, without signatures.
    enableRootTrustAnchor = false;
    settings.server = {
      domain-insecure = [ "." ];
      # unbound would answer for this reserved name itself.
      local-zone = [ "\"test.\" nodefault" ];
    };
  };
}
