//! The lease: of all processes that have a file open, one synchronises it.
//!
//! It is an operating-system lock on a file beside the database, because locking
//! the database itself would interfere with SQLite. It ends with the process,
//! however that ends. The others capture edits and read the status as ever.

use crate::error::{Error, SetupError, StorageError};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long somebody who only asks whether the lease is taken may be in the way.
const A_LOOK: Duration = Duration::from_millis(5);

/// A lease on one file, held or not; clones share it.
#[derive(Clone)]
pub(crate) struct Lease {
    database: PathBuf,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    file: Option<File>,
    /// The engine runs: keep it between steps.
    keep: bool,
}

impl Held {
    /// Unlocks by name: a process that the application is just starting has a copy
    /// of the open file for a moment, and closing ours alone would leave the lock
    /// with it.
    fn give_back(&mut self) {
        if let Some(file) = self.file.take() {
            // Closing it unlocks as well, unless there is such a copy.
            let _ = file.unlock();
        }
    }
}

/// Held by whoever exchanges changes with the server; gives the lease back at
/// its end unless the engine keeps it.
pub(crate) struct Holding(Lease);

impl Lease {
    pub(crate) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            held: Arc::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock can panic half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lease, or fails with [`SetupError::InUse`] while another
    /// client has it. Waits for no client, only for one that just looks.
    pub(crate) fn take(&self) -> Result<Holding, Error> {
        let mut held = self.held();
        if held.file.is_none() {
            let found = match self.lock() {
                Err(Error::Setup(SetupError::InUse { .. })) => {
                    std::thread::sleep(A_LOOK);
                    self.lock()
                }
                other => other,
            };
            held.file = Some(found?);
        }
        drop(held);
        Ok(Holding(self.clone()))
    }

    /// Takes it until [`Lease::release`].
    pub(crate) fn keep(&self) -> Result<(), Error> {
        let holding = self.take()?;
        self.held().keep = true;
        drop(holding);
        Ok(())
    }

    /// Whether somebody has it now, this process included. Of those who only look,
    /// none is in another's way.
    pub(crate) fn is_taken(&self) -> Result<bool, Error> {
        let (file, path) = self.open()?;
        match file.try_lock_shared() {
            // By name, as in `give_back`.
            Ok(()) => {
                let _ = file.unlock();
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(StorageError::File { path, source }.into()),
        }
    }

    /// The engine has ended.
    pub(crate) fn release(&self) {
        let mut held = self.held();
        held.keep = false;
        held.give_back();
    }

    fn open(&self) -> Result<(File, PathBuf), Error> {
        // However its path is spelt, the file is one.
        let database = self.database.canonicalize();
        let mut name = database
            .unwrap_or_else(|_| self.database.clone())
            .into_os_string();
        name.push("-sync-lock");
        let path = PathBuf::from(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| StorageError::File {
                path: path.clone(),
                source,
            })?;
        Ok((file, path))
    }

    fn lock(&self) -> Result<File, Error> {
        let (file, path) = self.open()?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(SetupError::InUse {
                path: self.database.clone(),
            }
            .into()),
            Err(TryLockError::Error(source)) => Err(StorageError::File { path, source }.into()),
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.0.held();
        if !held.keep {
            held.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn those_who_only_look_see_the_lease_and_not_one_another() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("app.db");
        let all_say = |expected: bool| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            let lease = Lease::new(&path);
                            assert_eq!(lease.is_taken().expect("told"), expected);
                        }
                    });
                }
            });
        };
        all_say(false);
        let mine = Lease::new(&path);
        let holding = mine.take().expect("free");
        all_say(true);
        drop(holding);
        all_say(false);
        assert!(mine.take().is_ok(), "looking leaves nothing behind");
    }
}
