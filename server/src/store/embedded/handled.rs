//! Rows that the host's own handler writes.

use super::project::Trouble;
use crate::projection::Handled;
use crate::store::handler::{Call, HandlerError, PANICKED, Row, recorded};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whatever goes wrong is the row's: a handler may speak of another connection. If
/// it was ours, what the caller does next fails.
pub(super) fn write(
    connection: &Connection,
    handled: &Handled,
    row: Row<'_>,
) -> Result<(), Trouble> {
    let handler = handled
        .handlers
        .embedded
        .as_ref()
        .expect("BUG: registration has checked that there is one");
    let call = || match row.call() {
        Call::Upsert(row) => handler.upsert(connection, &row),
        Call::Delete(row) => handler.delete(connection, &row),
    };
    let text = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(HandlerError::Sqlite(error))) => match Trouble::from(error) {
            Trouble::Data(text) => recorded(&text),
            Trouble::Store(error) => recorded(&error.to_string()),
        },
        Ok(Err(other)) => recorded(&other.to_string()),
        Err(_) => PANICKED.to_owned(),
    };
    Err(Trouble::Data(text))
}
