//! Work that replaces the state of the relay. It can be interrupted at any time, and continues when it is repeated.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use crate::{answer, services};

/// Folder of the marks.
pub(crate) const FOLDER: &str = "/var/lib/chatmail";

/// Exists while a restore is under way, so that it can be repeated although accounts are there.
pub(crate) const RESTORE: &str = "restore-incomplete";

/// Exists from the first import to the final one. Meanwhile all accounts here are copies, so that messages which the
/// old relay has removed can be removed here as well.
pub(crate) const IMPORT: &str = "import-unfinished";

/// Exists from the end of either until the services run.
const COMPLETE: &str = "services-to-start";

/// Such work, which only one process does at a time.
pub(crate) struct Work {
    folder: PathBuf,
    mark: &'static str,
    lock: Flock<File>,
}

impl Work {
    /// Fails while another process does such work.
    pub(crate) fn begin(folder: &Path, mark: &'static str) -> anyhow::Result<Self> {
        let file = File::open(folder).with_context(|| format!("cannot access {}", folder.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                folder: folder.to_owned(),
                mark,
                lock,
            }),
            Err((_, nix::Error::EWOULDBLOCK)) => {
                bail!("another import or restore is under way; wait until it ends")
            }
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", folder.display())),
        }
    }

    /// Whether only the services are missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.folder.join(COMPLETE).exists()
    }

    /// Notes that the state is incomplete from now on.
    pub(crate) fn mark(&self) -> anyhow::Result<()> {
        let path = self.folder.join(self.mark);
        File::create(&path)
            .and_then(|file| file.sync_all())
            .and_then(|()| self.lock.sync_all())
            .with_context(|| format!("cannot create {}", path.display()))
    }

    /// Notes that the state is complete.
    pub(crate) fn complete(&self) -> anyhow::Result<()> {
        let path = self.folder.join(self.mark);
        // A backup that was made during an import contains its mark.
        for other in [RESTORE, IMPORT].into_iter().filter(|mark| *mark != self.mark) {
            let other = self.folder.join(other);
            match fs::remove_file(&other) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", other.display()));
                }
                _ => {}
            }
        }
        fs::rename(&path, self.folder.join(COMPLETE))
            .and_then(|()| self.lock.sync_all())
            .with_context(|| format!("cannot rename {}", path.display()))
    }

    /// Starts the services with the complete state.
    pub(crate) fn start(self) -> anyhow::Result<()> {
        services::start().context(
            "everything is there, but the services do not start; repair the cause and run this command again",
        )?;
        let path = self.folder.join(COMPLETE);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Fails if the state of the relay is incomplete.
pub(crate) fn refuse(folder: &Path) -> anyhow::Result<()> {
    for (mark, command) in [(RESTORE, "chatmail restore"), (IMPORT, "chatmail migrate import")] {
        ensure!(
            !folder.join(mark).exists(),
            "this relay is incomplete, because `{command}` has not finished; run it again first"
        );
    }
    Ok(())
}

/// Says what to do next if a signal ends this process.
pub(crate) fn advise(advice: &'static str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot wait for signals")?;
    let entered = runtime.enter();
    let wait = |kind| signal(kind).context("cannot wait for signals");
    let mut interrupt = wait(SignalKind::interrupt())?;
    let mut terminate = wait(SignalKind::terminate())?;
    let mut hangup = wait(SignalKind::hangup())?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        answer::complain(format_args!("interrupted; {advice}"));
        std::process::exit(1);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_known_until_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::begin(dir.path(), RESTORE).unwrap();
        let error = Work::begin(dir.path(), IMPORT).err().unwrap().to_string();
        assert!(error.contains("another import or restore"), "{error}");
        refuse(dir.path()).unwrap();
        work.mark().unwrap();
        drop(work);

        let work = Work::begin(dir.path(), RESTORE).unwrap();
        assert!(!work.is_complete());
        let error = refuse(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`chatmail restore` has not finished"), "{error}");
        File::create(dir.path().join(IMPORT)).unwrap();
        work.complete().unwrap();
        assert!(work.is_complete());
        refuse(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
