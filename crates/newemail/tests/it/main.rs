//! The real binary, over its Unix socket.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are tests"
)]

mod invitations;
mod service;

use std::collections::HashSet;

use chatmail_core::Address;
use chatmail_core::address::Asker;
use chatmail_core::settings::TlsMode;
use service::Service;

#[test]
fn post_gives_an_address_that_may_be_created() {
    let service = Service::start(|_| {});
    for path in ["/new", "/cgi-bin/newemail.py"] {
        let answer = service.ask("POST", path);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        let keys: Vec<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["email", "password"]);
        let address = Address::parse(body["email"].as_str().unwrap()).unwrap();
        let password = body["password"].as_str().unwrap();
        let settings = &service.settings;
        assert_eq!(
            address.check_new(&settings.domain, password, &settings.accounts, Asker::Anybody),
            Ok(())
        );
        assert_eq!(password.len(), settings.accounts.password_min_length + 3);
    }
}

/// The address may come up later, and the sandbox has no network to bind it in.
#[test]
fn addresses_are_given_out_without_an_address_for_metrics() {
    let nowhere = "192.0.2.1:3909".parse().unwrap();
    let service = Service::start(|settings| {
        settings.metrics = Some(chatmail_core::settings::Metrics {
            doveauth: nowhere,
            filtermail_incoming: nowhere,
            filtermail_mxdeliv: nowhere,
            filtermail_transport: nowhere,
            filtermail_outgoing: nowhere,
            lastlogin: nowhere,
            metadata: nowhere,
            newemail: nowhere,
            websocket: nowhere,
        });
    });
    assert_eq!(service.ask("POST", "/new").status, 200);
}

#[test]
fn no_two_answers_are_the_same() {
    let service = Service::start(|settings| settings.web.new_addresses_per_minute = 200);
    let answers: HashSet<_> = (0..200).map(|_| service.ask("POST", "/new").body).collect();
    assert_eq!(answers.len(), 200);
}

#[test]
fn get_leads_to_the_app() {
    let service = Service::start(|_| {});
    let answer = service.ask("GET", "/new");
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some("dcaccount:https://chat.example.org/new")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn a_self_signed_relay_answers_get_with_a_link_of_its_own() {
    let service = Service::start(|settings| {
        settings.domain = "_a.test".to_owned();
        settings.tls.mode = TlsMode::SelfSigned;
    });
    for method in ["GET", "POST"] {
        let answer = service.ask(method, "/new");
        assert_eq!(answer.status, 200);
        let body = answer.json();
        let start = format!("dclogin:{}?p=", body["email"].as_str().unwrap());
        let link = body["dclogin_url"].as_str().unwrap();
        assert!(link.starts_with(&start) && link.ends_with("&v=1&ic=3"), "{link}");
    }
}

#[test]
fn a_self_signed_relay_leads_browsers_to_the_app() {
    let service = Service::start(|settings| {
        settings.domain = "_a.test".to_owned();
        settings.tls.mode = TlsMode::SelfSigned;
    });
    let answer = service.ask("GET", "/new?format=link");
    assert_eq!(answer.status, 302);
    let link = answer.header("location").unwrap();
    assert!(
        link.starts_with("dclogin:") && link.contains("@_a.test?p="),
        "{link}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let answer = service.ask("GET", "/new?format=svg");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("image/svg+xml"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.body.contains("<svg"), "{}", answer.body);

    assert_eq!(service.ask("GET", "/new?format=json").status, 200);
    assert_eq!(service.ask("GET", "/new?format=png").status, 400);
}

#[test]
fn the_limit_holds_over_both_paths_and_says_when_to_come_back() {
    let service = Service::start(|settings| settings.web.new_addresses_per_minute = 2);
    assert_eq!(service.ask("POST", "/new").status, 200);
    assert_eq!(service.ask("POST", "/cgi-bin/newemail.py").status, 200);
    let answer = service.ask("POST", "/new");
    assert_eq!(answer.status, 429);
    assert!(!answer.json()["reason"].as_str().unwrap().is_empty());
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    // A link to the app does not count against the limit.
    assert_eq!(service.ask("GET", "/new").status, 301);
}

#[test]
fn what_is_not_served_is_refused_with_a_reason() {
    let service = Service::start(|_| {});
    for (method, path, status) in [
        ("PUT", "/new", 405),
        ("DELETE", "/new", 405),
        ("GET", "/cgi-bin/newemail.py", 405),
        ("POST", "/", 404),
        ("GET", "/new/", 404),
        ("GET", "/cgi-bin/../etc/passwd", 404),
    ] {
        let answer = service.ask(method, path);
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(!answer.json()["reason"].as_str().unwrap().is_empty());
        assert_eq!(
            answer.header("allow").is_some(),
            status == 405,
            "{method} {path}: RFC 9110 section 15.5.6"
        );
    }
}

#[test]
fn credentials_never_reach_the_log() {
    let service = Service::start(|settings| settings.web.new_addresses_per_minute = 3);
    let bodies: Vec<_> = (0..4).map(|_| service.ask("POST", "/new").json()).collect();
    let log = service.end();
    assert!(log.contains("too many requests for new addresses"), "{log}");
    for body in bodies.iter().filter(|body| body.get("email").is_some()) {
        for key in ["email", "password"] {
            assert!(!log.contains(body[key].as_str().unwrap()), "{log}");
        }
    }
}
