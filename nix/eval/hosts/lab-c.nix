{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "c.test";
    addresses = [ "198.18.25.13" ];
    tls = {
      mode = "external";
      certificateFile = "/etc/chatmail/tls/fullchain.pem";
      keyFile = "/etc/chatmail/tls/key.pem";
    };
  };
}
