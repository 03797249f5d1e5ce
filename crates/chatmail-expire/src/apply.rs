//! Applies decisions to one mailbox.

use std::ffi::{CStr, CString};
use std::ops::AddAssign;
use std::rc::Rc;

use chatmail_core::maildir::{Found, Mailbox, Message, MessageDir, Metadata, Part, Problem};

use crate::output::{Log, utc_day};
use crate::plan::{AccountVerdict, MessageVerdict, Rules, Trim};
use crate::store::{Removal, Store};

/// Maximum number of messages to remove in one round; a mailbox with more takes several rounds.
const ROUND: usize = 16_384;

/// File of Dovecot's `maildir` quota, which migrated relays have. It still counts removed messages, and Dovecot creates
/// it again if it is missing. The `count` quota of Dovecot 2.4 ignores it.
const MAILDIRSIZE: &CStr = c"maildirsize";

/// Dovecot's list of subscribed folders. Names of removed folders stay in it, so it can grow without limit.
const SUBSCRIPTIONS: &CStr = c"subscriptions";

/// Maximum size of this file in bytes: far more than a mailbox with the maximum number of folders needs.
const MAX_SUBSCRIPTIONS: u64 = 256 * 1024;

/// Whether a run removes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Writes, moves and removes nothing; all numbers are those of a real run.
    DryRun,
    /// Removes what the plan decides.
    Remove,
}

/// Sums of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Mailboxes seen.
    pub mailboxes: u64,
    /// Mailboxes removed, empty folders included.
    pub mailboxes_removed: u64,
    /// Messages in mailboxes that were not removed, including the removed messages.
    pub files: u64,
    /// Messages removed from these mailboxes.
    pub files_removed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.mailboxes += other.mailboxes;
        self.mailboxes_removed += other.mailboxes_removed;
        self.files += other.files;
        self.files_removed += other.files_removed;
    }
}

/// The position of a message in a mailbox.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    folder: Rc<CStr>,
    part: Part,
    name: CString,
}

/// Applies all rules to one mailbox of the store.
pub fn expire(store: &Store, name: &CStr, rules: &Rules, mode: Mode, log: &Log, tally: &mut Tally) {
    let result = store.mailbox(name).and_then(|mailbox| match mailbox {
        Some(mailbox) => {
            tally.mailboxes += 1;
            expire_mailbox(store, &mailbox, name, rules, mode, log, tally)
        }
        None => Ok(()),
    });
    if let Err(problem) = result {
        log.problem(&problem);
    }
}

fn expire_mailbox(
    store: &Store,
    mailbox: &Mailbox,
    name: &CStr,
    rules: &Rules,
    mode: Mode,
    log: &Log,
    tally: &mut Tally,
) -> Result<(), Problem> {
    let last_login = mailbox.last_login()?;
    match rules.account(last_login) {
        AccountVerdict::Keep => {
            log.detail(|| {
                format!(
                    "checking mailbox {} {}",
                    utc_day(last_login.unwrap_or_default()),
                    mailbox.path().display()
                )
            });
            expire_messages(mailbox, rules, mode, log, tally)
        }
        AccountVerdict::Inactive => {
            if mode == Mode::DryRun || store.remove_inactive(name, rules)? == Removal::Removed {
                log.detail(|| format!("{} {}", removing(mode), mailbox.path().display()));
                tally.mailboxes_removed += 1;
            }
            Ok(())
        }
        AccountVerdict::NoAccount => {
            let removed = match mode {
                Mode::DryRun => store.is_remains(name)?,
                Mode::Remove => store.remove_remains(name)?,
            };
            if removed {
                log.detail(|| format!("{} {}", removing(mode), mailbox.path().display()));
                tally.mailboxes_removed += 1;
            } else {
                log.detail(|| {
                    format!(
                        "Skipped deleting {}, doesn't have last_login but isn't empty",
                        mailbox.path().display()
                    )
                });
            }
            Ok(())
        }
    }
}

