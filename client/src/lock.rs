//! One owner per file: an operating-system lock beside the database.
//!
//! The lock is on a file of its own, because locking the database itself would
//! interfere with SQLite. It ends with the process, however that ends.

use crate::error::{Error, SetupError, StorageError};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Held while a client is open.
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    pub(crate) fn take(database: &Path) -> Result<Self, Error> {
        let mut name = database.as_os_str().to_owned();
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
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(SetupError::InUse {
                path: database.to_owned(),
            }
            .into()),
            Err(TryLockError::Error(source)) => Err(StorageError::File { path, source }.into()),
        }
    }
}
