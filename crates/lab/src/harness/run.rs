//! Plays scenarios one after the other and tells how they went.

use std::time::{Duration, Instant};

use super::{Context, Needs, Scenario};
use crate::machine::Cursor;

/// Lines of each relay's journal that are shown with a failure.
const JOURNAL_LINES: usize = 40;

/// How many scenarios went which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

/// Those scenarios whose name holds one of the filters; all when there is none.
pub(crate) fn chosen<'a>(scenarios: &'a [Scenario], filters: &[String], machines: bool) -> Vec<&'a Scenario> {
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let possible = |needs| machines || needs == Needs::Addresses;
    scenarios
        .iter()
        .filter(|scenario| wanted(scenario.name) && possible(scenario.needs))
        .collect()
}

/// Plays these scenarios; one line for each, and what is known about a failure.
pub(super) async fn play(context: &Context, scenarios: &[&Scenario]) -> Tally {
    let mut tally = Tally { passed: 0, failed: 0 };
    for scenario in scenarios {
        let cursors = cursors(context).await;
        let started = Instant::now();
        let result = match tokio::time::timeout(scenario.deadline, (scenario.play)(context)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("not done within {:?}", scenario.deadline)),
        };
        let time = started.elapsed();
        match result {
            Ok(()) => {
                tally.passed += 1;
                println!("{}", line("ok", time, scenario.name));
            }
            Err(error) => {
                tally.failed += 1;
                println!("{}", line("FAILED", time, scenario.name));
                println!("    {error:#}");
                journals(context, &cursors).await;
            }
        }
    }
    tally
}

fn line(outcome: &str, time: Duration, name: &str) -> String {
    format!("{outcome:6} {:7.2} s  {name}", time.as_secs_f64())
}

async fn cursors(context: &Context) -> Vec<(String, Cursor)> {
    let mut cursors = Vec::new();
    let Ok(lab) = context.machines() else {
        return cursors;
    };
    for relay in &context.topology.relays {
        if let Ok(cursor) = lab.cursor(&relay.name).await {
            cursors.push((relay.name.clone(), cursor));
        }
    }
    cursors
}

async fn journals(context: &Context, cursors: &[(String, Cursor)]) {
    let Ok(lab) = context.machines() else { return };
    for (relay, cursor) in cursors {
        let lines = match lab.journal(relay, None, cursor).await {
            Ok(lines) => lines,
            Err(error) => vec![format!("{error:#}")],
        };
        for line in lines.iter().skip(lines.len().saturating_sub(JOURNAL_LINES)) {
            println!("    {relay} | {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::SCENARIOS;

    #[test]
    fn filters_choose_by_part_of_the_name() {
        assert_eq!(chosen(SCENARIOS, &[], true).len(), SCENARIOS.len());
        let names: Vec<&str> = chosen(SCENARIOS, &["rate-".to_owned()], false)
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        assert_eq!(names, ["rate-limit"]);
        assert!(chosen(SCENARIOS, &["units-are".to_owned()], false).is_empty());
    }

    #[test]
    fn lines_align() {
        assert_eq!(
            line("ok", Duration::from_millis(1234), "x"),
            "ok        1.23 s  x"
        );
    }
}
