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
    "timers that have not run for long" on "a",
        "cp /usr/bin/systemctl /run/systemctl; \
         printf '#!/bin/sh\\ncase \"$*\" in *UserspaceTimestamp*) echo @1 ;; list-timers*) echo \"[]\" ;; \
           *) exec /run/systemctl \"$@\" ;; esac\\n' >/run/systemctl-late; \
         chmod +x /run/systemctl-late; mount --bind /run/systemctl-late /usr/bin/systemctl",
        "umount /usr/bin/systemctl; rm /run/systemctl",
        [("timers", "chatmail-expire.timer has not run for ")];
    "a clock that is not synchronized" on "a",
        "printf '#!/bin/sh\\necho no\\n' >/run/clock; chmod +x /run/clock; mount --bind /run/clock /usr/bin/timedatectl",
        "umount /usr/bin/timedatectl",
        [("clock", "the clock is not synchronized, so signatures and certificates may look invalid")];
    "too much load" on "a",
        "sed 's/\"max_load_1m\": *[0-9.]*/\"max_load_1m\":0.0001/' \
         /etc/chatmail/settings.json >/run/settings; mount --bind /run/settings /etc/chatmail/settings.json",
        "umount /etc/chatmail/settings.json",
        [("resources", "load")];
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
        [("resources", "of 2000 inodes are free on the file system of the mail store")];
    "a low limit of open files" on "a",
        "mkdir -p /run/systemd/system/nginx.service.d; \
         printf '[Service]\\nLimitNOFILE=1024\\n' >/run/systemd/system/nginx.service.d/doctor.conf; \
         systemctl daemon-reload",
        "rm -r /run/systemd/system/nginx.service.d; systemctl daemon-reload",
        [("limits", "nginx.service can open only 1024 files")];
    "too many open files" on "a",
        "echo '950 0 1000' >/run/files; mount --bind /run/files /proc/sys/fs/file-nr",
        "umount /proc/sys/fs/file-nr",
        [("limits", "950 of 1000 possible files are open")];
    "inotify instances in use" on "a",
        "echo 10 >/run/instances; mount --bind /run/instances /proc/sys/fs/inotify/max_user_instances; \
         systemd-run --quiet --unit=lab-watchers --uid=vmail \
           bash -c 'for i in {1..12}; do tail --follow=name /etc/hostname & done; wait'",
        "umount /proc/sys/fs/inotify/max_user_instances; systemctl stop lab-watchers.service",
        [("limits", "of 10 inotify instances are in use"), ("limits", "fs.inotify.max_user_instances is 10")];
    "few inotify instances" on "a",
        "echo 128 >/run/instances; mount --bind /run/instances /proc/sys/fs/inotify/max_user_instances",
        "umount /proc/sys/fs/inotify/max_user_instances",
        [("limits", "fs.inotify.max_user_instances is 128")];
    "few inotify watches" on "a",
        "echo 100 >/run/watches; mount --bind /run/watches /proc/sys/fs/inotify/max_user_watches",
        "umount /proc/sys/fs/inotify/max_user_watches",
        [("limits", "fs.inotify.max_user_watches is 100, too few for many open mailboxes")];
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
        [("files", "/run/missing cannot be read (")];
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
        [("dovecot", "` reports: "), ("dovecot", "no_such_setting"), ("message", "no_such_setting")];
    "a provider that blocks port 25" on "a",
        "ip route add unreachable 198.18.25.12/32",
        "ip route del unreachable 198.18.25.12/32",
        [("port-25-out", "no mail server can be reached on port 25 ("), ("port-25-out", "cannot reach 198.18.25.12:25")];
    "an address that the host does not have" on "a",
        "sed 's/\"addresses\": *\\[/&\"198.18.25.99\",/' /etc/chatmail/settings.json >/run/settings; \
         mount --bind /run/settings /etc/chatmail/settings.json; \
         ip route add unreachable 198.18.25.99/32",
        "umount /etc/chatmail/settings.json; ip route del unreachable 198.18.25.99/32",
        [("ports", "198.18.25.99:25 STARTTLS"), ("reverse-dns", "198.18.25.99 has no name (PTR record)"),
         ("addresses", "A differs"), ("message", "No route to host")];
    "a filter that does not answer" on "a",
        "systemctl stop filtermail-limit.socket filtermail-deliveries.socket filtermail-outgoing.socket filtermail-outgoing.service",
        "systemctl start filtermail-limit.socket filtermail-deliveries.socket filtermail-outgoing.socket filtermail-outgoing.service",
        [("units", "filtermail-outgoing.service is inactive"), ("message", "a message to the relay itself does not arrive:")];
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
    "a policy of MTA-STS that names another server" on "c",
        "cp --dereference /etc/nginx/nginx.conf /run/nginx.conf; \
         policy=$(grep -o '/nix/store/[^;]*mta-sts.txt' /run/nginx.conf); cp \"$policy\" /run/policy; \
         sed -i 's/^mx: .*/mx: other.test/' /run/policy; chmod 0644 /run/policy; mount --bind /run/policy \"$policy\"; \
         systemctl reload nginx",
        "umount \"$(grep -o '/nix/store/[^;]*mta-sts.txt' /run/nginx.conf)\"; systemctl reload nginx",
        [("mta-sts", "the policy does not name c.test")];
    "a certificate of an unknown authority" on "c",
        "cp -a /etc/chatmail/tls /run/tls; cd /etc/chatmail/tls; \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 100 -subj /CN=c.test \
           -addext subjectAltName=DNS:c.test,DNS:www.c.test,DNS:mta-sts.c.test -keyout /run/key -out /run/chain; \
         cat /run/key >key.pem; cat /run/chain >fullchain.pem",
        "cat /run/tls/key.pem >/etc/chatmail/tls/key.pem; \
         cat /run/tls/fullchain.pem >/etc/chatmail/tls/fullchain.pem; rm -r /run/tls",
        [("ports", "other relays do not trust the certificate"), ("certificate", "clients do not trust the certificate"),
         ("mta-sts", "the policy cannot be fetched:")];
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
        &[(
            "addresses",
            "the name of the relay resolves to 2001:db8::1, which is not reachable",
        )],
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

