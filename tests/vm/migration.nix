# Mailboxes, password hashes and the DKIM key of a reference relay, moved in as the operator guide says.
{ config, pkgs, ... }:
let
  domain = config.relays.a;
  user = "oldfriend@${domain}";
  # `doveadm pw -s SHA512-CRYPT -p correcthorse`.
  password = "correcthorse";
  hash = ../../crates/chatmail-core/testdata/sha512-crypt;

  # The files that are copied from the old host: /home/vmail/mail/DOMAIN and /etc/dkimkeys.
  old = pkgs.runCommand "old-relay" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    mailbox=$out/mail/${user}
    mkdir -p $mailbox/{cur,new,tmp} $out/dkimkeys
    tr -d '\n' < ${hash} > $mailbox/password
    printf 'From: <x@example.org>\r\nMessage-ID: <kept@example.org>\r\nSubject: [...]\r\n\r\nkept\r\n' \
      > $mailbox/cur/1700000000.M1P1.old:2,S
    openssl genrsa -out $out/dkimkeys/opendkim.private 2048
  '';
in
{
  script = _: ''
    with subtest("the old relay's files are moved in"):
        a.succeed(
            "systemctl stop postfix.service dovecot.service doveauth.socket doveauth.service "
            "lastlogin.socket lastlogin.service chatmail-metadata.socket chatmail-metadata.service",
            "cp -r --no-preserve=mode ${old}/mail/. /home/vmail/mail/${domain}/",
            "chown -R vmail:vmail /home/vmail/mail/${domain}",
            "cp --no-preserve=mode ${old}/dkimkeys/opendkim.private /var/lib/chatmail-dkim/opendkim.private",
            "chown -R opendkim:opendkim /var/lib/chatmail-dkim",
            "chmod 0600 /var/lib/chatmail-dkim/opendkim.private",
            "systemctl start doveauth.socket lastlogin.socket chatmail-metadata.socket dovecot.service postfix.service",
            "systemctl restart opendkim.service",
        )
        ready(a)

    with subtest("the zone keeps the old key"):
        public = a.succeed(
            "openssl rsa -in ${old}/dkimkeys/opendkim.private -pubout -outform DER 2>/dev/null | base64 -w0"
        )
        t.assertIn(public, zone_of(a).replace('" "', ""))
        publish_zones()

    with subtest("the owner of an old account logs in with the old password and finds the old mail"):
        inbox = (
            "curl --fail --silent --insecure --user ${user}:{} "
            "'imaps://${domain}/INBOX?HEADER%20Message-ID%20kept@example.org'"
        )
        t.assertIn("SEARCH 1", client.succeed(inbox.format("${password}")))
        client.fail(inbox.format("wrong-horse"))

    with subtest("the old hash is replaced"):
        a.succeed("grep '^{ARGON2ID}' '/home/vmail/mail/${domain}/${user}/password'")

    run_scenarios()
  '';
}
