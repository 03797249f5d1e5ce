//! Results of deliveries to other servers, by destination.
//!
//! Postfix tells results with recipients only in its log, which the journal must not contain. The delivery agents to
//! other servers therefore log to this service (`postlog_service_name`), which counts the results and passes on lines
//! without names.

mod record;
mod table;

use std::os::unix::net::UnixDatagram as Sender;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chatmail_core::destinations::Destinations;
use chatmail_core::replace::Replacement;
use daemon::CancellationToken;
use tokio::net::UnixDatagram;

use self::record::Record;
use self::table::Table;
use crate::transport::results;

/// Maximum size of a record: Postfix cuts it off after 2000 characters.
const MAX_RECORD: usize = 16 * 1024;
/// How often the figures are written, if they have changed.
const WRITE: Duration = Duration::from_secs(5);
/// Maximum size of the file with earlier figures, above that of all destinations with all reasons.
const MAX_FILE: u64 = 16 << 20;

/// The figures, shared with the metrics.
#[derive(Clone)]
pub(crate) struct Deliveries(Arc<Mutex<Table>>);

impl Deliveries {
    /// Continues with the figures in a file.
    pub(crate) fn load(file: &Path) -> Self {
        let known = std::fs::metadata(file)
            .ok()
            .filter(|found| found.len() <= MAX_FILE);
        let known = known.and_then(|_| serde_json::from_slice(&std::fs::read(file).ok()?).ok());
        let fresh = || Destinations {
            since: chatmail_core::unix_seconds(SystemTime::now()),
            ..Destinations::default()
        };
        Self(Arc::new(Mutex::new(Table::new(known.unwrap_or_else(fresh)))))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The metrics in the text format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        self.table().metrics()
    }

    /// Takes records until the service stops, writes the figures to a file, and tells results on a socket.
    pub(crate) async fn run(
        &self,
        socket: UnixDatagram,
        file: &Path,
        results: Option<&Path>,
        shutdown: &CancellationToken,
    ) {
        let results = results.map(Results::new);
        let mut buffer = vec![0; MAX_RECORD];
        let mut changed = true;
        let mut interval = tokio::time::interval(WRITE);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = socket.recv(&mut buffer) => match received {
                    Ok(length) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        changed |= self.take(datagram, results.as_ref());
                    }
                    Err(error) => {
                        tracing::warn!("cannot receive records of deliveries: {error}");
                        interval.tick().await;
                    }
                },
                _ = interval.tick(), if changed => {
                    self.write(file).await;
                    changed = false;
                }
                () = shutdown.cancelled() => return self.write(file).await,
            }
        }
    }

    /// Counts the result in a record, or passes the record on. Returns whether a figure has changed.
    fn take(&self, datagram: &[u8], results: Option<&Results>) -> bool {
        let Some(text) = record::text(datagram) else {
            return false;
        };
        if let Some(record) = record::result(text) {
            if let Some(results) = results {
                results.tell(&record);
            }
            self.table().count(record);
            return true;
        }
        if record::may_be_logged(text) {
            tracing::info!("{text}");
        }
        false
    }

    async fn write(&self, file: &Path) {
        let figures = self.table().all.clone();
        let file = file.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            Replacement::with_mode(0o600).write(&file, &serde_json::to_vec(&figures)?)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!("cannot write the results of deliveries: {error}");
        }
    }
}

/// The socket of filtermail-transport, which gets the results that it does not see itself.
struct Results<'a> {
    socket: std::io::Result<Sender>,
    path: &'a Path,
}

impl<'a> Results<'a> {
    fn new(path: &'a Path) -> Self {
        let socket = Sender::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Self { socket, path }
    }

    /// While the other service is busy or stopped, results are lost, and it learns from the next ones.
    fn tell(&self, record: &Record) {
        let (Some(domain), Some(accepts)) = (&record.domain, record.accepts()) else {
            return;
        };
        let message = results::message(&record::with_tag(domain), accepts);
        let sent = match &self.socket {
            Ok(socket) => socket.send_to(message.as_bytes(), self.path).map(drop),
            Err(error) => Err(error.kind().into()),
        };
        if let Err(error) = sent {
            tracing::debug!("cannot tell a result: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn figures_outlive_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("socket"), dir.path().join("destinations.json"));
        let told = dir.path().join("results");
        let transport = Sender::bind(&told).unwrap();
        let line = "Nov 27 04:05:06 relay postfix/smtp[1]: 4bQ1: to=<a@b.test>, relay=x, delay=2, delays=0/0/0/2, dsn=2.0.0, status=sent (250 Ok)";
        for round in 1..=2 {
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap();
            let postfix = std::os::unix::net::UnixDatagram::unbound().unwrap();
            for datagram in [line.as_bytes(), b"", b"\xff", &[b'x'; 2500]] {
                postfix.send_to(datagram, &path).unwrap();
            }
            let deliveries = Deliveries::load(&file);
            let shutdown = CancellationToken::new();
            let running = deliveries.run(socket, &file, Some(&told), &shutdown);
            let stop = async {
                while deliveries.table().all.domains.get("b.test").map(|b| b.sent) != Some(round) {
                    tokio::task::yield_now().await;
                }
                shutdown.cancel();
            };
            tokio::join!(running, stop);
            let mut message = [0; 100];
            let length = transport.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"+b.test");
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains('@'), "{text}");
            let found: Destinations = serde_json::from_str(&text).unwrap();
            assert_eq!(found.domains["b.test"].sent, round);
        }
        std::fs::write(&file, "damaged").unwrap();
        assert!(Deliveries::load(&file).table().all.domains.is_empty());
    }
}
