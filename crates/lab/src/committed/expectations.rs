//! Properties of the committed rendering of complete hosts, beyond that it is the output of the module.

use std::path::Path;

use super::load;

fn text(host: &str, file: &str) -> String {
    let files = load(host).unwrap();
    let text = files.get(Path::new(file));
    text.unwrap_or_else(|| panic!("{host} has no {file}")).clone()
}

fn nginx(host: &str) -> String {
    text(host, "etc/nginx/nginx.conf")
}

/// Returns nginx's server blocks for this name.
fn servers(host: &str, name: &str) -> Vec<String> {
    let nginx = nginx(host);
    let web = nginx.split("stream {").next().unwrap_or_default();
    let blocks = web.split("server {").skip(1);
    let named = |block: &&str| {
        block
            .lines()
            .filter_map(|line| line.trim().strip_prefix("server_name "))
            .any(|names| names.trim_end_matches(';').split(' ').any(|found| found == name))
    };
    blocks.filter(named).map(str::to_owned).collect()
}

fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let trimmed = text.lines().map(str::trim);
    trimmed.filter_map(|line| line.strip_prefix(start)).collect()
}

#[test]
fn a_site_of_the_host_keeps_its_name_its_certificate_and_its_files() {
    let blocks = servers("existing-site", "www.example.net");
    let front = "listen unix:/run/nginx/chatmail-https.socket ";
    let https: Vec<_> = blocks
        .iter()
        .filter(|block| {
            block
                .lines()
                .any(|line| line.contains(front) && line.contains(" ssl proxy_protocol"))
        })
        .collect();
    assert_eq!((blocks.len(), https.len()), (2, 1), "{blocks:?}");
    let site = https[0];
    assert!(site.contains("root /srv/www/example.net;"), "{site}");
    assert!(
        site.contains("ssl_certificate /var/lib/acme/www.example.net/fullchain.pem;"),
        "{site}"
    );
    // The site does not use the relay's pages or log, and it is not the default server.
    assert!(!site.contains("default_server"), "{site}");
    let of_its_own = site.replace(front, "");
    for other in ["chatmail", "newemail"] {
        assert!(!of_its_own.contains(other), "{site}");
    }
    // Only the front listens on the public port; it forwards connections to the site like those to the relay.
    let nginx = nginx("existing-site");
    let on_443: Vec<_> = nginx.lines().filter(|line| line.contains(":443;")).collect();
    assert_eq!(on_443.len(), 2, "{on_443:?}");
    assert!(
        nginx.contains("default unix:/run/nginx/chatmail-https.socket;"),
        "{nginx}"
    );
}

#[test]
fn a_resolver_of_the_host_stays_as_it_is() {
    let unbound = text("existing-site", "store/unbound.conf");
    let interfaces: Vec<_> = lines(&unbound, "interface: ");
    assert_eq!(interfaces, ["127.0.0.1", "10.0.0.1"]);
    for ours in [
        "cache-max-negative-ttl",
        "do-ip6",
        "prefetch",
        "qname-minimisation",
    ] {
        assert!(!unbound.contains(ours), "{unbound}");
    }
    let minimal = text("minimal", "store/unbound.conf");
    assert!(minimal.contains("cache-max-negative-ttl: 0"), "{minimal}");
}

#[test]
fn firewall_rules_of_the_host_stay_beside_those_of_the_relay() {
    let firewall = text("existing-site", "firewall");
    let minimal = text("minimal", "firewall");
    let own: Vec<_> = firewall
        .lines()
        .filter(|line| !minimal.lines().any(|known| known == *line))
        .collect();
    assert_eq!(own, ["tcp 22", "lan udp 53"]);
    for line in minimal.lines() {
        assert!(firewall.lines().any(|found| found == line), "{line} is missing");
    }
    for port in [25, 80, 143, 443, 465, 587, 993, 3478] {
        assert!(
            minimal.lines().any(|line| line == format!("tcp {port}")),
            "{port}"
        );
    }
    assert!(minimal.contains("udp 3478\nudp 50000-52999\n"), "{minimal}");
}

/// Hosts, and whether each has IPv6.
const HOSTS: [(&str, bool); 2] = [("minimal", true), ("lab-a", false)];

#[test]
fn daemons_listen_on_ipv6_exactly_where_it_is_wanted() {
    for (host, v6) in HOSTS {
        let nginx = nginx(host);
        for port in [":80", ":8443", ":443"] {
            let listens = |address: &str| {
                lines(&nginx, "listen ")
                    .iter()
                    .any(|line| line.starts_with(address) && line.contains(port))
            };
            assert!(listens("0.0.0.0"), "{host} {port}");
            assert_eq!(listens("[::"), v6, "{host} {port}");
        }
        let postfix = text(host, "store/postfix-main.cf");
        let expected = if v6 { "all" } else { "ipv4" };
        assert_eq!(lines(&postfix, "inet_protocols = "), [expected], "{host}");
        assert_eq!(postfix.contains("[::1]"), v6, "{host}");
        let dovecot = text(host, "store/dovecot.conf");
        let listen = lines(&dovecot, "listen = ").concat();
        assert!(listen.contains('*'), "{host}: {listen}");
        assert_eq!(listen.contains("::"), v6, "{host}: {listen}");
        let unbound = text(host, "store/unbound.conf");
        let expected = if v6 { "yes" } else { "no" };
        assert_eq!(lines(&unbound, "do-ip6: "), [expected], "{host}");
        // coturn listens on all addresses of the host.
        let turn = text(host, "store/turnserver.conf");
        assert!(lines(&turn, "listening-ip").is_empty(), "{host}");
    }
}

