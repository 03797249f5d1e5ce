//! Builds the files of the site from the source files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::settings::RegistrationMode;
use minijinja::value::Value;
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use super::invitation::{Invitation, TOKEN};
use super::output::Site;
use super::source::Files;
use super::text;

/// File that describes a language, in its folder.
const LANGUAGE: &str = "language.json";

/// Frame of every page.
const FRAME: &str = "frame.html";

/// Template for `invitation` in a page.
const INVITATION: &str = "invitation.html";

/// Page for visitors with the token of an invitation, on relays that ask for one. Not in the menu.
const INVITED: &str = "invite";

/// Page with the state of the relay, on relays that publish it.
const STATUS: &str = "status";

/// Language for visitors whose own language is missing.
const FALLBACK: &str = "en";

/// Pages that come first in the menu, in this order.
const FIRST: [&str; 3] = ["index", "info", "privacy"];

/// A language of the site.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    /// Name of the language in the language itself.
    name: String,
    /// `ltr` or `rtl`.
    direction: String,
    /// Names of pages in the menu; the default is the title.
    menu: BTreeMap<String, String>,
    /// Texts of the templates.
    texts: BTreeMap<String, String>,
}

/// Rendered pages of one language by name.
type Pages = BTreeMap<String, Page>;

struct Page {
    title: String,
    body: String,
}

