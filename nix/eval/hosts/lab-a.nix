{
  imports = [ ./lab.nix ];

  services.chatmail = {
    domain = "_a.test";
    addresses = [ "198.18.25.11" ];
    # Prometheus runs on another machine.
    metrics.listenAddress = "198.18.25.11";
  };
}
