//! Real Delta Chat: its core, controlled through `deltachat-rpc-server`.

mod events;
pub mod install;
mod rpc;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use self::events::Events;
pub use self::events::{Event, Mark};
use self::rpc::Rpc;

/// Maximum time from sending to receiving a message. The client retries a rejected message after 30 s or more, so this
/// also covers mail that a scenario disturbs.
pub const ARRIVAL: Duration = Duration::from_secs(180);

/// The properties of a message that scenarios check.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// ID on this client.
    pub id: u32,
    /// ID of its chat.
    pub chat_id: u32,
    /// Text.
    pub text: String,
    /// Whether it was end-to-end encrypted.
    pub show_padlock: bool,
    /// `Done` when the attachment is complete.
    pub download_state: String,
    /// Path of the attachment.
    pub file: Option<String>,
    /// Why sending failed.
    pub error: Option<String>,
    /// Whether the client itself wrote it into the chat, such as "messages are end-to-end encrypted".
    pub is_info: bool,
}

/// A user with their own client process.
pub struct User {
    /// Display name.
    pub name: String,
    /// Address on the relay.
    pub address: String,
    rpc: Arc<Rpc>,
    events: Events,
    account: u32,
}

impl User {
    /// Starts a client in `directory` and signs up by logging in, with a code such as `dcaccount:_a.test`. If `network`
    /// is none, the client uses the network namespace of this process.
    pub async fn sign_up(
        program: &Path,
        directory: &Path,
        resolver: IpAddr,
        network: Option<&Path>,
        name: &str,
        code: &str,
    ) -> anyhow::Result<Self> {
        let rpc = Arc::new(Rpc::start(program, directory, resolver, network).await?);
        let account: u32 = rpc.call("add_account", json!([])).await?;
        let events = Events::follow(Arc::clone(&rpc));
        let mut user = Self {
            name: name.to_owned(),
            address: String::new(),
            rpc,
            events,
            account,
        };
        user.set("displayname", name).await?;
        // A normal client sends at most one message a second; a bot sends immediately. A bot sends read receipts
        // only when this is enabled.
        user.set("bot", "1").await?;
        user.set("mdns_enabled", "1").await?;
        let added: Result<(), _> = user.call("add_transport_from_qr", json!([account, code])).await;
        added.with_context(|| format!("{name} signs up with {code}; {}", user.events.last_lines()))?;
        let address: Option<String> = user
            .call("get_config", json!([account, "configured_addr"]))
            .await?;
        user.address = address.context("no address after signing up")?;
        let start = user.mark();
        user.call::<()>("start_io", json!([account])).await?;
        let idle = |event: &Event| (event.kind == "ImapInboxIdle").then_some(());
        user.events
            .wait(start, ARRIVAL, "the connection to the relay", idle)
            .await?;
        Ok(user)
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, method: &str, params: Value) -> anyhow::Result<T> {
        self.rpc.call(method, params).await
    }

    async fn set(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.call("set_config", json!([self.account, key, value])).await
    }

    /// Returns the current position in the stream of events, to wait from.
    pub fn mark(&self) -> Mark {
        self.events.mark()
    }

    /// Returns the code that others scan to verify this user.
    pub async fn qr(&self) -> anyhow::Result<String> {
        self.call("get_chat_securejoin_qr_code", json!([self.account, null]))
            .await
    }

