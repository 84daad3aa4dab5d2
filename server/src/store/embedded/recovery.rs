//! Copying the embedded store's file while its server writes, and beginning a new
//! history in one that no server has.
//!
//! SQLite's online backup, inside one read transaction: the copy is the file at one
//! moment, and no commit of the server makes it begin again. In WAL mode it stops
//! nobody; the log of the server's file grows until it has ended.

use super::file;
pub(crate) use super::file::lock;
pub(crate) use super::owner::succeed;
use crate::store::StoreError;
use crate::store::recovery::{Begun, Contents, Far, NotBegun, check_room};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _};
use std::ops::ControlFlow;
use std::path::Path;
use uuid::Uuid;

/// Pages copied between two looks at how far it is: a few megabytes.
const STEP_PAGES: i32 = 1_024;

/// Instructions of SQLite's machine between two looks at whether to go on: well below a
/// millisecond.
const STEP_INSTRUCTIONS: i32 = 10_000;

/// Why a file is not taken for a database of this program.
pub(super) fn not_ours(path: &Path) -> StoreError {
    StoreError::Failed(format!("{} is not a database of oversync", path.display()))
}

/// Copies the database as it is now into an empty file. Ends early when it is told to,
/// by who hears how far it is.
pub(crate) fn copy(
    from: &Path,
    to: &Path,
    told: impl Fn(Far) -> ControlFlow<()>,
) -> Result<ControlFlow<(), Contents>, StoreError> {
    let source = file::open_reader(from)?;
    // The first read opens the snapshot; the copy is made from it.
    source.execute_batch("BEGIN")?;
    let contents = contents(&source)?.ok_or_else(|| not_ours(from))?;
    let mut target = Connection::open(to)?;
    let backup = Backup::new(&source, &mut target)?;
    loop {
        let step = backup.step(STEP_PAGES)?;
        let pages = backup.progress();
        let all = u64::try_from(pages.pagecount).unwrap_or(0);
        let left = u64::try_from(pages.remaining).unwrap_or(0);
        let far = Far {
            done: all.saturating_sub(left),
            of: all,
        };
        if told(far).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has the copy, and the original is read in WAL mode.
            _ => {
                let problem = format!("{} is locked by another program", from.display());
                return Err(StoreError::Failed(problem));
            }
        }
    }
    drop(backup);
    source.execute_batch("COMMIT")?;
    // One file, without a log beside it.
    target.pragma_update(None, "journal_mode", "delete")?;
    target.close().map_err(|(_, error)| error)?;
    Ok(ControlFlow::Continue(contents))
}

/// What a file holds; `None` for one that is not a database of this program.
pub(super) fn contents(connection: &Connection) -> Result<Option<Contents>, StoreError> {
    let is_ours = connection
        .prepare("SELECT 1 FROM sqlite_schema WHERE name = '_oversync_meta'")?
        .exists([])?;
    if !is_ours {
        return Ok(None);
    }
    let number = |sql| connection.query_row(sql, [], |row| row.get(0));
    let epoch: Option<String> = connection
        .query_row("SELECT epoch FROM _oversync_meta", [], |row| row.get(0))
        .optional()?;
    Ok(Some(Contents {
        epoch: epoch.unwrap_or_default(),
        schema_step: number("SELECT count(*) FROM _oversync_migrations")?,
        users: number("SELECT count(*) FROM _oversync_users")?,
        entries: number("SELECT count(*) FROM _oversync_log")?,
    }))
}

/// Writes the manifest into a copy.
pub(crate) fn label(copy: &Path, manifest: &str) -> Result<(), StoreError> {
    file::write_alone(copy, |tx| {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS _oversync_backup (manifest TEXT NOT NULL) STRICT; \
             DELETE FROM _oversync_backup",
        )?;
        tx.execute(
            "INSERT INTO _oversync_backup (manifest) VALUES (?1)",
            [manifest],
        )?;
        Ok(())
    })
}

