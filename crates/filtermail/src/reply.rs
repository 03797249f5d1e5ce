//! Every SMTP reply of this program. Clients, other relays and log readers match the text of some of them.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// Maximum length of a reply; RFC 5321 section 4.5.3.1.5 allows 512 octets with the line break.
const MAX_LENGTH: usize = 480;

/// One reply without its line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(Cow<'static, str>);

macro_rules! replies {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        impl Reply {
            $($(#[doc = $doc])+ pub const $name: Self = Self(Cow::Borrowed($text));)+
        }
    };
}

replies! {
    /// Greeting.
    GREETING = "220 filtermail ESMTP";
    /// Answer to `HELO`.
    HELO = "250 filtermail";
    /// A command succeeded.
    OK = "250 2.0.0 Ok";
    /// The mailboxes of all recipients contain the message.
    DELIVERED = "250 2.0.0 Ok: delivered";
    /// A sender was accepted.
    SENDER_OK = "250 2.1.0 Ok";
    /// A recipient was accepted.
    RECIPIENT_OK = "250 2.1.5 Ok";
    /// The message may follow.
    START_DATA = "354 End data with <CR><LF>.<CR><LF>";
    /// Answer to `QUIT`.
    BYE = "221 2.0.0 Bye";
    /// Answer to `VRFY` (RFC 5321 section 3.5.3).
    CANNOT_VERIFY = "252 2.0.0 Cannot verify";
    /// The client was silent for too long.
    TIMEOUT = "421 4.4.2 Timeout, closing connection";
    /// The service is stopping.
    SHUTTING_DOWN = "421 4.3.2 Service shutting down";
    /// The session with Postfix failed.
    REINJECT_FAILED = "451 4.3.0 Mail server temporarily unavailable";
    /// A check of the message panicked.
    CHECK_FAILED = "451 4.3.0 Message could not be checked";
    /// The lookup of a signature's key failed temporarily.
    DKIM_TEMPORARY = "451 4.7.5 DKIM key lookup failed, try again later";
    /// More recipients than one transaction may have.
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients";
    /// A line is longer than any that Postfix sends.
    LINE_TOO_LONG = "500 5.5.2 Line too long";
    /// The command is not one that a mail server sends.
    UNKNOWN_COMMAND = "500 5.5.1 Unknown command";
    /// The command's argument is malformed.
    SYNTAX = "501 5.5.4 Syntax error";
    /// The other relay has accepted the message over HTTPS.
    OK_HTTPS = "250 OK (HTTPS)";
    /// The destination does not accept mail over HTTPS; Postfix continues with SMTP.
    NOT_OVER_HTTPS = "421 4.4.1 No delivery over HTTPS";
    /// The message was not delivered over HTTPS, and the relay does not use SMTP.
    ONLY_OVER_HTTPS = "451 4.4.1 The server did not accept the message over HTTPS, and this relay does not use SMTP";
    /// Too many large messages are in progress.
    BUSY = "421 4.3.2 Transport busy";
    /// An envelope sender that is not an address.
    BAD_SENDER = "501 5.1.7 Bad sender address syntax";
    /// A recipient that is not an address.
    BAD_RECIPIENT = "501 5.1.3 Bad recipient address syntax";
    /// An envelope without recipients.
    NO_RECIPIENTS = "554 5.5.1 Error: no valid recipients";
    /// `MAIL` before `HELO`, `RCPT` before `MAIL` and the like.
    BAD_SEQUENCE = "503 5.5.1 Bad sequence of commands";
    /// Submitted or arriving cleartext.
    ENCRYPTION_NEEDED = "523 Encryption Needed: Invalid Unencrypted Mail";
    /// A submitted message names another account as its sender or forwarder.
    FOREIGN_SENDER = "500 Invalid Sender: not the address of the account";
    /// A submitted message has a line that servers on its path fold, which breaks its signature.
    LINE_OF_MESSAGE_TOO_LONG = "550 5.6.0 Line longer than 998 bytes in message";
    /// A submitted message has bytes that a server without 8BITMIME encodes, which breaks its signature.
    NOT_ASCII = "550 5.6.3 Characters beyond ASCII in message";
    /// A submitted message has NUL or another control character, at which programs on its path drop or cut text.
    CONTROL_CHARACTER = "550 5.6.0 Control characters in message";
    /// A line does not end with CRLF, which other servers could read as the end of the message.
    BARE_LINE_BREAK = "550 5.5.2 Bare CR or LF in message";
    /// The message is larger than the relay accepts.
    TOO_LARGE = "552 Message exceeds maximum size";
    /// The header is larger than any program writes.
    HEADER_TOO_LARGE = "552 5.3.4 Message header exceeds 256 KiB";
    /// Postfix would truncate a header field of this size.
    FIELD_TOO_LARGE = "552 5.3.4 Message header field exceeds 100 KiB";
    /// The header has more fields than any program writes.
    TOO_MANY_FIELDS = "552 5.3.4 Message header has more than 1000 fields";
    /// Verifying the signature would cost too much.
    SIGNATURE_TOO_LARGE = "552 5.3.4 DKIM signature exceeds 16 KiB or 100 field names";
    /// The message has more signatures than forwarders add.
    TOO_MANY_SIGNATURES = "552 5.3.4 Message has more than 20 DKIM signatures";
}

/// Beginning of the reply to mail from or to a domain that the relay exchanges no mail with.
const BLOCKED: &str = "554 5.7.1 This relay exchanges no mail with ";

impl Reply {
    /// Lines of the answer to `EHLO`.
    pub fn ehlo(max_message_size: usize) -> String {
        format!(
            "250-filtermail\r\n250-PIPELINING\r\n250-SIZE {max_message_size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250 XFORWARD ADDR\r\n"
        )
    }

    /// The address has exceeded its rate; the connection is closed.
    pub fn too_much_mail(address: &str, seconds: u64) -> Self {
        Self::new(&format!(
            "450 4.7.1: Too much mail from {address}, try again in {seconds} s"
        ))
    }

    /// The rules of the operator exclude the domain of a sender or recipient.
    pub fn blocked(domain: &str) -> Self {
        Self::new(&format!("{BLOCKED}{domain}"))
    }

    /// Whether the rules of the operator exclude the domain of a sender or recipient.
    pub fn is_blocked(&self) -> bool {
        self.0.starts_with(BLOCKED)
    }

    /// The submitted message names another sender in `From` than in the envelope.
    pub fn forged_from(from: &str, mail_from: &str) -> Self {
        Self::new(&format!("500 Invalid FROM <{from}> for <{mail_from}>"))
    }

    /// The `From` field of a submitted message is not exactly one address.
    pub fn invalid_from_header(value: &str) -> Self {
        Self::new(&format!("500 Invalid FROM header: {value}"))
    }

    /// The envelope sender of a submitted message is not an address.
    pub fn invalid_mail_from(address: &str) -> Self {
        Self::new(&format!("500 Invalid from address <{address}>"))
    }

    /// An arriving message cannot be parsed.
    pub fn unparsable(reason: &str) -> Self {
        Self::new(&format!("500 Failed to parse message: {reason}"))
    }

    /// An arriving message is from an address literal other than the address that sent it.
    pub fn foreign_literal(literal: IpAddr, origin: Option<IpAddr>) -> Self {
        match origin {
            Some(origin) => Self::new(&format!(
                "500 Invalid FROM domain literal: {literal} does not match origin IP {origin}"
            )),
            None => Self::new(&format!(
                "500 Invalid FROM domain literal: {literal} cannot be verified"
            )),
        }
    }

    /// An arriving message is from the address literal of this relay, whose users submit their mail.
    pub fn own_literal(literal: IpAddr) -> Self {
        Self::new(&format!(
            "500 Invalid FROM domain literal: {literal} is this relay, submit the message instead"
        ))
    }

    /// The message has no valid signature by the domain of its `From` field.
    pub fn no_valid_dkim(reason: &str) -> Self {
        Self::new(&format!("554 5.7.1 No valid DKIM signature found ({reason})"))
    }

    /// The reply of another server, passed on.
    pub fn relayed(line: &str) -> Self {
        Self::new(line)
    }

    /// Text from a message must neither end the line nor control a terminal.
    pub(crate) fn new(text: &str) -> Self {
        let clean = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
        Self(Cow::Owned(text.chars().take(MAX_LENGTH).map(clean).collect()))
    }

    /// The line without its line break.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reply to a message that was not sent: a positive reply to a command becomes a temporary failure.
    pub fn into_negative(self) -> Self {
        if self.0.starts_with(['4', '5']) {
            self
        } else {
            Self::REINJECT_FAILED
        }
    }

    /// Whether the command succeeded (RFC 5321 section 4.2.1, first digit 2).
    pub fn is_success(&self) -> bool {
        self.0.starts_with('2')
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_others_match() {
        assert_eq!(
            Reply::ENCRYPTION_NEEDED.as_str(),
            "523 Encryption Needed: Invalid Unencrypted Mail"
        );
        assert_eq!(Reply::TOO_LARGE.as_str(), "552 Message exceeds maximum size");
        assert_eq!(
            Reply::too_much_mail("a@b", 3).as_str(),
            "450 4.7.1: Too much mail from a@b, try again in 3 s"
        );
        assert_eq!(
            Reply::forged_from("x@b", "y@b").as_str(),
            "500 Invalid FROM <x@b> for <y@b>"
        );
        assert_eq!(
            Reply::invalid_from_header("x").as_str(),
            "500 Invalid FROM header: x"
        );
        assert_eq!(
            Reply::invalid_mail_from("x").as_str(),
            "500 Invalid from address <x>"
        );
        assert_eq!(
            Reply::blocked("b.test").as_str(),
            "554 5.7.1 This relay exchanges no mail with b.test"
        );
        assert_eq!(Reply::unparsable("x").as_str(), "500 Failed to parse message: x");
        assert_eq!(
            Reply::no_valid_dkim("No DKIM signature found").as_str(),
            "554 5.7.1 No valid DKIM signature found (No DKIM signature found)"
        );
        assert_eq!(
            Reply::foreign_literal("192.0.2.1".parse().unwrap(), Some("192.0.2.2".parse().unwrap())).as_str(),
            "500 Invalid FROM domain literal: 192.0.2.1 does not match origin IP 192.0.2.2"
        );
    }

    #[test]
    fn text_of_others_stays_on_one_short_line() {
        let reply = Reply::invalid_from_header(&format!("a\r\n250 ok\u{7f}é{}", "x".repeat(2000)));
        assert!(
            reply
                .as_str()
                .starts_with("500 Invalid FROM header: a??250 ok??x")
        );
        assert_eq!(reply.as_str().len(), MAX_LENGTH);
    }
}
