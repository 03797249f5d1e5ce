# Users and folders that outlive the services. Services that own no files run as dynamic users instead.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
  registration = import ./registration.nix;
  parents =
    let
      up = path: if path == "/" || path == "/home" then [ ] else up (dirOf path) ++ [ path ];
    in
    up cfg.mailboxes.directory;
in
{
  config = lib.mkIf cfg.enable {
    users.users.vmail = {
      description = "Owner of the relay's mailboxes";
      isSystemUser = true;
      group = "vmail";
      home = "/home/vmail";
    };
    users.groups.vmail = { };
    # Owns the socket of doveauth. It has no members: Dovecot adds it to the processes that connect to doveauth.
    users.groups.doveauth = { };
    # Owns the sockets on which the filters deliver to mailboxes and report that. Only the filters are added to it.
    users.groups.chatmail-delivery = { };
    # Reads the invitations. It has no members: only newemail gets it.
    users.groups.${registration.group} = { };

    # Folders above the mailboxes may already belong to the host: only those below /home/vmail get an owner.
    systemd.tmpfiles.settings."10-chatmail" = {
      # The operator creates the file `nocreate` here to close registration.
      "/var/lib/chatmail".d.mode = "0755";
      ${registration.directory}.d = {
        # New files belong to the group.
        mode = "2750";
        user = "vmail";
        inherit (registration) group;
      };
    }
    // lib.genAttrs parents (path: {
      d = {
        mode = if path == cfg.mailboxes.directory then "0700" else "0755";
      }
      // lib.optionalAttrs (path == cfg.mailboxes.directory || lib.hasPrefix "/home/vmail" path) {
        user = "vmail";
        group = "vmail";
      };
    });
  };
}
