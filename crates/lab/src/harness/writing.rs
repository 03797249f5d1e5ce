//! Users who write while something happens to the relays, and the result for every message.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mailtest::client::deltachat::{Mark, Pair};
use mailtest::client::message::{Message, random_name};
use mailtest::client::wire::WireError;
use mailtest::client::{Account, pgp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, hurried};

/// Pairs of relays: sender and receiver.
pub(crate) const EVERYWHERE: [(&str, &str); 6] = [
    ("a", "b"),
    ("a", "b"),
    ("b", "a"),
    ("b", "a"),
    ("a", "a"),
    ("a", "a"),
];
/// Interval between messages: an account may submit 60 messages per minute.
const PACE: Duration = Duration::from_millis(1010);
/// Time after which a client retries after a temporary error or a disconnect.
const RETRY: Duration = Duration::from_millis(200);
/// Time within which the relays deliver all queued mail.
const DELIVERED: Duration = Duration::from_secs(90);

/// Two users on relays a and b who write to each other with Delta Chat.
pub(crate) struct Chat<'a> {
    context: &'a Context,
    pair: &'a Pair,
    one_start: Mark,
    other_start: Mark,
    texts: Vec<String>,
}

impl<'a> Chat<'a> {
    pub(crate) async fn begin(context: &'a Context) -> anyhow::Result<Self> {
        let pair = context.across().await?;
        Ok(Self {
            context,
            pair,
            one_start: pair.one.mark(),
            other_start: pair.other.mark(),
            texts: Vec::new(),
        })
    }

    /// Both users send a text that begins with `text`.
    pub(crate) async fn both_write(&mut self, text: &str) -> anyhow::Result<()> {
        let text = format!("{text} {}", random_name(6));
        self.pair.one.send(self.pair.one_chat, &text).await?;
        self.pair.other.send(self.pair.other_chat, &text).await?;
        self.texts.push(text);
        Ok(())
    }

    /// Waits until both see every message of the other exactly once.
    pub(crate) async fn all_arrived(self) -> anyhow::Result<()> {
        let pair = self.pair;
        let arrive = async {
            for text in &self.texts {
                pair.other.receive(self.other_start, text).await?;
                pair.one.receive(self.one_start, text).await?;
            }
            anyhow::Ok(())
        };
        hurried(self.context, &["a", "b"], arrive).await?;
        for (user, chat) in [(&pair.other, pair.other_chat), (&pair.one, pair.one_chat)] {
            let seen = user.texts(chat).await?;
            for text in &self.texts {
                // Each chat shows the messages of both users, who both sent this text.
                let times = seen.iter().filter(|known| *known == text).count();
                if times != 2 {
                    bail!("{} sees {text:?} {times} times instead of twice", user.name);
                }
            }
        }
        Ok(())
    }
}

/// Result of an attempt to submit a message.
enum Attempt {
    Accepted,
    /// The client retries. If the connection broke after the final dot, the relay may already have the message.
    Later {
        doubtful: bool,
    },
    /// The relay rejects the correct password, which occurred once during a reload of Dovecot on a machine under load.
    /// Delta Chat ignores the first rejection, and reports the second one to the user.
    LoginRefused,
}

async fn attempt(sender: &Account, receiver: &Account, message: &Message) -> anyhow::Result<Attempt> {
    let session = async {
        let mut smtp = sender.peer.submission().await?;
        let login = smtp.auth_plain(&sender.address, &sender.password).await?;
        if login.code != 235 {
            return Ok(login);
        }
        smtp.send(&sender.address, &[&receiver.address], &message.bytes())
            .await
    };
    match session.await {
        Ok(reply) if reply.code == 250 => Ok(Attempt::Accepted),
        Ok(reply) if reply.code == 535 => Ok(Attempt::LoginRefused),
        Ok(reply) if reply.is_transient() => Ok(Attempt::Later { doubtful: false }),
        Ok(reply) => bail!("the relay rejects a message: {reply}"),
        Err(error) if error.downcast_ref::<WireError>().is_some() => Ok(Attempt::Later {
            doubtful: error.to_string() == mailtest::client::smtp::AFTER_THE_DOT,
        }),
        Err(error) => Err(error),
    }
}

