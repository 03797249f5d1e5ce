//! Resources that a relay's units use during a measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::machine::{Lab, Usage};

/// How often memory is sampled; the report contains the maximum.
const SAMPLE: Duration = Duration::from_secs(1);
/// Units that use less than this share of the CPU time are summed up in one line.
const SMALL: f64 = 0.01;

/// CPU time and peak memory of units, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    units: BTreeMap<String, Usage>,
}

impl Cost {
    /// The sum over all units.
    pub(super) fn total(&self) -> Usage {
        let mut total = Usage::default();
        for usage in self.units.values() {
            total.cpu += usage.cpu;
            total.memory += usage.memory;
        }
        total
    }

    /// One line per unit, most expensive first: CPU time per thing, of which there were `count`, and peak memory.
    pub(super) fn lines(&self, count: usize, thing: &str) -> Vec<String> {
        let total = self.total();
        let mut units: Vec<(&str, Usage)> = self
            .units
            .iter()
            .map(|(name, usage)| (name.as_str(), *usage))
            .collect();
        units.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.cpu));
        let (large, small): (Vec<_>, Vec<_>) = units
            .into_iter()
            .partition(|(_, usage)| usage.cpu.as_secs_f64() >= SMALL * total.cpu.as_secs_f64());
        let rest = small.into_iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            cpu: sum.cpu + usage.cpu,
            memory: sum.memory + usage.memory,
        });
        large
            .into_iter()
            .chain([("all others", rest), ("total", total)])
            .map(|(name, usage)| {
                format!(
                    "{name:24}{:>8.2} ms per {thing}{:>10.1} MiB",
                    each(usage.cpu, count),
                    usage.memory as f64 / (1024.0 * 1024.0)
                )
            })
            .collect()
    }
}

/// Milliseconds per thing, of which there were `count`.
pub(super) fn each(all: Duration, count: usize) -> f64 {
    all.as_secs_f64() * 1000.0 / count.max(1) as f64
}

/// Runs `work` and measures what the units of a relay use meanwhile.
pub(super) async fn during<T>(
    lab: &Lab,
    relay: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Cost)> {
    let before = lab.usage(relay)?;
    let mut peak = BTreeMap::new();
    let watch = async {
        let mut ticks = tokio::time::interval(SAMPLE);
        loop {
            ticks.tick().await;
            raise(&mut peak, &lab.usage(relay)?);
        }
    };
    let done = tokio::select! {
        done = work => done?,
        failed = watch => return failed,
    };
    let after = lab.usage(relay)?;
    raise(&mut peak, &after);
    let units = after
        .into_iter()
        .map(|(name, usage)| {
            let earlier = before.get(&name).map_or(Duration::ZERO, |usage| usage.cpu);
            let used = Usage {
                // The counter of a restarted unit begins at zero again.
                cpu: usage.cpu.checked_sub(earlier).unwrap_or(usage.cpu),
                memory: peak.get(&name).copied().unwrap_or_default(),
            };
            (name, used)
        })
        .collect();
    Ok((done, Cost { units }))
}

fn raise(peak: &mut BTreeMap<String, u64>, usage: &BTreeMap<String, Usage>) {
    for (name, usage) in usage {
        let known = peak.entry(name.clone()).or_default();
        *known = (*known).max(usage.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu: u64, memory: u64) -> Usage {
        Usage {
            cpu: Duration::from_millis(cpu),
            memory: memory * 1024 * 1024,
        }
    }

    #[test]
    fn expensive_units_come_first_and_cheap_ones_together() {
        let units = [
            ("nginx", usage(1, 1)),
            ("postfix", usage(200, 30)),
            ("dovecot", usage(800, 60)),
            ("mtail", usage(2, 9)),
        ];
        let cost = Cost {
            units: units.map(|(name, usage)| (name.to_owned(), usage)).into(),
        };
        assert_eq!(
            cost.lines(100, "message"),
            [
                "dovecot                     8.00 ms per message      60.0 MiB",
                "postfix                     2.00 ms per message      30.0 MiB",
                "all others                  0.03 ms per message      10.0 MiB",
                "total                      10.03 ms per message     100.0 MiB",
            ]
        );
    }

    #[test]
    fn memory_is_the_largest_seen() {
        let mut peak = BTreeMap::new();
        for memory in [3, 7, 5] {
            raise(&mut peak, &[("a".to_owned(), usage(0, memory))].into());
        }
        assert_eq!(peak, [("a".to_owned(), 7 * 1024 * 1024)].into());
    }
}
