# Relay b on a host where port 25 is blocked; a scenario switches to it.
{
  imports = [ ./lab-b.nix ];

  services.chatmail.federation.smtp.enable = false;
}
