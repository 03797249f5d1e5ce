//! Parses and encodes commands and replies.
//!
//! Keys and user names have to be UTF-8; Dovecot only allows ASCII in both. Values are any bytes.

use std::str::FromStr;

/// Supported protocol versions: Dovecot 2.3 uses 3, and Dovecot 2.4 uses 4.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 3..=4;

/// Maximum length of a line without its line feed, as in Dovecot (`DICT_CLIENT_MAX_LINE_LENGTH`).
pub const MAX_LINE: usize = 64 * 1024;

/// One line from Dovecot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `H`: the first line of a connection.
    Hello {
        /// Major version; the format of other commands is unknown outside [`VERSIONS`].
        major: u32,
        /// Minor version; makes no difference.
        minor: u32,
        /// Name of the dict (`dict_proxy_name`).
        dict: String,
    },
    /// `L`: asks for the value of a key.
    Lookup {
        /// Full key.
        key: String,
        /// User of the request; empty if there is none.
        user: String,
    },
    /// `I`: asks for the keys below a path.
    Iterate(crate::IterateQuery),
    /// `B`: begins a transaction.
    Begin {
        /// Chosen by the client, unique among its open transactions.
        id: u32,
        /// User of the transaction; empty if there is none.
        user: String,
        /// Seconds after which the values may expire; 0 means never.
        expire_secs: u32,
    },
    /// An operation of an open transaction: `S`, `U` or `A`.
    Operation {
        /// The transaction.
        id: u32,
        /// The operation to add.
        operation: crate::Operation,
    },
    /// `T` or `V`: the time of the values, and whether they may be logged. Neither changes what is stored.
    Hint {
        /// The transaction.
        id: u32,
    },
    /// `C`, or `D` if the client does not wait for the reply.
    Commit {
        /// The transaction.
        id: u32,
        /// Whether the reply carries the mark of `D`.
        detached: bool,
    },
    /// `R`: drops a transaction; has no reply.
    Rollback {
        /// The transaction.
        id: u32,
    },
}

/// Why a line cannot be parsed. The connection is closed, because later lines depend on it. The error never contains
/// the text of a field, which may be a user's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The line is empty.
    #[error("empty line")]
    Empty,
    /// The first byte is not a command.
    #[error("unknown command (byte {0})")]
    UnknownCommand(u8),
    /// A field is missing, or there is one too many.
    #[error("command {command}: wrong number of fields ({fields})")]
    Fields {
        /// First byte of the line.
        command: char,
        /// Fields found.
        fields: usize,
    },
    /// A field is not a number in its range.
    #[error("command {0}: not a number in the allowed range")]
    Number(char),
    /// A key or a user name is not UTF-8.
    #[error("command {0}: text is not UTF-8")]
    Text(char),
    /// A field ends with the byte 1.
    #[error("command {0}: incomplete escape")]
    Escape(char),
    /// A key below `priv/` needs a user name.
    #[error("command {0}: private key without a user name")]
    NoUser(char),
}

/// One reply to Dovecot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `O`: the value of the key.
    Value(Vec<u8>),
    /// `N`: the key has no value.
    NotFound,
    /// `F`: the lookup or iteration failed.
    Failed(String),
    /// `O`: one row of an iteration.
    Row {
        /// Full key.
        key: String,
        /// Empty if the query asks only for keys.
        value: Vec<u8>,
    },
    /// An empty line: the iteration is over.
    End,
    /// `O`, `N` or `F` for a transaction.
    Committed {
        /// The transaction.
        id: u32,
        /// Whether it was committed with `D`.
        detached: bool,
        /// The outcome.
        result: Result<crate::Commit, crate::Failure>,
    },
}

/// Appends `field` without tabs, line feeds, carriage returns and NUL (`str_append_tabescaped` of Dovecot).
pub fn escape(field: &[u8], into: &mut Vec<u8>) {
    for &byte in field {
        match byte {
            0 => into.extend_from_slice(b"\x010"),
            1 => into.extend_from_slice(b"\x011"),
            b'\t' => into.extend_from_slice(b"\x01t"),
            b'\r' => into.extend_from_slice(b"\x01r"),
            b'\n' => into.extend_from_slice(b"\x01n"),
            _ => into.push(byte),
        }
    }
}

