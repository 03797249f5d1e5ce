# What every test begins with: a name server, relays, a client that plays scenarios, and a script that has
# published the relays' zones and waited for their ports.
{
  config,
  lib,
  mailtest,
  pkgs,
  self,
  ...
}:
let
  inherit (lib) mkOption types;

  zones = "/var/lib/zones";

  # Its resolver forwards everything to the node `dns`.
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

  # Answers for the zones that the script publishes, and with NXDOMAIN for everything else.
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

  # Runs `mailtest`, with the topology that it reads.
  client =
    { config, nodes, ... }:
    {
      virtualisation.memorySize = 2048;
      environment.systemPackages = [
        mailtest
        pkgs.curl
        pkgs.openssl
      ];
      networking.nameservers = lib.mkForce [ nodes.dns.networking.primaryIPAddress ];
      environment.etc."topology.json".text = builtins.toJSON {
        relays = lib.mapAttrsToList (name: domain: {
          inherit certificate domain name;
          ipv4 = nodes.${name}.networking.primaryIPAddress;
        }) relays;
        resolver = nodes.dns.networking.primaryIPAddress;
        host = config.networking.primaryIPAddress;
        ca_file = "/root/ca.pem";
      };
    };

  inherit (config) certificate relays;

  beginning = ''
    import shlex

    relays = [${lib.concatStringsSep ", " (lib.attrNames relays)}]
    domains = ${builtins.toJSON relays}
    scenarios = ${builtins.toJSON config.scenarios}


    def zone_of(relay):
        relay.wait_for_unit("chatmail-dkim-key.service")
        return relay.succeed("chatmail dns --zone")


    def publish_zones():
        """Makes the name server answer with the current zones of all relays."""
        entries = ""
        for relay in relays:
            file = "${zones}/" + domains[relay.name]
            dns.succeed(f"printf %s {shlex.quote(zone_of(relay))} > {file}")
            entries += f'auth-zone:\n name: "{domains[relay.name]}."\n zonefile: "{file}"\n'
        dns.succeed(f"printf %s {shlex.quote(entries)} > ${zones}/list.conf")
        dns.succeed("systemctl restart unbound.service")


    def ready(relay):
        relay.wait_for_unit("multi-user.target")
        for port in [25, 143, 443, 465, 587, 993]:
            relay.wait_for_open_port(port)


    def run_scenarios():
        """Runs the scenarios of this test."""
        print(client.succeed("mailtest --topology /etc/topology.json " + shlex.join(scenarios)))


    start_all()
    dns.wait_for_unit("unbound.service")
    publish_zones()
    for relay in relays:
        ready(relay)
  '';
in
{
  options = {
    relays = mkOption {
      type = types.attrsOf types.str;
      default = {
        a = "_a.test";
        b = "_b.test";
      };
      description = "Domain of each relay, by the name of its node.";
    };
    certificate = mkOption {
      type = types.str;
      default = "self-signed";
      description = "Kind of certificate that the client expects of the relays.";
    };
    scenarios = mkOption {
      type = types.listOf types.str;
      description = "Names of the scenarios that `run_scenarios()` runs; each also selects the names that begin with it.";
    };
    script = mkOption {
      type = types.functionTo types.str;
      description = "Python that follows the common beginning, as a function of the nodes.";
    };
  };

  config = {
    nodes = lib.mapAttrs (_: relay) relays // {
      inherit client dns;
    };
    testScript = { nodes, ... }: beginning + "\n" + config.script nodes;

    # A certificate authority, and what it has signed.
    _module.args.ca = pkgs.runCommand "test-ca" { nativeBuildInputs = [ pkgs.openssl ]; } ''
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
  };
}
