//! `chatmail website`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chatmail_core::settings::{RegistrationMode, TlsMode};

use crate::{Outcome, Relay};

/// The pages that come with the project.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../www")
}

impl Relay {
    fn website(&self, sources: &[&Path]) -> Outcome {
        let output = self.site().display().to_string();
        let mut arguments = vec!["website".to_owned(), "--output".to_owned(), output];
        for source in sources {
            arguments.extend(["--source".to_owned(), source.display().to_string()]);
        }
        self.chatmail(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn built(&self, sources: &[&Path]) -> BTreeMap<String, Vec<u8>> {
        let outcome = self.website(sources);
        assert!(outcome.success, "{}", outcome.stderr);
        files(&self.site())
    }

    fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in here.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn text<'a>(site: &'a BTreeMap<String, Vec<u8>>, name: &str) -> &'a str {
    let bytes = site.get(name).unwrap_or_else(|| panic!("no {name} in the site"));
    std::str::from_utf8(bytes).unwrap()
}

/// Values of `href` and `src`.
fn links(html: &str) -> Vec<(&str, &str)> {
    ["href", "src"]
        .into_iter()
        .flat_map(|attribute| {
            let mark = format!(" {attribute}=\"");
            html.match_indices(&mark)
                .map(|(at, mark)| html.split_at(at + mark.len()).1.split_once('"').unwrap().0)
                .map(move |value| (attribute, value))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A source folder with these files in it.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn every_page_exists_in_every_language_and_every_link_leads_somewhere() {
    let site = Relay::new(|settings| settings.web.status_page = true).built(&[&shipped()]);
    for code in ["en", "de", "es", "ru", "fa"] {
        for page in ["index", "info", "privacy", "status"] {
            let html = text(&site, &format!("{code}/{page}.html"));
            let direction = if code == "fa" { "rtl" } else { "ltr" };
            assert!(
                html.contains(&format!("<html lang=\"{code}\" dir=\"{direction}\">")),
                "{html}"
            );
            assert!(html.contains("chat.example.org"), "{html}");
        }
    }
    for (name, bytes) in site.iter().filter(|(name, _)| name.ends_with(".html")) {
        let html = std::str::from_utf8(bytes).unwrap();
        for sign in ["{{", "{%", "<script", " style=", "javascript:"] {
            assert!(!html.contains(sign), "{sign} in {name}");
        }
        let here = Path::new(name).parent().unwrap();
        for (attribute, link) in links(html) {
            if link.starts_with("https://") || link.starts_with("mailto:") || link.starts_with("dcaccount:") {
                assert_eq!(attribute, "href", "{link} in {name} asks another host");
                continue;
            }
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            let target = match file.strip_prefix("../") {
                Some(beside) => PathBuf::from(beside),
                None => here.join(file),
            };
            assert!(
                site.contains_key(&target.display().to_string()),
                "{link} in {name}"
            );
        }
    }
}

#[test]
fn codes_hold_the_link_of_the_page() {
    let site = Relay::new(|_| {}).built(&[&shipped()]);
    let link = "dcaccount:https://chat.example.org/new";
    assert!(links(text(&site, "en/index.html")).contains(&("href", link)));

    let png = site.get("qr-chatmail-invite-chat.example.org.png").unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert!(frame.width >= 384 && frame.width == frame.height);
    let width = usize::try_from(frame.width).unwrap();
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, width, |x, y| {
        pixels.get(y * width + x).copied().unwrap()
    });
    let grids = image.detect_grids();
    let (meta, content) = grids.first().unwrap().decode().unwrap();
    assert_eq!(content, "DCACCOUNT:https://chat.example.org/new");
    // The format's code for level H (ISO/IEC 18004 table 12).
    assert_eq!(meta.ecc_level, 2);

    let svg = text(&site, "qr-chatmail-invite-chat.example.org.svg");
    assert!(svg.contains("<svg"), "{svg}");
}

#[test]
fn a_self_signed_relay_shows_links_that_are_made_for_each_visitor() {
    let relay = Relay::new(|settings| {
        settings.domain = "_a.test".to_owned();
        settings.tls.mode = TlsMode::SelfSigned;
    });
    let site = relay.built(&[&shipped()]);
    let links = links(text(&site, "en/index.html"));
    assert!(links.contains(&("href", "/new?format=link")));
    assert!(links.contains(&("src", "/new?format=svg")));
    assert!(!site.keys().any(|name| name.starts_with("qr-")));
}

#[test]
fn every_language_has_a_status_page_with_all_values_where_it_is_wanted() {
    let without = Relay::new(|_| {}).built(&[&shipped()]);
    assert!(!without.keys().any(|name| name.contains("status")));
    assert!(!text(&without, "index.html").contains("status.html"));

    let site = Relay::new(|settings| settings.web.status_page = true).built(&[&shipped()]);
    assert!(text(&site, "de/index.html").contains("<a href=\"status.html\">Status</a>"));
    for place in ["", "en/", "de/", "es/", "ru/", "fa/"] {
        let html = text(&site, &format!("{place}status.html"));
        let commands: Vec<_> = html
            .match_indices("<!--# ")
            .map(|(at, _)| html.split_at(at).1)
            .collect();
        let first = "<!--# include virtual=\"/status-values\" wait=\"yes\" -->";
        assert!(
            commands.first().is_some_and(|command| command.starts_with(first)),
            "{html}"
        );
        for value in ["delivery", "accounts", "days", "since", "time"] {
            let echo = format!("<bdi><!--# echo var=\"status_{value}\" --></bdi>");
            assert_eq!(html.matches(&echo).count(), 1, "{value}: {html}");
        }
        // nginx knows one level of conditions.
        let mut open = 0;
        for command in commands {
            open +=
                i32::from(command.starts_with("<!--# if ")) - i32::from(command.starts_with("<!--# endif "));
            assert!((0..=1).contains(&open), "{html}");
        }
        assert_eq!(open, 0, "{html}");
    }
}

/// What nginx replaces by the token of the request.
const TOKEN: &str = "<!--# echo var=\"chatmail_token\" -->";

#[test]
fn relays_that_are_not_open_promise_nothing() {
    for mode in [RegistrationMode::Closed, RegistrationMode::Invitation] {
        for tls in [TlsMode::Acme, TlsMode::SelfSigned] {
            let relay = Relay::new(|settings| {
                settings.registration.mode = mode;
                settings.tls.mode = tls;
            });
            let site = relay.built(&[&shipped()]);
            assert!(!site.keys().any(|name| name.starts_with("qr-")));
            for code in ["en", "de", "es", "ru", "fa"] {
                let html = text(&site, &format!("{code}/index.html"));
                let links = links(html);
                let leads = |(_, link): &&(&str, &str)| link.contains("/new");
                assert_eq!(links.iter().find(leads), None, "{html}");
                assert!(!links.iter().any(|(_, link)| link.contains("invite")), "{html}");
                let steps = html.matches("<li>").count();
                assert_eq!(
                    steps,
                    if mode == RegistrationMode::Closed { 0 } else { 3 },
                    "{html}"
                );
            }
            let page = site.contains_key("invite.html") && site.contains_key("fa/invite.html");
            assert_eq!(page, mode == RegistrationMode::Invitation);
        }
    }
    let closed = Relay::new(|settings| settings.registration.mode = RegistrationMode::Closed);
    let site = closed.built(&[&shipped()]);
    assert!(text(&site, "index.html").contains("does not accept new users"));
}

#[test]
fn the_page_of_an_invitation_leads_to_an_account() {
    for (tls, link) in [
        (
            TlsMode::Acme,
            format!("dcaccount:https://chat.example.org/new?token={TOKEN}"),
        ),
        (TlsMode::SelfSigned, format!("/new?format=link&amp;token={TOKEN}")),
    ] {
        let relay = Relay::new(|settings| {
            settings.registration.mode = RegistrationMode::Invitation;
            settings.tls.mode = tls;
        });
        let site = relay.built(&[&shipped()]);
        for code in ["en", "de", "es", "ru", "fa"] {
            let html = text(&site, &format!("{code}/invite.html"));
            assert!(html.contains(&format!("href=\"{link}\"")), "{html}");
            assert!(
                html.contains(&format!("src=\"/new?format=svg&amp;token={TOKEN}\"")),
                "{html}"
            );
            for command in ["if expr=\"$chatmail_token\"", "else", "endif"] {
                assert_eq!(html.matches(&format!("<!--# {command} -->")).count(), 1, "{html}");
            }
            // The languages keep the token.
            let kept = format!("href=\"../de/invite.html?token={TOKEN}\" lang=");
            assert!(html.contains(&kept), "{html}");
            assert!(!html.contains("<a href=\"invite.html"), "the menu has it: {html}");
        }
    }
}

#[test]
fn languages_of_operators_without_new_texts_stay_valid_on_open_relays() {
    let old = folder(&[
        ("nl/index.md", "# Hallo\n\n{{ invitation }}\n"),
        (
            "nl/language.json",
            r#"{"name": "Nederlands", "direction": "ltr", "menu": {}, "texts": {"menu": "a", "languages": "b",
                "contact": "c", "open": "d", "scan": "e", "code": "f", "no_app": "g", "get_app": "h"}}"#,
        ),
    ]);
    let site = Relay::new(|_| {}).built(&[&shipped(), old.path()]);
    assert!(text(&site, "nl/index.html").contains("dcaccount:"));
}

#[test]
fn an_operators_contacts_are_shown_as_they_are() {
    let relay = Relay::new(|settings| {
        settings.web.privacy.postal_address = Some("A & B <i>\n*Street* 1\n".to_owned());
        settings.web.privacy.supervisory_authority = Some("Authority of Example".to_owned());
    });
    let site = relay.built(&[&shipped()]);
    for code in ["en", "de", "es", "ru", "fa"] {
        let page = text(&site, &format!("{code}/privacy.html"));
        assert!(page.contains("A &amp; B &lt;i&gt;<br>*Street* 1"), "{page}");
        assert!(page.contains("Authority of Example"), "{page}");
        assert!(page.contains("mailto:privacy@example.org"), "{page}");
    }
}

#[test]
fn an_operators_folder_replaces_and_extends() {
    let own = folder(&[
        ("style.css", "body { color: red }"),
        ("en/info.md", "# Own words\n\nOf {{ domain }}.\n"),
        ("en/donate.md", "# Donate\n"),
        ("pictures/house.svg", "<svg/>"),
        ("en/info.md~", "{{ nonsense }}"),
        (".git/config", ""),
    ]);
    let site = Relay::new(|_| {}).built(&[&shipped(), own.path()]);
    assert_eq!(text(&site, "style.css"), "body { color: red }");
    assert!(text(&site, "info.html").contains("<p>Of chat.example.org.</p>"));
    assert!(text(&site, "en/index.html").contains("<a href=\"donate.html\">Donate</a>"));
    assert!(site.contains_key("pictures/house.svg") && site.contains_key("de/info.html"));
    assert!(
        !site
            .keys()
            .any(|name| name.contains(".git") || name.ends_with('~'))
    );
}

#[test]
fn wrong_sources_are_named_and_the_site_stays_as_it_was() {
    let relay = Relay::new(|_| {});
    let before = relay.built(&[&shipped()]);
    for (name, source, message) in [
        ("en/info.md", "# {{ domian }}", "cannot render en/info.md"),
        ("en/info.md", "no heading", "en/info.md has no heading"),
        (
            "en/info.md",
            "<<<<<<< a\n=======\n>>>>>>> b\n",
            "the markers of a merge conflict",
        ),
        ("en/language.json", "{}", "cannot parse en/language.json"),
    ] {
        let own = folder(&[(name, source)]);
        let outcome = relay.website(&[&shipped(), own.path()]);
        assert!(
            !outcome.success && outcome.stderr.contains(message),
            "{}",
            outcome.stderr
        );
        assert_eq!(files(&relay.site()), before);
    }
    let beside: Vec<_> = relay.dir.path().read_dir().unwrap().collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
}

#[test]
fn a_folder_with_other_files_is_not_replaced() {
    let relay = Relay::new(|_| {});
    std::fs::create_dir(relay.site()).unwrap();
    std::fs::write(relay.site().join("thesis.txt"), "ten years of work").unwrap();
    let outcome = relay.website(&[&shipped()]);
    assert!(
        !outcome.success && outcome.stderr.contains("choose another folder"),
        "{}",
        outcome.stderr
    );
    assert!(relay.site().join("thesis.txt").exists());
}
