//! Where the relays of the lab keep mailboxes.

use mailtest::client::Account;

/// The mailboxes of all domains.
const ROOT: &str = "/home/vmail/mail";

/// The mailboxes of a domain.
pub(crate) fn of_domain(domain: &str) -> String {
    format!("{ROOT}/{domain}")
}

/// The folder of an address.
pub(crate) fn of_address(domain: &str, address: &str) -> String {
    format!("{ROOT}/{domain}/{address}")
}

/// The folder of an account.
pub(crate) fn of(account: &Account) -> String {
    of_address(&account.peer.mail_domain, &account.address)
}
