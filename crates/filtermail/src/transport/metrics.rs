//! Metrics of deliveries over HTTPS.

use metrics::{counter, describe_counter};

use super::answer::Answer;

const DELIVERIES: &str = "chatmail_https_deliveries_total";

const RECIPIENTS: &str = "chatmail_remote_deliveries_total";

/// Values of the label `result`.
const RESULTS: [&str; 5] = ["delivered", "refused", "deferred", "failed", "not_offered"];

/// Describes the metrics and initializes them to zero.
pub(super) fn describe() {
    describe_counter!(DELIVERIES, "Attempts to deliver a message over HTTPS, by result.");
    for result in RESULTS {
        counter!(DELIVERIES, "result" => result).absolute(0);
    }
    describe_counter!(
        RECIPIENTS,
        "Results of attempts to deliver to recipients of other servers, by the transport that gave the result."
    );
    for transport in ["https", "smtp"] {
        for result in ["sent", "deferred", "bounced"] {
            counter!(RECIPIENTS, "transport" => transport, "result" => result).absolute(0);
        }
    }
}

/// Counts the result of an attempt for one recipient.
pub(super) fn count_result(transport: &'static str, result: &'static str) {
    counter!(RECIPIENTS, "transport" => transport, "result" => result).increment(1);
}

/// Counts an attempt.
pub(super) fn count(answer: &Answer) {
    let result = match answer {
        Answer::Delivered => "delivered",
        Answer::Refused(_) => "refused",
        Answer::Deferred(_) => "deferred",
        Answer::Failed | Answer::Unavailable => "failed",
        Answer::NotOffered => "not_offered",
    };
    counter!(DELIVERIES, "result" => result).increment(1);
}
