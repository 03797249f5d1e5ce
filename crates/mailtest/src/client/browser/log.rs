//! What chromedriver's logs hold.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Entry {
    level: String,
    message: String,
}

/// An event of the Chrome DevTools protocol.
#[derive(Deserialize)]
struct Event {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    method: String,
    params: Value,
}

/// The lines of the console, each with its level.
pub(super) fn complaints(log: &Value) -> anyhow::Result<Vec<String>> {
    let lines = entries(log)?.into_iter();
    Ok(lines
        .map(|entry| format!("{}: {}", entry.level, entry.message))
        .collect())
}

/// Addresses of all requests.
pub(super) fn requests(log: &Value) -> anyhow::Result<Vec<String>> {
    let mut requests = Vec::new();
    for entry in entries(log)? {
        let event: Event = serde_json::from_str(&entry.message).context("an event of the browser")?;
        if event.message.method == "Network.requestWillBeSent" {
            let url = event
                .message
                .params
                .pointer("/request/url")
                .and_then(Value::as_str);
            requests.push(url.context("a request without an address")?.to_owned());
        }
    }
    Ok(requests)
}

fn entries(log: &Value) -> anyhow::Result<Vec<Entry>> {
    Vec::deserialize(log).context("a log of the browser")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn logs_are_read() {
        let event = |method: &str| json!({ "message": { "method": method, "params": { "request": { "url": "x:" } } } });
        let log = json!([
            { "level": "INFO", "message": event("Network.requestWillBeSent").to_string(), "timestamp": 1 },
            { "level": "INFO", "message": event("Page.loadEventFired").to_string() },
        ]);
        assert_eq!(requests(&log).unwrap(), ["x:"]);
        let log = json!([{ "level": "SEVERE", "message": "no" }]);
        assert_eq!(complaints(&log).unwrap(), ["SEVERE: no"]);
        assert!(requests(&log).is_err());
        assert!(complaints(&json!({})).is_err());
    }
}
