//! How a visitor gets an account.

use chatmail_core::Settings;
use chatmail_core::settings::TlsMode;

/// The invitation that leads a visitor to an account.
pub(super) struct Invitation {
    /// The link to tap.
    pub(super) link: String,
    /// Path of the QR code from the root of the site.
    pub(super) picture: String,
    /// Content of the QR code, if it is a file of the site.
    pub(super) code: Option<String>,
}

impl Invitation {
    pub(super) fn of(settings: &Settings) -> Self {
        let domain = &settings.domain;
        match settings.tls.mode {
            TlsMode::Acme | TlsMode::External => Self {
                link: format!("dcaccount:https://{domain}/new"),
                picture: format!("qr-chatmail-invite-{domain}.svg"),
                code: Some(format!("DCACCOUNT:https://{domain}/new")),
            },
            // Clients accept the certificate only through a link with an account, which newemail generates for each
            // visitor.
            TlsMode::SelfSigned => Self {
                link: "/new?format=link".to_owned(),
                picture: "/new?format=svg".to_owned(),
                code: None,
            },
        }
    }
}
