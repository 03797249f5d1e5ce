# Settings of the reference relay's chatmail.ini that no longer have an effect. They are rejected by name, not ignored.
{ lib, ... }:
let
  removed = name: reason: lib.mkRemovedOptionModule [ "services" "chatmail" name ] reason;
  passthrough = ''
    The relay rejects unencrypted mail of all senders and recipients, as the reference relay does since 1.11.
    To let an account receive unencrypted mail from other servers, remove the file `enforceE2EEincoming` in its folder.
  '';
in
{
  imports = [
    (removed "passthroughSenders" passthrough)
    (removed "passthroughRecipients" passthrough)
  ];
}
