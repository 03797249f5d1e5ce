//! CPU time and rate of the filter for submitted mail, between a load generator and a server that accepts everything.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailtest::client::pgp;
use mailtest::client::smtp::Smtp;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::program::{Cpu, Program};
use super::report::Report;
use super::stats::milliseconds;
use super::target::Target;

const SENDER: &str = "sender@chat.example.org";
const RECEIVER: &str = "receiver@chat.example.org";
/// CPU seconds per 1,000 small messages. The first version needed 0.40 s.
const SMALL_BOUND: f64 = 0.20;
/// CPU time for a large message, in terms of the time of one base64 decoding.
const LARGE_BOUND: f64 = 1.5;
/// Peak memory with a large message, in MiB.
const MEMORY_BOUND: f64 = 36.0;
/// Bytes of ciphertext of the large message, which has 30 MB with its armour.
const LARGE: usize = 21_900_000;
/// How many large messages to send.
const LARGE_MESSAGES: u32 = 5;
/// How long the filter may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Number of small messages
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    messages: usize,
    /// Bytes of ciphertext of a small message
    #[arg(long, value_name = "BYTES", default_value_t = 10_000)]
    size: usize,
    /// Concurrent connections
    #[arg(long, value_name = "N", default_value_t = 100)]
    connections: usize,
}

/// Measures small messages, first without the filter, and then large ones.
pub(super) async fn run(arguments: &Filter) -> anyhow::Result<Report> {
    ensure!(arguments.messages > 0, "--messages must be 1 or more");
    ensure!(arguments.connections > 0, "--connections must be 1 or more");
    let mut report = Report::new("Filter");
    let server = Server::start().await?;
    let folder = tempfile::Builder::new().prefix("chatmail-bench-").tempdir()?;
    let (filter, address) = start(folder.path(), server.address, arguments.connections).await?;

    let small = pgp::encrypted(SENDER, arguments.size).bytes();
    let direct = load(server.address, &small, arguments).await?;
    let before = filter.cpu()?;
    let filtered = load(address, &small, arguments).await?;
    let used = filter.cpu()?.since(before);
    let rate = |took: Duration| arguments.messages as f64 / took.as_secs_f64();
    let per_thousand = |time: Duration| 1000.0 * time.as_secs_f64() / arguments.messages as f64;
    report.line(format_args!(
        "{} messages of {} bytes of ciphertext over {} connections",
        arguments.messages, arguments.size, arguments.connections
    ));
    report.line(format_args!(
        "without the filter {:.0} per second, through it {:.0} per second ({:.2} times)",
        rate(direct),
        rate(filtered),
        rate(filtered) / rate(direct)
    ));
    report.line(format_args!(
        "CPU time per 1,000 messages {:.3} s: user {:.3} s, system {:.3} s",
        per_thousand(used.total()),
        per_thousand(used.user),
        per_thousand(used.system)
    ));
    report.target(Target::at_most(
        SMALL_BOUND,
        "s",
        "CPU time per 1,000 messages",
        per_thousand(used.total()),
    ));

    let large = large(&filter, address).await?;
    let decoding = tokio::task::spawn_blocking(decoding).await??;
    let memory = filter.peak_memory().context("the filter has ended by itself")? as f64 / MEBIBYTE;
    report.line(format_args!(
        "a message of {LARGE} bytes of ciphertext: CPU time {:.1} ms (user {:.1} ms, system {:.1} ms), {:.2} times one \
         base64 decoding ({:.1} ms); peak memory {memory:.1} MiB",
        milliseconds(large.total()),
        milliseconds(large.user),
        milliseconds(large.system),
        large.total().as_secs_f64() / decoding.as_secs_f64(),
        milliseconds(decoding),
    ));
    report.target(Target::at_most(
        LARGE_BOUND,
        "times",
        "user CPU time for a large message, of that of a base64 decoding",
        large.user.as_secs_f64() / decoding.as_secs_f64(),
    ));
    report.target(Target::at_most(
        MEMORY_BOUND,
        "MiB",
        "peak memory with large messages",
        memory,
    ));
    filter.stop().await?;
    Ok(report)
}

