//! `chatmail website`: the pages that a relay shows in a browser.

mod output;
mod pages;
mod qr;
mod source;
mod text;

use std::path::PathBuf;

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::settings::TlsMode;

/// Build the web site of the relay from Markdown.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Folder of sources. May be given again: files of later folders replace those of earlier ones, and add to them.
    #[arg(long, required = true, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// Folder that the site is written to. A site that is there is replaced as a whole, and only when all pages are right.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// What leads a visitor to an account.
struct Invitation {
    /// The link to tap.
    link: String,
    /// The picture to scan, seen from the root of the site.
    picture: String,
    /// What the picture holds, where it is one of the site's files.
    code: Option<String>,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<()> {
    let files = source::merge(&cli.source)?;
    let invitation = Invitation::of(settings);
    let mut site = pages::build(&files, settings, &invitation)?;
    if let Some(code) = &invitation.code {
        let (png, svg) = qr::pictures(code).context("cannot draw the QR code")?;
        let name = format!("qr-chatmail-invite-{}", settings.domain);
        site.insert(format!("{name}.png").into(), png);
        site.insert(format!("{name}.svg").into(), svg);
    }
    output::write(&cli.output, &site)
}

impl Invitation {
    fn of(settings: &Settings) -> Self {
        let domain = &settings.domain;
        match settings.tls.mode {
            TlsMode::Acme | TlsMode::External => Self {
                link: format!("dcaccount:https://{domain}/new"),
                picture: format!("qr-chatmail-invite-{domain}.svg"),
                code: Some(format!("DCACCOUNT:https://{domain}/new")),
            },
            // Clients have to be told to accept the certificate, which takes a link with an account of its own for
            // every visitor: newemail makes it.
            TlsMode::SelfSigned => Self {
                link: "/new?format=link".to_owned(),
                picture: "/new?format=svg".to_owned(),
                code: None,
            },
        }
    }
}
