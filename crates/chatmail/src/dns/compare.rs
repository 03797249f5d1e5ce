//! Compares published records with the expected ones, and tolerates differences without a meaning.

use std::collections::BTreeMap;

use chatmail_core::Settings;
use hickory_resolver::proto::rr::RecordType;

use super::ask::{Answers, Question};
use super::records::{Data, Need, Record};

/// State of a published record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "published")]
pub(crate) enum State {
    /// The record is published, possibly in another form with the same meaning.
    Right,
    /// The record is not published.
    Missing,
    /// Other values are published.
    Differs(Vec<String>),
    /// No server answered.
    Unknown,
}

/// A record of the relay and its published state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) record: Record,
    pub(crate) state: State,
}

impl Finding {
    /// Whether the relay does not work in this state.
    pub(crate) fn is_fault(&self) -> bool {
        self.record.need == Need::Required && self.state != State::Right
    }
}

/// The queries whose answers [`findings`] needs.
pub(crate) fn questions(records: &[Record]) -> Vec<Question> {
    let mut questions = Vec::new();
    for record in records {
        questions.push((record.name.clone(), record.data.kind_of_record()));
        if matches!(record.data, Data::A(_) | Data::Aaaa(_) | Data::Cname(_)) {
            questions.extend([RecordType::A, RecordType::AAAA].map(|kind| (record.name.clone(), kind)));
        }
    }
    questions.sort();
    questions.dedup();
    questions
}

/// Compares all records with the answers of one server.
pub(crate) fn findings(records: &[Record], settings: &Settings, answers: &Answers) -> Vec<Finding> {
    let at = |name: &str, kind| answers.get(&(name.to_owned(), kind));
    let expected: Vec<_> = settings.addresses.iter().map(ToString::to_string).collect();
    let mut found: Vec<_> = records
        .iter()
        .map(|record| {
            let values = at(&record.name, record.data.kind_of_record());
            let state = match values {
                None => State::Unknown,
                Some(values) => state(&record.data, values),
            };
            // A name may also have the addresses of the relay itself, as a flattened alias has.
            let addresses = [RecordType::A, RecordType::AAAA].map(|kind| at(&record.name, kind));
            let mut addresses = addresses.into_iter().flatten().flatten().peekable();
            let leads_here = matches!(record.data, Data::Cname(_))
                && state == State::Missing
                && addresses.peek().is_some()
                && addresses.all(|address| expected.contains(address));
            Finding {
                record: weighed(record, &state),
                state: if leads_here { State::Right } else { state },
            }
        })
        .collect();
    // Other servers connect to any address of the name.
    for kind in [RecordType::A, RecordType::AAAA] {
        let values = at(&settings.domain, kind).into_iter().flatten();
        let strange: Vec<_> = values
            .filter(|value| !expected.contains(value))
            .cloned()
            .collect();
        let of_kind = |finding: &&mut Finding| matches!(finding.record.data, Data::A(_) | Data::Aaaa(_));
        if let (false, Some(first)) = (strange.is_empty(), found.iter_mut().find(of_kind)) {
            first.state = State::Differs(strange);
        }
    }
    found
}

/// Another `id` of the MTA-STS policy only matters when the policy changes.
fn weighed(record: &Record, state: &State) -> Record {
    let mut record = record.clone();
    let is_policy = |text: &str| {
        let tags = tags(text);
        tags.get("v").is_some_and(|version| version == "STSv1") && tags.contains_key("id")
    };
    if let (Data::Txt(expected), State::Differs(values)) = (&record.data, state)
        && expected.starts_with("v=STSv1")
        && matches!(values.as_slice(), [one] if is_policy(one))
    {
        record.need = Need::Recommended;
    }
    record
}