/// Reverses [`escape`]; none if the field ends with an incomplete escape. An unknown escape means its second byte, as
/// in Dovecot.
pub fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(&byte) = rest.next() {
        if byte != 1 {
            bytes.push(byte);
            continue;
        }
        bytes.push(match *rest.next()? {
            b'0' => 0,
            b'1' => 1,
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            other => other,
        });
    }
    Some(bytes)
}

impl Command {
    /// Parses one line without its line feed. Additional fields of later minor versions are ignored where Dovecot's own
    /// server ignores them.
    pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
        let (&letter, rest) = line.split_first().ok_or(ParseError::Empty)?;
        if !b"HLIBCDRSUATV".contains(&letter) {
            return Err(ParseError::UnknownCommand(letter));
        }
        let fields = Fields::split(char::from(letter), rest)?;
        let command = match letter {
            b'H' => {
                fields.at_least(5)?;
                Self::Hello {
                    major: fields.number(0)?,
                    minor: fields.number(1)?,
                    dict: fields.text(4)?,
                }
            }
            b'L' => Self::Lookup {
                key: fields.text(0)?,
                user: fields.optional_text(1)?,
            },
            b'I' => {
                fields.at_least(3)?;
                Self::Iterate(crate::IterateQuery {
                    flags: fields.number(0)?,
                    max_rows: fields.number(1)?,
                    path: fields.text(2)?,
                    user: fields.optional_text(3)?,
                })
            }
            b'B' => Self::Begin {
                id: fields.number(0)?,
                user: fields.optional_text(1)?,
                expire_secs: match fields.values.get(2) {
                    Some(_) => fields.number(2)?,
                    None => 0,
                },
            },
            b'S' => {
                fields.exactly(3)?;
                Self::Operation {
                    id: fields.number(0)?,
                    operation: crate::Operation::Set {
                        key: fields.text(1)?,
                        value: fields.bytes(2)?.to_vec(),
                    },
                }
            }
            b'U' => {
                fields.exactly(2)?;
                Self::Operation {
                    id: fields.number(0)?,
                    operation: crate::Operation::Unset { key: fields.text(1)? },
                }
            }
            b'A' => {
                fields.exactly(3)?;
                Self::Operation {
                    id: fields.number(0)?,
                    operation: crate::Operation::Increment {
                        key: fields.text(1)?,
                        difference: fields.number(2)?,
                    },
                }
            }
            b'T' => {
                fields.exactly(3)?;
                let (_seconds, _nanoseconds): (i64, u32) = (fields.number(1)?, fields.number(2)?);
                Self::Hint {
                    id: fields.number(0)?,
                }
            }
            b'V' => {
                fields.exactly(2)?;
                Self::Hint {
                    id: fields.number(0)?,
                }
            }
            b'C' | b'D' => Self::Commit {
                id: fields.number(0)?,
                detached: letter == b'D',
            },
            _ => Self::Rollback {
                id: fields.number(0)?,
            },
        };
        match &command {
            Self::Lookup { key, user } | Self::Iterate(crate::IterateQuery { path: key, user, .. })
                if is_private(key) && user.is_empty() =>
            {
                Err(ParseError::NoUser(char::from(letter)))
            }
            _ => Ok(command),
        }
    }

    /// Appends the line with its line feed, as Dovecot 2.4 would send it.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut line = Line { into };
        match self {
            Self::Hello { major, minor, dict } => {
                line.begin('H', major).field(minor).field(0).field("").field(dict);
            }
            Self::Lookup { key, user } => {
                line.begin('L', key).field(user);
            }
            Self::Iterate(query) => {
                line.begin('I', query.flags)
                    .field(query.max_rows)
                    .field(&query.path)
                    .field(&query.user);
            }
            Self::Begin {
                id,
                user,
                expire_secs,
            } => {
                line.begin('B', id).field(user).field(expire_secs);
            }
            Self::Operation { id, operation } => match operation {
                crate::Operation::Set { key, value } => {
                    line.begin('S', id).field(key).bytes(value);
                }
                crate::Operation::Unset { key } => {
                    line.begin('U', id).field(key);
                }
                crate::Operation::Increment { key, difference } => {
                    line.begin('A', id).field(key).field(difference);
                }
            },
            Self::Hint { id } => {
                line.begin('V', id).field("yes");
            }
            Self::Commit { id, detached } => {
                line.begin(if *detached { 'D' } else { 'C' }, id);
            }
            Self::Rollback { id } => {
                line.begin('R', id);
            }
        }
        into.push(b'\n');
    }
}

