//! Finds faults of a page in a browser.

use std::path::Path;

use anyhow::{Context as _, ensure};
use mailtest::client::browser::{Browser, Picture, Screen};
use serde::Deserialize;

/// JavaScript that runs in pages and returns [`Seen`].
const MEASURE: &str = include_str!("../../../files/measure.js");

/// A small phone and a laptop, in light and in dark mode.
pub(super) const SCREENS: [Screen; 4] = [
    PHONE,
    Screen {
        name: "phone-dark",
        dark: true,
        ..PHONE
    },
    DESKTOP,
    Screen {
        name: "desktop-dark",
        dark: true,
        ..DESKTOP
    },
];

pub(super) const PHONE: Screen = Screen {
    name: "phone",
    width: 360,
    height: 740,
    scale: 2,
    mobile: true,
    dark: false,
};

const DESKTOP: Screen = Screen {
    name: "desktop",
    width: 1280,
    height: 900,
    scale: 1,
    mobile: false,
    dark: false,
};

/// Measurements of a page on a screen.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    /// Declared language.
    pub(super) lang: String,
    /// Text direction, `ltr` or `rtl`.
    dir: String,
    title: String,
    /// Width of the viewport and width of the page, in CSS pixels.
    width: f64,
    needed: f64,
    /// Missing images.
    broken: Vec<String>,
    /// Missing landmarks.
    missing: Vec<String>,
    /// Links that are too small to tap.
    small: Vec<String>,
    /// Text with too little contrast.
    pale: Vec<String>,
    /// Number of links.
    pub(super) links: usize,
    /// Target of the invitation link.
    pub(super) button: Option<String>,
    /// Position of its lower edge.
    fold: Option<f64>,
}

/// Shows the open page on a screen and measures it.
pub(super) async fn see(browser: &Browser, screen: &Screen) -> anyhow::Result<Seen> {
    browser.show_on(screen).await?;
    browser.ask(MEASURE).await
}

/// Returns the faults of a page that should be in this language.
pub(super) fn faults(seen: &Seen, screen: &Screen, language: &str) -> Vec<String> {
    let direction = if language == "fa" { "rtl" } else { "ltr" };
    let width = f64::from(screen.width);
    let mut faults = Vec::new();
    let mut demand = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    demand(seen.lang == language, format!("language: {:?}", seen.lang));
    demand(seen.dir == direction, format!("direction: {}", seen.dir));
    demand(!seen.title.is_empty(), "no title".to_owned());
    demand(
        seen.width <= width && seen.needed <= seen.width,
        format!("too wide: {} of {}", seen.needed, seen.width),
    );
    demand(
        seen.fold.is_none_or(|fold| fold <= f64::from(screen.height)),
        "the invitation is not seen without scrolling".to_owned(),
    );
    for (list, fault) in [
        (&seen.broken, "pictures missing"),
        (&seen.missing, "landmarks missing"),
        (&seen.small, "too small to touch"),
        (&seen.pale, "too pale to read"),
    ] {
        demand(list.is_empty(), format!("{fault}: {}", list.join(", ")));
    }
    faults
}

/// Returns the console messages of a page and its requests to other hosts since the last call.
pub(super) async fn side_effects(browser: &Browser, domain: &str) -> anyhow::Result<Vec<String>> {
    let own = format!("https://{domain}/");
    let requests = browser.requests().await?.into_iter();
    let foreign = requests.filter(|url| !url.starts_with(&own) && !url.starts_with("data:"));
    let complaints = browser.complaints().await?.into_iter();
    Ok(foreign
        .map(|url| format!("asks another host: {url}"))
        .chain(complaints.map(|line| format!("console: {line}")))
        .collect())
}

/// Saves a screenshot of the open page.
pub(super) async fn keep(browser: &Browser, folder: &Path, name: &str) -> anyhow::Result<Picture> {
    let picture = browser.picture().await?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("{name}.png"));
    std::fs::write(&file, &picture.png).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(picture)
}

/// Fails if there are faults; the error lists them with the screenshot.
pub(super) fn none(faults: &[String], folder: &Path, name: &str) -> anyhow::Result<()> {
    let picture = folder.join(format!("{name}.png"));
    ensure!(
        faults.is_empty(),
        "{}; see {}",
        faults.join("; "),
        picture.display()
    );
    Ok(())
}
