//! Plays scenarios and reports how they went.
#![allow(clippy::print_stdout, reason = "its output is for a person at a terminal")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Serialize;

use super::scenario::{Environment, Scenario};

/// How many scenarios passed and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Scenarios that passed.
    pub passed: usize,
    /// Scenarios that failed.
    pub failed: usize,
}

impl Tally {
    /// Prints it; failure when a scenario failed.
    pub fn report(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Those scenarios whose name holds one of the filters; all when there is none.
pub fn chosen<'a, C>(scenarios: &'a [Scenario<C>], filters: &[String]) -> Vec<&'a Scenario<C>> {
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    scenarios
        .iter()
        .filter(|scenario| wanted(scenario.name))
        .collect()
}

/// Prints the names of all scenarios.
pub fn list<C>(scenarios: &[Scenario<C>]) {
    scenarios
        .iter()
        .for_each(|scenario| println!("{}", scenario.name));
}

/// Plays these scenarios and prints one line for each, with what is known about a failure. Lanes are played first, side
/// by side and each in its order; then the others, one after the other.
pub async fn play<C: Environment>(context: &C, scenarios: &[&Scenario<C>]) -> Tally {
    let (lanes, alone) = lanes(scenarios);
    let side_by_side = join_all(lanes.iter().map(|lane| in_order(context, lane))).await;
    let mut tally = in_order(context, &alone).await;
    for lane in side_by_side {
        tally.passed += lane.passed;
        tally.failed += lane.failed;
    }
    tally
}

/// Scenarios that are played one after the other.
type Lane<'a, C> = Vec<&'a Scenario<C>>;

/// The scenarios of each lane, and those without one.
fn lanes<'a, C>(scenarios: &[&'a Scenario<C>]) -> (Vec<Lane<'a, C>>, Lane<'a, C>) {
    let mut lanes: Vec<(&str, Lane<'a, C>)> = Vec::new();
    let mut alone = Vec::new();
    for &scenario in scenarios {
        let Some(name) = scenario.lane else {
            alone.push(scenario);
            continue;
        };
        match lanes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, lane)) => lane.push(scenario),
            None => lanes.push((name, vec![scenario])),
        }
    }
    (lanes.into_iter().map(|(_, lane)| lane).collect(), alone)
}

async fn in_order<C: Environment>(context: &C, scenarios: &[&Scenario<C>]) -> Tally {
    let mut tally = Tally { passed: 0, failed: 0 };
    for scenario in scenarios {
        if one(context, scenario).await {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    tally
}

/// How a scenario went.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Outcome {
    /// One line for a person, or more with the reason of a failure.
    pub fn text(&self) -> String {
        let time = Duration::from_secs_f64(self.seconds);
        match &self.failure {
            None => line("ok", time, self.scenario),
            Some(reason) => format!("{}\n    {reason}", line("FAILED", time, self.scenario)),
        }
    }
}

/// Plays one scenario.
pub async fn attempt<C: Environment>(context: &C, scenario: &Scenario<C>) -> Outcome {
    let started = Instant::now();
    let played = async {
        context.provide(scenario.needs).await?;
        (scenario.play)(context).await
    };
    let result = match tokio::time::timeout(scenario.deadline, played).await {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("not done within {:?}", scenario.deadline)),
    };
    Outcome {
        scenario: scenario.name,
        seconds: started.elapsed().as_secs_f64(),
        failure: result.err().map(|error| format!("{error:#}")),
    }
}

/// Plays one scenario and prints how it went; whether it passed.
async fn one<C: Environment>(context: &C, scenario: &Scenario<C>) -> bool {
    let start = context.now().await;
    let outcome = attempt(context, scenario).await;
    let mut text = outcome.text();
    if outcome.failure.is_some() {
        // Printed at once: other lanes print too.
        for line in context.logged_since(&start).await {
            text.push_str(&format!("\n    {line}"));
        }
    }
    println!("{text}");
    outcome.failure.is_none()
}

fn line(outcome: &str, time: Duration, name: &str) -> String {
    format!("{outcome:6} {:7.2} s  {name}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::scenarios::all;

    #[test]
    fn filters_choose_by_part_of_the_name() {
        let all = all::<Context>();
        assert_eq!(chosen(&all, &[]).len(), all.len());
        let names: Vec<&str> = chosen(&all, &["rate-".to_owned()])
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        assert_eq!(names, ["rate-limit"]);
        assert!(chosen(&all, &["no-such-scenario".to_owned()]).is_empty());
    }

    #[test]
    fn scenarios_of_a_lane_stay_in_order_and_others_stay_alone() {
        let all = all::<Context>();
        let (lanes, alone) = lanes(&chosen(&all, &[]));
        let played = lanes.iter().map(Vec::len).sum::<usize>() + alone.len();
        assert_eq!(played, all.len());
        for lane in &lanes {
            assert!(lane.iter().all(|scenario| scenario.lane == lane[0].lane));
        }
        assert!(alone.iter().all(|scenario| scenario.lane.is_none()));
    }

    #[test]
    fn lines_align() {
        assert_eq!(
            line("ok", Duration::from_millis(1234), "x"),
            "ok        1.23 s  x"
        );
    }
}
