//! `cargo lab bench first-run`: measures a first demo on a new machine, in a separate directory.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab_front::paths::Paths;
use lab_front::progress::{RECORD, cpu_time};
use lab_front::project;

/// One line of a report.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    wall: f64,
    cpu: f64,
}

/// Runs the demo twice: first with nothing compiled and without Debian for the relays, then with the results of the
/// first run.
pub(crate) fn measure(paths: &Paths) -> anyhow::Result<ExitCode> {
    let scratch = paths.base().join("first-run");
    remove(&scratch)?;
    fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    for title in ["First run", "Second run"] {
        let rows = run(&scratch)?;
        println!("\n{}", report(title, &rows));
    }
    remove(&scratch)?;
    Ok(ExitCode::SUCCESS)
}

fn run(scratch: &Path) -> anyhow::Result<Vec<Row>> {
    let record = scratch.join("phases");
    fs::write(&record, "")?;
    let cargo = |arguments: &[&str]| {
        let mut command = project::cargo();
        command
            .args(arguments)
            .args([
                "--quiet",
                "--locked",
                "--profile",
                "lab",
                "--package",
                "lab-front",
            ])
            .current_dir(project::root())
            .env("CARGO_TARGET_DIR", scratch.join("target"))
            // Without a cache of compiled crates, which a new machine does not have.
            .env("RUSTC_WRAPPER", "")
            .env("CHATMAIL_LAB_DIR", scratch.join("lab"))
            .env(RECORD, &record);
        command
    };
    let started = Instant::now();
    let front = timed("Compiling the front program", &mut cargo(&["build"]))?;
    let mut demo = cargo(&["run"]);
    demo.args(["--", "demo"]);
    timed("The demo", &mut demo)?;
    let total = started.elapsed();

    let mut rows = vec![front];
    rows.extend(read(&fs::read_to_string(&record)?)?);
    let cpu = rows.iter().map(|row| row.cpu).sum();
    rows.push(Row {
        name: "Total".to_owned(),
        wall: total.as_secs_f64(),
        cpu,
    });
    Ok(rows)
}

fn timed(name: &str, command: &mut Command) -> anyhow::Result<Row> {
    let (started, before) = (Instant::now(), cpu_time()?);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "{name}: {status}");
    let row = |wall: Duration, cpu: Duration| Row {
        name: name.to_owned(),
        wall: wall.as_secs_f64(),
        cpu: cpu.as_secs_f64(),
    };
    Ok(row(started.elapsed(), cpu_time()?.saturating_sub(before)))
}

/// Parses the lines of a record: name, seconds and seconds of CPU time, separated by tabs.
fn read(text: &str) -> anyhow::Result<Vec<Row>> {
    let row = |line: &str| {
        let mut fields = line.split('\t');
        Some(Row {
            name: fields.next()?.to_owned(),
            wall: fields.next()?.parse().ok()?,
            cpu: fields.next()?.parse().ok()?,
        })
    };
    text.lines()
        .map(|line| row(line).with_context(|| format!("not a phase: {line}")))
        .collect()
}

fn report(title: &str, rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0)
        .max(title.len());
    let mut text = format!("{title:width$}  {:>9}  {:>9}\n", "elapsed", "CPU time");
    for row in rows {
        text.push_str(&format!(
            "{:width$}  {:>7.1} s  {:>7.1} s\n",
            row.name, row.wall, row.cpu
        ));
    }
    text
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_and_reported() {
        let rows = read("Compiling\t61.5\t118.25\nThe relays\t0\t3.5\n").unwrap();
        insta::assert_snapshot!(report("First run", &rows));
        assert!(read("Compiling\n").is_err());
    }
}