impl Reply {
    /// Appends the line with its line feed.
    pub fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Value(value) => {
                into.push(b'O');
                escape(value, into);
            }
            Self::NotFound => into.push(b'N'),
            Self::Failed(text) => {
                into.push(b'F');
                escape(text.as_bytes(), into);
            }
            Self::Row { key, value } => {
                into.push(b'O');
                escape(key.as_bytes(), into);
                into.push(b'\t');
                escape(value, into);
            }
            Self::End => {}
            Self::Committed { id, detached, result } => {
                if *detached {
                    into.push(b'A');
                }
                into.push(match result {
                    Ok(crate::Commit::Done) => b'O',
                    Ok(crate::Commit::NotFound) => b'N',
                    Err(_) => b'F',
                });
                into.extend_from_slice(id.to_string().as_bytes());
                if let Err(failure) = result {
                    into.push(b'\t');
                    escape(failure.0.as_bytes(), into);
                }
            }
        }
        into.push(b'\n');
    }
}

/// Whether the key is private to a user (`DICT_PATH_PRIVATE`).
pub(crate) fn is_private(key: &str) -> bool {
    key.starts_with("priv/")
}

/// The unescaped fields of a line.
struct Fields {
    command: char,
    values: Vec<Vec<u8>>,
}

impl Fields {
    fn split(command: char, rest: &[u8]) -> Result<Self, ParseError> {
        let values = rest
            .split(|&byte| byte == b'\t')
            .map(|field| unescape(field).ok_or(ParseError::Escape(command)))
            .collect::<Result<_, _>>()?;
        Ok(Self { command, values })
    }

    fn wrong_count(&self) -> ParseError {
        ParseError::Fields {
            command: self.command,
            fields: self.values.len(),
        }
    }

    fn at_least(&self, count: usize) -> Result<(), ParseError> {
        if self.values.len() < count {
            return Err(self.wrong_count());
        }
        Ok(())
    }

    fn exactly(&self, count: usize) -> Result<(), ParseError> {
        if self.values.len() != count {
            return Err(self.wrong_count());
        }
        Ok(())
    }

    fn bytes(&self, index: usize) -> Result<&[u8], ParseError> {
        self.values
            .get(index)
            .map(Vec::as_slice)
            .ok_or_else(|| self.wrong_count())
    }

    fn str(&self, index: usize) -> Result<&str, ParseError> {
        std::str::from_utf8(self.bytes(index)?).map_err(|_| ParseError::Text(self.command))
    }

    fn text(&self, index: usize) -> Result<String, ParseError> {
        self.str(index).map(str::to_owned)
    }

    fn optional_text(&self, index: usize) -> Result<String, ParseError> {
        match self.values.get(index) {
            Some(_) => self.text(index),
            None => Ok(String::new()),
        }
    }

    fn number<N: FromStr>(&self, index: usize) -> Result<N, ParseError> {
        self.str(index)?
            .parse()
            .map_err(|_| ParseError::Number(self.command))
    }
}

