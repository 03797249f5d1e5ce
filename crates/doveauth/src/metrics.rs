//! Metrics of doveauth and lastlogin.

use std::time::Duration;

use chatmail_core::registration::Denied;
use metrics::{counter, describe_counter, describe_histogram, histogram};

const LOGINS: &str = "chatmail_logins_total";
const REMEMBERED: &str = "chatmail_logins_remembered_total";
const HASH: &str = "chatmail_password_hash_duration_seconds";
const CREATED: &str = "chatmail_accounts_created_total";
const REFUSED: &str = "chatmail_accounts_refused_total";
const LAST_LOGINS: &str = "chatmail_last_logins_total";

/// Values of the label `reason` of refused accounts, besides those of the registration.
const REASONS: [&str; 2] = ["address", "resources"];

/// Names the metrics of doveauth and sets them to zero.
pub fn describe_logins() {
    describe_counter!(LOGINS, "Logins to IMAP and submission, by result.");
    describe_counter!(
        REMEMBERED,
        "Logins that needed no hash because they were verified before."
    );
    describe_histogram!(
        HASH,
        "Time that a login waited for a password hash and that computing it took."
    );
    describe_counter!(CREATED, "Accounts created by their first login.");
    describe_counter!(REFUSED, "First logins that created no account, by reason.");
    for result in ["ok", "mismatch", "tempfail"] {
        counter!(LOGINS, "result" => result).absolute(0);
    }
    counter!(REMEMBERED).absolute(0);
    counter!(CREATED).absolute(0);
    for reason in REASONS.into_iter().chain(Denied::LABELS) {
        counter!(REFUSED, "reason" => reason).absolute(0);
    }
}

/// Names the metrics of lastlogin and sets them to zero.
pub fn describe_last_logins() {
    describe_counter!(LAST_LOGINS, "Logins whose day Dovecot asked to store, by result.");
    for result in ["ok", "failed"] {
        counter!(LAST_LOGINS, "result" => result).absolute(0);
    }
}

pub(crate) fn login(result: &'static str) {
    counter!(LOGINS, "result" => result).increment(1);
}

pub(crate) fn remembered() {
    counter!(REMEMBERED).increment(1);
}

pub(crate) fn hashed(took: Duration) {
    histogram!(HASH).record(took);
}

pub(crate) fn created() {
    counter!(CREATED).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn last_login(stored: bool) {
    counter!(LAST_LOGINS, "result" => if stored { "ok" } else { "failed" }).increment(1);
}
