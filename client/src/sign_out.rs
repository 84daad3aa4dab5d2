//! The end of a user's time on this device: what only this device has is sent,
//! or given up explicitly; then the file holds nothing of the user any more.
//!
//! The synchronised tables are emptied, not dropped: they are the application's.
//! Everything of this crate goes, triggers included, in the same transaction.

use crate::capture;
use crate::client::Client;
use crate::error::{Error, SetupError};
use crate::schema::quote;
use crate::status;
use crate::step::Step;
use crate::store::{Store, Txn};

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
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("notes.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
    /// # let token = || async { Ok(String::new()) };
    /// # let user = oversqlite::UserId::new("user-ada")?;
    /// # let config = oversqlite::Config::new(&path, "http://127.0.0.1:1", user, token).table("notes");
    /// # let client = oversqlite::Client::open(config).await?;
    /// # client.connection()?.execute("INSERT INTO notes VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e', 'hello')", [])?;
    /// use oversqlite::{Error, SetupError, SignOut};
    ///
    /// match client.sign_out(SignOut::Refuse).await {
    ///     Err(Error::Setup(SetupError::Unsent { unsent, rejected })) => {
    ///         println!("{} edits would be lost", unsent + rejected);
    ///     }
    ///     other => other?,
    /// }
    /// # assert_eq!(client.status().await?.unsent, 1);
    /// # client.stop().await;
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
        // The engine has been waiting for the turn: it never sees the empty file,
        // also when nobody waits for this any more.
        let client = self.clone();
        core.db
            .run(move |store| {
                wipe(store, how == SignOut::Discard)?;
                client.tell_to_stop();
                Ok(())
            })
            .await?;
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
            Step::SignedOut.reached();
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
    Step::TablesEmptied.reached();
    let own = "SELECT type, name FROM sqlite_schema
               WHERE type IN ('trigger', 'view', 'table') AND name LIKE '\\_sync\\_%' ESCAPE '\\'
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
