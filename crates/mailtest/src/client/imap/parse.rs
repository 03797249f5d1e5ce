//! IMAP responses (RFC 9051, section 7) as values.

/// A malformed response.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an IMAP response, at byte {at}: {line:?}")]
pub(super) struct ParseError {
    at: usize,
    line: String,
}

/// Status of a command or of a status response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Completed.
    Ok,
    /// Rejected or failed.
    No,
    /// Not understood.
    Bad,
}

/// A part of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A value that is neither a string nor a list, such as `BODY[HEADER.FIELDS (DATE)]`.
    Atom(String),
    /// A quoted string or a literal.
    Text(Vec<u8>),
    /// A parenthesized list.
    List(Vec<Value>),
    /// NIL.
    Nil,
}

impl Value {
    /// Returns the characters of an atom or a text.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Atom(text) => Some(text.clone()),
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::List(_) | Self::Nil => None,
        }
    }

    /// Returns the members of a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }
}

/// A response from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// `* 3 EXISTS`, `* FETCH (…)`, `* CAPABILITY …`.
    Data {
        /// The number before the name.
        number: Option<u32>,
        /// In upper case.
        name: String,
        /// The values after the name.
        values: Vec<Value>,
    },
    /// `* OK …`, `* NO …`, `* BYE …`; the text with its code in brackets. BYE counts as NO.
    Status(Status, String),
    /// The tagged response that completes a command.
    Done {
        /// The command's tag.
        tag: String,
        /// Its status.
        status: Status,
        /// The text with its code in brackets.
        text: String,
    },
    /// `+ …`: the server waits for more data.
    Continue(String),
}

/// Returns the length of the literal that follows this line, if it ends with `{n}`.
pub(super) fn literal_length(line: &[u8]) -> Option<usize> {
    let open = line.strip_suffix(b"}")?.iter().rposition(|byte| *byte == b'{')?;
    std::str::from_utf8(line.get(open + 1..line.len() - 1)?)
        .ok()?
        .parse()
        .ok()
}

/// Parses one response: its lines joined by CRLF, literals in place, without the last line ending.
pub(super) fn parse(bytes: &[u8]) -> Result<Response, ParseError> {
    let mut input = Input { bytes, at: 0 };
    response(&mut input).ok_or_else(|| ParseError {
        at: input.at,
        line: String::from_utf8_lossy(bytes).chars().take(200).collect(),
    })
}

