//! Metrics of the service.

use chatmail_core::registration::Denied;
use metrics::{counter, describe_counter};

const REQUESTS: &str = "chatmail_new_addresses_total";

/// Names the metrics and sets them to zero.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, "Requests for a new address, by result.");
    for result in ["given", "limited"].into_iter().chain(Denied::LABELS) {
        counter!(REQUESTS, "result" => result).absolute(0);
    }
}

pub(crate) fn given() {
    counter!(REQUESTS, "result" => "given").increment(1);
}

pub(crate) fn limited() {
    counter!(REQUESTS, "result" => "limited").increment(1);
}

pub(crate) fn denied(denied: &Denied) {
    counter!(REQUESTS, "result" => denied.label()).increment(1);
}
