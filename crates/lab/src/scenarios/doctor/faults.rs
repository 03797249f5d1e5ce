//! The faults that doctor has to find.

use super::super::operator::without;

/// A fault on a relay.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) relay: &'static str,
    /// Script that provokes it.
    pub(super) provoke: &'static str,
    /// Script that mends it.
    pub(super) mend: &'static str,
    /// The failing checks, and a part of the text of each.
    pub(super) expected: &'static [(&'static str, &'static str)],
}

macro_rules! faults {
    ($($name:literal on $relay:literal, $provoke:literal, $mend:literal, $expected:expr;)+) => {
        &[$(Fault { name: $name, relay: $relay, provoke: $provoke, mend: $mend, expected: &$expected }),+]
    };
}

/// Faults of the host. Other files cover those that services must not change.
pub(super) const FAULTS: &[Fault] = faults! {
    "a stopped service" on "a",
        "systemctl stop newemail.socket newemail.service",
        "systemctl start newemail.socket newemail.service",
        [("units", "newemail.service is inactive")];
    "a failed unit of the host" on "a",
        "systemd-run --quiet --service-type=oneshot --unit=broken false || true",
        "systemctl reset-failed broken.service",
        [("units", "broken.service is failed")];
    "a stopped web server" on "a",
        "systemctl stop nginx.service",
        "systemctl start nginx.service",
        [("units", "nginx.service is inactive"), ("ports", ":443 mail from other relays: cannot connect")];
    "a stopped timer" on "a",
        "systemctl stop chatmail-expire.timer",
        "systemctl start chatmail-expire.timer",
        [("timers", "chatmail-expire.timer is inactive")];
    "a clock that is not synchronized" on "a",
        "printf '#!/bin/sh\\necho no\\n' >/run/clock; chmod +x /run/clock; mount --bind /run/clock /usr/bin/timedatectl",
        "umount /usr/bin/timedatectl",
        [("clock", "the clock is not synchronized")];
    "too little memory" on "a",
        "sed 's/\"min_memory_available\": *[0-9]*/\"min_memory_available\":1000000000000000/' \
         /etc/chatmail/settings.json >/run/settings; mount --bind /run/settings /etc/chatmail/settings.json",
        "umount /etc/chatmail/settings.json",
        [("resources", "available memory")];
    "a full disk" on "a",
        "sed 's/\"min_disk_free\": *[0-9]*/\"min_disk_free\":1000000000000000/' \
         /etc/chatmail/settings.json >/run/settings; mount --bind /run/settings /etc/chatmail/settings.json",
        "umount /etc/chatmail/settings.json",
        [("resources", "free disk")];
    "too few inodes" on "a",
        "mount -t tmpfs -o size=3g,nr_inodes=2000,mode=0700,uid=vmail,gid=vmail tmpfs /home/vmail/mail/_a.test; \
         mkdir /home/vmail/mail/_a.test/.used; cd /home/vmail/mail/_a.test/.used; touch $(seq 1920); \
         systemctl restart doveauth lastlogin",
        "umount -l /home/vmail/mail/_a.test; systemctl restart doveauth lastlogin dovecot postfix",
        [("resources", "of 2000 inodes are free")];
    "a low limit of open files" on "a",
        "mkdir -p /run/systemd/system/nginx.service.d; \
         printf '[Service]\\nLimitNOFILE=1024\\n' >/run/systemd/system/nginx.service.d/doctor.conf; \
         systemctl daemon-reload",
        "rm -r /run/systemd/system/nginx.service.d; systemctl daemon-reload",
        [("limits", "nginx.service can open only 1024 files")];
    "few inotify instances" on "a",
        "echo 128 >/run/instances; mount --bind /run/instances /proc/sys/fs/inotify/max_user_instances",
        "umount /proc/sys/fs/inotify/max_user_instances",
        [("limits", "fs.inotify.max_user_instances is 128")];
    "few inotify watches" on "a",
        "echo 100 >/run/watches; mount --bind /run/watches /proc/sys/fs/inotify/max_user_watches",
        "umount /proc/sys/fs/inotify/max_user_watches",
        [("limits", "fs.inotify.max_user_watches is 100")];
    "a DKIM key that everybody can read" on "a",
        "chmod 0644 /var/lib/chatmail-dkim/opendkim.private",
        "chmod 0600 /var/lib/chatmail-dkim/opendkim.private",
        [("files", "other users have access to /var/lib/chatmail-dkim/opendkim.private (mode 0644)")];
    "a DKIM key that OpenDKIM cannot read" on "a",
        "chown root /var/lib/chatmail-dkim/opendkim.private",
        "chown opendkim /var/lib/chatmail-dkim/opendkim.private",
        [("files", "/var/lib/chatmail-dkim/opendkim.private belongs to root")];
    "a mail store that others can enter" on "a",
        "chmod 0755 /home/vmail/mail/_a.test",
        "chmod 0700 /home/vmail/mail/_a.test",
        [("files", "other users have access to /home/vmail/mail/_a.test (mode 0755)")];
    "invitations that others can list" on "a",
        "chmod 2755 /var/lib/chatmail-registration",
        "chmod 2750 /var/lib/chatmail-registration",
        [("files", "other users have access to /var/lib/chatmail-registration (mode 2755)")];
    "an empty TURN secret" on "a",
        "install -m 0600 /dev/null /run/empty; \
         sed 's#\"secret_file\": *\"[^\"]*\"#\"secret_file\":\"/run/empty\"#' /etc/chatmail/settings.json >/run/settings; \
         mount --bind /run/settings /etc/chatmail/settings.json",
        "umount /etc/chatmail/settings.json",
        [("files", "/run/empty is empty")];
    "a missing TURN secret" on "a",
        "sed 's#\"secret_file\": *\"[^\"]*\"#\"secret_file\":\"/run/missing\"#' /etc/chatmail/settings.json >/run/settings; \
         mount --bind /run/settings /etc/chatmail/settings.json",
        "umount /etc/chatmail/settings.json",
        [("files", "/run/missing cannot be read")];
    "a wrong parameter of Postfix" on "a",
        "cp /etc/postfix/main.cf /run/main.cf; echo 'default_process_limit = many' >>/run/main.cf; \
         mount --bind /run/main.cf \"$(readlink -f /etc/postfix/main.cf)\"",
        "umount \"$(readlink -f /etc/postfix/main.cf)\"",
        // No process can start with it, and those without a client end soon.
        [("postfix", "bad numerical configuration: default_process_limit = many"),
         ("ports", "timed out"), ("message", "does not arrive")];
    "a wrong setting of Dovecot" on "a",
        "cp /etc/dovecot/dovecot.conf /run/dovecot.conf; echo 'no_such_setting = 1' >>/run/dovecot.conf; \
         mount --bind /run/dovecot.conf /etc/dovecot/dovecot.conf",
        "umount /etc/dovecot/dovecot.conf",
        // Commands of Dovecot, such as those that close sessions, read it too.
        [("dovecot", "no_such_setting"), ("message", "no_such_setting")];
    "a provider that blocks port 25" on "a",
        "ip route add unreachable 198.18.25.12/32",
        "ip route del unreachable 198.18.25.12/32",
        [("port-25-out", "cannot reach 198.18.25.12:25")];
    "an address that the host does not have" on "a",
        "sed 's/\"addresses\": *\\[/&\"198.18.25.99\",/' /etc/chatmail/settings.json >/run/settings; \
         mount --bind /run/settings /etc/chatmail/settings.json; \
         ip route add unreachable 198.18.25.99/32",
        "umount /etc/chatmail/settings.json; ip route del unreachable 198.18.25.99/32",
        [("ports", "198.18.25.99:25 STARTTLS"), ("reverse-dns", "198.18.25.99 has no name"),
         ("addresses", "A differs"), ("message", "No route to host")];
    "a filter that does not answer" on "a",
        "systemctl stop filtermail-limit.socket filtermail-deliveries.socket filtermail-outgoing.socket filtermail-outgoing.service",
        "systemctl start filtermail-limit.socket filtermail-deliveries.socket filtermail-outgoing.socket filtermail-outgoing.service",
        [("units", "filtermail-outgoing.service is inactive"), ("message", "a message to the relay itself does not arrive")];
    "a certificate that expires soon" on "a",
        "cp -a /var/lib/chatmail-tls /run/tls; cd /var/lib/chatmail-tls; \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 5 -subj /CN=_a.test \
           -addext subjectAltName=DNS:_a.test,DNS:www._a.test -keyout /run/key -out /run/chain; \
         cat /run/key >key.pem; cat /run/chain >fullchain.pem; \
         systemctl reload nginx postfix; systemctl restart dovecot",
        "cat /run/tls/key.pem >/var/lib/chatmail-tls/key.pem; \
         cat /run/tls/fullchain.pem >/var/lib/chatmail-tls/fullchain.pem; rm -r /run/tls; \
         systemctl reload nginx postfix; systemctl restart dovecot",
        [("certificate", "the certificate expires in 4 day(s)")];
    "a certificate of an unknown authority" on "c",
        "cp -a /etc/chatmail/tls /run/tls; cd /etc/chatmail/tls; \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 100 -subj /CN=c.test \
           -addext subjectAltName=DNS:c.test,DNS:www.c.test,DNS:mta-sts.c.test -keyout /run/key -out /run/chain; \
         cat /run/key >key.pem; cat /run/chain >fullchain.pem",
        "cat /run/tls/key.pem >/etc/chatmail/tls/key.pem; \
         cat /run/tls/fullchain.pem >/etc/chatmail/tls/fullchain.pem; rm -r /run/tls",
        [("ports", "other relays do not trust the certificate"), ("certificate", "clients do not trust the certificate"),
         ("mta-sts", "the policy cannot be fetched")];
};

