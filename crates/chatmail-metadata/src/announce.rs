//! Announcements of the relay. Only credentials for calls differ between accounts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use chatmail_core::{Settings, turn};

use crate::lookup::Key;

/// The announcements of the relay.
#[derive(Debug, Clone)]
pub struct Announcements {
    settings: Arc<Settings>,
}

impl Announcements {
    /// The announcements that these settings define. Files are read at each lookup, so that new content and new secrets
    /// need no restart.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings }
    }

    /// Value of a key; none if the relay does not announce it. A file that cannot be read is logged and gives none, so
    /// that other values of the same request still reach the client. `now` is Unix time. May read a file.
    pub fn value(&self, key: Key, account: &str, now: u64) -> Option<String> {
        match key {
            Key::IrohRelay => self.settings.iroh.url.clone(),
            Key::MaxMessageSize => Some(self.settings.messages.max_size.to_string()),
            Key::MaxSmtpRecipients => Some(self.settings.messages.max_recipients.to_string()),
            Key::AppVersions => {
                let path = self.settings.metadata.app_versions.as_deref()?;
                let max = self.settings.metadata.max_app_versions_bytes;
                logged("app versions", path, app_versions(path, max))
            }
            Key::Turn => {
                let turn = self.settings.turn.as_ref()?;
                let secret = logged("TURN secret", &turn.secret_file, secret(&turn.secret_file))?;
                let expires = turn::expiry(secret.as_bytes(), account, now, turn.lifetime)?;
                turn::credentials(&turn.host, turn.port, secret.as_bytes(), expires)
            }
            Key::DeviceTokens => None,
        }
    }
}

fn logged(what: &str, path: &Path, result: io::Result<String>) -> Option<String> {
    result
        .inspect_err(|error| tracing::warn!("{what}: cannot use {}: {error}", path.display()))
        .ok()
}

/// Reads a secret without the white space around it.
fn secret(path: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        secret => Ok(secret.to_owned()),
    }
}

/// Reads a file as JSON on one line.
fn app_versions(path: &Path, max: usize) -> io::Result<String> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let text = json.to_string();
    if text.len() > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the file is longer than {max} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../chatmail-core/testdata/settings.json");

    fn settings() -> Settings {
        Settings::parse(SAMPLE, Path::new("sample")).unwrap()
    }

    #[test]
    fn what_a_full_relay_announces() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings();
        let versions = dir.path().join("appversions.json");
        std::fs::write(&versions, "{\n  \"clients\": [ ]\n}\n").unwrap();
        settings.metadata.app_versions = Some(versions);
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "north\n").unwrap();
        let turn = settings.turn.as_mut().unwrap();
        turn.secret_file = secret;
        turn.lifetime = 0;
        let announcements = Announcements::new(Arc::new(settings));
        let value = |key| {
            announcements
                .value(key, "a@chat.example.org", 1_700_000_000)
                .unwrap()
        };
        assert_eq!(value(Key::IrohRelay), "https://chat.example.org");
        assert_eq!(value(Key::MaxMessageSize), "52428800");
        assert_eq!(value(Key::MaxSmtpRecipients), "1000");
        assert_eq!(value(Key::AppVersions), "{\"clients\":[]}");
        assert_eq!(
            value(Key::Turn),
            "chat.example.org:3478:1700000000:CWyHi3zCeWqXBir9thl4m+iZPRY="
        );
    }

    #[test]
    fn what_is_not_set_or_not_readable_has_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        let mut settings = settings();
        settings.iroh.url = None;
        settings.metadata.app_versions = Some(empty.clone());
        settings.turn.as_mut().unwrap().secret_file = empty;
        let bare = Announcements::new(Arc::new(settings.clone()));
        settings.metadata.app_versions = None;
        settings.turn = None;
        let none = Announcements::new(Arc::new(settings));
        for key in [Key::IrohRelay, Key::AppVersions, Key::Turn] {
            assert_eq!(bare.value(key, "", 0), None, "{key:?}");
            assert_eq!(none.value(key, "", 0), None, "{key:?}");
        }
    }
}
