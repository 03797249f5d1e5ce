# Relay b, which exchanges mail with two relays only; a scenario switches to it.
{
  imports = [ ./lab-b.nix ];

  services.chatmail.federation.allow = [
    "_a.test"
    "[198.18.25.14]"
  ];
}
