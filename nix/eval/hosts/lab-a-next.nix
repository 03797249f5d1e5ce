# Relay a after a change that affects every daemon; a scenario switches to it while users write.
{ lib, ... }:
{
  imports = [ ./lab-a.nix ];

  services.chatmail = {
    imap.compress = true;
    mailboxes.quota = 600 * 1024 * 1024;
    messages = {
      burst = 20;
      maxSize = 20 * 1024 * 1024;
    };
    # An address that does not exist yet.
    metrics.listenAddress = lib.mkForce "198.18.25.21";
    web.newAddressesPerMinute = 60;
  };
}
