# Machines and words that the tests share.
{
  lab,
  lib,
  pkgs,
  self,
}:
let
  zones = "/var/lib/zones";
in
rec {
  inherit lib pkgs;

  # A relay. Its resolver asks the node `dns`, which is the whole world here.
  relay =
    domain:
    { config, nodes, ... }:
    {
      imports = [
        self.nixosModules.default
        ../../nix/scenario-host.nix
      ];

      virtualisation.memorySize = 2048;

      services.chatmail = {
        inherit domain;
        addresses = [ config.networking.primaryIPAddress ];
        enableIPv6 = false;
      };

      services.unbound.settings.forward-zone = [
        {
          name = ".";
          forward-addr = [ nodes.dns.networking.primaryIPAddress ];
        }
      ];
    };

  # Answers for the zones that `publish` brings, and with NXDOMAIN for all others.
  dns = {
    networking.firewall.allowedTCPPorts = [ 53 ];
    networking.firewall.allowedUDPPorts = [ 53 ];
    systemd.tmpfiles.settings.zones = {
      ${zones}.d.mode = "0755";
      "${zones}/list.conf".f.mode = "0644";
    };
    services.unbound = {
      enable = true;
      enableRootTrustAnchor = false;
      settings = {
        server = {
          interface = [ "0.0.0.0" ];
          access-control = [ "0.0.0.0/0 allow" ];
          module-config = "\"iterator\"";
          local-zone = [ "\"test.\" nodefault" ];
        };
        auth-zone = [
          {
            name = ".";
            zonefile = "${pkgs.writeText "root.zone" ''
              . 60 IN SOA dns. hostmaster.dns. 1 3600 600 86400 0
              . 60 IN NS dns.
            ''}";
          }
        ];
        include = "${zones}/list.conf";
      };
    };
  };

  # Where scenarios are played, with the topology that `lab test --topology` reads. Relays by their node's name.
  client =
    {
      domains,
      certificate ? "self-signed",
    }:
    { config, nodes, ... }:
    {
      virtualisation.memorySize = 2048;
      environment.systemPackages = [
        lab
        pkgs.curl
        pkgs.openssl
      ];
      networking.nameservers = lib.mkForce [ nodes.dns.networking.primaryIPAddress ];
      environment.etc."topology.json".text = builtins.toJSON {
        relays = lib.mapAttrsToList (name: domain: {
          inherit certificate domain name;
          ipv4 = nodes.${name}.networking.primaryIPAddress;
        }) domains;
        resolver = nodes.dns.networking.primaryIPAddress;
        host = config.networking.primaryIPAddress;
        ca_file = "/root/ca.pem";
      };
    };

  # A certificate authority, and what it has signed.
  ca = pkgs.runCommand "test-ca" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    mkdir $out
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
      -subj "/CN=Authority of the tests" -keyout ca.key -out $out/ca.pem
    for name in pebble www.example.net; do
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout $out/$name.key -out $name.csr
      openssl x509 -req -in $name.csr -CA $out/ca.pem -CAkey ca.key -CAcreateserial -days 36500 \
        -extfile <(echo "subjectAltName=DNS:$name") -out $out/$name.pem
    done
  '';

  # Python that every script begins with.
  prelude = ''
    import shlex

    start_all()
    dns.wait_for_unit("unbound.service")


    def publish(zones):
        """Makes these zones, by name, what the world knows."""
        for name, text in zones.items():
            dns.succeed(f"printf %s {shlex.quote(text)} > ${zones}/{name}")
        entries = "".join(
            f'auth-zone:\n name: "{name}."\n zonefile: "${zones}/{name}"\n'
            for name in zones
        )
        dns.succeed(f"printf %s {shlex.quote(entries)} > ${zones}/list.conf")
        dns.succeed("systemctl restart unbound.service")


    def zone_of(relay):
        relay.wait_for_unit("chatmail-dkim-key.service")
        return relay.succeed("chatmail dns --zone")


    def ready(relay):
        relay.wait_for_unit("multi-user.target")
        for port in [25, 143, 443, 465, 587, 993]:
            relay.wait_for_open_port(port)


    def play(*scenarios):
        """Plays scenarios of the lab; a name stands for itself and for all that it begins."""
        print(client.succeed("lab test --topology /etc/topology.json " + shlex.join(scenarios)))
  '';

  # Names as arguments of `play`.
  pythonList = names: lib.concatMapStringsSep ", " builtins.toJSON names;
}