    /// Scans the other's code and waits until both have verified each other; returns both chats: (own, other's).
    async fn secure_join(&self, other: &User) -> anyhow::Result<(u32, u32)> {
        let (start, other_start) = (self.mark(), other.mark());
        let qr = other.qr().await?;
        let chat: u32 = self.call("secure_join", json!([self.account, qr])).await?;
        let what = "the end of SecureJoin";
        let done = |kind: &'static str| {
            move |event: &Event| {
                (event.kind == kind && event.number("progress") == Some(1000)).then(|| event.clone())
            }
        };
        self.events
            .wait(start, ARRIVAL, what, done("SecurejoinJoinerProgress"))
            .await?;
        let (_, event) = other
            .events
            .wait(other_start, ARRIVAL, what, done("SecurejoinInviterProgress"))
            .await?;
        let contact = event.number("contactId").context("no contact in the event")?;
        let other_chat = other
            .call("create_chat_by_contact_id", json!([other.account, contact]))
            .await?;
        Ok((chat, other_chat))
    }

    /// Sends a text; returns the message ID.
    pub async fn send(&self, chat: u32, text: &str) -> anyhow::Result<u32> {
        self.call("misc_send_text_message", json!([self.account, chat, text]))
            .await
    }

    /// Sends a file; returns the message ID.
    pub async fn send_file(&self, chat: u32, file: &Path) -> anyhow::Result<u32> {
        let data = json!({"file": file, "viewtype": "File"});
        self.call("send_msg", json!([self.account, chat, data])).await
    }

    /// Returns the message with this ID.
    pub async fn message(&self, id: u32) -> anyhow::Result<Message> {
        self.call("get_message", json!([self.account, id])).await
    }

    /// Returns the texts of a chat in order, without the client's own info messages.
    pub async fn texts(&self, chat: u32) -> anyhow::Result<Vec<String>> {
        let ids: Vec<u32> = self
            .call("get_message_ids", json!([self.account, chat, false, false]))
            .await?;
        let mut texts = Vec::with_capacity(ids.len());
        for id in ids {
            let message = self.message(id).await?;
            if !message.is_info {
                texts.push(message.text);
            }
        }
        Ok(texts)
    }

    /// Waits for a message with this text that arrives after `start`; also returns its time of arrival.
    pub async fn receive(&self, start: Mark, text: &str) -> anyhow::Result<(Message, Instant)> {
        let end = Instant::now() + ARRIVAL;
        let mut from = start;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let incoming = |event: &Event| {
                (event.kind == "IncomingMsg").then(|| (event.at, event.number("msgId").unwrap_or_default()))
            };
            let (next, (at, id)) = self
                .events
                .wait(from, left, &format!("the message {text:?}"), incoming)
                .await?;
            let message = self.message(id).await?;
            if message.text == text {
                ensure!(
                    message.show_padlock,
                    "the message {text:?} arrived without encryption"
                );
                return Ok((message, at));
            }
            from = next;
        }
    }

    /// Waits for a message with an attachment until the attachment is complete.
    pub async fn receive_file(&self, start: Mark) -> anyhow::Result<(Message, Instant)> {
        let end = Instant::now() + ARRIVAL;
        let mut from = start;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let changed = |event: &Event| {
                let told = matches!(event.kind.as_str(), "IncomingMsg" | "MsgsChanged");
                event
                    .number("msgId")
                    .filter(|id| told && *id > 0)
                    .map(|id| (event.at, id))
            };
            let (next, (at, id)) = self.events.wait(from, left, "an attachment", changed).await?;
            let message = self.message(id).await?;
            if message.download_state == "Done" && message.file.is_some() {
                ensure!(message.show_padlock, "the attachment arrived without encryption");
                return Ok((message, at));
            }
            from = next;
        }
    }

    /// Marks a message as seen, which sends a read receipt.
    pub async fn mark_seen(&self, message: u32) -> anyhow::Result<()> {
        self.call("markseen_msgs", json!([self.account, [message]])).await
    }

    /// Waits until the relay has accepted this message.
    pub async fn sent(&self, start: Mark, message: u32) -> anyhow::Result<Instant> {
        let waited = self
            .events
            .wait(start, ARRIVAL, "the relay to take the message", |event| {
                let ours = event.number("msgId") == Some(message);
                (ours && matches!(event.kind.as_str(), "MsgDelivered" | "MsgFailed")).then(|| event.clone())
            });
        let (_, event) = waited.await?;
        if event.kind == "MsgFailed" {
            let error = self.message(message).await?.error.unwrap_or_default();
            anyhow::bail!("{} could not send: {error}", self.name);
        }
        Ok(event.at)
    }

    /// Waits for the read receipt of this message.
    pub async fn read_receipt(&self, start: Mark, message: u32) -> anyhow::Result<Instant> {
        let waited = self.events.wait(start, ARRIVAL, "the read receipt", |event| {
            (event.kind == "MsgRead" && event.number("msgId") == Some(message)).then_some(event.at)
        });
        Ok(waited.await?.1)
    }

    /// Copies the attachment of a message to `path`.
    pub async fn save_file(&self, message: u32, path: &Path) -> anyhow::Result<()> {
        self.call("save_msg_file", json!([self.account, message, path]))
            .await
    }
}

/// Two users who have verified each other.
pub struct Pair {
    /// The user who scanned the code.
    pub one: User,
    /// The user who showed the code.
    pub other: User,
    /// ID of their chat on the client of `one`.
    pub one_chat: u32,
    /// ID of their chat on the client of `other`.
    pub other_chat: u32,
}

impl Pair {
    /// Lets one scan the other's code, and waits until both have verified each other.
    pub async fn verify(one: User, other: User) -> anyhow::Result<Self> {
        let (one_chat, other_chat) = one.secure_join(&other).await?;
        Ok(Self {
            one,
            other,
            one_chat,
            other_chat,
        })
    }
}

/// Everything needed to start clients: the program, a directory for their accounts, the lab's resolver.
pub struct Program {
    path: PathBuf,
    accounts: tempfile::TempDir,
    resolver: IpAddr,
}

impl Program {
    /// Downloads the program into `cache` unless it is already there.
    pub async fn prepare(cache: &Path, resolver: IpAddr) -> anyhow::Result<Self> {
        let path = install::install(cache).await?;
        let accounts = tempfile::Builder::new().prefix("mailtest-").tempdir()?;
        Ok(Self {
            path,
            accounts,
            resolver,
        })
    }

    /// Starts a client for a user with this name, who signs up at a domain by logging in.
    pub async fn user(&self, name: &str, domain: &str) -> anyhow::Result<User> {
        self.user_of_code(name, &format!("dcaccount:{domain}")).await
    }

    /// Starts a client for a user who signs up with a code or link.
    pub async fn user_of_code(&self, name: &str, code: &str) -> anyhow::Result<User> {
        self.start(name, code, None).await
    }

    /// Like [`Self::user`], in the network namespace that this file refers to.
    pub async fn user_within(&self, network: &Path, name: &str, domain: &str) -> anyhow::Result<User> {
        self.start(name, &format!("dcaccount:{domain}"), Some(network))
            .await
    }

    async fn start(&self, name: &str, code: &str, network: Option<&Path>) -> anyhow::Result<User> {
        let directory = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(self.accounts.path())?
            .keep();
        User::sign_up(&self.path, &directory, self.resolver, network, name, code).await
    }
}
