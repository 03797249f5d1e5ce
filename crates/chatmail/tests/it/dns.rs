//! `chatmail dns`

use chatmail_core::Settings;
use chatmail_core::settings::TlsMode;

use crate::Relay;

const ZONE: &[&str] = &["dns", "--zone", "--serial", "1"];

fn zone(change: impl FnOnce(&mut Settings)) -> String {
    let outcome = Relay::new(change).chatmail(ZONE);
    assert!(outcome.success, "{}", outcome.stderr);
    outcome.stdout
}

#[test]
fn zone_of_a_relay_with_acme() {
    insta::assert_snapshot!(zone(|_| {}));
}

#[test]
fn zone_of_a_relay_with_an_acme_account() {
    let zone = zone(|settings| {
        settings.dns.acme_account_uri = Some("https://acme-v02.api.letsencrypt.org/acme/acct/1".to_owned());
    });
    let record = r#"chat.example.org. IN CAA 0 issue "letsencrypt.org;accounturi=https://acme-v02.api.letsencrypt.org/acme/acct/1""#;
    assert!(zone.lines().any(|line| line == record), "{zone}");
}

#[test]
fn zone_of_a_relay_with_certificates_of_its_operator() {
    let zone = zone(|settings| settings.tls.mode = TlsMode::External);
    assert!(zone.contains("_mta-sts.chat.example.org. IN TXT"), "{zone}");
    assert!(!zone.contains("CAA"), "{zone}");
}

#[test]
fn zone_of_a_self_signed_relay() {
    insta::assert_snapshot!(zone(|settings| {
        settings.domain = "_a.test".to_owned();
        settings.tls.mode = TlsMode::SelfSigned;
        settings.addresses = vec!["198.18.25.11".parse().unwrap()];
    }));
}

#[test]
fn zone_for_import_has_no_soa_and_no_ns() {
    let outcome = Relay::new(|_| {}).chatmail(&["dns", "--zone", "--without-soa"]);
    assert!(outcome.success, "{}", outcome.stderr);
    let whole = zone(|_| {});
    let rest: Vec<_> = whole
        .lines()
        .filter(|line| !line.contains(" IN SOA ") && !line.contains(" IN NS "))
        .collect();
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), rest);
}

#[test]
fn serials_grow_with_time() {
    let outcome = Relay::new(|_| {}).chatmail(&["dns", "--zone"]);
    let soa = outcome
        .stdout
        .lines()
        .find(|line| line.contains(" IN SOA "))
        .unwrap();
    let serial: u32 = soa.split(' ').nth(5).unwrap().parse().unwrap();
    assert!(serial > 1_700_000_000, "{serial}");
}

#[test]
fn table_for_people() {
    let outcome = Relay::new(|_| {}).chatmail(&["dns"]);
    assert!(outcome.success, "{}", outcome.stderr);
    insta::assert_snapshot!(outcome.stdout);
}

#[test]
fn what_has_no_zone_is_refused() {
    let missing = |settings: &mut Settings| settings.dkim.key_file = "/nonexistent/opendkim.private".into();
    let literal = |settings: &mut Settings| settings.domain = "[192.0.2.1]".to_owned();
    let nowhere = |settings: &mut Settings| settings.addresses.clear();
    let refused = [Relay::new(missing), Relay::new(literal), Relay::new(nowhere)].map(|relay| {
        let outcome = relay.chatmail(ZONE);
        assert!(!outcome.success && outcome.stdout.is_empty());
        outcome.stderr
    });
    insta::assert_snapshot!(refused.concat());
}
