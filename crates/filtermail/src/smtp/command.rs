//! Commands of a mail client (RFC 5321 section 4.1).

use std::net::IpAddr;

use super::envelope::Path;
use crate::reply::Reply;

/// One command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `EHLO`.
    Ehlo,
    /// `HELO`.
    Helo,
    /// `MAIL FROM`, with the size that the client declares (RFC 1870).
    Mail {
        /// Sender and parameters.
        sender: Path,
        /// Declared size in bytes; zero if the client declares none.
        size: u64,
    },
    /// `RCPT TO`.
    Rcpt(Path),
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `VRFY`.
    Vrfy,
    /// `QUIT`.
    Quit,
    /// `XFORWARD` from Postfix: the address that sent the message, if known.
    Xforward(Option<IpAddr>),
}

/// Parses a line without its line break. An error is the reply to send.
pub fn parse_command(line: &[u8]) -> Result<Command, Reply> {
    let line = std::str::from_utf8(line).map_err(|_| Reply::SYNTAX)?;
    if line.chars().any(char::is_control) {
        return Err(Reply::SYNTAX);
    }
    let line = line.trim_end();
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => Ok(Command::Ehlo),
        "HELO" => Ok(Command::Helo),
        "MAIL" => {
            let sender = path(argument, "FROM:")?;
            Ok(Command::Mail {
                size: declared_size(&sender.parameters)?,
                sender,
            })
        }
        "RCPT" => match path(argument, "TO:")? {
            recipient if recipient.address.is_empty() => Err(Reply::SYNTAX),
            recipient => Ok(Command::Rcpt(recipient)),
        },
        "DATA" if argument.is_empty() => Ok(Command::Data),
        "RSET" if argument.is_empty() => Ok(Command::Rset),
        "NOOP" => Ok(Command::Noop),
        "VRFY" => Ok(Command::Vrfy),
        "QUIT" if argument.is_empty() => Ok(Command::Quit),
        "XFORWARD" => Ok(Command::Xforward(forwarded_address(argument))),
        "DATA" | "RSET" | "QUIT" => Err(Reply::SYNTAX),
        _ => Err(Reply::UNKNOWN_COMMAND),
    }
}

/// Parses `FROM:<path> parameters`. Postfix passes on its client's text, so a space after the colon and a path without
/// brackets are accepted as Postfix accepts them.
fn path(argument: &str, keyword: &str) -> Result<Path, Reply> {
    let argument = argument.trim_start();
    let (found, rest) = argument.split_at_checked(keyword.len()).ok_or(Reply::SYNTAX)?;
    if !found.eq_ignore_ascii_case(keyword) {
        return Err(Reply::SYNTAX);
    }
    let rest = rest.trim_start();
    let (address, parameters) = match rest.strip_prefix('<') {
        Some(inside) => split_bracket(inside).ok_or(Reply::SYNTAX)?,
        None => rest.split_once(' ').unwrap_or((rest, "")),
    };
    let valid = !address.contains(['<', '>']) && (rest.starts_with('<') || !address.is_empty());
    // Text that follows a bracket without a space is not a parameter.
    let separated = parameters.is_empty() || !rest.starts_with('<') || parameters.starts_with(' ');
    if !valid || !separated || !parameters.is_ascii() {
        return Err(Reply::SYNTAX);
    }
    Ok(Path {
        address: address.to_owned(),
        parameters: parameters.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// Splits at the bracket that closes a path; in a quoted local part, a bracket is text.
fn split_bracket(inside: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some((inside.get(..at)?, inside.get(at + 1..)?)),
            ' ' if !quoted => return None,
            _ => {}
        }
    }
    None
}

fn declared_size(parameters: &str) -> Result<u64, Reply> {
    for parameter in parameters.split(' ') {
        if let Some((name, value)) = parameter.split_once('=')
            && name.eq_ignore_ascii_case("SIZE")
        {
            return value.parse().map_err(|_| Reply::SYNTAX);
        }
    }
    Ok(0)
}

fn forwarded_address(attributes: &str) -> Option<IpAddr> {
    attributes.split(' ').find_map(|attribute| {
        let (name, value) = attribute.split_once('=')?;
        if !name.eq_ignore_ascii_case("ADDR") {
            return None;
        }
        match value.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => value.get(5..)?.parse().ok(),
            _ => value.parse().ok(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(line: &str) -> Option<(String, String, u64)> {
        match parse_command(line.as_bytes()) {
            Ok(Command::Mail { sender, size }) => Some((sender.address, sender.parameters, size)),
            _ => None,
        }
    }

    #[test]
    fn senders() {
        let is =
            |address: &str, parameters: &str, size| Some((address.to_owned(), parameters.to_owned(), size));
        assert_eq!(mail("MAIL FROM:<a@b>"), is("a@b", "", 0));
        assert_eq!(
            mail("mail from: <a@b> SIZE=10  BODY=8BITMIME"),
            is("a@b", "SIZE=10 BODY=8BITMIME", 10)
        );
        assert_eq!(mail("MAIL FROM:<> size=7"), is("", "size=7", 7));
        assert_eq!(mail("MAIL FROM:a@b BODY=7BIT"), is("a@b", "BODY=7BIT", 0));
        assert_eq!(
            mail("MAIL FROM:<\"a> \\\"b\"@c>"),
            None,
            "a bracket within an address"
        );
        assert_eq!(mail("MAIL FROM:<\"a b\"@c>"), is("\"a b\"@c", "", 0));
        for bad in [
            "MAIL FROM:",
            "MAIL <a@b>",
            "MAIL FROM:<a@b",
            "MAIL FROM:<a b>",
            "MAIL FROM:<a@b>x",
            "MAIL FROM:<a@b> SIZE=x",
        ] {
            assert_eq!(parse_command(bad.as_bytes()), Err(Reply::SYNTAX), "{bad}");
        }
    }

    #[test]
    fn other_commands() {
        let address = |text: &str| Ok(Command::Xforward(Some(text.parse().unwrap())));
        assert_eq!(parse_command(b"XFORWARD ADDR=192.0.2.1"), address("192.0.2.1"));
        assert_eq!(
            parse_command(b"XFORWARD NAME=x ADDR=IPV6:2001:db8::1"),
            address("2001:db8::1")
        );
        assert_eq!(
            parse_command(b"XFORWARD ADDR=[UNAVAILABLE]"),
            Ok(Command::Xforward(None))
        );
        assert_eq!(parse_command(b"RCPT TO:<>"), Err(Reply::SYNTAX));
        assert_eq!(parse_command(b"data"), Ok(Command::Data));
        assert_eq!(parse_command(b"DATA x"), Err(Reply::SYNTAX));
        assert_eq!(parse_command(b"BDAT 1"), Err(Reply::UNKNOWN_COMMAND));
        assert_eq!(parse_command(b"NOOP a\rRSET"), Err(Reply::SYNTAX));
        assert_eq!(parse_command(b"NOOP \xff"), Err(Reply::SYNTAX));
    }

    proptest! {
        #[test]
        fn what_is_passed_on_is_one_line_of_printable_text(line in "(MAIL FROM:|RCPT TO:)(<|>|\"|\\\\|a|@|é| |=|SIZE){0,20}") {
            if let Ok(Command::Mail { sender: path, .. } | Command::Rcpt(path)) = parse_command(line.as_bytes()) {
                prop_assert!(!path.address.contains(['<', '>']));
                prop_assert!(!path.parameters.starts_with(' '));
            }
        }
    }
}
