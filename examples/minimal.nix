# The least that a relay needs to be told.
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
