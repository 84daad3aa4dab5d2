//! What waits for somebody's decision: the conflict list and the rejected list,
//! as an application handles them.
//!
//! Each act is one transaction, and what it leaves to be sent goes the ordinary
//! way, under a new change id.

use crate::client::Client;
use crate::conflicts::{self, ConflictRecord};
use crate::error::Error;
use crate::parked::{self, Parked};
use crate::rejected::{self, Rejected};

impl Client {
    /// Conflicts of the past in which something was lost, oldest first, for as
    /// long as [`Config::keep_conflicts`](crate::Config::keep_conflicts) says.
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
    /// for conflict in client.conflicts().await? {
    ///     println!("{} {}: lost {:?}", conflict.table, conflict.key, conflict.lost);
    ///     client.restore_conflict(conflict.id).await?;
    /// }
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn conflicts(&self) -> Result<Vec<ConflictRecord>, Error> {
        self.core().db.read(conflicts::list).await
    }

    /// Writes what lost in a conflict back, as an edit of this device's: the
    /// lost columns; the whole row when it lost to a delete; a delete when that
    /// lost. The record leaves the list.
    ///
    /// Fails, and changes nothing, when the list has no such record or a
    /// constraint of the file is in the way.
    pub async fn restore_conflict(&self, id: i64) -> Result<(), Error> {
        let core = self.core();
        core.db
            .write(move |txn| conflicts::restore(txn, id))
            .await?;
        self.edited().await
    }

    /// Takes a record off the conflict list: what lost is given up.
    pub async fn dismiss_conflict(&self, id: i64) -> Result<(), Error> {
        let core = self.core();
        core.db
            .write(move |txn| conflicts::dismiss(txn, id))
            .await?;
        core.refresh_status().await.map(drop)
    }

    /// Local edits that can never succeed as they are, oldest first.
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
    /// // Its key is no UUID: it stays on this device.
    /// let db = client.connection()?;
    /// db.execute("INSERT INTO notes VALUES ('note 1', 'hello')", [])?;
    /// # client.start()?;
    /// # let mut told = client.status_stream();
    /// # told.wait_for(|status| status.rejected == 1).await?;
    /// let rejected = client.rejected().await?;
    /// assert_eq!(rejected[0].reason, "bad_key");
    /// // Mended by an edit, tried again as it is, or given up:
    /// client.drop_rejected(rejected[0].id).await?;
    /// assert!(client.rejected().await?.is_empty());
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn rejected(&self) -> Result<Vec<Rejected>, Error> {
        self.core().db.read(rejected::list).await
    }

    /// Sends a rejected edit once more: the row as it stands now, under a new
    /// change id. Rows that wait for it go with it.
    pub async fn retry_rejected(&self, id: i64) -> Result<(), Error> {
        let core = self.core();
        core.db.write(move |txn| rejected::retry(txn, id)).await?;
        self.edited().await
    }

    /// Sends all rejected edits once more; tells how many there are.
    pub async fn retry_all_rejected(&self) -> Result<usize, Error> {
        let retried = self.core().db.write(rejected::retry_all).await?;
        self.edited().await?;
        Ok(retried)
    }

    /// Gives a rejected edit up: the row goes back to what the server has; a
    /// row that the server does not have is removed from this device.
    ///
    /// Fails, and changes nothing, when rows with unsent edits refer to a row
    /// that would go, or when it is not known here what the server has.
    pub async fn drop_rejected(&self, id: i64) -> Result<(), Error> {
        let core = self.core();
        let given_up = core.db.run(move |store| {
            let written = store.write(|txn| rejected::give_up(txn, id))?;
            if !written.is_empty() {
                store.has_new_rows();
            }
            Ok(written)
        });
        let written = given_up.await?;
        core.announce(written).await?;
        self.edited().await
    }

    /// Entries of other devices that cannot be written into this file now, each
    /// with its reason.
    pub async fn parked(&self) -> Result<Vec<Parked>, Error> {
        self.core().db.read(parked::list).await
    }

    /// The rejected list as JSON lines: an object per edit with table, key, op,
    /// payload, reason and detail.
    pub async fn export_rejected(&self) -> Result<String, Error> {
        let all = self.rejected().await?;
        Ok(all.iter().map(Rejected::to_json_line).collect())
    }

    /// Something may be to send now.
    async fn edited(&self) -> Result<(), Error> {
        self.notify();
        self.core().refresh_status().await.map(drop)
    }
}
