//! Each of our services is killed under traffic: no mail is lost or duplicated, and users can still log in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mailtest::client::message::Message;
use mailtest::client::smtp::Reply;
use mailtest::client::wire::WireError;
use mailtest::client::{Account, arrival, http, pgp};
use mailtest::until;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, hurried};
use crate::harness::mailboxes;
use crate::harness::writing::Chat;

/// Time within which systemd restarts a killed service.
const RESTARTED: Duration = Duration::from_secs(15);
/// Maximum delivery time of mail that was deferred once.
const DELIVERED: Duration = Duration::from_secs(60);
/// Number of users who log in repeatedly.
const USERS: usize = 6;
/// Number of times each service is killed meanwhile.
const KILLS: usize = 8;

/// Main process and state of a unit.
pub(super) async fn state(context: &Context, relay: &str, unit: &str) -> anyhow::Result<(String, String)> {
    let show = ["systemctl", "show", "--property=MainPID,ActiveState", unit];
    let text = context.run(relay, &show).await?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default()
            .to_owned()
    };
    Ok((value("MainPID="), value("ActiveState=")))
}

async fn signal(context: &Context, relay: &str, unit: &str, signal: &str) -> anyhow::Result<()> {
    let option = format!("--signal={signal}");
    context
        .run(relay, &["systemctl", "kill", "--kill-whom=main", &option, unit])
        .await?;
    Ok(())
}

/// Kills the service with SIGKILL and waits until a new process is ready.
pub(super) async fn kill(context: &Context, relay: &str, unit: &str) -> anyhow::Result<()> {
    let (before, _) = state(context, relay, unit).await?;
    signal(context, relay, unit, "KILL").await?;
    let back = || async {
        let (now, active) = state(context, relay, unit).await?;
        Ok((active == "active" && now != before && now != "0").then_some(()))
    };
    until(RESTARTED, back)
        .await
        .with_context(|| format!("{unit} on relay {relay} does not restart"))
}

/// Stops a process with SIGSTOP while `meanwhile` runs.
async fn while_stopped<T>(
    context: &Context,
    relay: &str,
    unit: &str,
    meanwhile: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    signal(context, relay, unit, "STOP").await?;
    let result = meanwhile.await;
    signal(context, relay, unit, "CONT").await?;
    result
}

/// Waits until a connection exists from or to this address or socket.
async fn connected(context: &Context, relay: &str, unit: &str, local: &str) -> anyhow::Result<()> {
    // A connection over a Unix socket belongs to the network namespace of the process that opened it.
    let (process, _) = state(context, relay, unit).await?;
    let found = || async {
        let table = context
            .run(
                relay,
                &[
                    "nsenter",
                    "--target",
                    &process,
                    "--net",
                    "ss",
                    "-Hntx",
                    "state",
                    "established",
                ],
            )
            .await?;
        // Postfix uses socket paths relative to its queue directory.
        let is_local = |word: &str| word == local || word.ends_with(&format!("/{local}"));
        Ok(table.split_whitespace().any(is_local).then_some(()))
    };
    until(DELIVERED, found)
        .await
        .with_context(|| format!("no process connects to {local} on relay {relay}"))
}

/// Whether a client whose submission was interrupted retries: after a temporary error or a disconnect.
fn is_temporary(outcome: &anyhow::Result<Reply>) -> bool {
    match outcome {
        Ok(reply) => reply.is_transient(),
        Err(error) => error.downcast_ref().is_some_and(WireError::is_disconnect),
    }
}

/// Checks that exactly one copy has arrived when the queues of both relays are empty.
async fn one_copy(context: &Context, receiver: &Account, message: &Message) -> anyhow::Result<()> {
    let (mut imap, _) = receiver.inbox().await?;
    arrival(&mut imap, message.id(), DELIVERED).await?;
    context.queues_empty(&["a", "b"], DELIVERED).await?;
    let copies = imap
        .search(&format!("HEADER Message-ID {}", message.id()))
        .await?
        .len();
    ensure!(copies == 1, "{copies} copies arrived");
    Ok(())
}

