//! A user's history in the embedded store.

use crate::store::history::{Only, STEP, STEP_BYTES, Written, device_name, time_from};
use crate::store::{StoreError, op_from_code};
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

pub(super) fn read(
    connection: &Connection,
    user: &UserId,
    after: ServerId,
    only: &Only,
) -> Result<Option<Vec<Written>>, StoreError> {
    let user_key: Option<i64> = connection
        .prepare_cached("SELECT user_key FROM _oversync_users WHERE user_id = ?1")?
        .query_row([user.as_str()], |row| row.get(0))
        .optional()?;
    let Some(user_key) = user_key else {
        return Ok(None);
    };
    let table = only.table.as_ref();
    let mut statement = connection.prepare_cached(include_str!("history.sql"))?;
    let mut rows = statement.query(params![
        user_key,
        after.get(),
        table.map(|table| &table.schema),
        table.map(|table| &table.table),
        only.key.map(|key| key.uuid().as_bytes().to_vec()),
        only.since_micros(),
        STEP,
    ])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let payload: Option<String> = row.get(10)?;
        bytes += payload.as_ref().map_or(0, String::len);
        entries.push(Written {
            server_id: ServerId::new(row.get(0)?),
            table: TableName {
                schema: row.get(1)?,
                table: row.get(2)?,
            },
            op: op_from_code(row.get(3)?)?,
            key: RowKey::new(Uuid::from_bytes(row.get(4)?)),
            version: RowVersion::new(row.get(5)?),
            device: device_name(row.get(6)?, row.get(7)?),
            change_id: ChangeId::new(row.get(8)?),
            ts: time_from(Some(row.get(9)?)),
            payload,
            is_folded: row.get(11)?,
        });
        if bytes > STEP_BYTES {
            break;
        }
    }
    Ok(Some(entries))
}
