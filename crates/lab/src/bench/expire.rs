//! Throughput and memory of expiry and report on large mail stores, compared with a plain walk over the same store.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};

use super::program;
use super::report::Report;

const DAY: u64 = 24 * 60 * 60;
/// Messages per mailbox.
const PER_MAILBOX: usize = 200;
/// Runs of each measurement. The fastest counts; the store is then in the page cache.
const RUNS: usize = 3;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Expire {
    /// Messages in the store; can be given several times
    #[arg(long, value_name = "N", default_values_t = [100_000, 1_000_000])]
    messages: Vec<usize>,
    /// Folder for the stores, which need one inode per message
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    folder: std::path::PathBuf,
}

struct Run {
    took: Duration,
    /// In bytes; `None` for code that runs in this process.
    peak_memory: Option<u64>,
    output: String,
}

/// Measures one store after the other.
pub(super) async fn run(arguments: &Expire) -> anyhow::Result<Report> {
    let mut report = Report::new("Expiry");
    for &messages in &arguments.messages {
        ensure!(messages > 0, "--messages must be 1 or more");
        let folder = arguments.folder.clone();
        report = tokio::task::spawn_blocking(move || measure(report, &folder, messages)).await??;
    }
    Ok(report)
}

fn measure(mut report: Report, folder: &Path, messages: usize) -> anyhow::Result<Report> {
    let root = tempfile::Builder::new()
        .prefix("chatmail-bench-")
        .tempdir_in(folder)?;
    let store = root.path().join("mail");
    let settings = root.path().join("settings.json");
    fs::write(&settings, settings_for(&store)?)?;
    generate(&store, messages)?;

    report.line(format_args!(
        "{messages} messages in {} mailboxes",
        messages.div_ceil(PER_MAILBOX)
    ));
    report.line(format_args!(
        "  {:36}{:>10}{:>14}{:>12}{:>18}",
        "", "seconds", "messages/s", "peak MiB", "of plain walk"
    ));
    let plain = fastest(|| plain_walk(&store, messages))?;
    print(
        &mut report,
        "plain walk: read_dir and metadata",
        messages,
        &plain,
        &plain,
    );
    let sizes = fastest(|| play("chatmail-fsreport", &settings, &["--json"]))?;
    ensure!(
        sizes.output.contains(&format!("\"count\":{messages}}}")),
        "the report contains another number of messages: {}",
        sizes.output
    );
    print(&mut report, "chatmail-fsreport", messages, &sizes, &plain);
    // Half of the messages have expired.
    let expected = format!("and {} out of {messages} files", messages / 2);
    let expire = |arguments: &[&str]| -> anyhow::Result<Run> {
        let run = play("chatmail-expire", &settings, arguments)?;
        ensure!(
            run.output.contains(&expected),
            "expected {expected:?}: {}",
            run.output
        );
        Ok(run)
    };
    let dry = fastest(|| expire(&[]))?;
    print(&mut report, "chatmail-expire, dry run", messages, &dry, &plain);
    let remove = expire(&["--remove"])?;
    print(
        &mut report,
        "chatmail-expire --remove, half of them",
        messages,
        &remove,
        &plain,
    );
    Ok(report)
}

fn print(report: &mut Report, what: &str, messages: usize, run: &Run, plain: &Run) {
    let memory = run.peak_memory.map_or_else(
        || "-".to_owned(),
        |bytes| format!("{:.1}", bytes as f64 / MEBIBYTE),
    );
    let seconds = run.took.as_secs_f64();
    report.line(format_args!(
        "  {what:36}{seconds:>10.3}{:>14.0}{memory:>12}{:>17.2}x",
        messages as f64 / seconds,
        seconds / plain.took.as_secs_f64()
    ));
}

fn fastest(run: impl Fn() -> anyhow::Result<Run>) -> anyhow::Result<Run> {
    let mut best = run()?;
    for _ in 1..RUNS {
        let again = run()?;
        if again.took < best.took {
            best = again;
        }
    }
    Ok(best)
}

/// The simplest walk over a store: one thread, full paths, the metadata of every entry.
fn plain_walk(store: &Path, messages: usize) -> anyhow::Result<Run> {
    fn walk(dir: &Path, files: &mut usize, oldest: &mut Option<SystemTime>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                walk(&path, files, oldest)?;
            } else {
                *files += 1;
                let modified = metadata.modified()?;
                *oldest = Some(oldest.map_or(modified, |oldest| oldest.min(modified)));
            }
        }
        Ok(())
    }
    let start = Instant::now();
    let (mut files, mut oldest) = (0, None);
    walk(store, &mut files, &mut oldest)?;
    let took = start.elapsed();
    let passwords = messages.div_ceil(PER_MAILBOX);
    ensure!(
        files == messages + passwords && oldest.is_some(),
        "the walk found {files} files"
    );
    Ok(Run {
        took,
        peak_memory: None,
        output: String::new(),
    })
}

/// Runs a program from the same build as this one.
fn play(name: &str, settings: &Path, arguments: &[&str]) -> anyhow::Result<Run> {
    let path = program::path(name)?;
    let start = Instant::now();
    let mut child = Command::new(&path)
        .arg("--settings")
        .arg(settings)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!(
                "cannot run {}; `cargo build --release --workspace` builds it",
                path.display()
            )
        })?;
    // Polled, because the high-water mark disappears with the process, and no event announces its end in time.
    let mut peak_memory = None;
    let status = loop {
        peak_memory = program::peak_memory(child.id()).or(peak_memory);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = start.elapsed();
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    let output = std::io::read_to_string(child.stdout.take().context("no output")?)?;
    Ok(Run {
        took,
        peak_memory,
        output,
    })
}

fn settings_for(store: &Path) -> anyhow::Result<String> {
    let sample = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings: serde_json::Value = serde_json::from_str(sample)?;
    let dir = settings
        .pointer_mut("/mailboxes/directory")
        .context("no mailboxes.directory")?;
    *dir = store.to_str().context("the folder's name is not UTF-8")?.into();
    Ok(settings.to_string())
}

/// Creates a store of sparse messages with names like those of Dovecot: nine of ten are in INBOX and the rest in a
/// folder; every second one has expired.
fn generate(store: &Path, messages: usize) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let unix = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    for mailbox in 0..messages.div_ceil(PER_MAILBOX) {
        let dir = store.join(format!("u{mailbox:08}@chat.example.org"));
        let parts = ["cur", "new", "tmp", ".Sent/cur", ".Sent/new", ".Sent/tmp"];
        for part in parts {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("password"), "{ARGON2ID}x")?;
        let first = mailbox * PER_MAILBOX;
        for number in first..(first + PER_MAILBOX).min(messages) {
            let age = if number % 2 == 0 { DAY } else { 30 * DAY } + number as u64 % DAY;
            let part = match number % 10 {
                0 => ".Sent/cur",
                1..=3 => "new",
                _ => "cur",
            };
            let bytes = 2000 + number as u64 % 5000;
            let name = format!("{}.M{number}P1.relay,S={bytes},W={}:2,S", unix - age, bytes + 50);
            let file = File::create(dir.join(part).join(name))?;
            file.set_len(bytes)?;
            file.set_modified(now - Duration::from_secs(age))?;
        }
    }
    Ok(())
}
