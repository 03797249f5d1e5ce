# A relay without a domain name: accounts are user@[192.0.2.1].
{
  services.chatmail = {
    enable = true;
    domain = "192.0.2.1";
  };

  system.stateVersion = "26.05";
}
