//! Rows that the host's own handler writes.

use super::project::Trouble;
use crate::projection::Handled;
use crate::store::handler::{Before, Deleted, HandlerError, PANICKED, Upserted, recorded};
use oversync_shared::{RowKey, RowVersion, UserId};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A row for a handler.
pub(super) struct Row<'a> {
    pub(super) user: &'a UserId,
    pub(super) key: RowKey,
    pub(super) version: RowVersion,
    pub(super) payload: Option<&'a str>,
    pub(super) before: Before,
}

pub(super) fn write(
    connection: &Connection,
    handled: &Handled,
    row: &Row<'_>,
) -> Result<(), Trouble> {
    let handler = handled
        .handlers
        .embedded
        .as_ref()
        .expect("BUG: registration has checked that there is one");
    let (user, key, version) = (row.user, row.key, row.version);
    let call = || match row.payload {
        Some(payload) => {
            let before = row.before;
            let row = Upserted {
                user,
                key,
                payload,
                version,
                before,
            };
            handler.upsert(connection, &row)
        }
        None => {
            let row = Deleted { user, key, version };
            handler.delete(connection, &row)
        }
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(HandlerError::Sqlite(error))) => match Trouble::from(error) {
            Trouble::Data(text) => Err(Trouble::Data(recorded(&text))),
            ours => Err(ours),
        },
        Ok(Err(other)) => Err(Trouble::Data(recorded(&other.to_string()))),
        Err(_) => Err(Trouble::Data(PANICKED.to_owned())),
    }
}