fn state(expected: &Data, values: &[String]) -> State {
    let values = match expected {
        // Ignore other text at the same name.
        Data::Txt(text) => of_same_kind(text, values),
        _ => values.to_vec(),
    };
    if values.is_empty() {
        return State::Missing;
    }
    let right = match expected {
        Data::A(_) | Data::Aaaa(_) => {
            return if values.contains(&expected.to_string()) {
                State::Right
            } else {
                State::Differs(values)
            };
        }
        Data::Cname(host) => values.iter().all(|value| same_host(value, host)),
        // With one server, the preference has no meaning.
        Data::Mx { host, .. } => values
            .iter()
            .all(|value| last(value).is_some_and(|name| same_host(name, host))),
        Data::Srv { port, host } => values.iter().any(|value| {
            let mut fields = value.split(' ').skip(2);
            fields.next() == Some(&port.to_string())
                && fields.next().is_some_and(|name| same_host(name, host))
        }),
        Data::CaaIssue(issuer) => values.iter().any(|value| issues(value, issuer)),
        Data::Txt(text) => values.len() == 1 && values.iter().all(|value| same_text(text, value)),
    };
    if right {
        State::Right
    } else {
        State::Differs(values)
    }
}

fn last(value: &str) -> Option<&str> {
    value.rsplit(' ').next()
}

fn same_host(one: &str, other: &str) -> bool {
    one.trim_end_matches('.')
        .eq_ignore_ascii_case(other.trim_end_matches('.'))
}

/// Whether a CAA record permits the issuer. A record that also requires an account is stricter, which is fine.
fn issues(value: &str, issuer: &str) -> bool {
    let Some(value) = value
        .split_once(" issue ")
        .map(|(_, value)| squeeze(value.trim_matches('"')))
    else {
        return false;
    };
    value == issuer
        || value
            .strip_prefix(issuer)
            .is_some_and(|rest| rest.starts_with(';'))
}

fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The text records of the same kind as the expected one, which its first word determines.
fn of_same_kind(expected: &str, values: &[String]) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim_start();
        let end = text.find([';', ' ']).unwrap_or(text.len());
        squeeze(text.split_at(end).0).to_ascii_lowercase()
    };
    let wanted = word(expected);
    // RFC 6376 section 3.6.1: the version is optional.
    let is_key = |text: &str| wanted == "v=dkim1" && tags(text).contains_key("p");
    let alike = |text: &&String| word(text) == wanted || is_key(text);
    values.iter().filter(alike).cloned().collect()
}

/// Parses `tag=value` pairs. White space has no meaning in the compared records.
fn tags(text: &str) -> BTreeMap<String, String> {
    text.split(';')
        .filter_map(|part| part.split_once('='))
        .map(|(tag, value)| (squeeze(tag).to_ascii_lowercase(), squeeze(value)))
        .collect()
}

