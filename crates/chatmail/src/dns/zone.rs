//! Formats records as a zone file (RFC 1035 section 5) and as a table.

use std::fmt::{self, Write as _};

use super::records::{Data, Need, Record};
use crate::answer::WIDTH;

/// Seconds for which resolvers may cache a record.
const TTL: u32 = 3600;

/// Maximum length of a character string (RFC 1035 section 3.3); longer text is split, and readers join it again.
const MAX_STRING: usize = 255;

/// The beginning of a zone file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Head {
    /// SOA and NS records, for a zone of its own.
    Soa {
        /// Serial, which grows with every change.
        serial: u32,
    },
    /// Only the origin, for import into an existing zone.
    None,
}

/// Writes a zone file.
pub(crate) fn file(domain: &str, head: Head, records: &[Record]) -> String {
    let mut text = format!("$ORIGIN {domain}.\n$TTL {TTL}\n");
    if let Head::Soa { serial } = head {
        // The relay's own name is the only host name that certainly exists in the zone. Providers replace it with the
        // names of their servers.
        text.push_str(&format!(
            "{domain}. IN SOA {domain}. hostmaster.{domain}. {serial} 7200 1800 1209600 300\n\
             {domain}. IN NS {domain}.\n"
        ));
    }
    for (need, title) in [(Need::Required, "Required"), (Need::Recommended, "Recommended")] {
        text.push_str(&format!("\n; {title}\n"));
        for record in records.iter().filter(|record| record.need == need) {
            text.push_str(&format!("{}. IN {record}\n", record.name));
        }
    }
    text
}

/// A value, which is copied and therefore never broken, beside columns or, if there is no room, below them.
pub(crate) fn beside(columns: &str, value: &str, indent: usize) -> String {
    if columns.chars().count() + value.chars().count() <= WIDTH {
        format!("{columns}{value}\n")
    } else {
        format!("{}\n{}{value}\n", columns.trim_end(), " ".repeat(indent))
    }
}

/// Formats a table in which text is neither quoted nor split, as the forms of DNS providers expect it.
pub(crate) fn table(domain: &str, records: &[Record]) -> String {
    let width = records.iter().map(|record| record.name.len()).max().unwrap_or(0);
    let mut text = format!("DNS records of {domain}\n");
    for (need, title) in [
        (
            Need::Required,
            "Required: without these records, mail is not delivered.",
        ),
        (
            Need::Recommended,
            "Recommended: against forgery, and for other mail clients.",
        ),
    ] {
        text.push_str(&format!("\n{title}\n\n"));
        for record in records.iter().filter(|record| record.need == need) {
            let value = match &record.data {
                Data::Txt(text) => text.clone(),
                data => data.to_string(),
            };
            let columns = format!("  {:width$}  {:5}  ", record.name, record.data.kind());
            text.push_str(&beside(&columns, &value, 4));
        }
    }
    text.push_str(
        "\nRun `chatmail dns --zone` to print them as a zone file, and\n`chatmail dns --check` to check that they are published.\n",
    );
    text
}

/// Type and value, as after `NAME IN`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.data.kind(), self.data)
    }
}

impl Data {
    /// The name of its type.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::A(_) => "A",
            Self::Aaaa(_) => "AAAA",
            Self::Mx { .. } => "MX",
            Self::Cname(_) => "CNAME",
            Self::Txt(_) => "TXT",
            Self::CaaIssue(_) => "CAA",
            Self::Srv { .. } => "SRV",
        }
    }
}

/// The value in the format of a zone file.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => address.fmt(f),
            Self::Aaaa(address) => address.fmt(f),
            Self::Mx { preference, host } => write!(f, "{preference} {host}."),
            Self::Cname(host) => write!(f, "{host}."),
            Self::Txt(text) => {
                for (index, string) in text.as_bytes().chunks(MAX_STRING).enumerate() {
                    if index > 0 {
                        f.write_char(' ')?;
                    }
                    quote(string, f)?;
                }
                Ok(())
            }
            Self::CaaIssue(issuer) => {
                f.write_str("0 issue ")?;
                quote(issuer.as_bytes(), f)
            }
            Self::Srv { port, host } => write!(f, "0 1 {port} {host}."),
        }
    }
}

/// Quotes a string and escapes special and non-printable bytes (RFC 1035 section 5.1).
fn quote(string: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for &byte in string {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
            b' '..=b'~' => f.write_char(char::from(byte))?,
            _ => write!(f, "\\{byte:03}")?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_split_by_octets() {
        assert_eq!(
            Data::Txt("a\"b\\c;d é".to_owned()).to_string(),
            r#""a\"b\\c;d \195\169""#
        );
        let long = Data::Txt("x".repeat(511)).to_string();
        let lengths: Vec<_> = long.split(' ').map(|string| string.len() - 2).collect();
        assert_eq!(lengths, [255, 255, 1]);
    }
}
