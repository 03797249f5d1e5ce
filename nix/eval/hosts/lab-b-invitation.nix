# Relay b with invitations, and a limit that a scenario reaches; it switches to this host.
{
  imports = [ ./lab-b.nix ];

  services.chatmail.registration = {
    mode = "invitation";
    maxPerHour = 8;
  };
}
