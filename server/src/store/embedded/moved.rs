//! The mark in a file whose history goes on in another database.
//!
//! Served all the same, it would hand out places again that devices have read elsewhere,
//! under the same epoch: nobody would notice. A new history ends the mark
//! (`recovery.rs`), and so does a move that is taken back.

use super::file;
use crate::store::StoreError;
use rusqlite::{Connection, OptionalExtension as _};
use std::path::Path;

/// Where a file's history has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovedAway {
    /// The other database, for people; without a password.
    pub(crate) to: String,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// The epoch that the other database has while no server may start on it.
    pub(crate) unfinished: String,
}

/// What a file says of it; `None` where it was not moved.
pub(super) fn read(connection: &Connection) -> Result<Option<MovedAway>, StoreError> {
    if !connection.table_exists(None, "_oversync_moved")? {
        return Ok(None);
    }
    let sql = "SELECT moved_to, moved_at, unfinished FROM _oversync_moved";
    let found = connection.query_row(sql, [], |row| {
        Ok(MovedAway {
            to: row.get(0)?,
            at: row.get(1)?,
            unfinished: row.get(2)?,
        })
    });
    Ok(found.optional()?)
}

/// Refuses a file that bears the mark.
pub(super) fn refuse(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let Some(MovedAway { to, at, .. }) = read(connection)? else {
        return Ok(());
    };
    let path = path.display();
    Err(StoreError::Failed(format!(
        "{path} was moved to {to} at {at}: start servers there. To go back to this file while nothing has been \
         written there, run `oversync migrate --undo --from sqlite://{path}`; later, or when that database is \
         gone, run `oversync restore --in-place --database-url sqlite://{path}`, which begins a new history in \
         this file"
    )))
}

/// Marks a file; flushed when it returns.
pub(super) fn write(path: &Path, gone: &MovedAway) -> Result<(), StoreError> {
    file::write_alone(path, |tx| {
        tx.execute_batch(
            "CREATE TABLE _oversync_moved (moved_to TEXT NOT NULL, moved_at TEXT NOT NULL, \
             unfinished TEXT NOT NULL) STRICT",
        )?;
        tx.execute(
            "INSERT INTO _oversync_moved (moved_to, moved_at, unfinished) VALUES (?1, ?2, ?3)",
            (&gone.to, &gone.at, &gone.unfinished),
        )?;
        Ok(())
    })
}

/// Takes the mark away.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    file::write_alone(path, |tx| {
        tx.execute_batch("DROP TABLE IF EXISTS _oversync_moved")
    })
}
