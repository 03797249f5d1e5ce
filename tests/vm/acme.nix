# A relay that gets its certificate over ACME, from Pebble.
{
  ca,
  lib,
  pkgs,
  ...
}:
let
  domain = "c.test";

  configuration = (pkgs.formats.json { }).generate "pebble.json" {
    pebble = {
      listenAddress = "0.0.0.0:443";
      managementListenAddress = "0.0.0.0:15000";
      certificate = "${ca}/pebble.pem";
      privateKey = "${ca}/pebble.key";
      httpPort = 80;
      tlsPort = 443;
      ocspResponderURL = "";
      externalAccountBindingRequired = false;
    };
  };
in
{
  relays.c = domain;
  certificate = "lab-ca";

  nodes = {
    pebble =
      { nodes, ... }:
      {
        networking.firewall.allowedTCPPorts = [
          443
          15000
        ];
        systemd.services.pebble = {
          wantedBy = [ "multi-user.target" ];
          environment.PEBBLE_VA_NOSLEEP = "1";
          serviceConfig = {
            ExecStart = "${lib.getExe' pkgs.pebble "pebble"} -config ${configuration} -dnsserver ${nodes.dns.networking.primaryIPAddress}:53";
            DynamicUser = true;
            AmbientCapabilities = "CAP_NET_BIND_SERVICE";
          };
        };
      };

    c = {
      security.pki.certificateFiles = [ "${ca}/ca.pem" ];
      security.acme = {
        acceptTerms = true;
        defaults = {
          email = "admin@example.org";
          server = "https://pebble/dir";
        };
      };
    };
  };

  # All ports are open before the first certificate arrives; until then nginx, Postfix and Dovecot use a self-signed
  # one.
  script = _: ''
    pebble.wait_for_unit("pebble.service")
    pebble.wait_for_open_port(443)

    with subtest("the daemons use the new certificate"):
        c.succeed("systemctl restart acme-order-renew-${domain}.service")
        client.succeed("curl --fail --silent --insecure https://pebble:15000/roots/0 > /root/ca.pem")
        for port in [443, 465, 993]:
            client.wait_until_succeeds(
                f"openssl s_client -connect ${domain}:{port} -servername ${domain} "
                "-verify_return_error -verify_hostname ${domain} -CAfile /root/ca.pem </dev/null",
                timeout=60,
            )

    run_scenarios()
  '';
}