/// A name for which the name server does not answer, although it does for the zone: the relay, its label, and the failure.
pub(super) const UNANSWERED: (&str, &str, (&str, &str)) = (
    "c",
    "_mta-sts",
    ("mta-sts", "no server answers for _mta-sts.c.test TXT"),
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use syn::visit::{self, Visit};

    use super::super::elsewhere;
    use super::*;
    use crate::project;

    /// Texts of findings in the sources of doctor.
    #[derive(Default)]
    struct Texts(Vec<String>);

    impl<'ast> Visit<'ast> for Texts {
        fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
            if !module
                .attrs
                .iter()
                .any(|attribute| attribute.path().is_ident("cfg"))
            {
                visit::visit_item_mod(self, module);
            }
        }

        // The visitor does not look into macros.
        fn visit_macro(&mut self, call: &'ast syn::Macro) {
            if call.path.is_ident("vec") {
                let parse = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
                for element in call.parse_body_with(parse).unwrap() {
                    let mut inner = Texts::default();
                    inner.visit_expr(&element);
                    self.0.extend(inner.0);
                }
            }
        }

        fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
            let finding = matches!(
                &*call.func,
                syn::Expr::Path(path) if ["failed", "note", "weight"].iter().any(|name| path.path.is_ident(name))
            );
            if let Some(text) = call.args.first().filter(|_| finding) {
                self.0.extend(literal(text));
            }
            visit::visit_expr_call(self, call);
        }
    }

    /// The literal of a text or of `format!`.
    fn literal(text: &syn::Expr) -> Option<String> {
        let literal = match text {
            syn::Expr::Lit(text) => text.lit.clone(),
            syn::Expr::Macro(text) => {
                let first = text.mac.tokens.clone().into_iter().next()?;
                syn::parse_str(&first.to_string()).ok()?
            }
            _ => return None,
        };
        match literal {
            syn::Lit::Str(text) => Some(text.value()),
            _ => None,
        }
    }

    fn sources() -> PathBuf {
        project::root().join("crates/chatmail/src/doctor")
    }

    /// Every check, and a part of what it says, that some fault provokes.
    fn provoked() -> Vec<(&'static str, &'static str)> {
        let host = FAULTS.iter().map(|fault| fault.expected);
        let zones = ZONES.iter().map(|zone| zone.4);
        let elsewhere = elsewhere::FAULTS.iter().map(|fault| fault.3);
        let more = [
            (
                "reverse-dns",
                "has the name other.test, which does not resolve to this address",
            ),
            ("from-ports", "cannot run bash on refused"),
            UNANSWERED.2,
        ];
        host.chain(zones)
            .chain(elsewhere)
            .flatten()
            .copied()
            .chain(more)
            .collect()
    }

    #[test]
    fn every_check_finds_a_fault() {
        let text = fs::read_to_string(sources().join("checks.rs")).unwrap();
        let (_, rows) = text.split_once("= checks! {").unwrap();
        let (rows, _) = rows.split_once("};").unwrap();
        let names: Vec<_> = rows.split('"').skip(1).step_by(2).collect();
        assert!(names.len() > 15, "{names:?}");
        let found: BTreeSet<_> = provoked().into_iter().map(|(check, _)| check).collect();
        let never: Vec<_> = names.iter().filter(|name| !found.contains(**name)).collect();
        assert!(
            never.is_empty(),
            "no fault in the lab makes these checks fail: {never:?}"
        );
    }

    /// The longest part of a text between its values.
    fn fixed(text: &str) -> &str {
        let parts = text.split(['{', '}']).step_by(2);
        parts.max_by_key(|part| part.len()).unwrap_or_default().trim()
    }

    #[test]
    fn everything_that_doctor_can_find_is_provoked() {
        let mut texts = Texts::default();
        for file in ["host.rs", "network.rs", "elsewhere.rs", "message.rs"] {
            let source = fs::read_to_string(sources().join(file)).unwrap();
            texts.visit_file(&syn::parse_file(&source).unwrap());
        }
        assert!(texts.0.len() > 25, "{:?}", texts.0);
        let provoked = provoked();
        let missing: Vec<_> = texts
            .0
            .iter()
            .filter(|text| {
                let fixed = fixed(text);
                !provoked.iter().any(|(_, part)| part.contains(fixed))
            })
            .collect();
        assert!(missing.is_empty(), "no fault in the lab provokes {missing:#?}");
    }
}
