# Two relays whose users write to each other.
{
  script = _: ''
    run_scenarios()

    with subtest("no unit failed"):
        for relay in relays:
            relay.fail("systemctl --failed --no-legend --plain | grep .")
            relay.log(relay.succeed("systemd-analyze security --no-pager"))
  '';
}
