//! The folder of the registration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::denied::Denied;
use super::invitation::{Id, Invitation, State, Token};
use crate::replace::Replacement;
use crate::settings::{Registration, RegistrationMode};

/// Maximum number of invitations.
pub const MAX_INVITATIONS: usize = 1000;

/// File with the numbers of new accounts.
const CREATED: &str = "created";

/// Maximum size of a file that is read; all that are written are smaller.
const MAX_FILE: u64 = 16 * 1024;

/// newemail belongs to the group of the folder.
const MODE: u32 = 0o640;

const MINUTE: u64 = 60;
const HOUR_OF_MINUTES: u64 = 60;

/// Number of accounts by the minute of Unix time in which they were created.
type Created = BTreeMap<u64, u32>;

/// The registration of a relay.
#[derive(Debug, Clone)]
pub struct Register {
    settings: Registration,
}

/// The right to change the registration, until dropped or until the process exits.
#[derive(Debug)]
pub struct Locked {
    register: Register,
    _folder: Flock<File>,
}

impl Register {
    /// The registration of the relay with these settings.
    pub fn new(settings: &Registration) -> Self {
        Self {
            settings: settings.clone(),
        }
    }

    /// Whether creating an account changes the registration, which needs [`Self::try_lock`].
    pub fn counts(&self) -> bool {
        self.by_invitation() || self.settings.max_per_hour.is_some()
    }

    /// Whether a new user needs an invitation.
    pub fn by_invitation(&self) -> bool {
        self.settings.mode == RegistrationMode::Invitation
    }

    /// Checks whether an account can be created at this Unix time, with this token or without one.
    pub fn check(&self, token: Option<&Token>, now: u64) -> io::Result<Result<(), Denied>> {
        if let Some(file) = self.settings.closed_by() {
            return Ok(Err(Denied::ClosedByFile(file.to_owned())));
        }
        if self.settings.mode == RegistrationMode::Closed {
            return Ok(Err(Denied::Closed));
        }
        if self.by_invitation() {
            let invitation = match token {
                Some(token) => self.find(&token.id())?,
                None => None,
            };
            let judged = invitation.map_or(Err(Denied::Uninvited), |invitation| invitation.check(now));
            if judged.is_err() {
                return Ok(judged);
            }
        }
        if let Some(max) = self.settings.max_per_hour
            && self.created_within_an_hour(now)? >= max
        {
            return Ok(Err(Denied::HourlyLimit(max)));
        }
        Ok(Ok(()))
    }

    /// The invitation with this ID.
    pub fn find(&self, id: &Id) -> io::Result<Option<Invitation>> {
        read(&self.path(id))
    }

    /// All invitations, the oldest first.
    pub fn list(&self) -> io::Result<Vec<(Id, Invitation)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.settings.directory)? {
            let Some(id) = entry?.file_name().to_str().and_then(Id::parse) else {
                continue;
            };
            // It may have been revoked meanwhile.
            if let Some(invitation) = self.find(&id)? {
                found.push((id, invitation));
            }
        }
        found.sort_by(|(one, first), (other, second)| (first.created, one).cmp(&(second.created, other)));
        Ok(found)
    }

    /// Number of accounts that first logins created within the last hour. Counted only while there is a limit.
    pub fn created_within_an_hour(&self, now: u64) -> io::Result<u32> {
        let created = self.created(now)?;
        Ok(created.values().fold(0, |sum, count| sum.saturating_add(*count)))
    }

    /// Locks the registration against other processes with `flock(2)` on its folder. None while another process holds
    /// the lock.
    pub fn try_lock(&self) -> io::Result<Option<Locked>> {
        let folder = File::open(&self.settings.directory)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(folder) => Ok(Some(Locked {
                register: self.clone(),
                _folder: folder,
            })),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.settings.directory.join(id.as_str())
    }

    /// The counts of the last hour. A clock that was ahead leaves some in the future, which do not count for longer than
    /// an hour either.
    fn created(&self, now: u64) -> io::Result<Created> {
        let minute = now / MINUTE;
        let mut created: Created = read(&self.settings.directory.join(CREATED))?.unwrap_or_default();
        created.retain(|at, _| at.abs_diff(minute) < HOUR_OF_MINUTES);
        Ok(created)
    }

    fn write(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let folder = &self.settings.directory;
        let mut text = serde_json::to_vec(content)?;
        text.push(b'\n');
        Replacement::with_mode(MODE).write(&folder.join(name), &text)
    }
}