/// Messages of one sender.
struct SentMail {
    sender: Account,
    receiver: Account,
    /// Message-ID, and whether the relay may have accepted the message twice.
    sent: Vec<(String, bool)>,
    again: usize,
    refused: usize,
}

impl SentMail {
    async fn write(mut self, stop: CancellationToken) -> anyhow::Result<Self> {
        let mut pace = tokio::time::interval(PACE);
        while !stop.is_cancelled() {
            pace.tick().await;
            let message = pgp::encrypted(&self.sender.address, 5_000);
            let (mut doubt, mut refused) = (false, false);
            loop {
                match attempt(&self.sender, &self.receiver, &message).await? {
                    Attempt::Accepted => break,
                    Attempt::Later { doubtful } => {
                        doubt |= doubtful;
                        refused = false;
                    }
                    Attempt::LoginRefused => {
                        ensure!(!refused, "the relay rejects the correct password twice in a row");
                        refused = true;
                        self.refused += 1;
                    }
                }
                self.again += 1;
                tokio::time::sleep(RETRY).await;
            }
            self.sent.push((message.id().to_owned(), doubt));
        }
        Ok(self)
    }

    /// Checks that every message arrived and none bounced; returns the number of duplicates after broken connections.
    async fn check(&self, context: &Context) -> anyhow::Result<usize> {
        let (mut imap, _) = self.receiver.inbox().await?;
        let mut doubled = 0;
        for (id, doubtful) in &self.sent {
            let copies = imap.search(&format!("HEADER Message-ID {id}")).await?.len();
            match copies {
                1 => {}
                2 if *doubtful => doubled += 1,
                _ => bail!(
                    "{copies} copies of a message arrived\n{}",
                    self.seen(context, id).await?
                ),
            }
        }
        let (_, returned) = self.sender.inbox().await?;
        ensure!(returned == 0, "{returned} messages bounced");
        Ok(doubled)
    }

    /// Returns the lines about a message in the journals of both relays, which show where it was duplicated or lost.
    async fn seen(&self, context: &Context, id: &str) -> anyhow::Result<String> {
        let mut all = String::new();
        for relay in ["a", "b"] {
            let argv = ["journalctl", "--quiet", "--output=short-precise", "--grep", id];
            // grep fails if nothing matches.
            let found = context.machines().exec(relay, &argv).await?.stdout;
            all.push_str(&String::from_utf8_lossy(&found));
        }
        Ok(all)
    }
}

/// Users on both relays who each send a message per second.
pub(crate) struct Writers {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<SentMail>>,
}

/// Counts of messages, none of which was lost or bounced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    /// Number of messages sent.
    pub(crate) sent: usize,
    /// Number of retries.
    pub(crate) again: usize,
    /// Number of these retries that followed the rejection of a correct password.
    pub(crate) refused: usize,
    /// Number of duplicates, because the connection broke after the relay had accepted the message.
    pub(crate) doubled: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages, {} retries, {} of them after a rejected login, {} duplicates",
            self.sent, self.again, self.refused, self.doubled
        )
    }
}

impl Writers {
    /// One sender for each pair of relays.
    pub(crate) async fn begin(context: &Context, pairs: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut writers = Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        for &(from, to) in pairs {
            let mail = SentMail {
                sender: context.account(from).await?,
                receiver: context.account(to).await?,
                sent: Vec::new(),
                again: 0,
                refused: 0,
            };
            writers.tasks.spawn(mail.write(writers.stop.clone()));
        }
        Ok(writers)
    }

    /// Stops the senders and waits for all mail.
    pub(crate) async fn finish(mut self, context: &Context) -> anyhow::Result<Tally> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(mail) = self.tasks.join_next().await {
            all.push(mail??);
        }
        hurried(context, &["a", "b"], context.queues_empty(&["a", "b"], DELIVERED)).await?;
        let mut tally = Tally {
            sent: 0,
            again: 0,
            refused: 0,
            doubled: 0,
        };
        for mail in all {
            tally.sent += mail.sent.len();
            tally.again += mail.again;
            tally.refused += mail.refused;
            tally.doubled += mail.check(context).await.with_context(|| {
                format!(
                    "from {} to {}",
                    mail.sender.peer.domain, mail.receiver.peer.domain
                )
            })?;
        }
        Ok(tally)
    }
}
