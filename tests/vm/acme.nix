# A relay that gets its certificate over ACME, from Pebble.
{
  ca,
  client,
  dns,
  lib,
  pkgs,
  prelude,
  pythonList,
  relay,
  scenarios,
  ...
}:
let
  domains.c = "c.test";

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
  nodes = {
    inherit dns;
    client = client {
      inherit domains;
      certificate = "lab-ca";
    };

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
      imports = [ (relay domains.c) ];

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

  testScript = prelude + ''
    publish({"${domains.c}": zone_of(c)})
    pebble.wait_for_unit("pebble.service")
    pebble.wait_for_open_port(443)

    with subtest("until there is a certificate, one of the host's own stands in"):
        ready(c)

    with subtest("the certificate comes, and the daemons use it"):
        c.succeed("systemctl restart acme-order-renew-${domains.c}.service")
        client.succeed("curl --fail --silent --insecure https://pebble:15000/roots/0 > /root/ca.pem")
        for port in [443, 465, 993]:
            client.wait_until_succeeds(
                f"openssl s_client -connect ${domains.c}:{port} -servername ${domains.c} "
                "-verify_return_error -verify_hostname ${domains.c} -CAfile /root/ca.pem </dev/null",
                timeout=60,
            )

    play(${pythonList scenarios})
  '';
}
