# A relay without a domain name.
{
  imports = [ ./lab.nix ];

  services.chatmail.domain = "198.18.25.14";
}
