//! `chatmail website`: the web site of a relay.

mod invitation;
mod output;
mod pages;
mod qr;
mod source;
mod text;

use std::path::PathBuf;

use anyhow::Context as _;
use chatmail_core::Settings;

use invitation::Invitation;

/// Build the web site of the relay from Markdown.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Folder with sources. Can be repeated: files of later folders replace or complement those of earlier ones.
    #[arg(long, required = true, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// Folder for the site. An existing site is replaced atomically, and only if all pages can be built.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<()> {
    let files = source::merge(&cli.source)?;
    let invitation = Invitation::of(settings);
    let mut site = pages::build(&files, settings, &invitation)?;
    if let Some(code) = &invitation.code {
        let (png, svg) = qr::pictures(code).context("cannot generate the QR code")?;
        let name = format!("qr-chatmail-invite-{}", settings.domain);
        site.insert(format!("{name}.png").into(), png);
        site.insert(format!("{name}.svg").into(), svg);
    }
    output::write(&cli.output, &site)
}
