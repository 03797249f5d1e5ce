# Settings of all relays.
{
  services.chatmail.enable = true;

  # The terms of the certificate authority: https://letsencrypt.org/repository/
  security.acme = {
    acceptTerms = true;
    defaults.email = "you@example.org";
  };

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };
  users.users.root.openssh.authorizedKeys.keys = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f you@example.org"
  ];
}
