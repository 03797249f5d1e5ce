//! Throughput and memory of chatmail-metadata: requests from Dovecot, and a queue of pending notifications.

mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;

use self::service::{Server, Service, Site};
use super::report::Report;

/// Devices per account.
const DEVICES: usize = 4;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Metadata {
    /// Notifications that are pending when the service starts; can be given several times
    #[arg(long, value_name = "N", default_values_t = [100_000, 1_000_000])]
    notifications: Vec<usize>,
    /// Requests per kind
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    requests: usize,
    /// Concurrent requests
    #[arg(long, value_name = "N", default_value_t = 16)]
    connections: usize,
    /// Folder for mail stores and queues, which need one inode per notification
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

/// Measures requests, then each queue.
pub(super) async fn run(arguments: &Metadata) -> anyhow::Result<Report> {
    let mut report = Report::new("Push notifications");
    ensure!(arguments.requests > 0, "--requests must be 1 or more");
    ensure!(arguments.connections > 0, "--connections must be 1 or more");
    report.line(format_args!(
        "  {:44}{:>10}{:>12}{:>12}",
        "", "seconds", "per second", "peak MiB"
    ));
    requests(&mut report, arguments).await?;
    for &count in &arguments.notifications {
        ensure!(count > 0, "--notifications must be 1 or more");
        pending(&mut report, &arguments.folder, count).await?;
    }
    Ok(report)
}

fn print(report: &mut Report, what: &str, count: usize, took: Duration, service: &Service) {
    let memory = service.peak_memory().map_or_else(
        || "-".to_owned(),
        |bytes| format!("{:.1}", bytes as f64 / MEBIBYTE),
    );
    let seconds = took.as_secs_f64();
    report.line(format_args!(
        "  {what:44}{seconds:>10.3}{:>12.0}{memory:>12}",
        count as f64 / seconds
    ));
}

/// Text of the request with this number, and who sends it.
#[derive(Clone, Copy)]
enum Request {
    Dovecot(fn(usize) -> String),
    Postfix(fn(usize) -> String),
}

/// Requests of all kinds, for accounts with [`DEVICES`] devices each.
async fn requests(report: &mut Report, arguments: &Metadata) -> anyhow::Result<()> {
    const KINDS: [(&str, Request); 5] = [
        (
            "lookups of maxsmtprecipients",
            Request::Dovecot(|number| lookup("maxsmtprecipients", number)),
        ),
        (
            "lookups of turn",
            Request::Dovecot(|number| lookup("turn", number)),
        ),
        ("device tokens, new", Request::Dovecot(token)),
        ("device tokens, known", Request::Dovecot(token)),
        ("messages, each for 4 devices", Request::Postfix(delivered)),
    ];
    let server = Server::start().await?;
    let site = Site::new(&arguments.folder, server.address)?;
    for account in 0..arguments.requests.div_ceil(DEVICES) {
        fs::create_dir_all(site.store.join(address(account)))?;
    }
    let service = site.start().await?;
    for (what, request) in KINDS {
        let took = ask(&service, arguments, request).await?;
        print(report, what, arguments.requests, took, &service);
    }
    let delivered = Instant::now();
    site.until_nothing_is_pending(&server).await?;
    report.line(format_args!(
        "  {} notifications for them, the last after {:.3} s",
        server.count(),
        delivered.elapsed().as_secs_f64()
    ));
    service.stop().await
}

/// Sends each request on a separate connection.
async fn ask(service: &Service, arguments: &Metadata, request: Request) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..arguments.connections {
        let (next, client, count) = (Arc::clone(&next), service.client(), arguments.requests);
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                match request {
                    Request::Dovecot(text) => client.ask(&text(number)).await?,
                    Request::Postfix(text) => client.report(&text(number)).await?,
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(start.elapsed())
}

fn address(account: usize) -> String {
    format!("a{account:08}@chat.example.org")
}

fn lookup(entry: &str, number: usize) -> String {
    let user = address(number / DEVICES);
    format!("Lshared/0/vendor/vendor.dovecot/pvt/server/vendor/deltachat/{entry}\t{user}\n")
}

fn token(number: usize) -> String {
    let user = address(number / DEVICES);
    format!("B1\t{user}\t0\nS1\tpriv/0/devicetoken\ttoken-{number}\nC1\n")
}

/// The report of a delivery, a lookup in a socketmap.
fn delivered(number: usize) -> String {
    let user = address(number / DEVICES);
    format!("delivered 2.0.0 250 2.0.0 <{user}> Saved")
}

/// Starts the service with a full queue, as after an outage of the notification server.
async fn pending(report: &mut Report, folder: &Path, count: usize) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let site = Site::new(folder, server.address)?;
    let queue = site.queue.clone();
    tokio::task::spawn_blocking(move || fill(&queue, count)).await??;
    let start = Instant::now();
    let service = site.start().await?;
    site.until_nothing_is_pending(&server).await?;
    let took = start.elapsed();
    ensure!(
        server.count() == count,
        "{} requests for {count} notifications",
        server.count()
    );
    print(
        report,
        &format!("{count} pending notifications sent"),
        count,
        took,
        &service,
    );
    service.stop().await
}

fn fill(queue: &Path, count: usize) -> anyhow::Result<()> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    for number in 0..count {
        let user = address(number / DEVICES);
        // As long as a real token.
        let token = format!("openpgp:{number:0500}");
        fs::write(
            queue.join(format!("{number:032x}")),
            format!("{user}\n{now}\n{token}"),
        )
        .context("cannot fill the queue")?;
    }
    Ok(())
}