/// Stops the signing milter, so that the filter is killed while it returns the message to Postfix, for another relay.
pub(super) async fn filter_within_a_message(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("b").await?);
    let message = pgp::encrypted(&sender.address, 100_000);
    // A restart closes connections that Postfix has kept from earlier messages.
    kill(context, "a", "filtermail-outgoing.service").await?;
    let cut = while_stopped(context, "a", "opendkim.service", async {
        let sending = {
            let (sender, receiver, message) = (sender.clone(), receiver.clone(), message.clone());
            tokio::spawn(async move { sender.submit(&receiver.address, &message).await })
        };
        connected(context, "a", "filtermail-outgoing.service", "filtered-outgoing").await?;
        kill(context, "a", "filtermail-outgoing.service").await?;
        anyhow::Ok(sending)
    });
    let outcome = cut.await?.await?;
    ensure!(is_temporary(&outcome), "the client got: {outcome:?}");
    sender
        .submit(&receiver.address, &message)
        .await?
        .expect(250)
        .context("the second attempt")?;
    one_copy(context, &receiver, &message).await
}

/// Stops the relay's resolver, so that the filter is killed while it looks up the sender's DKIM key.
pub(super) async fn incoming_filter_within_a_message(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("b").await?);
    let message = pgp::encrypted(&sender.address, 100_000);
    // Neither the filter nor the resolver may have the key in its cache.
    kill(context, "b", "filtermail-incoming.service").await?;
    context
        .run("b", &["systemctl", "restart", "unbound.service"])
        .await?;
    while_stopped(context, "b", "unbound.service", async {
        sender.submit(&receiver.address, &message).await?.expect(250)?;
        connected(context, "b", "filtermail-incoming.service", "127.0.0.1:10081").await?;
        kill(context, "b", "filtermail-incoming.service").await
    })
    .await?;
    // Relay a tried over HTTPS. It tries again over SMTP within the same attempt, or later if the filter is not back yet.
    hurried(context, &["a"], one_copy(context, &receiver, &message)).await
}

/// Holds the report of a delivery, which comes between storing a message and confirming it, so that Postfix is stopped
/// while a client waits for the filter, and while lmtp(8) has not yet removed the message from the queue.
pub(super) async fn postfix_within_a_delivery(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("a").await?);
    let (localpart, domain) = receiver.address.split_once('@').context("an address without @")?;
    // The filter leaves a quoted local part to Postfix.
    let quoted = format!("\"{localpart}\"@{domain}");
    for recipient in [&receiver.address, &quoted] {
        let message = pgp::encrypted(&sender.address, 10_000);
        let (master, _) = state(context, "a", "postfix.service").await?;
        let submitted = while_stopped(context, "a", "chatmail-metadata.service", async {
            let submitting = {
                let (sender, recipient, message) = (sender.clone(), recipient.clone(), message.clone());
                tokio::spawn(async move { sender.submit(&recipient, &message).await })
            };
            let (mut imap, _) = receiver.inbox().await?;
            arrival(&mut imap, message.id(), DELIVERED).await?;
            context
                .run("a", &["systemctl", "restart", "--no-block", "postfix.service"])
                .await?;
            let ended = || async {
                let kill = ["kill", "-0", &master];
                Ok(context.run("a", &kill).await.is_err().then_some(()))
            };
            until(RESTARTED, ended).await.context("the master does not end")?;
            anyhow::Ok(submitting)
        })
        .await?;
        submitted
            .await??
            .expect(250)
            .with_context(|| format!("submission to {recipient}"))?;
        let restarted = || async {
            let (now, active) = state(context, "a", "postfix.service").await?;
            Ok((active == "active" && now != master && now != "0").then_some(()))
        };
        until(RESTARTED, restarted)
            .await
            .context("postfix.service does not start")?;
        one_copy(context, &receiver, &message).await?;
    }
    Ok(())
}

