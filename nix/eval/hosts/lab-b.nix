{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "_b.test";
    addresses = [ "198.18.25.12" ];
    web.newAddressesPerMinute = 1200;
    # The ports of the reference relay.
    filter.transport = "tcp";
    federation.smtp.tlsExceptions = {
      "cleartext.test" = "may";
      "unverified.test" = "encrypt";
    };
  };

  services.postfix.rootAlias = "operator1@_b.test";
}
