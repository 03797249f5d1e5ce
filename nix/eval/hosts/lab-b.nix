{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "_b.test";
    addresses = [ "198.18.25.12" ];
    web.newAddressesPerMinute = 1200;
  };
}
