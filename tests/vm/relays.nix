# Two relays, and people who write to each other.
{
  client,
  dns,
  prelude,
  pythonList,
  relay,
  scenarios,
  ...
}:
let
  domains = {
    a = "_a.test";
    b = "_b.test";
  };
in
{
  nodes = {
    inherit dns;
    a = relay domains.a;
    b = relay domains.b;
    client = client { inherit domains; };
  };

  testScript = prelude + ''
    publish({"${domains.a}": zone_of(a), "${domains.b}": zone_of(b)})
    ready(a)
    ready(b)

    play(${pythonList scenarios})

    with subtest("no unit failed"):
        for relay in [a, b]:
            relay.fail("systemctl --failed --no-legend --plain | grep .")
            relay.log(relay.succeed("systemd-analyze security --no-pager"))
  '';
}