/// Users who log in repeatedly until they are stopped.
struct Crowd {
    stop: CancellationToken,
    logins: Arc<AtomicUsize>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Crowd {
    async fn gather(context: &Context, relay: &str) -> anyhow::Result<Self> {
        let mut crowd = Self {
            stop: CancellationToken::new(),
            logins: Arc::default(),
            tasks: JoinSet::new(),
        };
        for _ in 0..USERS {
            let account = context.account(relay).await?;
            let (stop, logins) = (crowd.stop.clone(), Arc::clone(&crowd.logins));
            crowd.tasks.spawn(async move {
                while !stop.is_cancelled() {
                    account.imap().await.context("over IMAP")?;
                    until(RESTARTED, || over_smtp(&account)).await?;
                    logins.fetch_add(2, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Ok(crowd)
    }

    /// Waits for another login over each protocol, so that users log in before and after every kill, and a login that
    /// waits for one new process often runs into the next kill too.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        let enough = self.logins.load(Ordering::Relaxed) + 2;
        let end = Instant::now() + RESTARTED;
        while self.logins.load(Ordering::Relaxed) < enough {
            if let Some(ended) = self.tasks.try_join_next() {
                ended??;
            }
            ensure!(Instant::now() < end, "users can no longer log in");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn disperse(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// A login to submission; none if the relay asks to try again, as Postfix does for a login that a kill interrupts, or
/// disconnects.
async fn over_smtp(account: &Account) -> anyhow::Result<Option<()>> {
    let login = async {
        let mut smtp = account.peer.submission().await?;
        smtp.auth_plain(&account.address, &account.password).await
    };
    match login.await {
        Ok(reply) if reply.code == 235 => Ok(Some(())),
        Ok(reply) if reply.code == 454 => Ok(None),
        Ok(reply) => bail!("over SMTP: {reply}"),
        Err(error) if error.downcast_ref::<WireError>().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn killed_under_a_crowd(context: &Context, units: &[&str]) -> anyhow::Result<()> {
    let mut crowd = Crowd::gather(context, "a").await?;
    for round in 1..=KILLS {
        for unit in units {
            kill(context, "a", unit).await?;
            crowd
                .go_on()
                .await
                .with_context(|| format!("an existing user logs in after {round} kills of {unit}"))?;
        }
    }
    crowd.disperse().await
}

pub(super) async fn doveauth(context: &Context) -> anyhow::Result<()> {
    killed_under_a_crowd(context, &["doveauth.service"]).await?;
    context.account("a").await.context("a new user afterwards")?;
    Ok(())
}

/// doveauth hangs: known users still read their mail, submission asks them to try again, and nobody is told that the
/// password is wrong.
pub(super) async fn doveauth_hangs(context: &Context) -> anyhow::Result<()> {
    let account = context.account("a").await?;
    signal(context, "a", "doveauth.service", "STOP").await?;
    let meanwhile = async {
        account.imap().await.context("over IMAP")?;
        over_smtp(&account).await
    };
    let meanwhile = meanwhile.await;
    signal(context, "a", "doveauth.service", "CONT").await?;
    ensure!(
        meanwhile?.is_none(),
        "Postfix accepts a login that nobody has verified"
    );
    until(RESTARTED, || over_smtp(&account)).await
}

pub(super) async fn dictionaries(context: &Context) -> anyhow::Result<()> {
    killed_under_a_crowd(context, &["lastlogin.service", "chatmail-metadata.service"]).await?;
    let account = context.account("a").await?;
    let mut imap = account.imap().await?;
    let recipients = imap
        .server_metadata("/shared/vendor/deltachat/maxsmtprecipients")
        .await?;
    ensure!(
        recipients.as_deref() == Some("1000"),
        "maxsmtprecipients is {recipients:?} afterwards"
    );
    // The relay still records the day of the last login.
    let file = format!("{}/password", mailboxes::of(&account));
    context.run("a", &["touch", "--date=10 days ago", &file]).await?;
    account.imap().await?;
    let today = || async {
        let newer = context
            .run("a", &["find", &file, "-newermt", "2 days ago"])
            .await?;
        Ok((!newer.is_empty()).then_some(()))
    };
    until(RESTARTED, today)
        .await
        .context("the last login is not recorded afterwards")
}

/// Credentials in the response to `POST /new`.
#[derive(Deserialize)]
struct NewAddress {
    email: String,
    password: String,
}

pub(super) async fn newemail(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer("a")?;
    for attempt in 1..=KILLS {
        // Requests while the process is down wait, because systemd keeps the socket open.
        signal(context, "a", "newemail.service", "KILL").await?;
        let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
        ensure!(answer.status == 200, "attempt {attempt}: {}", answer.head);
        let new: NewAddress =
            serde_json::from_slice(&answer.body).context("parsing the response to POST /new")?;
        let account = Account {
            peer: peer.clone(),
            address: new.email,
            password: new.password,
        };
        account.imap().await.context("logging in with a new address")?;
    }
    Ok(())
}

/// Kills every service of both relays while two users write to each other.
pub(super) async fn all_while_people_write(context: &Context) -> anyhow::Result<()> {
    const SERVICES: [&str; 9] = [
        "filtermail-outgoing",
        "filtermail-incoming",
        "filtermail-mxdeliv",
        "filtermail-transport",
        "doveauth",
        "lastlogin",
        "chatmail-metadata",
        "newemail",
        "chatmail-websocket",
    ];
    let mut chat = Chat::begin(context).await?;
    for (number, service) in SERVICES.iter().enumerate() {
        for relay in ["a", "b"] {
            chat.both_write(&format!("{number} {relay}")).await?;
            kill(context, relay, &format!("{service}.service")).await?;
        }
    }
    chat.all_arrived().await
}
