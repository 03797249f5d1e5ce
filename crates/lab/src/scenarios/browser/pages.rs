//! The web site in a real browser.

use anyhow::{Context as _, ensure};
use mailtest::client::Account;
use mailtest::client::browser::{Browser, Visitor};
use serde::Deserialize;
use url::Url;

use super::look::{PHONE, SCREENS, Seen, faults, keep, none, see, side_effects};
use crate::scenarios::Context;

/// Relays with a self-signed certificate and with one from a CA.
pub(super) const SELF_SIGNED: &str = "a";
pub(super) const STRICT: &str = "c";

const LANGUAGES: [&str; 5] = ["en", "de", "es", "ru", "fa"];
const PAGES: [&str; 3] = ["index", "info", "privacy"];

/// Starts a browser with this language.
pub(super) fn visitor(languages: &str) -> Visitor<'_> {
    Visitor {
        languages,
        scripts: true,
    }
}

pub(in crate::scenarios) async fn pages_self_signed(context: &Context) -> anyhow::Result<()> {
    pages(context, SELF_SIGNED).await
}

pub(in crate::scenarios) async fn pages_strict(context: &Context) -> anyhow::Result<()> {
    pages(context, STRICT).await
}

/// Checks every page in every language on every screen.
async fn pages(context: &Context, relay: &str) -> anyhow::Result<()> {
    let domain = context.peer(relay)?.domain;
    let folder = context.pictures();
    for language in LANGUAGES {
        let browser = Browser::start(&context.topology, relay, visitor(language)).await?;
        for page in PAGES {
            // Paths without a language use the language of the browser.
            browser.open(&format!("https://{domain}/{page}.html")).await?;
            let name = format!("{relay}-{language}-{page}");
            for screen in &SCREENS {
                let name = format!("{name}-{}", screen.name);
                let seen = see(&browser, screen).await?;
                let picture = keep(&browser, &folder, &name).await?;
                none(&faults(&seen, screen, language), &folder, &name)?;
                if page == "index" {
                    let code = picture.code().with_context(|| format!("{name}.png"))?;
                    check_invitation(&seen, &code, &domain).with_context(|| format!("{name}.png"))?;
                }
            }
            none(&side_effects(&browser, &domain).await?, &folder, &name)?;
        }
    }
    Ok(())
}

/// Checks that the link and the QR code are equal, or, on a self-signed relay, that each creates its own account.
fn check_invitation(seen: &Seen, code: &str, domain: &str) -> anyhow::Result<()> {
    let link = seen.button.as_deref().context("no invitation link")?;
    // Upper case makes QR codes smaller, and schemes ignore case (RFC 3986 section 3.1).
    let (scheme, rest) = code.split_once(':').context("the QR code is not a URL")?;
    let code = format!("{}:{rest}", scheme.to_lowercase());
    if link.starts_with("https:") {
        ensure!(
            link == format!("https://{domain}/new?format=link") && code.starts_with("dclogin:"),
            "{link} and {scheme}: do not belong together"
        );
    } else {
        ensure!(
            link == code && link == format!("dcaccount:https://{domain}/new"),
            "the link is {link}, the code {code}"
        );
    }
    Ok(())
}

pub(in crate::scenarios) async fn languages(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let domain = context.peer(relay)?.domain;
        for (wanted, given) in [("de-AT,de", "de"), ("fr,ru,de", "ru"), ("fr", "en")] {
            let browser = Browser::start(&context.topology, relay, visitor(wanted)).await?;
            browser.open(&format!("https://{domain}/info.html")).await?;
            ensure_language(&browser, given).await.context(wanted)?;
            for chosen in LANGUAGES {
                browser.open(&format!("https://{domain}/info.html")).await?;
                browser.click(&format!("footer a[hreflang={chosen}]")).await?;
                ensure_address(&browser, &domain, &format!("/{chosen}/info.html")).await?;
                // The selected language applies to all pages that the visitor opens from here.
                browser.click("header nav a[href*=privacy]").await?;
                ensure_address(&browser, &domain, &format!("/{chosen}/privacy.html")).await?;
                browser.click("a.home").await?;
                ensure_address(&browser, &domain, &format!("/{chosen}/index.html")).await?;
                ensure_language(&browser, chosen).await?;
            }
        }
    }
    Ok(())
}

async fn ensure_language(browser: &Browser, wanted: &str) -> anyhow::Result<()> {
    let seen = see(browser, &PHONE).await?;
    ensure!(
        seen.lang == wanted,
        "the page is in {}, not in {wanted}",
        seen.lang
    );
    Ok(())
}

