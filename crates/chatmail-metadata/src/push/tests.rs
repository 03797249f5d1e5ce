use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use super::schedule::DEADLINE;
use super::*;
use chatmail_core::MailStore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const UNIX: u64 = 1_800_000_000;

/// A server that answers from a list, then delivers everything, and remembers what it got and when.
#[derive(Debug, Clone, Default)]
struct Server(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    answers: VecDeque<Reply>,
    requests: Vec<(Instant, String)>,
    latency: Duration,
    under_way: usize,
    most_under_way: usize,
}

impl Post for Server {
    async fn post(&self, token: &str) -> Reply {
        let latency = {
            let mut told = self.0.lock().unwrap();
            told.requests.push((Instant::now(), token.to_owned()));
            told.under_way += 1;
            told.most_under_way = told.most_under_way.max(told.under_way);
            told.latency
        };
        sleep(latency).await;
        let mut told = self.0.lock().unwrap();
        told.under_way -= 1;
        told.answers.pop_front().unwrap_or(Reply::Delivered)
    }
}

fn failed(after: Option<u64>) -> Reply {
    Reply::Failed {
        after: after.map(Duration::from_secs),
        reason: "500 Internal Server Error".to_owned(),
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    tokens: Arc<MetadataStore>,
    server: Server,
    clock: Clock,
    started: Instant,
    shutdown: CancellationToken,
}

impl Fixture {
    fn new(answers: &[Reply]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Arc::new(MetadataStore::new(MailStore::new(dir.path())));
        let server = Server::default();
        server.0.lock().unwrap().answers = answers.iter().cloned().collect();
        let started = Instant::now();
        Self {
            dir,
            tokens,
            server,
            clock: Clock::new(move || UNIX + started.elapsed().as_secs()),
            started,
            shutdown: CancellationToken::new(),
        }
    }

    fn account(&self, name: &str, tokens: &[&str]) -> Address {
        let address = Address::parse(&format!("{name}@chat.example.org")).unwrap();
        fs::create_dir_all(self.dir.path().join(address.as_str())).unwrap();
        for token in tokens {
            self.tokens.add(&address, token, self.clock.unix()).unwrap();
        }
        address
    }

    fn queue_dir(&self) -> PathBuf {
        self.dir.path().join("pending_notifications")
    }

    fn start_with(&self, limits: Limits) -> (PushHandle<Server>, tokio::task::JoinHandle<()>) {
        let notifier = Notifier::open(
            &self.queue_dir(),
            Arc::clone(&self.tokens),
            self.server.clone(),
            limits,
            self.clock.clone(),
        )
        .unwrap();
        let push = notifier.handle();
        let shutdown = self.shutdown.clone();
        let running = tokio::spawn(async move { notifier.run(&shutdown).await });
        (push, running)
    }

    fn start(&self) -> (PushHandle<Server>, tokio::task::JoinHandle<()>) {
        self.start_with(LIMITS)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.queue_dir()).unwrap().count()
    }

    /// Requests so far, with the second of each.
    fn requests(&self) -> Vec<(u64, String)> {
        let told = self.server.0.lock().unwrap();
        let since = |at: Instant| (at - self.started).as_secs();
        told.requests
            .iter()
            .map(|(at, token)| (since(*at), token.clone()))
            .collect()
    }

    fn tokens_requested(&self) -> Vec<String> {
        self.requests().into_iter().map(|(_, token)| token).collect()
    }
}