/// Builds all pages in all languages, and copies the other files.
///
/// The pages in the fallback language are also at the root, so that the site works on any web server. A server that
/// knows the visitor's language serves the page from the folder of that language at the same address.
pub(super) fn build(files: &Files, settings: &Settings, invitation: &Invitation) -> anyhow::Result<Site> {
    let templates = text::templates();
    let languages = languages(files)?;
    let fallback = languages
        .get_key_value(FALLBACK)
        .or_else(|| languages.first_key_value())
        .map(|(code, _)| code.as_str())
        .with_context(|| format!("no folder of the sources contains {LANGUAGE}"))?;
    let limits = limits(settings);
    let registration = settings.registration.mode;
    let with_token = Invitation::with_token(settings);
    let mut translated = BTreeMap::new();
    for (code, language) in &languages {
        let values = context! { domain => &settings.domain, limits, privacy => privacy(settings), texts => &language.texts, registration };
        let mut pages = Pages::new();
        for (path, source) in files.range(PathBuf::from(code)..) {
            if path.parent() != Some(Path::new(code)) || path.extension() != Some(OsStr::new("md")) {
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if stem == STATUS && !settings.web.status_page {
                continue;
            }
            let invitation = if stem == INVITED {
                if registration != RegistrationMode::Invitation {
                    continue;
                }
                &with_token
            } else {
                invitation
            };
            let invitation = invitation_for(&templates, files, &values, invitation, "../")?;
            let values = context! { invitation, ..values.clone() };
            let (body, title) = text::markdown(&text::fill(&templates, &name, source, &values)?);
            let title = title.with_context(|| format!("{name} has no heading for its title"))?;
            pages.insert(stem, Page { title, body });
        }
        translated.insert(code.as_str(), pages);
    }

    let mut site = Site::new();
    for (path, bytes) in files {
        let template = path == Path::new(FRAME) || path == Path::new(INVITATION);
        let page =
            path.extension() == Some(OsStr::new("md")) || path.file_name() == Some(OsStr::new(LANGUAGE));
        if !template && !page {
            site.insert(path.clone(), bytes.clone());
        }
    }
    let frame = files
        .get(Path::new(FRAME))
        .with_context(|| format!("the sources do not contain {FRAME}"))?;
    for (code, pages) in &translated {
        let language = languages.get(*code).context("a language without a description")?;
        for (name, page) in pages {
            let places = [
                ("../", format!("{code}/{name}.html")),
                ("", format!("{name}.html")),
            ];
            for (base, place) in places
                .into_iter()
                .filter(|(base, _)| !base.is_empty() || *code == fallback)
            {
                // A visitor who changes the language keeps the invitation.
                let query = if name == INVITED {
                    format!("?token={TOKEN}")
                } else {
                    String::new()
                };
                let values = context! {
                    query => Value::from_safe_string(query),
                    base, code, language, page => name, title => &page.title,
                    body => Value::from_safe_string(rebased(&page.body, base)),
                    menu => menu(language, pages),
                    translations => translations(&languages, &translated, name),
                    domain => &settings.domain, texts => &language.texts, privacy => privacy(settings),
                };
                let html = text::fill(&templates, FRAME, frame, &values)?;
                site.insert(place.into(), html.into_bytes());
            }
        }
    }
    Ok(site)
}

/// Adapts relative links, which are those of a page in the folder of its language, to a page elsewhere.
fn rebased(body: &str, base: &str) -> String {
    body.replace("=\"../", &format!("=\"{base}"))
}

fn languages(files: &Files) -> anyhow::Result<BTreeMap<String, Language>> {
    files
        .iter()
        .filter(|(path, _)| path.ends_with(LANGUAGE) && path.components().count() == 2)
        .map(|(path, bytes)| {
            let code = path.parent().unwrap_or(path).to_string_lossy().into_owned();
            let language: Language =
                serde_json::from_slice(bytes).with_context(|| format!("cannot parse {}", path.display()))?;
            Ok((code, language))
        })
        .collect()
}

/// Renders HTML without empty lines, at which Markdown would end it.
fn invitation_for(
    templates: &Environment<'_>,
    files: &Files,
    values: &Value,
    invitation: &Invitation,
    base: &str,
) -> anyhow::Result<Value> {
    let source = files
        .get(Path::new(INVITATION))
        .with_context(|| format!("the sources do not contain {INVITATION}"))?;
    let picture = match invitation.picture.as_str() {
        Some(path) if !path.starts_with('/') => Value::from(format!("{base}{path}")),
        _ => invitation.picture.clone(),
    };
    let values = context! { open => invitation.open, link => &invitation.link, picture, ..values.clone() };
    let html = text::fill(templates, INVITATION, source, &values)?;
    let lines: Vec<_> = html.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(Value::from_safe_string(lines.join("\n")))
}

fn limits(settings: &Settings) -> Value {
    let (messages, mailboxes) = (&settings.messages, &settings.mailboxes);
    context! {
        messages_per_minute => messages.max_per_minute,
        message_size => messages.max_size,
        mailbox_quota => mailboxes.quota,
        delete_mails_after => mailboxes.delete_messages_after,
        delete_large_after => mailboxes.delete_large_messages_after,
        large_message_size => mailboxes.large_message_size,
        delete_inactive_users_after => mailboxes.delete_inactive_accounts_after,
    }
}

fn privacy(settings: &Settings) -> Value {
    let privacy = &settings.web.privacy;
    context! {
        privacy_mail => &settings.admin_address,
        privacy_postal => &privacy.postal_address,
        privacy_officer => &privacy.data_protection_officer,
        privacy_supervisor => &privacy.supervisory_authority,
    }
}

fn menu(language: &Language, pages: &Pages) -> Vec<Value> {
    let first = FIRST.into_iter().filter_map(|name| pages.get_key_value(name));
    let rest = pages
        .iter()
        .filter(|(name, _)| !FIRST.contains(&name.as_str()) && *name != INVITED);
    first
        .chain(rest)
        .map(|(name, page)| {
            let label = language.menu.get(name).unwrap_or(&page.title);
            context! { name, label }
        })
        .collect()
}

/// The languages in which a page exists.
fn translations(
    languages: &BTreeMap<String, Language>,
    translated: &BTreeMap<&str, Pages>,
    page: &str,
) -> Vec<Value> {
    languages
        .iter()
        .filter(|(code, _)| {
            translated
                .get(code.as_str())
                .is_some_and(|pages| pages.contains_key(page))
        })
        .map(|(code, language)| context! { code, name => &language.name })
        .collect()
}
