//! The few commands of WebDriver that pages are looked at with: JSON over HTTP.

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Pictures of long pages are the largest answers.
const LARGEST_ANSWER: usize = 64 << 20;

/// What an answer calls an element (<https://www.w3.org/TR/webdriver2/#elements>).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The Tab key (<https://www.w3.org/TR/webdriver2/#keyboard-actions>).
const TAB: &str = "\u{e004}";

/// A browser that chromedriver has started. It ends with chromedriver.
pub(super) struct Session {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

impl Session {
    /// Starts a browser.
    pub(super) async fn start(driver: &str, capabilities: Value) -> anyhow::Result<Self> {
        let mut session = Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("{driver}/session"),
        };
        let wanted = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let answer = session.send(Method::POST, "", Some(wanted)).await?;
        let id = answer
            .get("sessionId")
            .and_then(Value::as_str)
            .context("no session")?;
        session.url = format!("{}/{id}", session.url);
        Ok(session)
    }

    /// Opens a page and waits until it is loaded.
    pub(super) async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.post("/url", json!({ "url": url })).await.map(drop)
    }

    /// Address of the page.
    pub(super) async fn address(&self) -> anyhow::Result<String> {
        let address = self.send(Method::GET, "/url", None).await?;
        Ok(address.as_str().context("no address")?.to_owned())
    }

    /// Runs a script in the page; what it returns.
    pub(super) async fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Clicks the first element that a CSS selector finds.
    pub(super) async fn click(&self, selector: &str) -> anyhow::Result<()> {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.post("/element", wanted).await?;
        let element = found.get(ELEMENT).and_then(Value::as_str).context("no element")?;
        self.post(&format!("/element/{element}/click"), json!({}))
            .await
            .map(drop)
    }

    /// Presses the Tab key and lets it go.
    pub(super) async fn press_tab(&self) -> anyhow::Result<()> {
        let keys = json!([{ "type": "keyDown", "value": TAB }, { "type": "keyUp", "value": TAB }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] });
        self.post("/actions", actions).await.map(drop)
    }

    /// A command with parameters.
    pub(super) async fn post(&self, path: &str, parameters: Value) -> anyhow::Result<Value> {
        self.send(Method::POST, path, Some(parameters)).await
    }

    async fn send(&self, method: Method, path: &str, parameters: Option<Value>) -> anyhow::Result<Value> {
        let body = parameters.map_or_else(String::new, |value| value.to_string());
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(Full::from(body))?;
        let answer = self
            .client
            .request(request)
            .await
            .context("asking chromedriver")?;
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!("reading chromedriver's answer: {error}"))?
            .to_bytes();
        value(&body)
    }
}

/// The value in an answer; the message of one that is an error.
fn value(body: &[u8]) -> anyhow::Result<Value> {
    let mut answer: Value = serde_json::from_slice(body).context("chromedriver's answer is not JSON")?;
    let value = answer
        .get_mut("value")
        .map(Value::take)
        .context("chromedriver's answer has no value")?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
        bail!("{error}: {message}");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_values() {
        assert_eq!(value(br#"{"value": null}"#).unwrap(), Value::Null);
        assert_eq!(value(br#"{"value": "x:"}"#).unwrap(), "x:");
        let error = value(br#"{"value": {"error": "no such element", "message": "a.home"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "no such element: a.home");
        assert!(value(b"{}").is_err());
        assert!(value(b"no").is_err());
    }
}
