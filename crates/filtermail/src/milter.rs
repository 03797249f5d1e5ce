//! Judges the envelope before a message is sent: a milter for Postfix that rejects `RCPT`. Postfix passes on the reply of
//! a milter unchanged, but not that of a policy service. While the milter is unavailable, the filter judges alone.
//!
//! This is the part of the protocol (libmilter's `mfdef.h`, version 6) that `MAIL` and `RCPT` need; the negotiation
//! declines all other steps.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::reply::Reply;

/// Longest silence. The connection lasts as long as the session of a client, which may be idle for a while; once the
/// connection is closed, Postfix does not ask again in that session.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest wait for Postfix to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a packet: Postfix's commands have at most 2 KiB, and macros are a few words.
const MAX_PACKET: usize = 16 * 1024;
/// Version of the protocol.
const VERSION: u32 = 6;

/// Decides on envelopes.
pub trait Gate: Sync {
    /// Decides on a recipient.
    fn admits(&self, recipient: &str) -> Result<(), Reply>;

    /// Decides on a message, once, at the first recipient that is admitted.
    fn begins(&self, sender: &str) -> Result<(), Reply>;
}

/// Steps that the milter declines (`SMFIP_NOCONNECT` and so on): all but `MAIL` and `RCPT`.
const DECLINED: u32 = 0x01 | 0x02 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200;

/// A packet from Postfix.
#[derive(Debug, PartialEq, Eq)]
enum Packet {
    /// `SMFIC_OPTNEG`, with the steps that may be declined.
    Negotiate(u32),
    /// `SMFIC_MAIL`.
    Mail(String),
    /// `SMFIC_RCPT`.
    Rcpt(String),
    /// `SMFIC_MACRO`, `SMFIC_ABORT`: no answer is expected.
    Note,
    /// `SMFIC_QUIT`.
    Quit,
    /// Any other step.
    Other,
}

impl Packet {
    fn parse(command: u8, data: &[u8]) -> Option<Self> {
        Some(match command {
            b'O' => {
                let (_, steps) = data.split_at_checked(8)?;
                Self::Negotiate(u32::from_be_bytes(steps.first_chunk().copied()?))
            }
            b'M' => Self::Mail(path(data)?),
            b'R' => Self::Rcpt(path(data)?),
            b'D' | b'A' | b'K' => Self::Note,
            b'Q' => Self::Quit,
            _ => Self::Other,
        })
    }
}

/// The address in the first argument of a command.
fn path(data: &[u8]) -> Option<String> {
    let (path, _) = data.split_at_checked(memchr::memchr(0, data)?)?;
    // Postfix does not reject other bytes; the filter does.
    let path = String::from_utf8_lossy(path);
    let path = path.strip_prefix('<').unwrap_or(&path);
    Some(path.strip_suffix('>').unwrap_or(path).to_owned())
}

/// The message that a client is about to send.
#[derive(Debug)]
enum Message {
    None,
    From(String),
    Judged(Result<(), Reply>),
}

/// Serves one connection to its end.
pub async fn serve_connection<S>(gate: &impl Gate, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    if let Err(error) = session(gate, &mut stream).await {
        tracing::debug!("milter connection lost: {error}");
    }
}

async fn session<S>(gate: &impl Gate, stream: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed packet");
    let mut message = Message::None;
    let mut data = Vec::new();
    loop {
        // Postfix may close the connection between two packets.
        let Ok(length) = timeout(IDLE_TIMEOUT, stream.read_u32()).await? else {
            return Ok(());
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|length| (1..=MAX_PACKET).contains(length))
            .ok_or_else(malformed)?;
        data.resize(length, 0);
        timeout(WRITE_TIMEOUT, stream.read_exact(&mut data)).await??;
        let (command, rest) = data.split_first().ok_or_else(malformed)?;
        let answer = match Packet::parse(*command, rest).ok_or_else(malformed)? {
            Packet::Quit => return Ok(()),
            Packet::Note => continue,
            Packet::Negotiate(steps) => negotiated(steps),
            Packet::Mail(sender) => {
                message = Message::From(sender);
                proceed()
            }
            Packet::Rcpt(recipient) => match gate.admits(&recipient) {
                Err(reply) => refused(&reply),
                Ok(()) => {
                    if let Message::From(sender) = &message {
                        message = Message::Judged(gate.begins(sender));
                    }
                    match &message {
                        Message::Judged(Err(reply)) => refused(reply),
                        _ => proceed(),
                    }
                }
            },
            Packet::Other => proceed(),
        };
        timeout(WRITE_TIMEOUT, stream.write_all(&answer)).await??;
    }
}

/// `SMFIC_OPTNEG`: the milter does not ask to change messages.
fn negotiated(steps: u32) -> Vec<u8> {
    let mut data = Vec::with_capacity(12);
    for number in [VERSION, 0, DECLINED & steps] {
        data.extend_from_slice(&number.to_be_bytes());
    }
    packet(b'O', &data)
}