/// The operator guide states that the settings of daemons in a host's configuration appear in the daemons' files.
#[test]
fn settings_of_the_host_reach_the_daemons() {
    for (file, changed, before) in [
        (
            "store/postfix-main.cf",
            "maximal_queue_lifetime = 5d",
            "maximal_queue_lifetime = 2d",
        ),
        (
            "store/postfix-main.cf",
            "smtpd_tls_mandatory_protocols = >=TLSv1.3",
            "smtpd_tls_mandatory_protocols = >=TLSv1.2",
        ),
        (
            "store/dovecot.conf",
            "imap_hibernate_timeout = 5 mins",
            "imap_hibernate_timeout = 30 s",
        ),
        ("store/dovecot.conf", "imap_idle_notify_interval = 3 mins", ""),
        ("store/nginx.conf", "location = /.well-known/security.txt {", ""),
        ("store/unbound.conf", "msg-cache-size: 16m", ""),
    ] {
        let has = |host: &str, line: &str| text(host, file).lines().any(|found| found.trim() == line);
        assert!(has("daemon-settings", changed), "{file}: {changed}");
        assert!(!has("minimal", changed), "{file}: {changed}");
        if !before.is_empty() {
            assert!(
                has("minimal", before) && !has("daemon-settings", before),
                "{file}: {before}"
            );
        }
    }
}

#[test]
fn a_relay_without_a_name_has_no_names_and_no_key() {
    let wants = text("ip-only", "wants");
    assert!(!wants.contains("dkim"), "{wants}");
    let postfix = text("ip-only", "store/postfix-main.cf");
    assert!(
        postfix.contains("virtual_mailbox_domains =\n  [192.0.2.1]\n"),
        "{postfix}"
    );
    assert!(
        postfix.contains("myhostname = 1.2.0.192.in-addr.arpa\n"),
        "{postfix}"
    );
    for file in ["store/postfix-main.cf", "store/postfix-master.cf"] {
        assert!(!text("ip-only", file).contains("opendkim"), "{file}");
    }
    let nginx = nginx("ip-only");
    assert!(
        lines(&nginx, "server_name ")
            .iter()
            .all(|names| names.starts_with("192.0.2.1") || names.starts_with("chatmail-unknown.invalid"))
    );
    let script = text("ip-only", "store/chatmail-selfsigned");
    assert!(script.contains("subjectAltName=IP:$1\""), "{script}");
    let settings = text("ip-only", "etc/chatmail/settings.json");
    assert!(settings.contains("\"[192.0.2.1]\""), "{settings}");
}

/// Ways of exchanging mail with other servers.
#[derive(Debug, PartialEq)]
struct Ways {
    https_out: bool,
    https_in: bool,
    smtp_out: bool,
    smtp_in: bool,
}

/// Returns the ways that the daemons of a host offer and use.
fn ways(host: &str) -> Ways {
    let (main, master) = (
        text(host, "store/postfix-main.cf"),
        text(host, "store/postfix-master.cf"),
    );
    let service = |name: &str| master.lines().any(|line| line.starts_with(&format!("{name}  ")));
    let files = load(host).unwrap();
    let unit = |name: &str| files.contains_key(&Path::new("units").join(name));

    let https_out = main.contains("lookup.socket:next-hops");
    assert_eq!(service("prompt"), https_out, "{host}");
    assert_eq!(unit("filtermail-transport.socket"), https_out, "{host}");
    assert_eq!(main.contains("lookup.socket:results"), https_out, "{host}");
    let https_in = nginx(host).contains("location = /mxdeliv");
    assert_eq!(service("mxdeliv"), https_in, "{host}");
    assert_eq!(unit("filtermail-mxdeliv.socket"), https_in, "{host}");
    let smtp_in = service("smtp  inet");
    let firewall = text(host, "firewall");
    assert_eq!(firewall.lines().any(|line| line == "tcp 25"), smtp_in, "{host}");
    Ways {
        https_out,
        https_in,
        smtp_out: !main.contains("default_transport = error:"),
        smtp_in,
    }
}

#[test]
fn hosts_offer_and_use_the_ways_that_are_wanted() {
    let all = |on| Ways {
        https_out: on,
        https_in: on,
        smtp_out: on,
        smtp_in: on,
    };
    assert_eq!(ways("minimal"), all(true));
    let expected = Ways {
        https_out: false,
        https_in: false,
        ..all(true)
    };
    assert_eq!(ways("existing-site"), expected);
    let expected = Ways {
        https_out: false,
        ..all(true)
    };
    assert_eq!(ways("lab-c"), expected);
    let expected = Ways {
        smtp_out: false,
        smtp_in: false,
        ..all(true)
    };
    assert_eq!(ways("lab-b-https"), expected);
}

/// Other relays accept `user@[address]` only from that address.
#[test]
fn a_relay_without_a_name_delivers_over_ipv4() {
    for (host, by_address) in [("minimal", false), ("ip-only", true)] {
        let settings = text(host, "etc/chatmail/settings.json");
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        assert_eq!(settings["transport"]["ipv6"], !by_address, "{host}");
        let master = text(host, "store/postfix-master.cf");
        let limited = master.matches("-o inet_protocols=ipv4").count();
        assert_eq!(limited, if by_address { 2 } else { 0 }, "{host}");
    }
}
