# Users and folders that outlive the services. Services that own nothing on disk run as dynamic users instead.
{ config, lib, ... }:
let
  cfg = config.services.chatmail;
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
    # Owns the socket of doveauth. Without members: Dovecot gives it to the processes that ask doveauth.
    users.groups.doveauth = { };

    # Folders above the mailboxes may belong to the host already: only those that carry our name get an owner.
    systemd.tmpfiles.settings."10-chatmail" = {
      # An operator closes the relay for new accounts there.
      "/var/lib/chatmail".d.mode = "0755";
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
