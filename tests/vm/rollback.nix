# A relay switches to other settings and back, again and again, while users write: no message is lost.
{
  nodes.a.specialisation.other.configuration.services.chatmail = {
    messages.maxSize = 50 * 1024 * 1024;
    mailboxes.quota = 1024 * 1024 * 1024;
    connections.imap = 20000;
    imap.compress = true;
    metrics.enable = true;
  };

  script = nodes: ''
    before = "${nodes.a.system.build.toplevel}"
    after = f"{before}/specialisation/other"

    # Each scenario fails when a message does not arrive.
    command = "mailtest --topology /etc/topology.json " + shlex.join(scenarios)
    client.succeed(
        "systemd-run --unit=writers --property=RemainAfterExit=true "
        f"--setenv=HOME=/root --setenv=PATH=$PATH sh -c {shlex.quote(command)}"
    )
    switches = 0
    while client.succeed("systemctl show --property=SubState --value writers").strip() == "running":
        for system in [after, before]:
            a.succeed(f"{system}/bin/switch-to-configuration test")
            ready(a)
            switches += 1
    t.assertGreaterEqual(switches, 2)

    log = client.succeed("journalctl --unit=writers --output=cat")
    print(log)
    t.assertIn(f"{len(scenarios)} passed, 0 failed", log)

    with subtest("the relay is back in its first state"):
        t.assertEqual(a.succeed("readlink --canonicalize /run/current-system").strip(), before)
        a.fail("systemctl --failed --no-legend --plain | grep .")
  '';
}
