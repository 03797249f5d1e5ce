//! Names of messages and of their folders.

use std::ffi::CStr;

/// The three folders in which a message can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A client has opened the folder since the message arrived.
    Cur,
    /// Delivered, but not yet noticed by any client.
    New,
    /// Not yet completely delivered, or left by an interrupted delivery.
    Tmp,
}

impl Part {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Cur, Self::New, Self::Tmp];

    /// Name of the folder on disk.
    pub const fn dir_name(self) -> &'static CStr {
        match self {
            Self::Cur => c"cur",
            Self::New => c"new",
            Self::Tmp => c"tmp",
        }
    }
}

/// The information in the name of a message file, such as
/// `1775324677.M448978P3029757.host,S=3235,W=3305:2,S`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageName<'a> {
    /// Second of the delivery in Unix time; none if the name does not begin with `digits.`.
    pub delivered: Option<i64>,
    /// Size in bytes that counts against the quota (`S=`): that of the message before Dovecot compressed it.
    pub size: Option<u64>,
    /// Flags after `:2,` (`S` seen, `T` deleted, …).
    pub flags: &'a [u8],
}

impl<'a> MessageName<'a> {
    /// Parses a name. Every name is valid; an unusual one contains less information.
    pub fn parse(name: &'a [u8]) -> Self {
        let (base, info) = split_once(name, b':').unwrap_or((name, b""));
        let mut fields = base.split(|&byte| byte == b',');
        let unique = fields.next().unwrap_or_default();
        Self {
            delivered: split_once(unique, b'.').and_then(|(second, _)| number(second)),
            size: fields
                .find_map(|field| field.strip_prefix(b"S="))
                .and_then(number),
            flags: info.strip_prefix(b"2,").unwrap_or_default(),
        }
    }
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    let (before, rest) = bytes.split_at_checked(at)?;
    Some((before, rest.get(1..)?))
}

/// Parses digits; `str::parse` alone would also accept a sign.
fn number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_of_dovecot_tells_delivery_size_and_flags() {
        assert_eq!(
            MessageName::parse(b"1775324677.M448978P3029757.exam,S=3235,W=3305:2,ST"),
            MessageName {
                delivered: Some(1_775_324_677),
                size: Some(3235),
                flags: b"ST",
            }
        );
        assert_eq!(
            MessageName::parse(b"1775324677.M1P2.exam,W=3305,S=7"),
            MessageName {
                delivered: Some(1_775_324_677),
                size: Some(7),
                flags: b"",
            }
        );
    }

    #[test]
    fn strange_names_tell_less() {
        for name in [
            &b""[..],
            b"message",
            b".hidden,S=",
            b"-1.x,S=-2",
            b"+1.x,S=+2",
            b"\xff.\xfe,S=\x80",
            b"99999999999999999999.x,S=99999999999999999999",
            b"1775324677,S",
        ] {
            assert_eq!(MessageName::parse(name), MessageName::default(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_name(name in proptest::collection::vec(any::<u8>(), 0..80)) {
            MessageName::parse(&name);
        }

        #[test]
        fn what_is_written_is_read(second in 0..i64::MAX, size: u64, flags in "[A-Z]{0,5}") {
            let name = format!("{second}.M1P2.host,S={size},W=1:2,{flags}");
            let parsed = MessageName::parse(name.as_bytes());
            prop_assert_eq!(parsed.delivered, Some(second));
            prop_assert_eq!(parsed.size, Some(size));
            prop_assert_eq!(parsed.flags, flags.as_bytes());
        }
    }
}