fn expire_messages(
    mailbox: &Mailbox,
    rules: &Rules,
    mode: Mode,
    log: &Log,
    tally: &mut Tally,
) -> Result<(), Problem> {
    let (mut held, mut count) = (0_u64, 0_u64);
    let mut removed = 0;
    mailbox.messages(&mut |found| {
        let message = match found {
            Found::Message(message) => message,
            Found::Problem(problem) => return log.problem(&problem),
            Found::Extra(_) => return,
        };
        tally.files += 1;
        let metadata = match message.metadata() {
            Ok(Some(metadata)) => metadata,
            Ok(None) => return,
            Err(problem) => return log.problem(&problem),
        };
        if rules.message(message.dir.part(), metadata) == MessageVerdict::Keep {
            held = held.saturating_add(quota_bytes(&message, metadata));
            count += u64::from(message.dir.part() != Part::Tmp);
            return;
        }
        match remove(&message, mode) {
            Ok(true) => {
                log.detail(|| {
                    format!(
                        "{} {} {}",
                        removing(mode),
                        utc_day(metadata.modified),
                        message.path().display()
                    )
                });
                removed += 1;
            }
            Ok(false) => {}
            Err(problem) => log.problem(&problem),
        }
    });
    let kept = |message: &Message<'_>| -> Result<Option<(i64, u64)>, Problem> {
        Ok(message
            .metadata()?
            .filter(|&metadata| rules.message(message.dir.part(), metadata) == MessageVerdict::Keep)
            .map(|metadata| quota_key(message, metadata)))
    };
    let until = rules.trim_until;
    let for_bytes = trim(mailbox, rules.trim_to, until, Some(held), &kept, mode, log);
    let one_each = |message: &Message<'_>| Ok(kept(message)?.map(|(delivered, _)| (delivered, 1)));
    let target = rules.trim_messages_to;
    let trimmed = match mode {
        // Both would begin with the oldest messages, which a dry run leaves.
        Mode::DryRun => for_bytes.max(trim(mailbox, target, until, Some(count), &one_each, mode, log)),
        Mode::Remove => {
            let left = count.saturating_sub(for_bytes);
            for_bytes + trim(mailbox, target, until, Some(left), &one_each, mode, log)
        }
    };
    if trimmed > 0 {
        log.detail(|| match mode {
            Mode::DryRun => format!(
                "would remove {trimmed} message(s) for the quota of {}",
                mailbox.path().display()
            ),
            Mode::Remove => quota_line(mailbox, trimmed),
        });
    }
    removed += trimmed;
    tally.files_removed += removed;
    if mode == Mode::Remove && mailbox.size_of(SUBSCRIPTIONS)? > MAX_SUBSCRIPTIONS {
        mailbox.unlink(SUBSCRIPTIONS)?;
    }
    if removed > 0 && mode == Mode::Remove {
        mailbox.unlink(MAILDIRSIZE)?;
    }
    Ok(())
}

/// Reduces one mailbox to `bytes` and `messages`: removes the oldest messages first, and none delivered after `until`.
/// Returns the number of removed messages.
pub fn expire_to_target(
    mailbox: &Mailbox,
    bytes: u64,
    messages: u64,
    until: i64,
    log: &Log,
) -> Result<u64, Problem> {
    let one_each = |message: &Message<'_>| Ok(known_quota_key(message)?.map(|(delivered, _)| (delivered, 1)));
    let removed = trim(mailbox, bytes, until, None, &known_quota_key, Mode::Remove, log)
        + trim(mailbox, messages, until, None, &one_each, Mode::Remove, log);
    if removed > 0 {
        mailbox.unlink(MAILDIRSIZE)?;
    }
    Ok(removed)
}

/// The log line about messages removed for the quota, which mtail counts.
pub fn quota_line(mailbox: &Mailbox, removed: u64) -> String {
    let name = mailbox.path().file_name().unwrap_or_default();
    format!(
        "quota-expire: removed {removed} message(s) from {}",
        name.display()
    )
}

