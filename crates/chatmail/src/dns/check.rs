//! `chatmail dns --check`: compares the published records with the required ones.

use std::fmt::Write as _;

use chatmail_core::Settings;
use serde_json::json;

use super::ask::{self, Server};
use super::compare::{self, Finding, State};
use super::records::{Data, Need, Record};
use super::zone::beside;
use crate::answer::folded;

/// The result according to the servers of the zone, or to the resolver if they cannot be queried.
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    asked: Vec<String>,
    remarks: Vec<String>,
}

pub(crate) fn run(settings: &Settings, records: &[Record], as_json: bool) -> anyhow::Result<crate::Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let checked = runtime.block_on(check(settings, records))?;
    let good = !checked.findings.iter().any(Finding::is_fault);
    let text = if as_json {
        format!("{:#}\n", checked.json(settings, good))
    } else {
        checked.text(settings, good)
    };
    Ok(crate::Answer::new(text, good))
}

pub(super) async fn check(settings: &Settings, records: &[Record]) -> anyhow::Result<Checked> {
    let questions = compare::questions(records);
    let judge = |answers| compare::findings(records, settings, &answers);
    let resolver = Server::resolver(settings.filtermail.resolver)?;
    let resolved = resolver.answers(&questions).await.map(judge);
    let mut authority = ask::authority(&resolver, &settings.domain).await;
    let mut views = Vec::new();
    for server in &authority.servers {
        match server.answers(&questions).await {
            Ok(answers) => views.push((server.name.clone(), judge(answers))),
            Err(reason) => authority
                .remarks
                .push(format!("{} stopped answering: {reason}", server.name)),
        }
    }
    match resolved {
        Ok(findings) => views.push((resolver.name, findings)),
        Err(reason) if views.is_empty() => anyhow::bail!("{} does not answer: {reason}", resolver.name),
        Err(reason) => authority
            .remarks
            .push(format!("{} does not answer: {reason}", resolver.name)),
    }
    Ok(merge(views, authority.remarks))
}

/// Merges the views of several servers. The best result for each record counts, since secondaries lag behind; a remark
/// names the server that does. The last view is the resolver's, whose cache may contain old records: it only counts if
/// it is the only one.
fn merge(mut views: Vec<(String, Vec<Finding>)>, mut remarks: Vec<String>) -> Checked {
    let cached = if views.len() > 1 { views.pop() } else { None };
    let mut findings: Vec<Finding> = views
        .first()
        .map(|(_, findings)| findings.clone())
        .unwrap_or_default();
    for (_, view) in &views {
        for (best, other) in findings.iter_mut().zip(view) {
            if best.state != State::Right && other.state == State::Right {
                *best = other.clone();
            }
        }
    }
    for (name, view) in views.iter().chain(&cached) {
        for (best, other) in findings.iter().zip(view) {
            if best.state == State::Right && other.state != State::Right {
                let record = &other.record;
                remarks.push(format!(
                    "{name} does not know {} {} yet",
                    record.name,
                    record.data.kind()
                ));
            }
        }
    }
    let asked = views.into_iter().map(|(name, _)| name).collect();
    Checked {
        findings,
        asked,
        remarks,
    }
}

/// Column of values that have a line of their own.
const INDENT: usize = 13;

/// The sentence that the reference relay prints for a missing record.
fn headline(finding: &Finding, domain: &str) -> Option<String> {
    match &finding.record.data {
        _ if finding.state != State::Missing => None,
        Data::A(_) | Data::Aaaa(_) => Some(format!("Missing A and/or AAAA DNS records for {domain}!")),
        Data::Cname(_) if finding.record.name.starts_with("mta-sts.") => {
            Some("Missing MTA-STS CNAME record:".to_owned())
        }
        Data::Cname(_) => Some("Missing www CNAME record:".to_owned()),
        _ => None,
    }
}

