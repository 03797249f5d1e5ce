//! The logins of Postfix.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::CancellationToken;
use doveauth::login::Logins;
use doveauth::sasl::{FAILURE_DELAY, serve};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

use crate::relay::{DOMAIN, PATIENCE, Relay};

const PASSWORD: &str = "correct-horse";

/// A process of Postfix with its connection.
struct Postfix {
    stream: BufReader<DuplexStream>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Postfix {
    async fn connect(logins: &Arc<Logins>, shutdown: &CancellationToken) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (logins, shutdown) = (Arc::clone(logins), shutdown.clone());
        let serving = tokio::spawn(async move { serve(far, &logins, &shutdown).await });
        let mut postfix = Self {
            stream: BufReader::new(near),
            serving,
        };
        postfix.send("VERSION\t1\t1\nCPID\t42").await;
        let mut mechanisms = Vec::new();
        loop {
            let line = postfix.line().await.unwrap();
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["VERSION", major, _] => assert_eq!(major, "1"),
                ["MECH", mechanism, ..] => mechanisms.push(mechanism.to_owned()),
                ["DONE"] => break,
                _ => {}
            }
        }
        assert_eq!(mechanisms, ["PLAIN"]);
        postfix
    }

    async fn send(&mut self, line: &str) {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next line; none if the connection is closed.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line));
        (read.await.unwrap().unwrap() > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    async fn login(&mut self, id: u32, user: &str, password: &str) -> Option<String> {
        let response = response(user, password);
        self.send(&format!(
            "AUTH\t{id}\tPLAIN\tservice=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.2\tsecured\tresp={response}"
        ))
        .await;
        self.line().await
    }
}

fn response(user: &str, password: &str) -> String {
    STANDARD.encode(format!("\0{user}\0{password}"))
}

fn user(name: &str) -> String {
    format!("{name}@{DOMAIN}")
}

#[tokio::test]
async fn postfix_gets_the_user_or_learns_that_the_password_is_wrong() {
    let relay = Relay::new();
    let logins = Arc::new(Logins::new(Arc::new(relay.settings.clone())));
    let mut postfix = Postfix::connect(&logins, &CancellationToken::new()).await;
    let right = Some(format!("OK\t1\tuser={}", user("abcdefghi")));
    assert_eq!(postfix.login(1, &user("abcdefghi"), PASSWORD).await, right);
    // As in Dovecot, the case of an address does not matter.
    assert_eq!(postfix.login(1, &user("ABCDEFghi"), PASSWORD).await, right);
    let asked = Instant::now();
    for (wrong, password) in [
        ("abcdefghi", "another-password"),
        ("abcdefgh", PASSWORD),
        ("../../etc", PASSWORD),
    ] {
        let reply = postfix.login(2, &user(wrong), password).await;
        assert_eq!(
            reply.as_deref(),
            Some("FAIL\t2\treason=wrong address or password")
        );
    }
    assert!(asked.elapsed() >= FAILURE_DELAY * 3);

    // The client waits for the challenge.
    postfix.send("AUTH\t7\tPLAIN\tservice=smtp").await;
    assert_eq!(postfix.line().await.as_deref(), Some("CONT\t7\t"));
    postfix
        .send(&format!("CONT\t7\t{}", response(&user("abcdefghi"), PASSWORD)))
        .await;
    let reply = postfix.line().await.unwrap();
    assert_eq!(reply, format!("OK\t7\tuser={}", user("abcdefghi")));
    for unexpected in ["CONT\t7\tAGEAYg==", "AUTH\t7\tLOGIN\tservice=smtp"] {
        postfix.send(unexpected).await;
        assert_eq!(
            postfix.line().await.as_deref(),
            Some("FAIL\t7\treason=not supported")
        );
    }
}

/// Postfix would report any reply as a wrong password.
#[tokio::test]
async fn a_temporary_failure_closes_the_connection() {
    let mut relay = Relay::new();
    relay.settings.doveauth.max_hashing = 0;
    let logins = Arc::new(Logins::new(Arc::new(relay.settings.clone())));
    let shutdown = CancellationToken::new();
    let mut postfix = Postfix::connect(&logins, &shutdown).await;
    assert_eq!(postfix.login(1, &user("abcdefghi"), PASSWORD).await, None);
    postfix.serving.await.unwrap().unwrap();
    Postfix::connect(&logins, &shutdown).await;
}

#[tokio::test]
async fn connections_end_with_the_service_and_after_nonsense() {
    let relay = Relay::new();
    let logins = Arc::new(Logins::new(Arc::new(relay.settings.clone())));
    let shutdown = CancellationToken::new();
    for nonsense in ["AUTH\tx", &"x".repeat(20_000), "VERSION\t2\t0"] {
        let mut postfix = Postfix::connect(&logins, &shutdown).await;
        postfix.send(nonsense).await;
        assert_eq!(postfix.line().await, None);
        postfix.serving.await.unwrap().unwrap_err();
    }
    let mut postfix = Postfix::connect(&logins, &shutdown).await;
    shutdown.cancel();
    assert_eq!(postfix.line().await, None);
    postfix.serving.await.unwrap().unwrap();
}