/// A fault in a zone: its name, the relay, the change of the zone of a domain, the checks that run (all if there is
/// none), and the failures.
type Zone = (
    &'static str,
    &'static str,
    fn(&str, &str) -> String,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

pub(super) const ZONES: &[Zone] = &[
    (
        "another DKIM key",
        "a",
        |zone, domain| {
            let key = format!("opendkim._domainkey.{domain}");
            without(zone, &[&key]) + &format!("{key}. IN TXT \"v=DKIM1;k=rsa;p=AAAA\"\n")
        },
        &[],
        &[("dkim", "differs (v=DKIM1;k=rsa;p=AAAA)")],
    ),
    (
        "a missing name of the web site",
        "a",
        |zone, domain| without(zone, &[&format!("www.{domain}")]),
        &[],
        &[("records", "CNAME is missing")],
    ),
    (
        "an IPv6 address that is not reachable",
        "a",
        |zone, domain| format!("{zone}{domain}. IN AAAA 2001:db8::1\n"),
        &[],
        &[("addresses", "resolves to 2001:db8::1, which is not reachable")],
    ),
    (
        "a missing address",
        "a",
        |zone, domain| without(zone, &[&format!("{domain}. IN A ")]),
        &["addresses", "records", "dkim"],
        &[("addresses", "A is missing")],
    ),
    (
        "a missing MTA-STS record",
        "c",
        |zone, domain| without(zone, &[&format!("_mta-sts.{domain}")]),
        &[],
        &[("mta-sts", "TXT is missing")],
    ),
    (
        "a CAA record for another authority",
        "e",
        |zone, domain| without(zone, &["CAA"]) + &format!("{domain}. IN CAA 0 issue \"other.example\"\n"),
        &["caa"],
        &[("caa", "CAA differs")],
    ),
];
