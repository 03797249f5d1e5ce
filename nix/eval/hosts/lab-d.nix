# A relay without a name.
{
  imports = [ ./lab.nix ];

  services.chatmail.domain = "198.18.25.14";
}
