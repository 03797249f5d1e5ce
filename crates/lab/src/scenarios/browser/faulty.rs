//! The checks find every fault that they look for.

use anyhow::{Context as _, ensure};
use mailtest::client::browser::Browser;

use super::look::{PHONE, faults, see, side_effects};
use super::pages::{SELF_SIGNED, STRICT, visitor};
use crate::scenarios::Context;

/// A page without a fault.
const GOOD: &str = "<!doctype html><html lang=en dir=ltr><title>Good</title>\
    <meta name=viewport content='width=device-width'>\
    <header><nav>Menu</nav></header><main><h1>Good</h1><p>See <a href=/>this</a>.</main><footer>End</footer>";

/// Text in the page, its replacement, and the resulting fault.
const FAULTS: [(&str, &str, &str); 14] = [
    ("lang=en", "lang=de", "language: \"de\""),
    ("dir=ltr", "dir=rtl", "direction: rtl"),
    ("<title>Good</title>", "", "no title"),
    ("width=device-width", "width=980", "too wide: 980 of 980"),
    ("Menu", "<div style=width:999px>Menu</div>", "too wide: "),
    (
        "Menu",
        "<a class=button style=position:absolute;top:999px;padding:1em href=/>Go</a>",
        "the invitation is not seen without scrolling",
    ),
    (
        "Menu",
        "<img src=data:image/png;base64,AAAA>",
        "pictures missing: data:image/png;base64,AAAA",
    ),
    ("h1>", "h2>", "landmarks missing: h1"),
    ("<footer>", "<p>", "landmarks missing: footer"),
    ("Menu", "<a href=/>Go</a>", "too small to touch: Go"),
    ("Menu", "<b style=color:gray>Grey</b>", "too pale to read: Grey"),
    (
        "Menu",
        "<img src=https://other.test/ alt='' hidden>",
        "asks another host: https://other.test/",
    ),
    (
        "Menu",
        "<script>console.warn(\"careful\")</script>",
        "console: WARNING: ",
    ),
    ("Menu", "<script>throw Error()</script>", "console: SEVERE: "),
];

pub(in crate::scenarios) async fn finds_faults(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(STRICT)?.domain;
    let browser = Browser::start(&context.topology, STRICT, visitor("en")).await?;
    let found = async |page: &str| {
        browser.open(&format!("data:text/html,{page}")).await?;
        let mut found = faults(&see(&browser, &PHONE).await?, &PHONE, "en");
        found.extend(side_effects(&browser, &domain).await?);
        anyhow::Ok(found)
    };
    let good = found(GOOD).await?;
    ensure!(good.is_empty(), "faults of a good page: {}", good.join("; "));
    for (part, bad, fault) in FAULTS {
        let found = found(&GOOD.replace(part, bad)).await.context(fault)?;
        ensure!(
            found.iter().any(|found| found.starts_with(fault)),
            "not found: {fault}; but: {}",
            found.join("; ")
        );
    }
    self_signed_is_refused(context, &browser).await
}

/// A browser that trusts only the CA rejects a self-signed certificate.
async fn self_signed_is_refused(context: &Context, browser: &Browser) -> anyhow::Result<()> {
    let other = context.peer(SELF_SIGNED)?.domain;
    let refused = browser.open(&format!("https://{other}/")).await.err();
    let reason = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        reason.contains("CERT"),
        "the browser does not reject {other}: {reason}"
    );
    Ok(())
}
