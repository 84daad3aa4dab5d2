//! What the embedded store has on disk: sizes of its file's pages and of its log, and
//! how to have less.

use super::super::{StoreError, Stored};
use rusqlite::Connection;

/// Looks; never at a row.
pub(super) fn sizes(connection: &Connection) -> Result<Vec<Stored>, StoreError> {
    let number = |name: &str| -> Result<u64, StoreError> {
        let value: i64 = connection.pragma_query_value(None, name, |row| row.get(0))?;
        Ok(value.unsigned_abs())
    };
    let page = number("page_size")?;
    let log = connection.path().and_then(|path| {
        let log = std::fs::metadata(format!("{path}-wal"));
        Some(log.ok()?.len())
    });
    let stored = |kind: &str, bytes| Stored {
        kind: kind.to_owned(),
        bytes,
    };
    Ok(vec![
        stored("file", number("page_count")? * page),
        stored("free", number("freelist_count")? * page),
        stored("wal", log.unwrap_or_default()),
    ])
}

/// Writes the whole file anew, without free pages and with full ones. In steps it could
/// only be done by a file that was made with `auto_vacuum`: an upload would cost SQLite a
/// tenth more instructions, and pages that are half empty would stay so.
pub(super) fn compact(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("VACUUM")?;
    // All of it went through the log, which would stay as large. Who reads at this moment
    // keeps some of it: that is no error.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
