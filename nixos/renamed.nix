# Settings of the reference relay's chatmail.ini that do nothing any more, refused by name rather than ignored.
{ lib, ... }:
let
  removed = name: reason: lib.mkRemovedOptionModule [ "services" "chatmail" name ] reason;
  passthrough = ''
    Mail that is not encrypted is refused for everybody, as in the reference relay since 1.11. An account takes
    unencrypted mail from outside once the file `enforceE2EEincoming` in its folder is removed.
  '';
in
{
  imports = [
    (removed "passthroughSenders" passthrough)
    (removed "passthroughRecipients" passthrough)
  ];
}