/// Second of delivery and quota bytes (or count) of a message; none if the message is ignored.
type Key<'a> = &'a dyn Fn(&Message<'_>) -> Result<Option<(i64, u64)>, Problem>;

/// Reduces a mailbox to `target`; `held` is its current amount, if the caller knows it.
fn trim(
    mailbox: &Mailbox,
    target: u64,
    until: i64,
    held: Option<u64>,
    key: Key<'_>,
    mode: Mode,
    log: &Log,
) -> u64 {
    let mut removed = 0;
    let mut held = held;
    loop {
        let now_held = held.take().unwrap_or_else(|| {
            let mut sum = 0_u64;
            each(mailbox, key, log, &mut |_, _, bytes| {
                sum = sum.saturating_add(bytes)
            });
            sum
        });
        let excess = now_held.saturating_sub(target);
        if excess == 0 {
            return removed;
        }
        // A dry run has no second round, because the first changes nothing.
        let limit = if mode == Mode::DryRun { usize::MAX } else { ROUND };
        let mut trim = Trim::new(excess, until, limit);
        let mut folder: Rc<CStr> = Rc::from(c"");
        each(mailbox, key, log, &mut |message, delivered, bytes| {
            trim.offer(delivered, bytes, || {
                if *folder != *message.dir.folder() {
                    folder = Rc::from(message.dir.folder());
                }
                Place {
                    folder: Rc::clone(&folder),
                    part: message.dir.part(),
                    name: message.name.to_owned(),
                }
            });
        });
        let problems = log.problems();
        let gone = match mode {
            Mode::DryRun => trim.into_oldest_first().len() as u64,
            Mode::Remove => unlink_all(
                mailbox,
                trim.into_oldest_first().into_iter().map(|one| one.message),
                log,
            ),
        };
        removed += gone;
        // Another round finds messages that were renamed meanwhile or did not fit into this one. It is the last if it
        // removes nothing or fails to remove a message.
        if mode == Mode::DryRun || gone == 0 || log.problems() > problems {
            return removed;
        }
    }
}

/// Visits the messages that count against the quota: all except those in `tmp`.
fn each(mailbox: &Mailbox, key: Key<'_>, log: &Log, visit: &mut dyn FnMut(&Message<'_>, i64, u64)) {
    mailbox.messages(&mut |found| match found {
        Found::Message(message) if message.dir.part() != Part::Tmp => match key(&message) {
            Ok(Some((delivered, bytes))) => visit(&message, delivered, bytes),
            Ok(None) => {}
            Err(problem) => log.problem(&problem),
        },
        Found::Problem(problem) => log.problem(&problem),
        Found::Message(_) | Found::Extra(_) => {}
    });
}

fn unlink_all(mailbox: &Mailbox, places: impl Iterator<Item = Place>, log: &Log) -> u64 {
    let mut open: Option<MessageDir> = None;
    let mut removed = 0;
    for place in places {
        let is_open = open
            .as_ref()
            .is_some_and(|dir| dir.part() == place.part && dir.folder() == &*place.folder);
        if !is_open {
            open = match mailbox.message_dir(&place.folder, place.part) {
                Ok(dir) => dir,
                Err(problem) => {
                    log.problem(&problem);
                    None
                }
            };
        }
        match open.as_ref().map(|dir| dir.unlink(&place.name)) {
            Some(Ok(true)) => removed += 1,
            Some(Err(problem)) => log.problem(&problem),
            Some(Ok(false)) | None => {}
        }
    }
    removed
}

fn remove(message: &Message<'_>, mode: Mode) -> Result<bool, Problem> {
    match mode {
        Mode::DryRun => Ok(true),
        Mode::Remove => message.dir.unlink(message.name),
    }
}

fn removing(mode: Mode) -> &'static str {
    match mode {
        Mode::DryRun => "would remove",
        Mode::Remove => "removing",
    }
}

/// Bytes that count against the quota; the size of the file if its name does not contain them.
fn quota_bytes(message: &Message<'_>, metadata: Metadata) -> u64 {
    match message.dir.part() {
        Part::Tmp => 0,
        Part::Cur | Part::New => message.parsed().size.unwrap_or(metadata.bytes),
    }
}

fn quota_key(message: &Message<'_>, metadata: Metadata) -> (i64, u64) {
    let name = message.parsed();
    (
        name.delivered.unwrap_or(metadata.modified),
        name.size.unwrap_or(metadata.bytes),
    )
}

/// Reads the metadata of the file only if the name does not contain the key.
fn known_quota_key(message: &Message<'_>) -> Result<Option<(i64, u64)>, Problem> {
    let name = message.parsed();
    match (name.delivered, name.size) {
        (Some(delivered), Some(size)) => Ok(Some((delivered, size))),
        _ => Ok(message.metadata()?.map(|metadata| quota_key(message, metadata))),
    }
}
