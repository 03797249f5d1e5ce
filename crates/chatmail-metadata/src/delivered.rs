//! Reports of deliveries to mailboxes.
//!
//! They come from Postfix as a filter of delivery statuses (`lmtp_delivery_status_filter`), and from the filters in the
//! same form: the status of an attempt and Dovecot's reply, like `2.0.0 250 2.0.0 <a@chat.example.org> ID Saved`.

use chatmail_core::Address;
use daemon::{CancellationToken, socketmap};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;

use crate::push::{Post, PushHandle};

/// Name of the socket (`FileDescriptorName=`).
pub const SOCKET: &str = "delivered";
/// Name of the table.
const TABLE: &str = "delivered";

/// Returns the account that got the message; none if the attempt failed.
fn account(report: &str) -> Option<Address> {
    let (status, reply) = report.split_once(' ')?;
    if !status.starts_with('2') {
        return None;
    }
    let (_, rest) = reply.split_once('<')?;
    let (address, _) = rest.split_once('>')?;
    Address::of_recipient(address).ok()
}

/// Handles reports on one connection. Each is answered when its notifications are stored; the answer changes nothing
/// for Postfix.
pub async fn serve<P: Post>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    push: &PushHandle<P>,
    shutdown: &CancellationToken,
) {
    let handle = |table: &str, report: &str| {
        let account = (table == TABLE).then(|| account(report)).flatten();
        async move {
            if let Some(account) = account {
                notify(push, account).await;
            }
            socketmap::NOT_FOUND.to_owned()
        }
    };
    if let Err(error) = socketmap::serve(stream, shutdown, handle).await {
        tracing::debug!("connection for reports of deliveries lost: {error}");
    }
}

async fn notify<P: Post>(push: &PushHandle<P>, account: Address) {
    let push = push.clone();
    let stored = spawn_blocking(move || push.message(&account)).await;
    match stored {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("cannot notify a device: {error}"),
        Err(error) => tracing::error!("cannot notify a device: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_successful_deliveries_notify() {
        for (report, expected) in [
            (
                "2.0.0 250 2.0.0 <a@chat.example.org> xKoE/eB2CGs Saved",
                Some("a@chat.example.org"),
            ),
            (
                "2.0.0 250 <A+x@Chat.Example.org> Saved",
                Some("a@chat.example.org"),
            ),
            ("2.0.0 250 2.0.0 <a@[192.0.2.1]> x Saved", Some("a@[192.0.2.1]")),
            ("4.2.0 host dovecot[x] said: 451 <a@chat.example.org> later", None),
            (
                "5.2.2 host dovecot[x] said: 552 5.2.2 <a@chat.example.org> Quota exceeded",
                None,
            ),
            ("2.0.0 250 2.0.0 Saved", None),
            ("2.0.0 250 2.0.0 <> Saved", None),
            ("2.0.0 250 2.0.0 <../x@chat.example.org> Saved", None),
            ("2.0.0", None),
            ("", None),
        ] {
            let account = account(report);
            assert_eq!(account.as_ref().map(Address::as_str), expected, "{report}");
        }
    }
}
