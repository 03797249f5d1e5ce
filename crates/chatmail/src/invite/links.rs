//! Where an invitation leads.

use chatmail_core::Settings;
use chatmail_core::registration::Token;
use chatmail_core::settings::TlsMode;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// White on black, as a QR code on paper has it the other way round, and back.
const COLORS: (&str, &str) = ("\x1b[97;40m", "\x1b[0m");

/// The links of an invitation.
pub(super) struct Links {
    /// A page of the web site.
    pub(super) page: String,
    /// A link for the app; none if apps would not accept the relay's certificate.
    pub(super) app: Option<String>,
}

impl Links {
    pub(super) fn new(settings: &Settings, token: &Token) -> Self {
        let token = token.as_str();
        // An address literal is the host in brackets.
        let host = settings.domain.trim_start_matches('[').trim_end_matches(']');
        // Apps accept a self-signed certificate of such a name.
        let accepted = settings.tls.mode != TlsMode::SelfSigned || host.starts_with('_');
        Self {
            page: format!("https://{host}/invite?token={token}"),
            app: accepted.then(|| format!("DCACCOUNT:https://{host}/new?token={token}")),
        }
    }

    /// A QR code of the link for the app, or of the page, for a terminal whose colours are set, or for a file or a
    /// dark terminal.
    pub(super) fn picture(&self, colour: bool) -> anyhow::Result<String> {
        let link = self.app.as_ref().unwrap_or(&self.page);
        let code = QrCode::with_error_correction_level(link, EcLevel::L)?;
        let picture = code
            .render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build();
        let (begin, end) = if colour { COLORS } else { ("", "") };
        let lines = picture.lines().map(|line| format!("{begin}{line}{end}\n"));
        Ok(format!("\n{}", lines.collect::<String>()))
    }
}
