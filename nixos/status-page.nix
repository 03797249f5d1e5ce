# The status page of the web site: a timer writes it, and nginx serves it like any file.
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
  page = "/var/lib/${name}/status.html";
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
          page
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
    services.nginx.virtualHosts.${cfg.domain}.locations."= /status".extraConfig = ''
      default_type text/html;
      types { }
      charset utf-8;
      add_header Content-Security-Policy "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" always;
      add_header X-Content-Type-Options nosniff always;
      add_header Referrer-Policy no-referrer always;
      add_header Cache-Control max-age=60 always;
      alias ${page};
    '';
  };
}
