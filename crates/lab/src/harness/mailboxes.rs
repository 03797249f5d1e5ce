//! Paths of mailboxes on the relays of the lab.

use mailtest::client::Account;

/// Folder with the mailboxes of all domains.
const ROOT: &str = "/home/vmail/mail";

/// Returns the folder with the mailboxes of a domain.
pub(crate) fn of_domain(domain: &str) -> String {
    format!("{ROOT}/{domain}")
}

/// Returns the folder of an address.
pub(crate) fn of_address(domain: &str, address: &str) -> String {
    format!("{ROOT}/{domain}/{address}")
}

/// Returns the folder of an account.
pub(crate) fn of(account: &Account) -> String {
    of_address(&account.peer.mail_domain, &account.address)
}
