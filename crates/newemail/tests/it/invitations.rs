//! `/new` on relays that are closed, ask for an invitation or have a limit.

use std::time::SystemTime;

use chatmail_core::registration::{Invitation, Register, TOKEN_LENGTH, Token};
use chatmail_core::settings::{RegistrationMode, TlsMode};

use crate::service::Service;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn by_invitation() -> Service {
    Service::start(|settings| settings.registration.mode = RegistrationMode::Invitation)
}

fn invite(service: &Service, used: u32, expires: u64) -> Token {
    let token = Token::generate(&mut rand::rng());
    let invitation = Invitation {
        used,
        ..Invitation::new(now(), expires, 3)
    };
    let register = Register::new(&service.settings.registration);
    assert!(
        register
            .try_lock()
            .unwrap()
            .unwrap()
            .add(&token, &invitation)
            .unwrap()
    );
    token
}

fn reason(service: &Service, token: &str) -> String {
    let answer = service.ask("POST", &format!("/new{token}"));
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_closed_relay_gives_no_addresses() {
    let service = Service::start(|settings| settings.registration.mode = RegistrationMode::Closed);
    assert_eq!(reason(&service, ""), "This relay does not accept new users.");

    let service = Service::start(|_| {});
    assert_eq!(service.ask("POST", "/new").status, 200);
    std::fs::write(&service.settings.registration.nocreate_files[0], "").unwrap();
    assert_eq!(reason(&service, ""), "This relay does not accept new users.");
}

#[test]
fn people_are_told_what_is_wrong_with_their_invitation() {
    let service = Service::start(|settings| {
        settings.registration.mode = RegistrationMode::Invitation;
        settings.web.new_addresses_per_minute = 5;
    });
    let query = |token: &Token| format!("?token={}", token.as_str());
    let valid = query(&invite(&service, 2, now() + 3600));
    let expired = query(&invite(&service, 0, now()));
    let used_up = query(&invite(&service, 3, now() + 3600));
    let unknown = query(&Token::generate(&mut rand::rng()));
    assert_eq!(
        reason(&service, ""),
        "You need an invitation to get an address on this relay."
    );
    for wrong in [&*unknown, "?token=", "?token=../created", "?token=%00"] {
        assert_eq!(
            reason(&service, wrong),
            "This invitation is not valid. Please ask for a new one."
        );
    }
    assert_eq!(
        reason(&service, &expired),
        "This invitation has expired. Please ask for a new one."
    );
    assert_eq!(
        reason(&service, &used_up),
        "This invitation has been used up. Please ask for a new one."
    );
    // Those without an invitation do not use up the rate limit, and an address that is never used costs nothing.
    for _ in 0..5 {
        let body = service.ask("POST", &format!("/new{valid}")).json();
        let password = body["password"].as_str().unwrap();
        assert!(valid.ends_with(password.split_at(TOKEN_LENGTH).0), "{password}");
        assert!(password.len() > TOKEN_LENGTH + 9);
    }
    let log = service.end();
    for token in [valid, expired, used_up, unknown] {
        assert!(!log.contains(token.trim_start_matches("?token=")), "{log}");
    }
}

#[test]
fn pages_lead_to_the_app_with_the_token() {
    let service = by_invitation();
    let token = "A".repeat(TOKEN_LENGTH);
    let answer = service.ask("GET", &format!("/new?token={token}"));
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some(&*format!("dcaccount:https://chat.example.org/new?token={token}"))
    );
    let answer = service.ask("GET", &format!("/new?format=svg&token={token}"));
    assert_eq!(answer.header("content-type"), Some("image/svg+xml"));
    assert!(answer.body.contains("<svg"), "{}", answer.body);
    // What is no token does not get into a link.
    let answer = service.ask("GET", "/new?token=%0d%0aX:%20y");
    assert_eq!(
        answer.header("location"),
        Some("dcaccount:https://chat.example.org/new")
    );
}

#[test]
fn a_self_signed_relay_puts_the_token_into_its_links() {
    let service = Service::start(|settings| {
        settings.registration.mode = RegistrationMode::Invitation;
        settings.domain = "_a.test".to_owned();
        settings.tls.mode = TlsMode::SelfSigned;
    });
    let token = invite(&service, 0, now() + 3600);
    let answer = service.ask("GET", &format!("/new?format=link&token={}", token.as_str()));
    assert_eq!(answer.status, 302);
    let link = answer.header("location").unwrap();
    assert!(link.contains(&format!("?p={}", token.as_str())), "{link}");
    assert_eq!(service.ask("GET", "/new?format=link").status, 403);
}

#[test]
fn the_limit_of_an_hour_is_told() {
    let service = Service::start(|settings| settings.registration.max_per_hour = Some(2));
    let count = |number: u32| {
        let minute = now() / 60;
        let file = service.settings.registration.directory.join("created");
        std::fs::write(file, format!("{{\"{minute}\":{number}}}")).unwrap();
    };
    count(1);
    assert_eq!(service.ask("POST", "/new").status, 200);
    count(2);
    let answer = service.ask("POST", "/new");
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    assert!(
        answer.json()["reason"].as_str().unwrap().contains("this hour"),
        "{}",
        answer.body
    );
}

#[test]
fn an_unreadable_registration_is_reported() {
    let service = by_invitation();
    let token = invite(&service, 0, now() + 3600);
    let path = service.settings.registration.directory.join(token.id().as_str());
    std::fs::write(path, "{}").unwrap();
    let answer = service.ask("POST", &format!("/new?token={}", token.as_str()));
    assert_eq!(answer.status, 503);
    assert!(service.end().contains("cannot read the registration"));
}
