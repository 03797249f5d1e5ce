# Relay b with rules about other domains; a scenario switches to it.
{
  imports = [ ./lab-b.nix ];

  services.chatmail.federation.block = [
    "_a.test"
    "outside.test"
    "blocked.test"
    "xn--bcher-kva.test"
    "[198.18.25.14]"
  ];
}
