//! A real browser: headless Chromium, steered by WebDriver.

mod driver;
mod log;
mod picture;
mod webdriver;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::driver::{Driver, STEP};
pub use self::picture::Picture;
use self::webdriver::Session;
use crate::topology::{Certificate, Topology};

/// The text that Chromium shows instead of a page, for one because of its certificate.
const REFUSED: &str =
    "return location.protocol === 'chrome-error:' ? document.documentElement.innerText : ''";

/// Who looks at pages, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// Languages in the order of preference, with commas.
    pub languages: &'a str,
    /// Whether pages may run scripts.
    pub scripts: bool,
}

/// What a page is looked at with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// For names of files.
    pub name: &'static str,
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Pixels of the device for each of them.
    pub scale: u32,
    /// Whether it is a phone: there pages that do not say otherwise are laid out for a desktop and shrunk.
    pub mobile: bool,
    /// What the visitor prefers.
    pub dark: bool,
}

/// A running browser. All of it ends with this value.
pub struct Browser {
    session: Session,
    _driver: Driver,
}

impl Browser {
    /// Starts a browser that knows the relays of a lab by their names, no other host, and trusts what people who use
    /// this relay trust.
    pub async fn start(topology: &Topology, relay: &str, visitor: Visitor<'_>) -> anyhow::Result<Self> {
        let relay = topology
            .relay(relay)
            .with_context(|| format!("the lab has no relay `{relay}`"))?;
        let mut arguments = driver::arguments(topology);
        if relay.certificate == Certificate::LabCa {
            let key = driver::key_of(&topology.ca_file)?;
            arguments.push(format!("--ignore-certificate-errors-spki-list={key}"));
        }
        // As the setting "Sites can use JavaScript" has it.
        let scripts = if visitor.scripts { 1 } else { 2 };
        let wanted = json!({
            "browserName": "chrome",
            "acceptInsecureCerts": relay.certificate == Certificate::SelfSigned,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": {
                    "intl.accept_languages": visitor.languages,
                    "profile.managed_default_content_settings.javascript": scripts,
                },
            },
        });
        let driver = Driver::start().await?;
        let session = step("starting Chromium", Session::start(&driver.url, wanted)).await?;
        let browser = Self {
            session,
            _driver: driver,
        };
        // What Chromium itself opens at its start is no page of ours.
        browser.open("about:blank").await?;
        browser.complaints().await?;
        browser.requests().await?;
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded with all that belongs to it.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        step(&format!("opening {url}"), self.session.open(url)).await?;
        let refused: String = self.ask(REFUSED).await?;
        ensure!(refused.is_empty(), "browser: {url} is not opened: {refused}");
        Ok(())
    }

    /// Address of the page that is open.
    pub async fn address(&self) -> anyhow::Result<String> {
        step("asking for the address", self.session.address()).await
    }

    /// Shows the page that is open on another screen.
    pub async fn show_on(&self, screen: &Screen) -> anyhow::Result<()> {
        let metrics = json!({
            "width": screen.width, "height": screen.height,
            "deviceScaleFactor": screen.scale, "mobile": screen.mobile,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        let scheme = if screen.dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await?;
        Ok(())
    }

    /// The whole page, also what does not fit on the screen.
    pub async fn picture(&self) -> anyhow::Result<Picture> {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.devtools("Page.captureScreenshot", whole).await?;
        let data = answer
            .get("data")
            .and_then(Value::as_str)
            .context("a screenshot without data")?;
        let png = BASE64_STANDARD.decode(data)?;
        // Takes long enough to delay scenarios in other lanes.
        tokio::task::spawn_blocking(move || Picture::read(png)).await?
    }

    /// What a script of ours says about the page. It runs also where pages must not run scripts.
    pub async fn ask<T: DeserializeOwned>(&self, script: &str) -> anyhow::Result<T> {
        let answer = step("looking at the page", self.session.run(script)).await?;
        Ok(serde_json::from_value(answer)?)
    }

    /// Clicks the first element that a CSS selector finds.
    pub async fn click(&self, selector: &str) -> anyhow::Result<()> {
        step(&format!("clicking {selector}"), self.session.click(selector)).await
    }

    /// Presses the Tab key, which moves the focus on.
    pub async fn press_tab(&self) -> anyhow::Result<()> {
        step("pressing Tab", self.session.press_tab()).await
    }

    /// What the console said since the last call.
    pub async fn complaints(&self) -> anyhow::Result<Vec<String>> {
        log::complaints(&self.log("browser").await?)
    }

    /// What was asked for over the network since the last call.
    pub async fn requests(&self) -> anyhow::Result<Vec<String>> {
        log::requests(&self.log("performance").await?)
    }

    async fn log(&self, kind: &str) -> anyhow::Result<Value> {
        self.post("/se/log", json!({ "type": kind })).await
    }

    /// A command of the Chrome DevTools protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> anyhow::Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", body).await
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        step(path, self.session.post(path, body)).await
    }
}

async fn step<T>(name: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(STEP, work)
        .await
        .with_context(|| format!("browser: {name}: not within {STEP:?}"))?
        .with_context(|| format!("browser: {name}"))
}
