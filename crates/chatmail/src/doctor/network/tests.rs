use super::*;
use crate::dns::Data;

fn texts(verdict: &Verdict) -> Vec<&str> {
    match verdict {
        Verdict::Well(_) => Vec::new(),
        Verdict::Skipped(_) => vec!["skipped"],
        Verdict::Found(found) => {
            assert!(found.iter().all(|one| !one.advice.is_empty()));
            found.iter().map(|one| one.text.as_str()).collect()
        }
    }
}

fn probe(what: &str, problem: Option<&str>, days: Option<i64>) -> Probe {
    Probe {
        what: what.to_owned(),
        problem: problem.map(str::to_owned),
        replaced: false,
        certificate_days: days,
    }
}

#[test]
fn each_problem_is_one_line_with_its_ports() {
    let refused = Some("cannot connect: Connection refused");
    let distrust = Some("clients do not trust the certificate: UnknownIssuer");
    let probes = [
        probe("a:25", refused, None),
        probe("a:80", None, None),
        probe("a:143", refused, None),
        probe("a:465", distrust, None),
        probe("a:993", None, Some(13)),
        probe("a:443", None, Some(14)),
    ];
    assert_eq!(
        texts(&judge_ports(&probes, "see the firewall")),
        ["a:25, a:143: cannot connect: Connection refused"]
    );
    assert_eq!(
        texts(&judge_certificate(&probes)),
        [
            "a:465: clients do not trust the certificate: UnknownIssuer",
            "a:993: the certificate expires in 13 day(s)"
        ]
    );
    assert_eq!(texts(&judge_certificate(&probes[..2])), ["skipped"]);
}

#[test]
fn names_of_addresses_have_to_lead_back() {
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let other: IpAddr = "192.0.2.2".parse().unwrap();
    let judge = |names: Vec<(String, Vec<IpAddr>)>| judge_reverse("chat.example.org", &[(address, names)]);
    assert!(
        texts(&judge(vec![(
            "host.example.net".to_owned(),
            vec![other, address]
        )]))
        .is_empty()
    );
    assert_eq!(texts(&judge(Vec::new())), ["192.0.2.1 has no name (PTR record)"]);
    assert_eq!(
        texts(&judge(vec![("host.example.net".to_owned(), vec![other])])),
        ["192.0.2.1 has the name host.example.net, which does not resolve to this address"]
    );
    assert_eq!(texts(&judge_reverse("chat.example.org", &[])), ["skipped"]);
}

fn record(need: Need, data: Data, state: State) -> Record {
    Record {
        record: crate::dns::Record {
            need,
            name: "chat.example.org".to_owned(),
            data,
        },
        state,
    }
}

#[test]
fn another_issuer_fails_and_a_missing_caa_record_is_a_note() {
    let caa = |state| {
        record(
            Need::Recommended,
            Data::CaaIssue("letsencrypt.org".to_owned()),
            state,
        )
    };
    let states = |state| -> Vec<_> {
        let found = judge_records(&[caa(state)], is_caa);
        found.into_iter().map(|finding| finding.state).collect()
    };
    use super::super::verdict::State as Weight;
    assert_eq!(
        states(State::Differs(vec!["0 issue \"other.example\"".to_owned()])),
        [Weight::Failed]
    );
    assert_eq!(states(State::Missing), [Weight::Note]);
    assert_eq!(states(State::Right), []);
    assert_eq!(states(State::Unknown), [Weight::Failed]);
    let silent = judge_records(&[caa(State::Unknown)], is_caa);
    assert!(
        silent
            .iter()
            .all(|finding| finding.text.starts_with("no server answers for "))
    );
}

#[test]
fn addresses_that_resolve_have_to_be_reachable() {
    let records = [
        record(
            Need::Required,
            Data::A("192.0.2.1".parse().unwrap()),
            State::Right,
        ),
        record(
            Need::Required,
            Data::Aaaa("2001:db8::1".parse().unwrap()),
            State::Right,
        ),
    ];
    let published = published(&records);
    assert_eq!(published.len(), 2);
    let reached = |problem: Option<&str>| {
        published
            .iter()
            .map(|address| (*address, problem.filter(|_| address.is_ipv6()).map(str::to_owned)))
            .collect()
    };
    assert!(texts(&judge_addresses(&records, &reached(None))).is_empty());
    assert_eq!(
        texts(&judge_addresses(&records, &reached(Some("timed out")))),
        ["the name of the relay resolves to 2001:db8::1, which is not reachable (timed out)"]
    );
}

#[test]
fn a_policy_has_to_name_the_relay() {
    let policy = |text: &str| judge_mta_sts(&[], "chat.example.org", &Ok(text.to_owned()));
    let right = "HTTP/1.1 200 OK\r\n\r\nversion: STSv1\nmode: enforce\nmx: chat.example.org\nmax_age: 1\n";
    assert!(texts(&policy(right)).is_empty());
    assert_eq!(texts(&policy(&right.replace("200", "404"))).len(), 1);
    assert_eq!(texts(&policy(&right.replace("mx: chat", "mx: other"))).len(), 1);
    assert_eq!(
        texts(&judge_mta_sts(
            &[],
            "chat.example.org",
            &Err("timed out".to_owned())
        )),
        ["the policy cannot be fetched: timed out"]
    );
}
