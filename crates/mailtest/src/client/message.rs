//! Messages that a client submits.

use rand::Rng as _;
use rand::distr::{Alphanumeric, SampleString as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// A message: header fields in order, and a body with CRLF line ends.
#[derive(Debug, Clone)]
pub struct Message {
    headers: Vec<(String, String)>,
    body: String,
}

impl Message {
    /// Creates a message with the header fields of Delta Chat, in its order.
    pub fn new(from: &str, to: &str, subject: &str, content_type: &str, body: String) -> Self {
        let now = OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let fields = [
            ("From", format!("<{from}>")),
            ("Date", now.format(&Rfc2822).unwrap_or_default()),
            ("Message-ID", format!("<{}@localhost>", random_name(32))),
            ("MIME-Version", "1.0".to_owned()),
            ("To", to.to_owned()),
            ("Subject", subject.to_owned()),
            ("Content-Type", content_type.to_owned()),
        ];
        Self {
            headers: fields.map(|(name, value)| (name.to_owned(), value)).into(),
            body,
        }
    }

    /// Creates an ordinary unencrypted message.
    pub fn cleartext(from: &str, to: &str, subject: &str, body: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self::new(
            from,
            &format!("<{to}>"),
            subject,
            content_type,
            format!("{body}\r\n"),
        )
    }

    /// Replaces a header field, or adds it at the end.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        match self
            .headers
            .iter_mut()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
        {
            Some((_, known)) => value.clone_into(known),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Returns the Message-ID with its angle brackets.
    pub fn id(&self) -> &str {
        self.headers
            .iter()
            .find(|(name, _)| name == "Message-ID")
            .map_or("", |(_, id)| id)
    }

    /// Returns the message as the client sends it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(self.body.len() + 512);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// Returns a random MIME boundary, which occurs in no body.
pub fn boundary() -> String {
    random_name(32)
}

/// Returns random characters `a` to `z` and `0` to `9`, as clients use them in the names of new accounts.
pub fn random_name(length: usize) -> String {
    const CHARACTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length)
        .filter_map(|_| {
            CHARACTERS
                .get(random.random_range(0..CHARACTERS.len()))
                .map(|byte| char::from(*byte))
        })
        .collect()
}

/// Returns random letters and digits, as clients use them in passwords.
pub fn random_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 22)
}

/// Returns the unfolded values of the header fields with this name, which is case-insensitive.
pub fn header(message: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(message);
    let mut values: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines().take_while(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            if let (true, Some(value)) = (inside, values.last_mut()) {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        inside = line
            .split_once(':')
            .is_some_and(|(field, _)| field.trim_end().eq_ignore_ascii_case(name));
        if inside && let Some((_, value)) = line.split_once(':') {
            values.push(value.trim().to_owned());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_replaced_or_added() {
        let message = Message::cleartext("a@x.test", "b@x.test", "hello", "body");
        let message = message.with("subject", "other").with("User-Agent", "lab");
        let bytes = message.bytes();
        assert_eq!(header(&bytes, "Subject"), ["other"]);
        assert_eq!(header(&bytes, "USER-AGENT"), ["lab"]);
        assert_eq!(header(&bytes, "Message-ID"), [message.id()]);
        assert!(header(&bytes, "body").is_empty());
        assert!(bytes.ends_with(b"\r\n\r\nbody\r\n"));
    }

    #[test]
    fn folded_fields_are_joined() {
        let message = b"A: one\r\n two\r\nB: x\r\n\ty\r\na: three\r\n\r\nA: body\r\n";
        assert_eq!(header(message, "a"), ["one two", "three"]);
        assert_eq!(header(message, "b"), ["x y"]);
    }

    #[test]
    fn names_fit_the_address_grammar() {
        let name = random_name(9);
        assert_eq!(name.len(), 9);
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
        assert_eq!(random_password().len(), 22);
    }
}
