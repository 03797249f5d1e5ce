use chatmail_core::settings::{RegistrationMode, TlsMode};

use super::*;

const NOW: u64 = 1_800_000_000;

fn settings(domain: &str, mode: TlsMode) -> Settings {
    let sample = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
    domain.clone_into(&mut settings.domain);
    settings.tls.mode = mode;
    settings
}

fn invitation(uses: u32, used: u32, expires: u64, note: Option<&str>) -> Invitation {
    Invitation {
        created: NOW - DAY,
        expires,
        uses,
        used,
        pending: None,
        note: note.map(str::to_owned),
    }
}

fn sample() -> Vec<(Id, Invitation)> {
    let token = |letter: &str| Token::parse(&letter.repeat(22)).unwrap().id();
    vec![
        (token("A"), invitation(5, 1, NOW + 7 * DAY, Some("choir"))),
        (token("B"), invitation(1, 1, NOW + DAY, None)),
        (
            token("C"),
            invitation(
                MAX_USES,
                23,
                NOW - 1,
                Some("everybody who came to the meeting in the town hall"),
            ),
        ),
    ]
}

#[test]
fn the_output_fits_80_columns() {
    let token = Token::parse(&"A".repeat(22)).unwrap();
    let one = invitation(5, 0, NOW + 7 * DAY, Some("choir"));
    let mut text = String::new();
    for (domain, mode) in [
        ("chat.example.org", TlsMode::Acme),
        ("_a.test", TlsMode::SelfSigned),
        ("[192.0.2.1]", TlsMode::SelfSigned),
    ] {
        let links = Links::new(&settings(domain, mode), &token);
        text.push_str(&show::created(&token.id(), &one, &links));
        text.push('\n');
    }
    text.push_str(&show::table(&sample(), NOW));
    text.push_str(&show::reminder(RegistrationMode::Open));
    text.push_str(&show::reminder(RegistrationMode::Closed));
    text.push_str(&show::reminder(RegistrationMode::Invitation));
    crate::answer::human::check("invite list", &text);
    let revoked = sample()
        .iter()
        .map(|(id, one)| show::revoked(id, one))
        .collect::<String>();
    crate::answer::human::check("invite revoke", &revoked);
    let token = Token::parse(&"A".repeat(22)).unwrap();
    let links = Links::new(&settings("chat.example.org", TlsMode::Acme), &token);
    crate::answer::human::check("invite create", &show::created(&token.id(), &one, &links));
}

#[test]
fn lists_in_json_hold_no_token() {
    let text = show::list_json(&sample(), NOW).unwrap();
    assert!(!text.contains("AAAA"), "{text}");
    let token = Token::parse(&"A".repeat(22)).unwrap();
    let links = Links::new(&settings("chat.example.org", TlsMode::Acme), &token);
    let one = invitation(5, 0, NOW + 7 * DAY, None);
    let created = show::json(&show::Created::new(&token.id(), &one, &token, &links)).unwrap();
    insta::assert_snapshot!(format!("{text}{created}"));
}

#[test]
fn a_code_for_a_terminal_can_be_scanned() {
    let token = Token::parse(&"A".repeat(22)).unwrap();
    let links = Links::new(&settings("chat.example.org", TlsMode::Acme), &token);
    let picture = links.picture(false).unwrap();
    // Two rows of modules in each line; light modules are drawn.
    let mut rows: Vec<Vec<bool>> = Vec::new();
    for line in picture.trim_matches('\n').lines() {
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for character in line.chars() {
            upper.push(!matches!(character, '█' | '▀'));
            lower.push(!matches!(character, '█' | '▄'));
        }
        rows.extend([upper, lower]);
    }
    let width = rows[0].len();
    assert!(width <= 80, "{width}");
    let scale = 4;
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width * scale, rows.len() * scale, |x, y| {
        if rows[y / scale][x / scale] { 0 } else { 255 }
    });
    let (_, content) = image.detect_grids()[0].decode().unwrap();
    assert_eq!(Some(content), links.app);
    assert!(links.picture(true).unwrap().contains("\x1b[97;40m"));
}

#[test]
fn durations_are_hours_days_or_weeks() {
    for (text, seconds) in [
        ("1h", HOUR),
        ("7d", 7 * DAY),
        ("2w", 14 * DAY),
        ("3650d", MAX_DURATION),
    ] {
        assert_eq!(duration(text), Ok(seconds), "{text}");
    }
    for wrong in [
        "",
        "d",
        "7",
        "0d",
        "-1d",
        "+1d",
        "1.5d",
        "3651d",
        "7m",
        "7 d",
        "7é",
        "99999999999999999999w",
    ] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_invitation_is_chosen_by_the_beginning_of_its_id() {
    let (id, _) = chosen("8a5bdb4c", sample()).unwrap();
    assert_eq!(id.to_string(), "8a5bdb4c");
    for wrong in ["", "x", "8A5BDB4C"] {
        assert!(chosen(wrong, sample()).is_err(), "{wrong}");
    }
    let twice = [sample(), sample()].concat();
    assert!(
        chosen("8a5bdb4c", twice)
            .unwrap_err()
            .to_string()
            .contains("several")
    );
}

#[test]
fn notes_are_one_short_line() {
    assert_eq!(note("für den Chor"), Ok("für den Chor".to_owned()));
    assert!(note("two\nlines").is_err());
    assert!(note(&"x".repeat(MAX_NOTE + 1)).is_err());
}
