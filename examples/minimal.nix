# The minimal configuration of a relay.
{
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
  };

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  system.stateVersion = "26.05";
}