fn same_text(expected: &str, found: &str) -> bool {
    if expected.starts_with("v=DKIM1") {
        let (expected, found) = (tags(expected), tags(found));
        let kind = found.get("k").map_or("rsa", String::as_str);
        let for_mail = found.get("s").is_none_or(|services| {
            services
                .split(':')
                .any(|service| service == "*" || service == "email")
        });
        return expected.get("p") == found.get("p") && kind.eq_ignore_ascii_case("rsa") && for_mail;
    }
    if expected.starts_with("v=spf1") {
        let words = |text: &str| {
            text.to_ascii_lowercase()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        return words(expected) == words(found.trim_end_matches([';', ' ']));
    }
    tags(expected) == tags(found)
}

impl Data {
    /// The type to query.
    pub(crate) fn kind_of_record(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Mx { .. } => RecordType::MX,
            Self::Cname(_) => RecordType::CNAME,
            Self::Txt(_) => RecordType::TXT,
            Self::CaaIssue(_) => RecordType::CAA,
            Self::Srv { .. } => RecordType::SRV,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        Settings::parse(sample, "sample".as_ref()).unwrap()
    }

    /// What a server answers that has exactly our records, changed by `change`.
    fn judged(change: impl FnOnce(&mut Answers)) -> Vec<Finding> {
        let settings = settings();
        let records = super::super::records::of(&settings, "KEY").unwrap();
        let mut answers: Answers = questions(&records).into_iter().map(|q| (q, Vec::new())).collect();
        for record in &records {
            let value = match &record.data {
                Data::Txt(text) => text.clone(),
                data => data.to_string(),
            };
            let question = (record.name.clone(), record.data.kind_of_record());
            answers.get_mut(&question).unwrap().push(value);
        }
        change(&mut answers);
        findings(&records, &settings, &answers)
    }

    fn with(name: &str, kind: RecordType, values: &[&str]) -> Vec<(String, State, bool)> {
        let name = if name.is_empty() {
            "chat.example.org".to_owned()
        } else {
            format!("{name}.chat.example.org")
        };
        let values = values.iter().map(|&value| value.to_owned()).collect();
        judged(|answers| drop(answers.insert((name, kind), values)))
            .into_iter()
            .filter(|finding| finding.state != State::Right)
            .map(|finding| {
                (
                    finding.record.name.clone(),
                    finding.state.clone(),
                    finding.is_fault(),
                )
            })
            .collect()
    }

    #[test]
    fn our_own_records_are_right_and_each_absent_one_is_missing() {
        assert!(judged(|_| ()).iter().all(|finding| finding.state == State::Right));
        for finding in judged(|answers| answers.values_mut().for_each(Vec::clear)) {
            assert_eq!(finding.state, State::Missing, "{:?}", finding.record);
        }
        let unanswered = judged(Answers::clear);
        assert!(unanswered.iter().all(|finding| finding.state == State::Unknown));
    }

    #[test]
    fn the_same_meaning_in_other_words_is_right() {
        use RecordType as T;
        for (name, kind, values) in [
            ("opendkim._domainkey", T::TXT, &["p=K E Y; t=s"][..]),
            (
                "opendkim._domainkey",
                T::TXT,
                &[" s=*:other ;k=RSA ; v=DKIM1; p=KEY;"],
            ),
            ("opendkim._domainkey", T::TXT, &["some comment", "v=DKIM1;p=KEY"]),
            ("", T::TXT, &["site-verification=x", "V=spf1  A ~all "]),
            ("_dmarc", T::TXT, &["v=DMARC1; aspf=s; adkim=s; p=reject;"]),
            ("", T::MX, &["5 Chat.Example.org."]),
            ("www", T::CNAME, &["CHAT.example.org."]),
            (
                "_imaps._tcp",
                T::SRV,
                &["0 1 1 other.", "10 0 993 chat.example.org."],
            ),
            (
                "",
                T::CAA,
                &[
                    "0 issue \"letsencrypt.org; accounturi=https://x/1\"",
                    "0 iodef \"mailto:x\"",
                ],
            ),
        ] {
            assert_eq!(with(name, kind, values), [], "{values:?}");
        }
    }

    #[test]
    fn other_meanings_differ_and_only_required_ones_are_faults() {
        use RecordType as T;
        for (name, kind, values, fault) in [
            (
                "opendkim._domainkey",
                T::TXT,
                &["v=DKIM1;k=rsa;p=OTHER"][..],
                true,
            ),
            ("opendkim._domainkey", T::TXT, &["v=DKIM1;k=rsa;p="], true),
            ("opendkim._domainkey", T::TXT, &["v=DKIM1;k=ed25519;p=KEY"], true),
            (
                "opendkim._domainkey",
                T::TXT,
                &["v=DKIM1;p=KEY", "v=DKIM1;p=OLD"],
                true,
            ),
            ("", T::A, &["192.0.2.1", "192.0.2.9"], true),
            (
                "",
                T::MX,
                &["10 chat.example.org.", "20 other.example.org."],
                true,
            ),
            ("_mta-sts", T::TXT, &["v=STSv1; id=1"], false),
            ("", T::TXT, &["v=spf1 a -all"], false),
            ("", T::TXT, &["v=spf1 a ~all", "v=spf1 mx ~all"], false),
            ("_dmarc", T::TXT, &["v=DMARC1; p=none"], false),
            ("", T::CAA, &["0 issue \"other.example\""], false),
        ] {
            let found = with(name, kind, values);
            let [(_, State::Differs(_), is_fault)] = found.as_slice() else {
                panic!("{values:?}: {found:?}");
            };
            assert_eq!(*is_fault, fault, "{values:?}");
        }
    }

    #[test]
    fn a_flattened_alias_leads_to_the_relay_or_elsewhere() {
        let www = "www.chat.example.org".to_owned();
        let flattened = |address: &str| {
            let mut rest = judged(|answers| {
                answers.insert((www.clone(), RecordType::CNAME), Vec::new());
                answers.insert((www.clone(), RecordType::A), vec![address.to_owned()]);
            });
            rest.retain(|finding| finding.state != State::Right);
            rest.len()
        };
        assert_eq!(flattened("192.0.2.1"), 0);
        assert_eq!(flattened("192.0.2.7"), 1);
    }
}
