# A host that had its own web site, resolver and firewall before it became a relay.
{ ca, pkgs, ... }:
{
  relays.a = "_a.test";

  nodes.a = {
    # The host's own resolver already answers on 127.0.0.1.
    services.chatmail.resolver.enable = false;
    services.unbound.enable = true;
    services.unbound.settings.server.interface = [ "127.0.0.1" ];

    services.nginx.virtualHosts = {
      "www.example.net" = {
        forceSSL = true;
        sslCertificate = "${ca}/www.example.net.pem";
        sslCertificateKey = "${ca}/www.example.net.key";
        root = pkgs.writeTextDir "index.html" "the previous site";
      };
      "plain.example.net".root = pkgs.writeTextDir "index.html" "without TLS";
    };
    networking.firewall.allowedTCPPorts = [ 8080 ];
  };

  script = nodes: ''
    address = "${nodes.a.networking.primaryIPAddress}"
    with subtest("the host's own sites are served as before"):
        page = client.succeed(
            "curl --fail --silent --cacert ${ca}/ca.pem "
            f"--resolve www.example.net:443:{address} https://www.example.net/"
        )
        t.assertEqual(page, "the previous site")
        page = client.succeed(
            f"curl --fail --silent --resolve plain.example.net:80:{address} http://plain.example.net/"
        )
        t.assertEqual(page, "without TLS")

    with subtest("the host's own firewall rules stay"):
        a.succeed("iptables --list-rules | grep -- '--dport 8080 '")

    run_scenarios()
  '';
}
