//! Plays scenarios one after the other and reports how they went.
#![allow(clippy::print_stdout, reason = "its output is for a person at a terminal")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

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

/// Plays these scenarios; one line for each, and what is known about a failure.
pub async fn play<C: Environment>(context: &C, scenarios: &[&Scenario<C>]) -> Tally {
    let mut tally = Tally { passed: 0, failed: 0 };
    for scenario in scenarios {
        let start = context.now().await;
        let started = Instant::now();
        let played = async {
            context.provide(scenario.needs).await?;
            (scenario.play)(context).await
        };
        let result = match tokio::time::timeout(scenario.deadline, played).await {
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
                for line in context.logged_since(&start).await {
                    println!("    {line}");
                }
            }
        }
    }
    tally
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
    fn lines_align() {
        assert_eq!(
            line("ok", Duration::from_millis(1234), "x"),
            "ok        1.23 s  x"
        );
    }
}
