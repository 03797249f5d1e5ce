# The status page of the web site: a timer writes its values, which nginx puts into the page in the visitor's language.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  name = "chatmail-status-page";
  values = "/var/lib/${name}/values.html";
in
{
  config = lib.mkIf (cfg.enable && cfg.web.statusPage.enable) {
    systemd.timers.${name} = {
      description = "Status page of the web site";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnActiveSec = "1min";
        OnCalendar = "*:0/10";
      };
    };
    systemd.services.${name} = {
      description = "Status page of the web site";
      serviceConfig = hardening // {
        Type = "oneshot";
        ExecStart = utils.escapeSystemdExecArgs [
          "${cfg.package}/bin/chatmail"
          "--settings"
          "${cfg.settingsFile}"
          "status-page"
          "--output"
          values
        ];
        # It creates an account, sends itself a message, and removes the account.
        User = "vmail";
        Group = "vmail";
        PrivateUsers = false;
        ProtectHome = "tmpfs";
        BindPaths = [ cfg.mailboxes.directory ];
        StateDirectory = name;
        StateDirectoryMode = "0755";
        # It connects to the public address of the relay.
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        IPAddressDeny = "";
        TimeoutStartSec = "2min";
      };
    };
    services.chatmail.web.statusPage.file = values;
  };
}
