//! What the embedded store has on disk: sizes of its file's pages and of its log.

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
