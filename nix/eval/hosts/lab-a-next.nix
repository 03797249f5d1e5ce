# Relay a after a change of settings that every daemon takes part in: what it is switched to while people write.
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
    # An address that comes up later.
    metrics.listenAddress = lib.mkForce "198.18.25.21";
    web.newAddressesPerMinute = 60;
  };
}
