//! METADATA (RFC 5464): entries of the server, and the tokens that wake an account's devices.

use anyhow::{Context as _, ensure};

use super::{Imap, Status, Value};

impl Imap {
    /// Returns a server entry (RFC 5464), if it is set.
    pub async fn server_metadata(&mut self, entry: &str) -> anyhow::Result<Option<String>> {
        let answer = self.command(&format!("GETMETADATA \"\" ({entry})")).await?.ok()?;
        let lists = answer
            .data("METADATA")
            .filter_map(|values| values.get(1)?.as_list());
        let value = lists.flat_map(|list| list.chunks(2)).find_map(|pair| match pair {
            [name, value] if name.as_text().as_deref() == Some(entry) => Some(value.as_text()),
            _ => None,
        });
        Ok(value.flatten())
    }

    /// Adds a device token, or removes all of them with NIL; returns the status of the command.
    pub async fn set_device_token(&mut self, value: &str) -> anyhow::Result<Status> {
        let command = format!("SETMETADATA \"INBOX\" (/private/devicetoken {value})");
        Ok(self.command(&command).await?.status)
    }

    /// Adds a device token; fails unless the server accepts it.
    pub async fn add_device_token(&mut self, token: &str) -> anyhow::Result<()> {
        let status = self.set_device_token(&format!("\"{token}\"")).await?;
        ensure!(
            status == Status::Ok,
            "the relay does not take a device token: {status:?}"
        );
        Ok(())
    }

    /// Returns the device tokens of the account, separated by spaces.
    pub async fn device_tokens(&mut self) -> anyhow::Result<Option<String>> {
        let answer = self
            .command("GETMETADATA \"INBOX\" (/private/devicetoken)")
            .await?
            .ok()?;
        let list = answer
            .data("METADATA")
            .find_map(|values| values.get(1)?.as_list())
            .context("no METADATA")?;
        Ok(list.get(1).and_then(Value::as_text))
    }
}
