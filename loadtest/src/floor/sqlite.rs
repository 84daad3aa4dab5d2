//! The embedded floor: plain SQLite with WAL and `synchronous=FULL`, prepared
//! statements, as many uploads in a transaction as are waiting.

use super::{NewRow, Upload};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::time::{Duration, Instant};

const SCHEMA: &str = include_str!("sql/sqlite_schema.sql");

/// Opens a new file with the floor's tables.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

/// Writes uploads of different users in one transaction.
pub fn write(connection: &mut Connection, uploads: &[Upload]) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for upload in uploads {
        write_one(&tx, upload)?;
    }
    tx.commit()
}

fn write_one(tx: &Transaction<'_>, upload: &Upload) -> rusqlite::Result<()> {
    let head = upload.head + upload.rows.len() as i64;
    let highest = upload.rows.last().map_or(0, |row| row.change_id);
    tx.prepare_cached(
        "INSERT INTO floor_users (user_key, head, revision) VALUES (?1, ?2, 1) \
         ON CONFLICT (user_key) DO UPDATE SET head = excluded.head, revision = revision + 1",
    )?
    .execute(params![upload.user, head])?;
    tx.prepare_cached(
        "INSERT INTO floor_devices (user_key, device_key, highest_change_id) VALUES (?1, 1, ?2) \
         ON CONFLICT (user_key, device_key) DO UPDATE SET highest_change_id = excluded.highest_change_id",
    )?
    .execute(params![upload.user, highest])?;
    let mut log = tx.prepare_cached(
        "INSERT INTO floor_log (user_key, server_id, device_key, change_id, table_key, pk, op, version, ts, \
         fingerprint, payload) VALUES (?1, ?2, 1, ?3, 1, ?4, 1, 1, 0, ?4, ?5)",
    )?;
    let mut row = tx.prepare_cached(
        "INSERT INTO floor_rows (user_key, table_key, pk, version, server_id, deleted) \
         VALUES (?1, 1, ?2, 1, ?3, 0)",
    )?;
    for (place, new) in (upload.head + 1..).zip(&upload.rows) {
        let key = new.key.as_bytes();
        log.execute(params![upload.user, place, new.change_id, key, new.payload])?;
        row.execute(params![upload.user, key, place])?;
    }
    Ok(())
}

/// Rows per second with this many uploads of this many changes in a
/// transaction.
pub fn upload_rows(
    folder: &Path,
    users: usize,
    changes: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let file = tempfile::tempdir_in(folder)?;
    let mut connection = open(&file.path().join("floor.db"))?;
    let began = Instant::now();
    let mut head = 0;
    let mut done = 0;
    while began.elapsed() < length {
        let batch: Vec<Upload> = (1..=users as i64)
            .map(|user| Upload {
                user,
                head,
                rows: (1..=changes as i64)
                    .map(|n| NewRow::make(head + n))
                    .collect(),
            })
            .collect();
        write(&mut connection, &batch)?;
        head += changes as i64;
        done += users * changes;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
