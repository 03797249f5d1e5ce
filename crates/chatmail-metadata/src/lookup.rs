//! The keys of METADATA.
//!
//! Dovecot maps an entry of the server, `GETMETADATA "" (/shared/vendor/deltachat/turn)`, to the key
//! `shared/GUID/vendor/vendor.dovecot/pvt/server/vendor/deltachat/turn`, where GUID is that of the INBOX, and an entry
//! of a mailbox, `SETMETADATA INBOX (/private/devicetoken "…")`, to `priv/GUID/devicetoken`
//! (`src/lib-storage/mailbox-attribute.h` of Dovecot).

/// Entries of the server, after its prefix.
const SERVER: &str = "vendor/vendor.dovecot/pvt/server/";

/// Kind of the key in a dict request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key that this service interprets.
    Known(Key),
    /// An entry that a client stores for itself.
    Entry,
    /// An unknown entry of the server, or a malformed key. It has no value, and values set for it are discarded.
    Nothing,
}

/// A key that this service interprets. `/shared/admin` and `/shared/comment` are missing: Dovecot answers them itself,
/// from `mail_server_admin` and `mail_server_comment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Newest versions of apps, as JSON.
    AppVersions,
    /// Tokens of the account's devices at the notification server.
    DeviceTokens,
    /// URL of the iroh relay, through which peers of a webxdc app connect.
    IrohRelay,
    /// Maximum size of a message in bytes, as transferred. Only this project announces it; other relays have no value.
    MaxMessageSize,
    /// Maximum number of recipients of a message.
    MaxSmtpRecipients,
    /// Address of the TURN server, with credentials.
    Turn,
}

impl Kind {
    /// Parses the key of a dict request.
    pub fn parse(key: &str) -> Self {
        if let Some(key) = Key::parse(key) {
            return Self::Known(key);
        }
        let mut parts = key.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            // Clients cannot set entries of the server.
            (Some("shared"), Some(_), Some(entry)) if entry.starts_with(SERVER) => Self::Nothing,
            (Some("priv" | "shared"), Some(guid), Some(entry)) if !guid.is_empty() && !entry.is_empty() => {
                Self::Entry
            }
            _ => Self::Nothing,
        }
    }
}

impl Key {
    /// Parses the key of a dict request; none for all other keys.
    fn parse(key: &str) -> Option<Self> {
        let mut parts = key.splitn(3, '/');
        let (namespace, _guid, entry) = (parts.next()?, parts.next()?, parts.next()?);
        match (namespace, entry) {
            ("priv", "devicetoken") => Some(Self::DeviceTokens),
            ("shared", entry) => match entry.strip_prefix(SERVER)? {
                "vendor/deltachat/appversions" => Some(Self::AppVersions),
                "vendor/deltachat/irohrelay" => Some(Self::IrohRelay),
                "vendor/deltachat/maxmessagesize" => Some(Self::MaxMessageSize),
                "vendor/deltachat/maxsmtprecipients" => Some(Self::MaxSmtpRecipients),
                "vendor/deltachat/turn" => Some(Self::Turn),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Dovecot 2.4.1 sends them.
    #[test]
    fn keys_of_dovecot() {
        let guid = "c92f64f79f0d1ed01e6d5b314f04886c";
        for (entry, key) in [
            ("devicetoken", Some(Key::DeviceTokens)),
            ("comment", None),
            ("devicetoken/more", None),
            ("vendor/vendor.dovecot/pvt/server/devicetoken", None),
        ] {
            assert_eq!(Key::parse(&format!("priv/{guid}/{entry}")), key, "{entry}");
            assert_eq!(Key::parse(&format!("shared/{guid}/{entry}")), None, "{entry}");
        }
        for (entry, key) in [
            ("admin", None),
            ("comment", None),
            ("vendor/deltachat/turn", Some(Key::Turn)),
            ("vendor/deltachat/maxmessagesize", Some(Key::MaxMessageSize)),
            ("vendor/deltachat/", None),
        ] {
            assert_eq!(
                Key::parse(&format!("shared/{guid}/{SERVER}{entry}")),
                key,
                "{entry}"
            );
        }
        for key in [
            "",
            "/",
            "priv",
            "priv/",
            "priv//",
            "priv//x",
            "priv/x/",
            "shared/x",
            "other/x/y",
        ] {
            assert_eq!(Kind::parse(key), Kind::Nothing, "{key}");
        }
        for (key, kind) in [
            (format!("priv/{guid}/comment"), Kind::Entry),
            (format!("shared/{guid}/comment"), Kind::Entry),
            (format!("shared/{guid}/devicetoken"), Kind::Entry),
            (format!("priv/{guid}/{SERVER}comment"), Kind::Entry),
            (format!("shared/{guid}/{SERVER}vendor/other"), Kind::Nothing),
            (format!("priv/{guid}/devicetoken"), Kind::Known(Key::DeviceTokens)),
        ] {
            assert_eq!(Kind::parse(&key), kind, "{key}");
        }
    }
}