async fn message(push: &PushHandle<Server>, address: &Address) {
    let (push, address) = (push.clone(), address.clone());
    spawn_blocking(move || push.message(&address).unwrap())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_wakes_each_device_once_and_leaves_nothing() {
    let f = Fixture::new(&[]);
    let address = f.account("abcdefghi", &["one", "two"]);
    let (push, _running) = f.start();
    for _ in 0..10 {
        message(&push, &address).await;
    }
    assert_eq!(f.files(), 2, "stored before Dovecot hears that it was taken");
    sleep(Duration::from_secs(1)).await;
    let mut tokens = f.tokens_requested();
    tokens.sort();
    assert_eq!(tokens, ["one", "two"]);
    assert_eq!(f.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_account_without_devices_costs_nothing() {
    let f = Fixture::new(&[]);
    let address = f.account("abcdefghi", &[]);
    let (push, _running) = f.start();
    message(&push, &address).await;
    message(&push, &Address::parse("unknown00@chat.example.org").unwrap()).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.requests(), []);
    assert_eq!(f.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_are_repeated_and_then_given_up() {
    let f = Fixture::new(&vec![failed(None); 5]);
    let address = f.account("abcdefghi", &["one"]);
    let (push, _running) = f.start();
    message(&push, &address).await;
    sleep(Duration::from_secs(DEADLINE)).await;
    let seconds: Vec<_> = f.requests().into_iter().map(|(second, _)| second).collect();
    assert_eq!(seconds, [0, 8, 72, 584, 4680]);
    assert_eq!(f.files(), 0, "given up");
    message(&push, &address).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.requests().len(), 6, "a later message is told");
}

#[tokio::test(start_paused = true)]
async fn the_server_says_when() {
    let f = Fixture::new(&[failed(Some(300)), failed(Some(0))]);
    let address = f.account("abcdefghi", &["one"]);
    let (push, _running) = f.start();
    message(&push, &address).await;
    sleep(Duration::from_secs(400)).await;
    let seconds: Vec<_> = f.requests().into_iter().map(|(second, _)| second).collect();
    assert_eq!(seconds, [0, 300, 301]);
    assert_eq!(f.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_gone_is_forgotten() {
    let f = Fixture::new(&[Reply::Gone]);
    let address = f.account("abcdefghi", &["one"]);
    let (push, _running) = f.start();
    message(&push, &address).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.tokens.tokens(&address, UNIX).unwrap().len(), 0);
    assert_eq!(f.files(), 0);
    message(&push, &address).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_loses_nothing() {
    let f = Fixture::new(&[]);
    f.server.0.lock().unwrap().latency = Duration::from_secs(30);
    let one = f.account("abcdefghi", &["one"]);
    let two = f.account("bcdefghij", &["two"]);
    let (push, running) = f.start();
    message(&push, &one).await;
    sleep(Duration::from_secs(1)).await;
    message(&push, &two).await;
    // One request is in progress, and one notification waits.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(f.files(), 2);
    assert_eq!(f.tokens_requested(), ["one"]);
    f.server.0.lock().unwrap().latency = Duration::ZERO;
    let (_push, _running) = f.start();
    sleep(Duration::from_secs(1)).await;
    let mut tokens = f.tokens_requested();
    tokens.sort();
    assert_eq!(tokens, ["one", "one", "two"]);
    assert_eq!(f.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_waits_for_requests_under_way() {
    let f = Fixture::new(&[]);
    f.server.0.lock().unwrap().latency = Duration::from_secs(3);
    let address = f.account("abcdefghi", &["one"]);
    let (push, running) = f.start();
    message(&push, &address).await;
    sleep(Duration::from_secs(1)).await;
    f.shutdown.cancel();
    running.await.unwrap();
    assert_eq!(f.started.elapsed().as_secs(), 3);
    assert_eq!(f.files(), 0);
    // Later notifications are stored for the next start.
    message(&push, &address).await;
    assert_eq!(f.files(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_the_reference_is_taken_over() {
    let f = Fixture::new(&[]);
    let dir = f.queue_dir();
    fs::create_dir(&dir).unwrap();
    let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
    let address = "abcdefghi@chat.example.org";
    write(&"0a".repeat(16), format!("{address}\n{}\none", UNIX - 60));
    write(&"0b".repeat(16), format!("{address}\n{}\none", UNIX - 90));
    write(
        &"0c".repeat(16),
        format!("{address}\n{}\ntoo-late", UNIX - DEADLINE - 1),
    );
    write(
        &"0d".repeat(16),
        format!("{address}\n{}\nfuture", UNIX + 1_000_000),
    );
    write(&"0e".repeat(16), "broken".to_owned());
    write(&format!("{}.tmp", "0f".repeat(16)), address.to_owned());
    let (_push, _running) = f.start();
    sleep(Duration::from_secs(1)).await;
    let mut tokens = f.tokens_requested();
    tokens.sort();
    assert_eq!(tokens, ["future", "one"]);
    assert_eq!(f.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_loses_nothing() {
    let f = Fixture::new(&[failed(None), failed(None)]);
    let address = f.account("abcdefghi", &["one"]);
    let (push, running) = f.start();
    // Stands for a full disk: the folder cannot be written to.
    let away = f.dir.path().join("away");
    fs::rename(f.queue_dir(), &away).unwrap();
    message(&push, &address).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.requests().len(), 1);
    // There is room again: at the next failure, the notification is moved to disk.
    fs::rename(&away, f.queue_dir()).unwrap();
    assert_eq!(f.files(), 0);
    sleep(Duration::from_secs(8)).await;
    assert_eq!(f.requests().len(), 2);
    assert_eq!(f.files(), 1);
    sleep(Duration::from_secs(64)).await;
    assert_eq!(f.requests().len(), 3);
    assert_eq!(f.files(), 0);

    // Notifications in memory are stored at the end.
    fs::rename(f.queue_dir(), &away).unwrap();
    message(&push, &address).await;
    f.shutdown.cancel();
    running.await.unwrap();
    fs::rename(&away, f.queue_dir()).unwrap();
    spawn_blocking(move || push.close()).await.unwrap();
    assert_eq!(f.files(), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_the_rest_waits_on_disk() {
    let f = Fixture::new(&[]);
    f.server.0.lock().unwrap().latency = Duration::from_secs(1);
    let limits = Limits {
        requests: 2,
        entries: 4,
        ..LIMITS
    };
    let (push, _running) = f.start_with(limits);
    for number in 0..20 {
        let token = format!("token-{number}");
        let address = f.account(&format!("account{number:02}"), &[&token]);
        message(&push, &address).await;
    }
    assert_eq!(f.files(), 20);
    assert_eq!(push.0.schedule().items().count(), 4);
    sleep(Duration::from_secs(60)).await;
    let mut tokens = f.tokens_requested();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 20);
    assert_eq!(f.requests().len(), 20, "each once");
    assert_eq!(f.files(), 0);
    assert_eq!(f.server.0.lock().unwrap().most_under_way, 2);
}

#[tokio::test(start_paused = true)]
async fn one_account_does_not_hold_up_another() {
    let f = Fixture::new(&[]);
    f.server.0.lock().unwrap().latency = Duration::from_secs(10);
    let many: Vec<_> = (0..30).map(|number| format!("many-{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let loud = f.account("loudloudl", &many);
    let quiet = f.account("quietquie", &["quiet"]);
    let limits = Limits {
        requests: 8,
        ..LIMITS
    };
    let (push, _running) = f.start_with(limits);
    message(&push, &loud).await;
    message(&push, &quiet).await;
    sleep(Duration::from_secs(1)).await;
    let first = f.tokens_requested();
    assert_eq!(first.len(), 5, "four of one account");
    assert!(first.contains(&"quiet".to_owned()));
}
