//! `chatmail account`: the accounts of the relay.

pub(crate) mod change;
mod list;
mod store;

use std::fmt::Write as _;
use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use chatmail_core::address::Asker;
use chatmail_core::{Address, Settings, generate, password};

pub(crate) use self::list::size;
pub(crate) use self::store::as_owner_of;
use self::store::{as_owner, existing};

/// List, show, create, delete, ban and unban accounts.
#[derive(clap::Args)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all accounts with the day of the last login and the size.
    List {
        /// List only banned accounts.
        #[arg(long)]
        banned: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one account.
    Show {
        /// Address or its local part.
        address: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create an account, even while registration is closed, and print its password.
    Create {
        /// Address or its local part; random if it is omitted.
        address: Option<String>,
        /// Read the password from standard input instead of generating one.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove an account with all of its mail.
    Delete {
        /// Address or its local part.
        address: String,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Reject logins to an account and bounce mail to it. Its files stay.
    Ban {
        /// Address or its local part.
        address: String,
    },
    /// Lift a ban: the old password works again.
    Unban {
        /// Address or its local part.
        address: String,
    },
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let text = match &cli.command {
        Command::List { banned, json } => list::all(settings, *banned, *json)?,
        Command::Show { address, json } => list::one(settings, &parse(address, settings)?, *json)?,
        Command::Create {
            address,
            password_stdin,
        } => return create(settings, address.as_deref(), *password_stdin),
        Command::Delete { address, yes } => {
            let address = parse(address, settings)?;
            as_owner(settings, || existing(settings, &address).map(drop))?;
            if !yes {
                confirm(&address)?;
            }
            change::delete(settings, &address)?
        }
        Command::Ban { address } => change::ban(settings, &parse(address, settings)?)?,
        Command::Unban { address } => change::unban(settings, &parse(address, settings)?)?,
    };
    let json = matches!(
        cli.command,
        Command::List { json: true, .. } | Command::Show { json: true, .. }
    );
    Ok(if json {
        text.into()
    } else {
        crate::Answer::folded(&text)
    })
}

/// Parses an address of this relay; the domain may be omitted.
fn parse(text: &str, settings: &Settings) -> anyhow::Result<Address> {
    let whole = if text.contains('@') {
        text.to_owned()
    } else {
        format!("{text}@{}", settings.domain)
    };
    let address = Address::parse(&whole).with_context(|| format!("{text:?} names no account"))?;
    ensure!(
        address.domain() == settings.domain,
        "{address} is not an address of this relay, whose domain is {}",
        settings.domain
    );
    Ok(address)
}

fn create(settings: &Settings, address: Option<&str>, from_stdin: bool) -> anyhow::Result<crate::Answer> {
    let rules = &settings.accounts;
    let mut random = rand::rng();
    let secret = if from_stdin {
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("cannot read the password")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        generate::password(rules, &mut random)
    };
    let address = match address {
        Some(address) => parse(address, settings)?,
        None => parse(&generate::localpart(rules, &mut random), settings)?,
    };
    address
        .check_new(&settings.domain, &secret, rules, Asker::Operator)
        .with_context(|| format!("cannot create {address}"))?;
    let hash = password::hash(secret.as_bytes(), &mut password::Scratch::default())?;
    change::create(settings, &address, &hash)?;
    let text = created(&address, (!from_stdin).then_some(&secret));
    Ok(crate::Answer::folded(&text).if_lost(unseen(&address, from_stdin)))
}

/// Names the password only if it is a new one.
fn created(address: &Address, secret: Option<&str>) -> String {
    let mut text = format!("Created address: {address}\n");
    if let Some(secret) = secret {
        let _ = writeln!(text, "Password: {secret}");
    }
    text
}

/// What has happened although nobody got the output.
fn unseen(address: &Address, known: bool) -> String {
    if known {
        format!("{address} was created, with the password from standard input")
    } else {
        format!(
            "{address} was created, but its password is lost: run `chatmail account delete {address}`, and create the account again"
        )
    }
}

fn confirm(address: &Address) -> anyhow::Result<()> {
    let mut out = std::io::stderr().lock();
    let question = write!(
        out,
        "Remove {address} and all of its mail? Type the address to confirm: "
    );
    question
        .and_then(|()| out.flush())
        .context("cannot ask for confirmation; use --yes to skip it")?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the confirmation")?;
    if line.trim() != address.as_str() {
        bail!("not confirmed; nothing was removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{folded, human};

    #[test]
    fn the_output_fits_80_columns() {
        let short = Address::parse("x02crvlgj@chat.example.org").unwrap();
        let long = Address::parse(&format!("{}@chat.example.org", "x".repeat(60))).unwrap();
        let both = |text: fn(&Address) -> String| folded(&(text(&short) + &text(&long)));
        human::check(
            "account create",
            &both(|address| created(address, Some("{;R4njI\"#)*D")) + &created(address, None)),
        );
        human::check("account delete", &both(change::deleted));
        human::check("account ban", &both(change::banned));
        human::check("account unban", &both(change::unbanned));
    }
}