/// Starts the filter in front of a server. Returns its address.
async fn start(
    folder: &Path,
    server: SocketAddr,
    connections: usize,
) -> anyhow::Result<(Program, SocketAddr)> {
    // The port stays free until the filter binds it, unless another program takes it.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    let sample = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = chatmail_core::Settings::parse(sample, Path::new("settings.json"))?;
    settings.filtermail.outgoing_listen = chatmail_core::Endpoint::Tcp(address);
    settings.filtermail.outgoing_reinject = chatmail_core::Endpoint::Tcp(server);
    settings.filtermail.limit_socket = folder.join("limit.socket");
    settings.filtermail.deliveries_socket = folder.join("deliveries.socket");
    settings.filtermail.destinations_file = folder.join("destinations.json");
    // There is no mail store; every message goes on to the server.
    settings.filtermail.direct_delivery = None;
    settings.connections.filter = connections;
    settings.messages.max_per_minute = 1_000_000;
    settings.messages.burst = 1_000_000;
    let file = folder.join("settings.json");
    fs::write(&file, serde_json::to_string(&settings)?)?;
    let arguments = [OsStr::new("outgoing"), OsStr::new("--settings"), file.as_os_str()];
    let program = Program::start("filtermail", &arguments)?;
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        ensure!(Instant::now() < end, "the filter does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok((program, address))
}

/// Sends the message as often as wanted over all connections; returns how long that took.
async fn load(to: SocketAddr, message: &[u8], arguments: &Filter) -> anyhow::Result<Duration> {
    let message: Arc<[u8]> = message.into();
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..arguments.connections {
        let (message, next, count) = (Arc::clone(&message), Arc::clone(&next), arguments.messages);
        senders.spawn(async move {
            let mut smtp = connect(to).await?;
            while next.fetch_add(1, Ordering::Relaxed) < count {
                smtp.send(SENDER, &[RECEIVER], &message).await?.expect(250)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    Ok(start.elapsed())
}

async fn connect(to: SocketAddr) -> anyhow::Result<Smtp> {
    let mut smtp = Smtp::connect(to).await?;
    smtp.ehlo("localhost").await?;
    Ok(smtp)
}

/// CPU time of the filter for one large message.
async fn large(filter: &Program, address: SocketAddr) -> anyhow::Result<Cpu> {
    let message = tokio::task::spawn_blocking(|| pgp::encrypted(SENDER, LARGE).bytes()).await?;
    let mut smtp = connect(address).await?;
    let before = filter.cpu()?;
    for _ in 0..LARGE_MESSAGES {
        smtp.send(SENDER, &[RECEIVER], &message).await?.expect(250)?;
    }
    let used = filter.cpu()?.since(before);
    Ok(Cpu {
        user: used.user / LARGE_MESSAGES,
        system: used.system / LARGE_MESSAGES,
    })
}

/// Time of one decoding of a large message's ciphertext.
fn decoding() -> anyhow::Result<Duration> {
    let text = STANDARD.encode(vec![0xa5; LARGE]);
    let mut bytes = vec![0; LARGE + 3];
    // The first pass also makes the memory available.
    STANDARD.decode_slice(&text, &mut bytes)?;
    let start = Instant::now();
    let length = STANDARD.decode_slice(&text, &mut bytes)?;
    ensure!(length == LARGE, "the decoding has another length");
    Ok(start.elapsed())
}

/// An SMTP server that accepts every message and forgets it.
struct Server {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let child = stop.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away ends its session.
                tokio::spawn(child.clone().run_until_cancelled_owned(serve(stream)));
            }
        }));
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    stream.write_all(b"220 localhost ESMTP\r\n").await?;
    let mut line = Vec::new();
    let mut replies = Vec::new();
    loop {
        // Replies to pipelined commands leave together.
        if stream.buffer().is_empty() && !replies.is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_slice() {
            b"EHLO" => replies.extend_from_slice(
                b"250-localhost\r\n250-PIPELINING\r\n250-XFORWARD NAME ADDR\r\n250 8BITMIME\r\n",
            ),
            b"DATA" => {
                replies.extend_from_slice(b"354 go on\r\n");
                stream.write_all(&replies).await?;
                replies.clear();
                loop {
                    line.clear();
                    if stream.read_until(b'\n', &mut line).await? == 0 {
                        return Ok(());
                    }
                    if line == b".\r\n" {
                        break;
                    }
                }
                replies.extend_from_slice(b"250 accepted\r\n");
            }
            b"QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => replies.extend_from_slice(b"250 done\r\n"),
        }
    }
}
