//! The embedded store's file: its lock, its pragmas, its schema.

use super::super::{OpenError, StoreError};
use super::{moved, owner};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction};
use std::fs::{File, TryLockError};
use std::path::Path;
use uuid::Uuid;

/// All schema steps, oldest first; a database has run the first `n` of them.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../../migrations/sqlite/0001_init.sql"),
    include_str!("../../../../migrations/sqlite/0002_projection.sql"),
    include_str!("../../../../migrations/sqlite/0003_revocation.sql"),
    include_str!("../../../../migrations/sqlite/0004_failure_numbers.sql"),
    include_str!("../../../../migrations/sqlite/0005_retention.sql"),
    include_str!("../../../../migrations/sqlite/0006_recovery.sql"),
    include_str!("../../../../migrations/sqlite/0007_history.sql"),
];

/// How long a statement waits for another connection's lock, in milliseconds.
/// Only a checkpoint or a person's shell ever holds one.
const BUSY_MS: u32 = 5_000;

/// Locks the file against a second server process. The lock is the system's:
/// it ends with the process, however that ends.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |error: &dyn std::fmt::Display| {
        StoreError::Failed(format!("{}: {error}", name.to_string_lossy()))
    };
    // First as one that nobody has: what is there may be a link.
    let file = match File::create_new(&name) {
        Ok(file) => {
            // The server that comes next may be another user's.
            if let Err(error) = owner::hand_over(&file, path) {
                tracing::warn!(%error, lock = %name.to_string_lossy(), "the lock file keeps its owner");
            }
            file
        }
        Err(_) => File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name)
            .map_err(|error| failed(&error))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(failed(&error).into()),
    }
}

/// Refuses a file that `oversync backup` has made. Its streams end where devices have
/// read on since: served under its old epoch, it would hand out the same places for other
/// changes, and nobody would notice.
pub(super) fn refuse_backup(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    if !connection.table_exists(None, "_oversync_backup")? {
        return Ok(());
    }
    Err(StoreError::Failed(format!(
        "{} is a backup that was copied into place: run `oversync restore --in-place` to begin a new history \
         in it, or keep it as it is and run `oversync restore --from` with it",
        path.display()
    )))
}

/// Writes in one transaction into a file that nobody serves; flushed, and closed, when it
/// returns.
pub(super) fn write_alone(
    path: &Path,
    work: impl FnOnce(&Transaction<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), StoreError> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "synchronous", "full")?;
    let tx = connection.transaction()?;
    work(&tx)?;
    tx.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens the one connection that writes.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    // Before anything of the file is changed.
    refuse_backup(&connection, path)?;
    moved::refuse(&connection, path)?;
    // Readers never wait for the writer, nor it for them.
    connection.pragma_update(None, "journal_mode", "wal")?;
    // An acknowledged upload survives power loss: each commit is flushed.
    connection.pragma_update(None, "synchronous", "full")?;
    // See project.rs: references are checked when an upload is decided.
    connection.pragma_update(None, "foreign_keys", false)?;
    prepare(&connection)?;
    Ok(connection)
}

/// Opens one of the connections that only read.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_MS.into()))?;
    // 16 MiB: the hot part of the row states stays in memory.
    connection.pragma_update(None, "cache_size", -16_384)?;
    // A plan does not depend on what is bound: else SQLite (since 3.46) prepares a
    // statement anew whenever another value is bound to its LIMIT.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Every statement of this store is prepared once per connection, those of
    // the business tables included.
    connection.set_prepared_statement_cache_capacity(256);
    Ok(())
}

/// Runs the schema steps that this database has not run yet, each in its own
/// transaction, and gives a new database its epoch.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _oversync_migrations (step INTEGER PRIMARY KEY) STRICT",
    )?;
    let done = steps(connection)?;
    if done > MIGRATIONS.len() {
        return Err(StoreError::Failed(format!(
            "the database has schema step {done}, this server knows {}: it was written by a newer version",
            MIGRATIONS.len()
        )));
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let tx = connection.transaction()?;
        tx.execute_batch(sql)?;
        tx.execute(
            "INSERT INTO _oversync_migrations (step) VALUES (?1)",
            [index as i64 + 1],
        )?;
        tx.commit()?;
    }
    let epoch: Option<String> = connection
        .query_row("SELECT epoch FROM _oversync_meta", [], |row| row.get(0))
        .optional()?;
    if epoch.is_none() {
        let fresh = Uuid::new_v4().to_string();
        connection.execute(
            "INSERT INTO _oversync_meta (only_row, epoch) VALUES (1, ?1)",
            [fresh],
        )?;
    }
    Ok(())
}

fn steps(connection: &Connection) -> Result<usize, StoreError> {
    let done: u32 =
        connection.query_row("SELECT count(*) FROM _oversync_migrations", [], |row| {
            row.get(0)
        })?;
    Ok(done as usize)
}

/// For who only reads: the schema must be up to date already.
pub(super) fn check_steps(connection: &Connection) -> Result<(), OpenError> {
    let is_ours = connection
        .table_exists(None, "_oversync_migrations")
        .map_err(StoreError::from)?;
    let done = if is_ours { steps(connection)? } else { 0 };
    let known = MIGRATIONS.len();
    if done == known {
        return Ok(());
    }
    Err(OpenError::Steps { done, known })
}