/// A line being written.
struct Line<'a> {
    into: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn begin(&mut self, letter: char, field: impl ToString) -> &mut Self {
        escape(letter.to_string().as_bytes(), self.into);
        escape(field.to_string().as_bytes(), self.into);
        self
    }

    fn field(&mut self, field: impl ToString) -> &mut Self {
        self.bytes(field.to_string().as_bytes())
    }

    fn bytes(&mut self, field: &[u8]) -> &mut Self {
        self.into.push(b'\t');
        escape(field, self.into);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{IterateQuery, Operation};

    fn command() -> impl Strategy<Value = Command> {
        let key = || "(shared|priv)/\\PC{0,40}";
        let user = || "[a-z0-9]{1,9}@\\PC{1,20}";
        prop_oneof![
            (any::<u32>(), any::<u32>(), "\\PC{0,20}").prop_map(|(major, minor, dict)| Command::Hello {
                major,
                minor,
                dict
            }),
            (key(), user()).prop_map(|(key, user)| Command::Lookup { key, user }),
            (any::<u32>(), any::<u64>(), key(), user()).prop_map(|(flags, max_rows, path, user)| {
                Command::Iterate(IterateQuery {
                    user,
                    path,
                    flags,
                    max_rows,
                })
            }),
            (any::<u32>(), user(), any::<u32>()).prop_map(|(id, user, expire_secs)| Command::Begin {
                id,
                user,
                expire_secs
            }),
            (any::<u32>(), key(), any::<Vec<u8>>()).prop_map(|(id, key, value)| Command::Operation {
                id,
                operation: Operation::Set { key, value }
            }),
            (any::<u32>(), key()).prop_map(|(id, key)| Command::Operation {
                id,
                operation: Operation::Unset { key }
            }),
            (any::<u32>(), key(), any::<i64>()).prop_map(|(id, key, difference)| Command::Operation {
                id,
                operation: Operation::Increment { key, difference }
            }),
            any::<u32>().prop_map(|id| Command::Hint { id }),
            (any::<u32>(), any::<bool>()).prop_map(|(id, detached)| Command::Commit { id, detached }),
            any::<u32>().prop_map(|id| Command::Rollback { id }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_survives_the_wire(command in command()) {
            let mut line = Vec::new();
            command.encode(&mut line);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(Command::parse(&line), Ok(command));
        }

        #[test]
        fn a_field_survives_escaping(field in any::<Vec<u8>>()) {
            let mut escaped = Vec::new();
            escape(&field, &mut escaped);
            prop_assert!(!escaped.iter().any(|byte| b"\0\t\r\n".contains(byte)));
            prop_assert_eq!(unescape(&escaped), Some(field));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            letter in prop::sample::select(b"HLIBCDRSUATVx".to_vec()),
            rest in prop::collection::vec(prop_oneof![Just(b'\t'), Just(1_u8), any::<u8>()], 0..80),
        ) {
            let mut line = vec![letter];
            line.extend(rest);
            let _ = Command::parse(&line);
        }
    }

    /// Lines as Dovecot 2.4.1 and 2.3.21 write them, and what is read from them.
    #[test]
    fn lines_and_what_they_mean() {
        let lines: &[&[u8]] = &[
            b"H4\t0\t0\t\tmetadata",
            b"H3\t2\t0\t\tmetadata",
            b"Lshared/0a/vendor/vendor.dovecot/pvt/server/vendor/deltachat/turn\tuser@example.org",
            b"Lpriv/0a/devicetoken\tuser@example.org",
            b"Lshared/key",
            b"Lpriv/key",
            b"Lpriv/key\t",
            b"I0\t0\tpriv/0a/\tuser@example.org",
            b"I0\t0",
            b"B1\tuser@example.org\t0",
            b"B1\tuser@example.org",
            b"B1",
            b"B-1",
            b"B4294967296",
            b"S1\tpriv/0a/devicetoken\ta\x01tb\x01nc\x011d\x010e",
            b"S1\tpriv/0a/devicetoken",
            b"S1\tkey\tvalue\tmore",
            b"S1\tke\xff\tvalue",
            b"S1\tkey\tvalue\x01",
            b"U1\tpriv/0a/devicetoken",
            b"A1\tshared/count\t-3",
            b"T1\t1732480000\t5",
            b"T1\t1732480000\t-5",
            b"V1\tyes",
            b"C1",
            b"D1",
            b"R1",
            b"",
            b"Q1",
        ];
        let mut report = String::new();
        for line in lines {
            let read = match Command::parse(line) {
                Ok(command) => format!("{command:?}"),
                Err(error) => format!("refused: {error}"),
            };
            report.push_str(&format!("{}\n    {read}\n", line.escape_ascii()));
        }
        insta::assert_snapshot!(report);
    }
}