async fn ensure_address(browser: &Browser, domain: &str, path: &str) -> anyhow::Result<()> {
    let address = browser.address().await?;
    ensure!(
        address == format!("https://{domain}{path}"),
        "at {address}, not at {path}"
    );
    Ok(())
}

/// A client logs in with the credentials in the QR code of a self-signed relay.
pub(in crate::scenarios) async fn invitation(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(SELF_SIGNED)?;
    let browser = Browser::start(&context.topology, SELF_SIGNED, visitor("en")).await?;
    browser.open(&format!("https://{}/", peer.domain)).await?;
    browser.show_on(&PHONE).await?;
    let picture = keep(&browser, &context.pictures(), "invitation").await?;
    let link = Url::parse(&picture.code()?).context("the QR code is not a URL")?;
    let password = link.query_pairs().find(|(key, _)| key == "p");
    let account = Account {
        address: link.path().to_owned(),
        password: password.context("the code has no password")?.1.into_owned(),
        peer,
    };
    account
        .imap()
        .await
        .context("logging in with the credentials in the QR code")?;
    Ok(())
}

/// The pages are complete and look the same without JavaScript.
pub(in crate::scenarios) async fn without_scripts(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(STRICT)?.domain;
    let mut pictures = Vec::new();
    for scripts in [true, false] {
        let visitor = Visitor {
            languages: "en",
            scripts,
        };
        let browser = Browser::start(&context.topology, STRICT, visitor).await?;
        browser
            .open("data:text/html,<body><script>document.title='run'</script>")
            .await?;
        let title: String = browser.ask("return document.title").await?;
        ensure!((title == "run") == scripts, "the browser ignores the setting");
        let mut seen = Vec::new();
        for page in PAGES {
            browser.open(&format!("https://{domain}/{page}.html")).await?;
            browser.show_on(&PHONE).await?;
            seen.push(
                keep(
                    &browser,
                    &context.pictures(),
                    &format!("scripts-{scripts}-{page}"),
                )
                .await?,
            );
        }
        let faults = side_effects(&browser, &domain).await?;
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        pictures.push(seen);
    }
    ensure!(
        matches!(pictures.as_slice(), [with, without] if with == without),
        "pages look different without scripts: see scripts-*.png in {}",
        context.pictures().display()
    );
    Ok(())
}

/// JavaScript that returns the focused element and its outline.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Focus {
    place: usize,
    style: String,
    width: String,
}

const FOCUS: &str = "const link = document.activeElement, style = getComputedStyle(link);
    const place = [...document.querySelectorAll('a[href]')].indexOf(link) + 1;
    return { place, style: style.outlineStyle, width: style.outlineWidth };";

/// The Tab key focuses every link in page order, and the focus is visible.
pub(in crate::scenarios) async fn keyboard(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(STRICT)?.domain;
    let browser = Browser::start(&context.topology, STRICT, visitor("en")).await?;
    for page in PAGES {
        browser.open(&format!("https://{domain}/{page}.html")).await?;
        let links = see(&browser, &PHONE).await?.links;
        for place in 1..=links {
            browser.press_tab().await?;
            let focus: Focus = browser.ask(FOCUS).await?;
            let wanted = Focus {
                place,
                style: "solid".to_owned(),
                width: "3px".to_owned(),
            };
            ensure!(focus == wanted, "{page}: {focus:?} instead of {wanted:?}");
        }
    }
    Ok(())
}

/// JavaScript that tries what injected content would; its promise resolves to true if the browser blocks all of it.
const INTRUDE: &str = "return new Promise(done => {
    const blocked = [], wanted = ['script-src-elem', 'img-src', 'style-src-elem', 'frame-src', 'connect-src'];
    document.addEventListener('securitypolicyviolation', event => {
        blocked.push(event.effectiveDirective);
        if (wanted.every(name => blocked.includes(name))) done(true);
    });
    setTimeout(() => done(false), 10000);
    const add = (name, fields) => document.body.append(Object.assign(document.createElement(name), fields));
    add('script', { text: 'document.title = 1' });
    add('img', { src: 'https://other.test/x.png' });
    add('style', { textContent: 'p { color: red }' });
    add('iframe', { src: 'https://other.test/' });
    fetch('https://other.test/').catch(() => {});
});";

pub(in crate::scenarios) async fn content_policy(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let domain = context.peer(relay)?.domain;
        let browser = Browser::start(&context.topology, relay, visitor("en")).await?;
        browser.open(&format!("https://{domain}/")).await?;
        let blocked: bool = browser.ask(INTRUDE).await?;
        let said = browser.complaints().await?;
        ensure!(
            blocked,
            "the browser did not block everything: {}",
            said.join("; ")
        );
    }
    Ok(())
}
