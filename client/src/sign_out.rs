//! The end of a user's time on this device: what only this device has is sent,
//! or given up explicitly; then the file holds nothing of the user any more.
//!
//! The synchronised tables are emptied, not dropped: they are the application's.
//! Everything of this crate goes, triggers included, in the same transaction.

use crate::capture;
use crate::client::Client;
use crate::db::{Store, Txn};
use crate::error::{Error, SetupError};
use crate::schema::quote;
use crate::status;

/// What to do about edits that the server does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignOut {
    /// Fail with [`SetupError::Unsent`] if there are any.
    Refuse,
    /// Synchronise first; then as [`SignOut::Refuse`].
    SyncFirst,
    /// Give them up.
    Discard,
}

impl Client {
    /// Ends this user's time on this device. Afterwards the synchronised tables
    /// (also those that were taken off the list) are empty, nothing of this crate is left in the file, and the client is
    /// stopped; another user's client may open the file. A failure changes
    /// nothing.
    ///
    /// Foreign-key actions run as they are declared, also on tables that are not
    /// synchronised; one that refuses makes this fail with
    /// [`SetupError::CannotSignOut`]. The application's triggers do not run.
    /// What is deleted is overwritten in the file; pages that became free
    /// earlier may hold older values until SQLite uses them again.
    ///
    /// ```no_run
    /// # async fn example(client: oversqlite::Client) -> Result<(), oversqlite::Error> {
    /// use oversqlite::{Error, SetupError, SignOut};
    ///
    /// match client.sign_out(SignOut::SyncFirst).await {
    ///     Err(Error::Setup(SetupError::Unsent { unsent, rejected })) => {
    ///         println!("{} edits would be lost", unsent + rejected);
    ///     }
    ///     other => other?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sign_out(&self, how: SignOut) -> Result<(), Error> {
        let core = self.core();
        let turn = core.turn().await?;
        if how == SignOut::SyncFirst {
            self.rounds().await?;
            core.refresh_status().await?;
        }
        core.db
            .run(move |store| wipe(store, how == SignOut::Discard))
            .await?;
        // The engine has been waiting for the turn: it never sees the empty file.
        self.tell_to_stop();
        drop(turn);
        self.stop().await;
        Ok(())
    }
}

/// Empties the file; in one transaction.
pub(crate) fn wipe(store: &mut Store, discard: bool) -> Result<(), Error> {
    store.triggers(false)?;
    let done = store.write(|txn| empty(txn, discard));
    store.triggers(true)?;
    match done {
        Err(error) if error.is_foreign_key() => Err(SetupError::CannotSignOut {
            why: error.to_string(),
        }
        .into()),
        Err(error) => Err(error),
        Ok(()) => {
            // The log of writes holds the old pages. Readers may hold this up;
            // then it happens at the next checkpoint.
            let _ = store.read(|conn| {
                Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
            });
            Ok(())
        }
    }
}

fn empty(txn: &Txn<'_>, discard: bool) -> Result<(), Error> {
    capture::collect(txn)?;
    let status = status::read(txn.conn)?;
    if !discard && status.unsent + status.rejected > 0 {
        return Err(SetupError::Unsent {
            unsent: status.unsent,
            rejected: status.rejected,
        }
        .into());
    }
    txn.conn.pragma_update(None, "secure_delete", true)?;
    // Judged at the commit, RESTRICT as well. Children first all the same: what
    // has gone needs no action.
    txn.conn.pragma_update(None, "defer_foreign_keys", true)?;
    for table in txn.tables.iter().rev() {
        txn.conn
            .execute(&format!("DELETE FROM {}", table.quoted()), [])?;
    }
    for name in unlisted(txn)? {
        txn.conn
            .execute(&format!("DELETE FROM {}", quote(&name)), [])?;
    }
    let own = "SELECT type, name FROM sqlite_schema
               WHERE type IN ('trigger', 'table') AND name LIKE '\\_sync\\_%' ESCAPE '\\'
               ORDER BY type = 'table'";
    let mut statement = txn.conn.prepare(own)?;
    let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let objects: Vec<(String, String)> = objects.collect::<Result<_, _>>()?;
    drop(statement);
    for (kind, name) in objects {
        txn.conn
            .execute_batch(&format!("DROP {kind} {}", quote(&name)))?;
    }
    Ok(())
}

/// Tables that were synchronised once and are still there: their rows are the
/// user's, too.
fn unlisted(txn: &Txn<'_>) -> Result<Vec<String>, Error> {
    let mut statement = txn.conn.prepare(
        "SELECT s.name FROM _sync_table AS t JOIN sqlite_schema AS s
         ON s.name = t.name COLLATE NOCASE AND s.type = 'table' WHERE NOT t.listed",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}
