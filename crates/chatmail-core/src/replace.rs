//! Files that are replaced atomically: whoever reads one sees the old content or the new one, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::{NamedTempFile, TempPath};

/// How a file is replaced.
#[derive(Debug, Clone)]
#[must_use]
pub struct Replacement {
    mode: u32,
    unfinished: Unfinished,
    modified: Option<SystemTime>,
    durable_name: bool,
}

/// Name of the file until it is complete. A process that is killed leaves it.
#[derive(Debug, Clone)]
enum Unfinished {
    /// A random name that begins with this.
    Random(&'static str),
    /// This path, for writers that hold a lock: the next one overwrites what a killed one has left.
    At(PathBuf),
}

impl Replacement {
    /// Content and name are durable afterwards, and the file has this mode, whatever the umask says.
    pub fn with_mode(mode: u32) -> Self {
        Self {
            mode,
            unfinished: Unfinished::Random(".new-"),
            modified: None,
            durable_name: true,
        }
    }

    /// Start of the name of the unfinished file.
    pub fn prefix(self, prefix: &'static str) -> Self {
        Self {
            unfinished: Unfinished::Random(prefix),
            ..self
        }
    }

    /// Path of the unfinished file, in the same folder. Only one process may write at a time.
    pub fn through(self, fresh: PathBuf) -> Self {
        Self {
            unfinished: Unfinished::At(fresh),
            ..self
        }
    }

    /// Time of the last change that the file gets.
    pub fn modified(self, time: SystemTime) -> Self {
        Self {
            modified: Some(time),
            ..self
        }
    }

    /// Leaves it to the caller to make the name durable, for example of many files at once.
    pub fn name_synced_later(self) -> Self {
        Self {
            durable_name: false,
            ..self
        }
    }

    /// Replaces the file, or creates it. If that fails, as on a full disk, the old file stays and nothing is left beside
    /// it. Errors do not contain the path, which can be the name of an account.
    pub fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = self.create(folder).map_err(without_path)?;
        file.write_all(content).map_err(without_path)?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(self.mode))?;
        if let Some(time) = self.modified {
            file.as_file().set_modified(time)?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| without_path(error.error))?;
        if self.durable_name {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn create(&self, folder: &Path) -> io::Result<NamedTempFile> {
        match &self.unfinished {
            Unfinished::Random(prefix) => tempfile::Builder::new().prefix(prefix).tempfile_in(folder),
            Unfinished::At(fresh) => {
                let mut options = OpenOptions::new();
                let options = options.write(true).create(true).truncate(true).mode(0o600);
                let file = options.open(fresh)?;
                Ok(NamedTempFile::from_parts(file, TempPath::try_from_path(fresh)?))
            }
        }
    }
}

/// Removes the path from errors of temporary files.
fn without_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    fn files(dir: &Path) -> usize {
        dir.read_dir().unwrap().count()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (how, wanted) in [
            (Replacement::with_mode(0o644), 0o644),
            (Replacement::with_mode(0o600).prefix(".password-"), 0o600),
            (
                Replacement::with_mode(0o640).through(dir.path().join("fresh")),
                0o640,
            ),
            (Replacement::with_mode(0o666).name_synced_later(), 0o666),
        ] {
            for content in ["something longer", "short"] {
                how.write(&path, content.as_bytes()).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
                assert_eq!((mode(&path), files(dir.path())), (wanted, 1), "{how:?}");
            }
        }
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_312_000);
        Replacement::with_mode(0o600)
            .modified(day)
            .write(&path, b"x")
            .unwrap();
        assert_eq!(path.metadata().unwrap().modified().unwrap(), day);
    }

    #[test]
    fn what_a_killed_process_has_left_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, fresh) = (dir.path().join("file"), dir.path().join("fresh"));
        fs::write(&fresh, "left by a killed process").unwrap();
        Replacement::with_mode(0o600)
            .through(fresh)
            .write(&path, b"new")
            .unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), files(dir.path())),
            (b"new".to_vec(), 1)
        );
    }

    #[test]
    fn a_failure_keeps_the_old_file_and_names_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("someone01");
        fs::create_dir(&path).unwrap();
        for how in [
            Replacement::with_mode(0o600),
            Replacement::with_mode(0o600).through(dir.path().join("fresh")),
        ] {
            let errors = [
                how.write(&path, b"x"),
                how.write(&dir.path().join("none/someone01"), b"x"),
            ];
            // Only the random name depends on the folder of the file.
            for error in errors.into_iter().filter_map(Result::err) {
                assert!(!error.to_string().contains("someone01"), "{error}");
            }
            assert_eq!(files(dir.path()), 1, "{how:?}");
        }
    }
}
