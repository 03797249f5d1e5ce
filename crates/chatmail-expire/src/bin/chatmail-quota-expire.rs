//! Frees space in one mailbox. Dovecot runs this when a mailbox is nearly full, in bytes or in messages.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use chatmail_core::SettingsFile;
use chatmail_expire::apply;
use chatmail_expire::output::{self, Log, unix_seconds};
use chatmail_expire::plan::Rules;
use chatmail_expire::store::Store;
use clap::Parser;

/// Remove messages of a mailbox to stay below a size in megabytes, and well below the maximum number of messages.
///
/// The oldest messages are removed first; those of the last 24 hours stay.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    settings: SettingsFile,
    /// Target size of the mailbox in megabytes (1024 * 1024 bytes).
    target_mb: u64,
    /// Path of the mailbox, which has to be in the relay's mail store.
    mailbox_path: PathBuf,
}

fn main() -> ExitCode {
    output::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let settings = cli.settings.load()?;
    let rules = Rules::new(&settings.mailboxes, unix_seconds(SystemTime::now()));
    let name = mailbox_name(&cli.mailbox_path, &settings.mailboxes.directory)?;
    let log = Log::new(false);

    let mailbox = match Store::open(&settings.mailboxes.directory)? {
        Some(store) => store.mailbox(&name)?,
        None => None,
    };
    let Some(mailbox) = mailbox else {
        bail!("{} is not a mailbox", cli.mailbox_path.display());
    };
    let target = cli.target_mb.saturating_mul(1024 * 1024);
    let (messages, until) = (rules.trim_messages_to, rules.trim_until);
    let removed = apply::expire_to_target(&mailbox, target, messages, until, &log)?;
    if removed > 0 {
        log.line(format_args!("{}", apply::quota_line(&mailbox, removed)));
    }
    Ok(log.exit_code())
}

/// Name of the mailbox in the store. Any other path is rejected, whatever links and `..` it contains.
fn mailbox_name(path: &Path, store: &Path) -> anyhow::Result<CString> {
    let unreachable = |path: &Path| format!("cannot find {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{} is not a mailbox", path.display());
    };
    let parent = parent.canonicalize().with_context(|| unreachable(parent))?;
    let store = store.canonicalize().with_context(|| unreachable(store))?;
    if parent != store || !name.as_bytes().contains(&b'@') || name.as_bytes().starts_with(b".") {
        bail!("{} is not a mailbox of {}", path.display(), store.display());
    }
    Ok(CString::new(name.as_bytes())?)
}