/// Has SQLite read all of a file and say whether it is whole; ends early when `goes_on`
/// says so.
pub(crate) fn check(
    path: &Path,
    goes_on: impl Fn() -> ControlFlow<()> + Send + 'static,
) -> Result<ControlFlow<()>, StoreError> {
    let connection = file::open_reader(path)?;
    connection.progress_handler(STEP_INSTRUCTIONS, Some(move || goes_on().is_break()))?;
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    let problem: String = match found {
        Err(rusqlite::Error::SqliteFailure(error, _))
            if error.code == ErrorCode::OperationInterrupted =>
        {
            return Ok(ControlFlow::Break(()));
        }
        other => other?,
    };
    if problem == "ok" {
        return Ok(ControlFlow::Continue(()));
    }
    Err(StoreError::Failed(format!(
        "{} is damaged: {problem}",
        path.display()
    )))
}

/// The manifest of a copy; `None` where it has none.
pub(crate) fn manifest(copy: &Path) -> Result<Option<String>, StoreError> {
    let connection = file::open_reader(copy)?;
    let is_labelled = connection
        .prepare("SELECT 1 FROM sqlite_schema WHERE name = '_oversync_backup'")?
        .exists([])?;
    if !is_labelled {
        return Ok(None);
    }
    Ok(connection
        .query_row("SELECT manifest FROM _oversync_backup", [], |row| {
            row.get(0)
        })
        .optional()?)
}

/// A device that may not come in: user, device, since when in microseconds.
pub(crate) type Refused = (String, String, i64);

/// The devices that a database refuses.
pub(crate) fn refused(path: &Path) -> Result<Vec<Refused>, StoreError> {
    let connection = file::open_reader(path)?;
    let mut statement =
        connection.prepare("SELECT user_id, device_id, revoked_at FROM _oversync_revoked")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Puts all of a database into its one file, without a log beside it.
pub(crate) fn settle(path: &Path) -> Result<(), StoreError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "delete")?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Begins a new history, in one transaction: another epoch, every stream `step` places
/// further up, and the devices in `refused` kept out. How far devices have read stays:
/// they are given as long as ever to come back, from now on. The caller holds the lock,
/// or nobody else knows the file.
pub(crate) fn begin_new_history(
    path: &Path,
    step: i64,
    refused: &[Refused],
    micros: i64,
) -> Result<Begun, NotBegun> {
    let mut connection = Connection::open(path).map_err(StoreError::from)?;
    let begun = in_new_history(&mut connection, path, step, refused, micros)?;
    let closed = connection.close().map_err(|(_, error)| error);
    closed.map_err(StoreError::from)?;
    Ok(begun)
}

fn in_new_history(
    connection: &mut Connection,
    path: &Path,
    step: i64,
    refused: &[Refused],
    micros: i64,
) -> Result<Begun, NotBegun> {
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(StoreError::from)?;
    contents(connection)?.ok_or_else(|| not_ours(path))?;
    file::migrate(connection)?;
    let highest: i64 = connection
        .query_row(
            "SELECT max(first_head, (SELECT coalesce(max(head), 0) FROM _oversync_users)) FROM _oversync_meta",
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::from)?;
    check_room(highest, step)?;
    let begun = (|| -> Result<Begun, rusqlite::Error> {
        let tx = connection.transaction()?;
        tx.execute(
            "INSERT INTO _oversync_jumps (user_key, after, through) SELECT user_key, head, head + ?1 FROM _oversync_users",
            [step],
        )?;
        let users = tx.execute(
            "UPDATE _oversync_users SET head = head + ?1, revision = revision + 1",
            [step],
        )?;
        tx.execute(
            "UPDATE _oversync_readers SET read_at = ?1, seen_at = ?1, fold = NULL, asked = NULL, place = NULL",
            [micros],
        )?;
        for (user, device, since) in refused {
            tx.execute(
                "INSERT INTO _oversync_revoked (user_id, device_id, revoked_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                (user, device, since),
            )?;
        }
        let epoch = Uuid::new_v4().to_string();
        tx.execute(
            "UPDATE _oversync_meta SET epoch = ?1, first_head = first_head + ?2, revocations = revocations + ?2",
            (&epoch, step),
        )?;
        tx.execute_batch(
            "DROP TABLE IF EXISTS _oversync_backup; DROP TABLE IF EXISTS _oversync_moved",
        )?;
        tx.commit()?;
        Ok(Begun {
            epoch,
            step,
            users: users as u64,
        })
    })();
    Ok(begun.map_err(StoreError::from)?)
}
