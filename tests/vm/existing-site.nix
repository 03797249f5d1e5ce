# A host that had a web site, a resolver and a firewall of its own before it became a relay.
{
  ca,
  client,
  dns,
  prelude,
  pkgs,
  pythonList,
  relay,
  scenarios,
  ...
}:
let
  domains.a = "_a.test";
in
{
  nodes = {
    inherit dns;
    client = client { inherit domains; };

    a = {
      imports = [ (relay domains.a) ];

      # The host's own resolver answers on 127.0.0.1 already.
      services.chatmail.resolver.enable = false;
      services.unbound.enable = true;
      services.unbound.settings.server.interface = [ "127.0.0.1" ];

      services.nginx.virtualHosts = {
        "www.example.net" = {
          forceSSL = true;
          sslCertificate = "${ca}/www.example.net.pem";
          sslCertificateKey = "${ca}/www.example.net.key";
          root = pkgs.writeTextDir "index.html" "the site of before";
        };
        "plain.example.net".root = pkgs.writeTextDir "index.html" "without TLS";
      };
      networking.firewall.allowedTCPPorts = [ 8080 ];
    };
  };

  testScript =
    { nodes, ... }:
    prelude
    + ''
      publish({"${domains.a}": zone_of(a)})
      ready(a)

      address = "${nodes.a.networking.primaryIPAddress}"
      with subtest("the sites of the host are served as before"):
          page = client.succeed(
              "curl --fail --silent --cacert ${ca}/ca.pem "
              f"--resolve www.example.net:443:{address} https://www.example.net/"
          )
          t.assertEqual(page, "the site of before")
          page = client.succeed(
              f"curl --fail --silent --resolve plain.example.net:80:{address} http://plain.example.net/"
          )
          t.assertEqual(page, "without TLS")

      with subtest("the firewall of the host stays"):
          a.succeed("iptables --list-rules | grep -- '--dport 8080 '")

      play(${pythonList scenarios})
    '';
}