fn line(text: &mut String, finding: &Finding) {
    let (word, published) = match &finding.state {
        State::Right => ("right", &[][..]),
        State::Missing => ("missing", &[][..]),
        State::Differs(values) => ("differs", values.as_slice()),
        State::Unknown => ("no answer", &[][..]),
    };
    let record = &finding.record;
    let value = match &record.data {
        Data::Txt(text) => text.clone(),
        data => data.to_string(),
    };
    let columns = format!("  {word:9}  {}  {}  ", record.name, record.data.kind());
    text.push_str(&beside(&columns, &value, INDENT));
    for value in published {
        let value = value.escape_debug().to_string();
        text.push_str(&beside("             published: ", &value, INDENT));
    }
}

impl Checked {
    fn wrong(&self, need: Need) -> impl Iterator<Item = &Finding> {
        let wrong = move |finding: &&Finding| finding.record.need == need && finding.state != State::Right;
        self.findings.iter().filter(wrong)
    }

    fn text(&self, settings: &Settings, good: bool) -> String {
        let asked = format!("Checked {}, asking {}.\n", settings.domain, self.asked.join(", "));
        let mut text = folded(&asked);
        for remark in &self.remarks {
            text.push_str(&folded(&format!("Note: {remark}.")));
        }
        for (need, title) in [(Need::Required, "Required"), (Need::Recommended, "Recommended")] {
            if self.wrong(need).next().is_some() {
                let _ = writeln!(text, "\n{title}:\n");
            }
            let mut before = None;
            for finding in self.wrong(need) {
                let headline = headline(finding, &settings.domain);
                if let Some(sentence) = headline.as_ref().filter(|_| headline != before) {
                    let _ = writeln!(text, "{sentence}");
                }
                before = headline;
                line(&mut text, finding);
            }
        }
        let recommended = self.wrong(Need::Recommended).count();
        let summary = match (good, recommended) {
            (true, 0) => "Great! All your DNS entries are verified and correct.".to_owned(),
            (true, n) => format!("All required DNS entries are right; {n} recommended one(s) are not."),
            (false, _) => format!(
                "{} required DNS entries are not right.",
                self.wrong(Need::Required).count()
            ),
        };
        let _ = writeln!(text, "\n{summary}");
        text
    }

    fn json(&self, settings: &Settings, good: bool) -> serde_json::Value {
        let records: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let record = &finding.record;
                let mut entry = json!({
                    "need": record.need,
                    "name": record.name,
                    "type": record.data.kind(),
                    "value": record.data.to_string(),
                });
                if let (Some(entry), Ok(serde_json::Value::Object(state))) =
                    (entry.as_object_mut(), serde_json::to_value(&finding.state))
                {
                    entry.extend(state);
                }
                entry
            })
            .collect();
        json!({
            "domain": settings.domain,
            "ok": good,
            "asked": self.asked,
            "remarks": self.remarks,
            "records": records,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_fits_80_columns() {
        let text = include_str!("../../../chatmail-core/testdata/settings.json");
        let settings = Settings::parse(text, "sample".as_ref()).unwrap();
        let finding = |name: &str, data, need, state| Finding {
            record: Record {
                name: name.to_owned(),
                data,
                need,
            },
            state,
        };
        let checked = Checked {
            findings: vec![
                finding(
                    "chat.example.org",
                    Data::A("192.0.2.1".parse().unwrap()),
                    Need::Required,
                    State::Missing,
                ),
                finding(
                    "opendkim._domainkey.chat.example.org",
                    Data::Txt(format!("v=DKIM1;k=rsa;p={};s=email;t=s", "A".repeat(392))),
                    Need::Required,
                    State::Differs(vec!["v=DKIM1;k=rsa;p=BBBB".to_owned(), "\u{1b}[31m".to_owned()]),
                ),
                finding(
                    "chat.example.org",
                    Data::Txt("v=spf1 a ~all".to_owned()),
                    Need::Recommended,
                    State::Unknown,
                ),
            ],
            asked: vec!["ns1.dns.example".to_owned(), "ns2.dns.example".to_owned()],
            remarks: vec![
                "ns3.dns.example stopped answering: no reply within 5 s, after three attempts over UDP and TCP".to_owned(),
            ],
        };
        let good = Checked {
            findings: Vec::new(),
            asked: vec!["127.0.0.1".to_owned()],
            remarks: Vec::new(),
        };
        let text = checked.text(&settings, false) + "\n" + &good.text(&settings, true);
        crate::answer::human::check("dns", &text);
    }
}