impl Locked {
    /// Stores a new invitation. If there is no room, those that are expired or used up go first; false if there is still
    /// none.
    pub fn add(&self, token: &Token, invitation: &Invitation) -> io::Result<bool> {
        let all = self.register.list()?;
        let mut room = MAX_INVITATIONS.saturating_sub(all.len());
        if room == 0 {
            for (id, other) in &all {
                if other.state(invitation.created) != State::Valid {
                    self.remove(id)?;
                    room += 1;
                }
            }
        }
        if room > 0 {
            self.register.write(token.id().as_str(), invitation)?;
        }
        Ok(room > 0)
    }

    /// Removes an invitation. Accounts that were created with it stay.
    pub fn remove(&self, id: &Id) -> io::Result<()> {
        fs::remove_file(self.register.path(id))?;
        File::open(&self.register.settings.directory)?.sync_all()
    }

    /// Creates an account with `create`, if this is allowed, and counts it exactly once: among the accounts of the hour,
    /// and in the file of the invitation. The entry `pending` remains there if the process ends in the middle; `exists`
    /// says whether the account with this address exists.
    pub fn create(
        &self,
        token: Option<&Token>,
        address: &str,
        now: u64,
        exists: impl Fn(&str) -> bool,
        create: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Result<(), Denied>> {
        let invitation = token.filter(|_| self.register.by_invitation()).map(Token::id);
        if let Some(id) = &invitation {
            self.settle(id, &exists)?;
        }
        if let Err(denied) = self.register.check(token, now)? {
            return Ok(Err(denied));
        }
        self.count(now, |count| count.saturating_add(1))?;
        let begun = invitation
            .as_ref()
            .map_or(Ok(()), |id| self.change(id, |it| it.begin(address)));
        let created = begun.and_then(|()| create());
        // It is certain now whether the account exists. What cannot be written here, as on a full disk, is settled before
        // the next use, and an hour with an account too many only ends the limit early.
        if created.is_err() {
            let _ = self.count(now, |count| count.saturating_sub(1));
        }
        if let Some(id) = &invitation {
            let _ = self.settle(id, &exists);
        }
        created.map(Ok)
    }

    /// Settles the creations that a crash interrupted.
    pub fn recover(&self, exists: impl Fn(&str) -> bool) -> io::Result<()> {
        for (id, invitation) in self.register.list()? {
            if invitation.pending.is_some() {
                self.settle(&id, &exists)?;
            }
        }
        Ok(())
    }

    fn settle(&self, id: &Id, exists: impl Fn(&str) -> bool) -> io::Result<()> {
        match self.register.find(id)? {
            Some(invitation) if invitation.pending.is_some() => self.change(id, |it| it.settle(exists)),
            _ => Ok(()),
        }
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Invitation)) -> io::Result<()> {
        // Nobody removes it meanwhile, because this needs the lock.
        let Some(mut invitation) = self.register.find(id)? else {
            return Ok(());
        };
        change(&mut invitation);
        self.register.write(id.as_str(), &invitation)
    }

    /// Changes the number of accounts of this minute, if there is a limit.
    fn count(&self, now: u64, change: impl FnOnce(u32) -> u32) -> io::Result<()> {
        if self.register.settings.max_per_hour.is_none() {
            return Ok(());
        }
        let mut created = self.register.created(now)?;
        let count = created.entry(now / MINUTE).or_default();
        *count = change(*count);
        self.register.write(CREATED, &created)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    let content = serde_json::from_slice(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    })?;
    Ok(Some(content))
}
