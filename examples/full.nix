# A relay that sets every option that operators commonly change.
{
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
    addresses = [
      "192.0.2.1"
      "2001:db8::1"
    ];
    adminAddress = "privacy@example.org";

    accounts = {
      usernameMinLength = 6;
      usernameMaxLength = 12;
      passwordMinLength = 12;
      maxLoad1m = 8;
      minMemoryAvailable = 512 * 1024 * 1024;
      minDiskFree = 10 * 1024 * 1024 * 1024;
    };

    mailboxes = {
      directory = "/srv/mail/chat.example.org";
      quota = 1024 * 1024 * 1024;
      deleteMessagesAfter = 30;
      deleteLargeMessagesAfter = 10;
      largeMessageSize = 1000000;
      deleteInactiveAccountsAfter = 180;
    };

    messages = {
      maxSize = 100 * 1024 * 1024;
      maxRecipients = 500;
      maxPerMinute = 30;
      burst = 20;
    };

    # Postfix queues all mail, also between users of the relay.
    filter.directDelivery = false;

    # A server whose certificate cannot be verified.
    federation.smtp.tlsExceptions."old.example.net" = "encrypt";

    connections = {
      imap = 50000;
      smtp = 5000;
      filter = 200;
    };

    # Another program obtains the certificate, for example with a DNS challenge.
    tls = {
      mode = "external";
      certificateFile = "/var/lib/certificates/chat.example.org/fullchain.pem";
      keyFile = "/var/lib/certificates/chat.example.org/key.pem";
    };

    turn = {
      minPort = 49152;
      maxPort = 65535;
      secretFile = "/run/secrets/turn";
    };
    iroh.url = "https://iroh.example.org";
    imap.compress = true;

    metrics = {
      enable = true;
      listenAddress = "10.0.0.2";
      textfileDirectory = "/var/lib/prometheus-node-exporter";
      publicCounts = true;
    };

    backup = {
      repository = "sftp:backup@backup.example.org:/srv/relay";
      passwordFile = "/run/secrets/backup-password";
    };

    dkim.selector = "relay2026";
    dns.acmeAccountUri = "https://acme-v02.api.letsencrypt.org/acme/acct/123456";
    web.newAddressesPerMinute = 60;
  };

  system.stateVersion = "26.05";
}
