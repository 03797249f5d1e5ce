//! Metrics of the service.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const QUEUE: &str = "chatmail_push_queue_length";
const REQUESTS: &str = "chatmail_push_requests_total";
const LATENCY: &str = "chatmail_push_request_duration_seconds";
const GIVEN_UP: &str = "chatmail_push_given_up_total";
const TOKENS: &str = "chatmail_device_tokens_total";

/// Names the metrics and sets them to zero.
pub fn describe() {
    describe_gauge!(QUEUE, "Notifications that wait or are being sent.");
    describe_counter!(REQUESTS, "Requests to the notification server, by result.");
    describe_histogram!(LATENCY, "Time that the notification server took.");
    describe_counter!(GIVEN_UP, "Notifications that were dropped after five hours.");
    describe_counter!(
        TOKENS,
        "Changes of device tokens: set by a client, cleared by one, or gone."
    );
    gauge!(QUEUE).set(0);
    for result in ["delivered", "gone", "failed"] {
        counter!(REQUESTS, "result" => result).absolute(0);
    }
    counter!(GIVEN_UP).absolute(0);
    for change in ["set", "cleared", "gone"] {
        counter!(TOKENS, "change" => change).absolute(0);
    }
}

pub(crate) fn queue(length: usize) {
    gauge!(QUEUE).set(u32::try_from(length).unwrap_or(u32::MAX));
}

pub(crate) fn request(result: &'static str, took: Duration) {
    counter!(REQUESTS, "result" => result).increment(1);
    histogram!(LATENCY).record(took);
}

pub(crate) fn given_up() {
    counter!(GIVEN_UP).increment(1);
}

pub(crate) fn token(change: &'static str) {
    counter!(TOKENS, "change" => change).increment(1);
}
