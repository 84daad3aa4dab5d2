//! What a user has. Sizes are in the rows' headers: no payload is read for them.

use crate::store::usage::Usage;
use crate::store::{StoreError, UserKey};
use oversync_shared::ServerId;
use oversync_shared::upload::Amount;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::HashMap;

pub(super) fn usage(
    connection: &mut Connection,
    user: UserKey,
    since: Option<ServerId>,
) -> Result<Usage, StoreError> {
    let tx = connection.transaction()?;
    let head = tx
        .prepare_cached("SELECT head FROM _oversync_users WHERE user_key = ?1")?
        .query_row([user.0], |row| row.get(0))?;
    let (rows, bytes): (i64, i64) = match since {
        None => tx
            .prepare_cached(
                "SELECT count(*), coalesce(sum(octet_length(l.payload)), 0) \
                 FROM _oversync_rows r \
                 LEFT JOIN _oversync_log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
                 WHERE r.user_key = ?1 AND NOT r.deleted",
            )?
            .query_row([user.0], |row| Ok((row.get(0)?, row.get(1)?)))?,
        // Every entry may be of a row of its own: this is the most that was added.
        Some(place) => tx
            .prepare_cached(
                "SELECT count(*) FILTER (WHERE op <> 3), coalesce(sum(octet_length(payload)), 0) \
                 FROM _oversync_log WHERE user_key = ?1 AND server_id > ?2",
            )?
            .query_row(params![user.0, place.get()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?,
    };
    Ok(Usage {
        head: ServerId::new(head),
        used: Amount {
            rows: rows.unsigned_abs(),
            bytes: bytes.unsigned_abs(),
        },
    })
}

pub(super) fn sizes(
    connection: &Connection,
    user: UserKey,
    entries: &[ServerId],
) -> Result<HashMap<ServerId, u64>, StoreError> {
    let mut size = connection.prepare_cached(
        "SELECT coalesce(octet_length(payload), 0) FROM _oversync_log WHERE user_key = ?1 AND server_id = ?2",
    )?;
    let mut sizes = HashMap::with_capacity(entries.len());
    for entry in entries {
        let bytes: Option<i64> = size
            .query_row(params![user.0, entry.get()], |row| row.get(0))
            .optional()?;
        sizes.extend(bytes.map(|bytes| (*entry, bytes.unsigned_abs())));
    }
    Ok(sizes)
}
