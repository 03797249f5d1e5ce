# Relay b, on which only the operator creates accounts; a scenario switches to it.
{
  imports = [ ./lab-b.nix ];

  services.chatmail.registration.mode = "closed";
}
