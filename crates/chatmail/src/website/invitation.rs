//! How a visitor gets an account.

use chatmail_core::Settings;
use chatmail_core::settings::{RegistrationMode, TlsMode};
use minijinja::value::Value;

/// What nginx replaces by the token of the request, with an SSI command.
pub(super) const TOKEN: &str = r#"<!--# echo var="chatmail_token" -->"#;

/// The invitation that leads a visitor to an account.
pub(super) struct Invitation {
    /// Whether it leads there; otherwise, visitors are told what they need.
    pub(super) open: bool,
    /// The link to tap.
    pub(super) link: Value,
    /// Path of the QR code from the root of the site.
    pub(super) picture: Value,
    /// Content of the QR code, if it is a file of the site.
    pub(super) code: Option<String>,
}

impl Invitation {
    /// The invitation for everybody.
    pub(super) fn of(settings: &Settings) -> Self {
        let domain = &settings.domain;
        let open = settings.registration.mode == RegistrationMode::Open;
        match settings.tls.mode {
            TlsMode::Acme | TlsMode::External => Self {
                open,
                link: format!("dcaccount:https://{domain}/new").into(),
                picture: format!("qr-chatmail-invite-{domain}.svg").into(),
                code: open.then(|| format!("DCACCOUNT:https://{domain}/new")),
            },
            // Clients accept the certificate only through a link with an account, which newemail generates for each
            // visitor.
            TlsMode::SelfSigned => Self {
                open,
                link: "/new?format=link".into(),
                picture: "/new?format=svg".into(),
                code: None,
            },
        }
    }

    /// The invitation on the page for visitors with a token.
    pub(super) fn with_token(settings: &Settings) -> Self {
        let link = match settings.tls.mode {
            TlsMode::Acme | TlsMode::External => {
                format!("dcaccount:https://{}/new?token={TOKEN}", settings.domain)
            }
            TlsMode::SelfSigned => format!("/new?format=link&amp;token={TOKEN}"),
        };
        Self {
            open: true,
            link: Value::from_safe_string(link),
            picture: Value::from_safe_string(format!("/new?format=svg&amp;token={TOKEN}")),
            code: None,
        }
    }
}
