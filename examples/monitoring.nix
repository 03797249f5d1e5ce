# A relay that Prometheus on the same host watches, with the alerts of this project. Alertmanager sends them by mail.
{ lib, ... }:
let
  # The ports are those of docs/metrics.md.
  services = {
    mtail = 3903;
    dovecot = 3904;
    doveauth = 3905;
    filtermail-outgoing = 3906;
    filtermail-incoming = 3907;
    chatmail-metadata = 3908;
    newemail = 3909;
    lastlogin = 3910;
    filtermail-mxdeliv = 3911;
    filtermail-transport = 3912;
    chatmail-websocket = 3913;
  };
  on = port: [ "127.0.0.1:${toString port}" ];
in
{
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
    addresses = [ "192.0.2.1" ];
    metrics = {
      enable = true;
      textfileDirectory = "/var/lib/prometheus-node-exporter";
    };
  };
  security.acme = {
    acceptTerms = true;
    defaults.email = "you@example.org";
  };

  services.prometheus = {
    enable = true;
    listenAddress = "127.0.0.1";
    # In a folder that `init` wrote, a copy of this file: [ ./alerts.yml ].
    ruleFiles = [ ../docs/grafana/alerts.yml ];
    scrapeConfigs = [
      {
        job_name = "chatmail";
        static_configs = lib.mapAttrsToList (service: port: {
          targets = on port;
          labels = { inherit service; };
        }) services;
      }
      {
        job_name = "node";
        static_configs = [ { targets = on 9100; } ];
      }
    ];
    exporters.node = {
      enable = true;
      listenAddress = "127.0.0.1";
      extraFlags = [ "--collector.textfile.directory=/var/lib/prometheus-node-exporter" ];
    };
    alertmanagers = [ { static_configs = [ { targets = on 9093; } ]; } ];
    alertmanager = {
      enable = true;
      listenAddress = "127.0.0.1";
      configuration = {
        # A mail server elsewhere: the relay accepts no unencrypted mail, and alerts have to arrive when it is down.
        global = {
          smtp_smarthost = "mail.example.net:587";
          smtp_from = "alerts@example.net";
          smtp_auth_username = "alerts@example.net";
          smtp_auth_password_file = "/run/secrets/alerts-password";
        };
        route.receiver = "operator";
        receivers = [
          {
            name = "operator";
            email_configs = [ { to = "you@example.net"; } ];
          }
        ];
      };
    };
  };

  system.stateVersion = "26.05";
}
