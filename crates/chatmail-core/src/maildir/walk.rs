//! The walk over a mailbox.
//!
//! Every step opens a name without `/` relative to an open folder and follows no symbolic links, so the walk stays in
//! the mailbox whatever happens to the tree meanwhile. Dovecot renames and removes messages all the time, so files that
//! vanish between two steps are silently skipped.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::name::{MessageName, Part};

/// Depth to which folders in a mailbox are counted that are neither message folders nor Maildir++ folders. Dovecot
/// creates none; the limit keeps an unusual tree from exhausting file descriptors.
const MAX_EXTRA_DEPTH: usize = 16;

/// A mailbox with its folder open.
#[derive(Debug)]
pub struct Mailbox {
    fd: OwnedFd,
    path: PathBuf,
}

/// One of the folders `cur`, `new` and `tmp`, open.
#[derive(Debug)]
pub struct MessageDir {
    fd: OwnedFd,
    path: PathBuf,
    folder: CString,
    part: Part,
}

/// A regular file in a message folder.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The folder of the message.
    pub dir: &'a MessageDir,
    /// Name of the file, with flags.
    pub name: &'a CStr,
}

/// Metadata of a message file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Second of the last modification in Unix time; for Dovecot the message's internal date.
    pub modified: i64,
    /// Bytes of the file, after compression.
    pub bytes: u64,
}

/// A step of the walk.
#[derive(Debug)]
pub enum Found<'a> {
    /// A message.
    Message(Message<'a>),
    /// Size in bytes of a regular file that is not a message.
    Extra(u64),
    /// A file or folder could not be read; the walk continues without it.
    Problem(Problem),
}

/// A file or folder could not be read or removed. Nothing else is affected.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl Problem {
    /// A problem with this file or folder.
    pub fn new(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self {
            path: path.into(),
            source: source.into(),
        }
    }
}

impl Mailbox {
    /// Opens the mailbox `name` in the open folder `store`; `store_path` is only used in messages. None if it does not
    /// exist or is not a folder; a symbolic link is not a folder.
    pub fn open(store: impl AsFd, store_path: &Path, name: &CStr) -> Result<Option<Self>, Problem> {
        let path = store_path.join(os_str(name));
        match open_dir(store, name) {
            Ok(fd) => Ok(fd.map(|fd| Self { fd, path })),
            Err(source) => Err(Problem { path, source }),
        }
    }

    /// Path of the mailbox when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Second of the last login in Unix time: the modification time of the password file. None if there is no such
    /// file.
    pub fn last_login(&self) -> Result<Option<i64>, Problem> {
        stat_file(&self.fd, c"password")
            .map(|file| file.map(|metadata| metadata.modified))
            .map_err(|source| Problem::new(self.path.join("password"), source))
    }

    /// Removes a file of the mailbox itself; false if there was none.
    pub fn unlink(&self, name: &CStr) -> Result<bool, Problem> {
        unlink(&self.fd, name).map_err(|source| Problem::new(self.path.join(os_str(name)), source))
    }

    /// Size of a file of the mailbox itself; 0 if there is none.
    pub fn size_of(&self, name: &CStr) -> Result<u64, Problem> {
        stat_file(&self.fd, name)
            .map(|file| file.map_or(0, |metadata| metadata.bytes))
            .map_err(|source| Problem::new(self.path.join(os_str(name)), source))
    }

    /// Opens a message folder; `folder` is empty for INBOX, else the name of a hidden folder. None if it does not
    /// exist.
    pub fn message_dir(&self, folder: &CStr, part: Part) -> Result<Option<MessageDir>, Problem> {
        if folder.is_empty() {
            return open_part(&self.fd, &self.path, folder, part);
        }
        let path = self.path.join(os_str(folder));
        match open_dir(&self.fd, folder) {
            Ok(Some(fd)) => open_part(&fd, &path, folder, part),
            Ok(None) => Ok(None),
            Err(source) => Err(Problem { path, source }),
        }
    }