/// `SMFIR_CONTINUE`.
fn proceed() -> Vec<u8> {
    packet(b'c', &[])
}

/// `SMFIR_REPLYCODE`, in which percent signs are doubled.
fn refused(reply: &Reply) -> Vec<u8> {
    let mut text = reply.as_str().replace('%', "%%").into_bytes();
    text.push(0);
    packet(b'y', &text)
}

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[command], data].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;

    /// Admits recipients other than `blocked`, and a number of messages.
    struct Few {
        messages: Mutex<u32>,
        asked: Mutex<HashSet<String>>,
    }

    impl Gate for Few {
        fn admits(&self, recipient: &str) -> Result<(), Reply> {
            self.asked.lock().unwrap().insert(recipient.to_owned());
            if recipient.contains("blocked") {
                return Err(Reply::blocked("blocked"));
            }
            Ok(())
        }

        fn begins(&self, sender: &str) -> Result<(), Reply> {
            assert_eq!(sender, "a@c.test");
            let mut messages = self.messages.lock().unwrap();
            *messages = messages.checked_sub(1).ok_or(Reply::too_much_mail(sender, 7))?;
            Ok(())
        }
    }

    /// The answers to these packets.
    async fn talk(gate: &Few, packets: &[(u8, &[u8])]) -> Vec<(char, String)> {
        let (mut near, far) = tokio::io::duplex(4096);
        let mut said = Vec::new();
        for (command, data) in packets {
            said.extend(packet(*command, data));
        }
        near.write_all(&said).await.unwrap();
        near.shutdown().await.unwrap();
        serve_connection(gate, far).await;
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        let mut rest = &heard[..];
        let mut answers = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (one, later) = after.split_at(u32::from_be_bytes(*length) as usize);
            answers.push((
                char::from(one[0]),
                String::from_utf8_lossy(&one[1..]).into_owned(),
            ));
            rest = later;
        }
        answers
    }

    const NEGOTIATE: (u8, &[u8]) = (b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff");
    const MACROS: (u8, &[u8]) = (b'D', b"M{auth_authen}\0a@c.test\0");
    const MAIL: (u8, &[u8]) = (b'M', b"<a@c.test>\0SIZE=100\0");
    const RCPT: (u8, &[u8]) = (b'R', b"<b@c.test>\0");
    const ABORT: (u8, &[u8]) = (b'A', b"");

    fn limit(messages: u32) -> Few {
        Few {
            messages: Mutex::new(messages),
            asked: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_message_counts_once_and_the_next_is_refused_at_its_recipients() {
        let answers = talk(
            &limit(1),
            &[
                NEGOTIATE,
                MACROS,
                MAIL,
                RCPT,
                RCPT,
                ABORT,
                MAIL,
                RCPT,
                RCPT,
                ABORT,
                (b'Q', b""),
            ],
        )
        .await;
        let codes: String = answers.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, "Occccyy");
        for (_, text) in &answers[5..] {
            assert!(
                text.starts_with("450 4.7.1: Too much mail from a@c.test, try again in ")
                    && text.ends_with(" s\0"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_message_without_recipients_does_not_count() {
        let limit = limit(1);
        talk(&limit, &[MAIL, ABORT, MAIL, ABORT]).await;
        assert_eq!(*limit.messages.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_recipient_is_refused_alone_and_does_not_count() {
        let limit = limit(1);
        let blocked: (u8, &[u8]) = (b'R', b"<b@blocked.test>\0ORCPT=rfc822;x\0");
        let odd: (u8, &[u8]) = (b'R', b"b\xff@blocked.test\0");
        let answers = talk(&limit, &[MAIL, blocked, ABORT, MAIL, blocked, RCPT, odd, RCPT]).await;
        let codes: String = answers.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, "cycycyc");
        assert_eq!(
            answers[1].1,
            "554 5.7.1 This relay exchanges no mail with blocked\0"
        );
        assert_eq!(*limit.messages.lock().unwrap(), 0);
        let asked = ["b@blocked.test", "b\u{fffd}@blocked.test", "b@c.test"];
        assert_eq!(*limit.asked.lock().unwrap(), asked.map(str::to_owned).into());
    }

    #[tokio::test]
    async fn packets_out_of_bounds_end_the_connection() {
        for (said, command) in [
            (0_u32, b'M'),
            (u32::MAX, b'M'),
            (17_000, b'M'),
            (1, b'O'),
            (2, b'M'),
        ] {
            let (mut near, far) = tokio::io::duplex(4096);
            near.write_all(&[&said.to_be_bytes()[..], &[command, 1]].concat())
                .await
                .unwrap();
            near.shutdown().await.unwrap();
            serve_connection(&limit(1), far).await;
            let mut heard = Vec::new();
            near.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"");
        }
    }

    #[test]
    fn only_mail_and_recipients_are_asked_for() {
        let answer = negotiated(0x1f_ffff);
        assert_eq!(answer, b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\x03\x73");
        assert_eq!(refused(&Reply::new("450 50% off")), b"\0\0\0\x0ey450 50%% off\0");
    }
}
