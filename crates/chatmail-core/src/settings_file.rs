//! The settings file: finds, parses and checks [`Settings`].

use std::path::{Path, PathBuf};

use crate::settings::Settings;

/// The option of every program that names its settings file.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsFile {
    /// Settings file that the NixOS module renders.
    #[arg(
        id = "settings",
        long,
        value_name = "PATH",
        global = true,
        default_value = "/etc/chatmail/settings.json"
    )]
    pub path: PathBuf,
}

impl SettingsFile {
    /// Reads and checks the file.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        Settings::load(&self.path)
    }
}

/// Why a settings file is rejected. The service does not start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file does not have the format that the module renders.
    #[error("cannot use the settings file {path}: at `{key}`: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Path of the key, such as `messages.max_size`.
        key: String,
        /// The parser's error.
        reason: String,
    },
    /// A value is out of its range.
    #[error("cannot use the settings file {path}: `{key}` is {found}, but has to be {allowed}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Path of the key.
        key: &'static str,
        /// The rejected value.
        found: String,
        /// The allowed values.
        allowed: &'static str,
    },
}

impl Settings {
    /// Reads and checks the settings file.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the text of a settings file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let settings: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| SettingsError::Parse {
                path: path.to_owned(),
                key: error.path().to_string(),
                reason: error.inner().to_string(),
            })?;
        json.end().map_err(|error| SettingsError::Parse {
            path: path.to_owned(),
            key: ".".to_owned(),
            reason: error.to_string(),
        })?;
        settings.check(path)?;
        Ok(settings)
    }

    fn check(&self, path: &Path) -> Result<(), SettingsError> {
        let reject = |key, found: String, allowed| {
            Err(SettingsError::Value {
                path: path.to_owned(),
                key,
                found,
                allowed,
            })
        };
        if !crate::grammar::is_domain(&self.domain) {
            return reject(
                "domain",
                format!("{:?}", self.domain),
                "a domain in lower case or an address literal",
            );
        }
        let federation = &self.federation;
        for (key, list) in [
            (
                "federation.allow",
                federation.allow.as_deref().unwrap_or_default(),
            ),
            ("federation.block", &federation.block),
        ] {
            if let Some(domain) = list.iter().find(|domain| !crate::grammar::is_domain(domain)) {
                return reject(
                    key,
                    format!("{domain:?}"),
                    "domains in lower case or address literals",
                );
            }
        }
        let accounts = &self.accounts;
        if accounts.username_min_length == 0 || accounts.username_min_length > accounts.username_max_length {
            return reject(
                "accounts.username_min_length",
                accounts.username_min_length.to_string(),
                "between 1 and accounts.username_max_length",
            );
        }
        if accounts.username_max_length > crate::grammar::MAX_LOCALPART {
            return reject(
                "accounts.username_max_length",
                accounts.username_max_length.to_string(),
                "at most 64 (RFC 5321 section 4.5.3.1.1)",
            );
        }
        let (messages, filter) = (&self.messages, &self.filtermail);
        for (key, zero) in [
            ("doveauth.max_hashing", self.doveauth.max_hashing == 0),
            ("messages.max_per_minute", messages.max_per_minute == 0),
            ("messages.burst", messages.burst == 0),
            ("connections.filter", self.connections.filter == 0),
            ("filtermail.max_sessions", filter.max_sessions == 0),
            (
                "web.new_addresses_per_minute",
                self.web.new_addresses_per_minute == 0,
            ),
        ] {
            if zero {
                return reject(key, "0".to_owned(), "1 or more");
            }
        }
        if filter.large.at_once < 4 {
            return reject(
                "filtermail.large.at_once",
                filter.large.at_once.to_string(),
                "4 or more, so that nobody can occupy all",
            );
        }
        let percent = self.mailboxes.trim_to_percent;
        if percent > 100 {
            return reject("mailboxes.trim_to_percent", percent.to_string(), "100 or less");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