    /// Visits every message of every folder, in no particular order. A message may be removed while it is visited.
    pub fn messages(&self, visit: &mut dyn FnMut(Found<'_>)) {
        self.walk(false, visit);
    }

    /// Visits every message and every other regular file.
    pub fn files(&self, visit: &mut dyn FnMut(Found<'_>)) {
        self.walk(true, visit);
    }

    fn walk(&self, extras: bool, visit: &mut dyn FnMut(Found<'_>)) {
        walk_folder(&self.fd, &self.path, c"", extras, visit);
    }
}

impl MessageDir {
    /// Name of its Maildir++ folder; empty for INBOX.
    pub fn folder(&self) -> &CStr {
        &self.folder
    }

    /// Which of the three folders it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Removes a message; false if it has vanished, which also happens when a flag is set.
    pub fn unlink(&self, name: &CStr) -> Result<bool, Problem> {
        unlink(&self.fd, name).map_err(|source| Problem::new(self.path.join(os_str(name)), source))
    }

    fn messages(&self, visit: &mut dyn FnMut(Found<'_>)) {
        each_entry(&self.fd, &self.path, visit, &mut |name, kind, visit| {
            if kind == Type::File {
                visit(Found::Message(Message { dir: self, name }));
            }
        });
    }
}

impl<'a> Message<'a> {
    /// The information in its name.
    pub fn parsed(&self) -> MessageName<'a> {
        MessageName::parse(self.name.to_bytes())
    }

    /// Metadata of its file; none if it has vanished.
    pub fn metadata(&self) -> Result<Option<Metadata>, Problem> {
        stat_file(&self.dir.fd, self.name).map_err(|source| Problem::new(self.path(), source))
    }

    /// Its path, for messages.
    pub fn path(&self) -> PathBuf {
        self.dir.path.join(os_str(self.name))
    }
}

/// Walks one Maildir++ folder; INBOX (empty name) contains the others.
fn walk_folder(fd: &OwnedFd, path: &Path, folder: &CStr, extras: bool, visit: &mut dyn FnMut(Found<'_>)) {
    let inbox = folder.is_empty();
    // Only three names matter in a folder other than INBOX; its other entries are read only for their size.
    if !inbox && !extras {
        for part in Part::ALL {
            walk_part(fd, path, folder, part, visit);
        }
        return;
    }
    each_entry(fd, path, visit, &mut |name, kind, visit| match kind {
        Type::Directory => {
            if let Some(part) = Part::ALL.into_iter().find(|part| part.dir_name() == name) {
                walk_part(fd, path, folder, part, visit);
            } else if inbox && name.to_bytes().starts_with(b".") {
                descend(fd, path, name, visit, |fd, path, visit| {
                    walk_folder(fd, path, name, extras, visit);
                });
            } else if extras {
                descend(fd, path, name, visit, |fd, path, visit| {
                    walk_extra(fd, path, MAX_EXTRA_DEPTH, visit);
                });
            }
        }
        Type::File if extras => visit_extra(fd, path, name, visit),
        _ => {}
    });
}

fn walk_part(fd: &OwnedFd, path: &Path, folder: &CStr, part: Part, visit: &mut dyn FnMut(Found<'_>)) {
    match open_part(fd, path, folder, part) {
        Ok(Some(dir)) => dir.messages(visit),
        Ok(None) => {}
        Err(problem) => visit(Found::Problem(problem)),
    }
}

fn walk_extra(fd: &OwnedFd, path: &Path, depth: usize, visit: &mut dyn FnMut(Found<'_>)) {
    let Some(depth) = depth.checked_sub(1) else {
        visit(Found::Problem(Problem::new(path, Errno::ELOOP)));
        return;
    };
    each_entry(fd, path, visit, &mut |name, kind, visit| match kind {
        Type::Directory => descend(fd, path, name, visit, |fd, path, visit| {
            walk_extra(fd, path, depth, visit);
        }),
        Type::File => visit_extra(fd, path, name, visit),
        _ => {}
    });
}

fn visit_extra(fd: &OwnedFd, path: &Path, name: &CStr, visit: &mut dyn FnMut(Found<'_>)) {
    match stat_file(fd, name) {
        Ok(Some(metadata)) => visit(Found::Extra(metadata.bytes)),
        Ok(None) => {}
        Err(source) => visit(Found::Problem(Problem::new(path.join(os_str(name)), source))),
    }
}

fn descend(
    fd: &OwnedFd,
    path: &Path,
    name: &CStr,
    visit: &mut dyn FnMut(Found<'_>),
    walk: impl FnOnce(&OwnedFd, &Path, &mut dyn FnMut(Found<'_>)),
) {
    let path = path.join(os_str(name));
    match open_dir(fd, name) {
        Ok(Some(fd)) => walk(&fd, &path, visit),
        Ok(None) => {}
        Err(source) => visit(Found::Problem(Problem { path, source })),
    }
}

/// Gets the name and type of an entry, and the visitor.
type OnEntry<'a> = dyn FnMut(&CStr, Type, &mut dyn FnMut(Found<'_>)) + 'a;

/// Reads a folder and calls `entry` for each entry except `.` and `..`.
fn each_entry(fd: &OwnedFd, path: &Path, visit: &mut dyn FnMut(Found<'_>), entry: &mut OnEntry<'_>) {
    let opened = fd.try_clone().and_then(|fd| Dir::from_fd(fd).map_err(Into::into));
    let mut dir = match opened {
        Ok(dir) => dir,
        Err(source) => return visit(Found::Problem(Problem::new(path, source))),
    };
    for found in dir.iter() {
        let found = match found {
            Ok(found) => found,
            // The folder itself was removed.
            Err(Errno::ENOENT) => return,
            Err(source) => return visit(Found::Problem(Problem::new(path, source))),
        };
        let name = found.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match found.file_type() {
            Some(kind) => entry(name, kind, visit),
            // Not every file system reports the type along with the name.
            None => match stat_kind(fd, name) {
                Ok(Some(kind)) => entry(name, kind, visit),
                Ok(None) => {}
                Err(source) => visit(Found::Problem(Problem::new(path.join(os_str(name)), source))),
            },
        }
    }
}

fn open_part(fd: &OwnedFd, path: &Path, folder: &CStr, part: Part) -> Result<Option<MessageDir>, Problem> {
    let path = path.join(os_str(part.dir_name()));
    match open_dir(fd, part.dir_name()) {
        Ok(Some(fd)) => Ok(Some(MessageDir {
            fd,
            path,
            folder: folder.to_owned(),
            part,
        })),
        Ok(None) => Ok(None),
        Err(source) => Err(Problem { path, source }),
    }
}

fn open_dir(at: impl AsFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(at, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn stat_file(at: impl AsFd, name: &CStr) -> io::Result<Option<Metadata>> {
    match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG => {
            Ok(Some(Metadata {
                modified: stat.st_mtime,
                bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            }))
        }
        Ok(_) | Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn stat_kind(at: impl AsFd, name: &CStr) -> io::Result<Option<Type>> {
    let stat = match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Some(Type::File),
        SFlag::S_IFDIR => Some(Type::Directory),
        _ => None,
    })
}

fn unlink(at: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn mailbox(files: &[&str]) -> (tempfile::TempDir, Mailbox) {
        let store = tempfile::tempdir().unwrap();
        for file in files {
            let path = store.path().join("user@chat.example.org").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "12345").unwrap();
        }
        let fd = File::open(store.path()).unwrap();
        let mailbox = Mailbox::open(&fd, store.path(), c"user@chat.example.org")
            .unwrap()
            .unwrap();
        (store, mailbox)
    }

    fn messages(mailbox: &Mailbox) -> Vec<String> {
        let mut seen = Vec::new();
        mailbox.messages(&mut |found| {
            let Found::Message(message) = found else {
                panic!("{found:?}");
            };
            assert_eq!(message.metadata().unwrap().unwrap().bytes, 5);
            let relative = message.path().strip_prefix(mailbox.path()).unwrap().to_owned();
            seen.push(relative.display().to_string());
        });
        seen.sort();
        seen
    }

    #[test]
    fn messages_are_found_in_every_folder_and_nowhere_else() {
        let (_store, mailbox) = mailbox(&[
            "cur/a",
            "new/b",
            "tmp/c",
            ".Sent/cur/d",
            ".A.B/new/e",
            "password",
            "dovecot.index.log",
            ".Sent/dovecot.index.log",
            "other/cur/f",
            "cur/deeper/g",
        ]);
        assert_eq!(
            messages(&mailbox),
            [".A.B/new/e", ".Sent/cur/d", "cur/a", "new/b", "tmp/c"]
        );
        // Once more from the start.
        assert_eq!(messages(&mailbox).len(), 5);
        let mut extras = 0;
        mailbox.files(&mut |found| {
            if let Found::Extra(bytes) = found {
                extras += bytes;
            }
        });
        assert_eq!(extras, 4 * 5);
    }

    #[test]
    fn messages_may_be_removed_while_they_are_visited() {
        let names: Vec<_> = (0..3000).map(|number| format!("cur/{number}")).collect();
        let (_store, mailbox) = mailbox(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut removed = 0;
        mailbox.messages(&mut |found| {
            if let Found::Message(message) = found {
                removed += usize::from(message.dir.unlink(message.name).unwrap());
                assert!(!message.dir.unlink(message.name).unwrap(), "a second time");
                assert_eq!(message.metadata().unwrap(), None);
            }
        });
        assert_eq!(removed, 3000);
        assert!(messages(&mailbox).is_empty());
    }

    #[test]
    fn links_are_no_folders() {
        let (store, mailbox) = mailbox(&["cur/a"]);
        let dir = store.path().join("user@chat.example.org");
        std::os::unix::fs::symlink("cur", dir.join("new")).unwrap();
        std::os::unix::fs::symlink(".", dir.join(".Loop")).unwrap();
        assert_eq!(messages(&mailbox), ["cur/a"]);
        assert!(mailbox.message_dir(c".Loop", Part::Cur).unwrap().is_none());
        assert!(mailbox.message_dir(c"", Part::New).unwrap().is_none());
        let folder = mailbox.message_dir(c"", Part::Cur).unwrap().unwrap();
        assert_eq!((folder.folder(), folder.part()), (c"", Part::Cur));
    }

    #[test]
    fn too_deep_a_tree_is_reported() {
        let deep = format!("{}file", "d/".repeat(MAX_EXTRA_DEPTH + 2));
        let (_store, mailbox) = mailbox(&[&deep]);
        let mut problems = Vec::new();
        mailbox.files(&mut |found| problems.push(format!("{found:?}")));
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