fn response(input: &mut Input<'_>) -> Option<Response> {
    let tag = input.word()?;
    if tag == "+" {
        return Some(Response::Continue(input.rest()));
    }
    let word = input.word()?;
    let status = match word.to_ascii_uppercase().as_str() {
        "OK" | "PREAUTH" => Some(Status::Ok),
        "NO" | "BYE" => Some(Status::No),
        "BAD" => Some(Status::Bad),
        _ => None,
    };
    match (tag, status) {
        ("*", Some(status)) => Some(Response::Status(status, input.rest())),
        ("*", None) => {
            let number = word.parse().ok();
            let name = if number.is_some() { input.word()? } else { word };
            let name = name.to_ascii_uppercase();
            Some(Response::Data {
                number,
                name,
                values: input.values(None)?,
            })
        }
        (tag, Some(status)) => Some(Response::Done {
            tag: tag.to_owned(),
            status,
            text: input.rest(),
        }),
        (_, None) => None,
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// Reads the characters up to a space, and skips the space.
    fn word(&mut self) -> Option<&'a str> {
        let left = self.bytes.get(self.at..)?;
        let length = left.iter().position(|byte| *byte == b' ').unwrap_or(left.len());
        let word = std::str::from_utf8(self.take(length)?)
            .ok()
            .filter(|word| !word.is_empty())?;
        self.at = (self.at + 1).min(self.bytes.len());
        Some(word)
    }

    fn rest(&mut self) -> String {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        String::from_utf8_lossy(rest).into_owned()
    }

    /// Reads values up to `close`, or to the end.
    fn values(&mut self, close: Option<u8>) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        loop {
            match self.peek() {
                None if close.is_none() => return Some(values),
                None => return None,
                byte if byte == close => {
                    self.at += 1;
                    return Some(values);
                }
                Some(b' ') => self.at += 1,
                Some(_) => values.push(self.value()?),
            }
        }
    }

    fn value(&mut self) -> Option<Value> {
        match self.peek()? {
            b'(' => {
                self.at += 1;
                self.values(Some(b')')).map(Value::List)
            }
            b'"' => self.quoted(),
            b'{' => self.literal(),
            _ => self.atom(),
        }
    }

    fn quoted(&mut self) -> Option<Value> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(Value::Text(text)),
                b'\\' => {
                    text.push(self.peek()?);
                    self.at += 1;
                }
                byte => text.push(byte),
            }
        }
    }

    fn literal(&mut self) -> Option<Value> {
        let left = self.bytes.get(self.at..)?;
        let end = left.iter().position(|byte| *byte == b'\n')?;
        let head = self.take(end + 1)?;
        let length = literal_length(head.strip_suffix(b"\r\n")?)?;
        self.take(length).map(|bytes| Value::Text(bytes.to_vec()))
    }

    /// Spaces and parentheses in brackets belong to the atom.
    fn atom(&mut self) -> Option<Value> {
        let start = self.at;
        let mut depth = 0_u32;
        while let Some(byte) = self.peek() {
            match byte {
                b'[' => depth += 1,
                b']' => depth = depth.saturating_sub(1),
                b' ' | b'(' | b')' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let atom = std::str::from_utf8(self.bytes.get(start..self.at)?)
            .ok()
            .filter(|atom| !atom.is_empty())?;
        Some(if atom.eq_ignore_ascii_case("NIL") {
            Value::Nil
        } else {
            Value::Atom(atom.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Value {
        Value::Atom(text.to_owned())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    fn data(number: Option<u32>, name: &str, values: Vec<Value>) -> Response {
        Response::Data {
            number,
            name: name.to_owned(),
            values,
        }
    }

    #[test]
    fn status_and_completion() {
        let greeting = "[CAPABILITY IMAP4rev1 IDLE] Dovecot ready.";
        assert_eq!(
            parse(format!("* OK {greeting}").as_bytes()),
            Ok(Response::Status(Status::Ok, greeting.to_owned()))
        );
        assert_eq!(parse(b"* BYE"), Ok(Response::Status(Status::No, String::new())));
        assert_eq!(
            parse(b"a1 NO [AUTHENTICATIONFAILED] Authentication failed."),
            Ok(Response::Done {
                tag: "a1".to_owned(),
                status: Status::No,
                text: "[AUTHENTICATIONFAILED] Authentication failed.".to_owned()
            })
        );
        assert_eq!(parse(b"+ idling"), Ok(Response::Continue("idling".to_owned())));
    }

    #[test]
    fn numbers_lists_and_nil() {
        assert_eq!(parse(b"* 12 EXISTS"), Ok(data(Some(12), "EXISTS", vec![])));
        assert_eq!(
            parse(b"* METADATA \"\" (/shared/comment NIL /shared/vendor/deltachat/turn \"h:1:2:a\\\"b\")"),
            Ok(data(
                None,
                "METADATA",
                vec![
                    text(""),
                    Value::List(vec![
                        atom("/shared/comment"),
                        Value::Nil,
                        atom("/shared/vendor/deltachat/turn"),
                        text("h:1:2:a\"b")
                    ])
                ]
            ))
        );
    }

    #[test]
    fn literals_and_brackets() {
        let wire = b"* 1 FETCH (UID 7 FLAGS () BODY[HEADER.FIELDS (DATE)] {6}\r\na)\r\n{3 X \"\")";
        assert_eq!(
            parse(wire),
            Ok(data(
                Some(1),
                "FETCH",
                vec![Value::List(vec![
                    atom("UID"),
                    atom("7"),
                    atom("FLAGS"),
                    Value::List(vec![]),
                    atom("BODY[HEADER.FIELDS (DATE)]"),
                    text("a)\r\n{3"),
                    atom("X"),
                    text(""),
                ])]
            ))
        );
        assert_eq!(literal_length(b"* 1 FETCH (BODY[] {342}"), Some(342));
        assert_eq!(literal_length(b"* OK {x}"), None);
        assert_eq!(literal_length(b"}"), None);
    }

    #[test]
    fn what_is_cut_or_nonsense_is_an_error() {
        for wire in [
            &b""[..],
            b"*",
            b"* 1",
            b"* 1 FETCH (UID",
            b"* X \"a",
            b"* X {9}\r\nshort",
            b"* X )",
            b"a1 FETCH 1",
        ] {
            assert!(parse(wire).is_err(), "{:?}", String::from_utf8_lossy(wire));
        }
    }
}
