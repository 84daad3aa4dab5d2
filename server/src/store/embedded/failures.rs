//! Rows that could not be projected: listed, tried again.

use super::Tables;
use super::project::{Attempt, ROLLED_BACK, Work, attempt, clear};
use crate::projection::{Failure, Retried};
use crate::store::handler::Before;
use crate::store::{FAILURE_PIECE_BYTES, FailureFilter, StoreError, moment, op_from_code};
use oversync_shared::{RowKey, RowVersion, UserId};
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

pub(super) fn list(
    connection: &mut Connection,
    user: &UserId,
    only: &FailureFilter,
    limit: i64,
) -> Result<Vec<Failure>, StoreError> {
    let mut statement = connection.prepare_cached(include_str!("failures.sql"))?;
    let mut rows = statement.query(params![
        user.as_str(),
        only.schema,
        only.table,
        limit,
        only.before,
        FAILURE_PIECE_BYTES
    ])?;
    let mut failures = Vec::new();
    while let Some(row) = rows.next()? {
        failures.push(read_failure(row)?);
    }
    Ok(failures)
}

fn read_failure(row: &Row<'_>) -> Result<Failure, StoreError> {
    let payload: Option<String> = row.get(7)?;
    let micros: i64 = row.get(9)?;
    let first_seen = moment(micros)?;
    Ok(Failure {
        id: row.get(0)?,
        user_id: row.get(1)?,
        schema: row.get(2)?,
        table: row.get(3)?,
        pk: RowKey::new(Uuid::from_bytes(row.get(4)?)),
        attempted_version: RowVersion::new(row.get(5)?),
        op: op_from_code(row.get(6)?)?.as_str(),
        payload: payload
            .map(|text| RawValue::from_string(text).expect("BUG: stored payloads are JSON")),
        error: row.get(8)?,
        first_seen: first_seen
            .format(&Rfc3339)
            .expect("BUG: stored times have years of four digits"),
        retry_count: row.get(10)?,
    })
}

pub(super) fn retry(
    connection: &mut Connection,
    user: &UserId,
    failure: i64,
    tables: &Tables,
) -> Result<Retried, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let record: Option<(i64, i64, [u8; 16])> = tx
        .query_row(
            "SELECT f.user_key, f.table_key, f.pk FROM _oversync_failures f JOIN _oversync_users u USING (user_key) \
             WHERE f.id = ?1 AND u.user_id = ?2",
            params![failure, user.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((user_key, table_key, pk)) = record else {
        return Ok(Retried::NotFound);
    };
    let current: Option<(i64, i64, Option<String>)> = tx
        .query_row(
            "SELECT r.version, coalesce(l.op, 3), l.payload FROM _oversync_rows r \
             LEFT JOIN _oversync_log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
             WHERE r.user_key = ?1 AND r.table_key = ?2 AND r.pk = ?3",
            params![user_key, table_key, pk],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let outcome = match (current, tables.writer(table_key)) {
        (Some((version, op, payload)), Some(writer)) => {
            let version = RowVersion::new(version);
            let work = Work {
                user: user_key,
                user_id: user,
                writer,
                before: Before::Unknown,
                table_key,
                key: RowKey::new(Uuid::from_bytes(pk)),
                version,
                op: op_from_code(op)?,
                payload: payload.as_deref(),
                tables,
            };
            match attempt(&tx, &work)? {
                Attempt::Written => {
                    clear(&tx, &work)?;
                    Retried::Projected(version)
                }
                Attempt::RolledBack => return Ok(Retried::Failed(ROLLED_BACK.to_owned())),
                Attempt::Failed(error) => {
                    tx.execute(
                        "UPDATE _oversync_failures SET retry_count = retry_count + 1, error = ?3 WHERE user_key = ?1 AND id = ?2",
                        params![user_key, failure, error],
                    )?;
                    Retried::Failed(error)
                }
            }
        }
        _ => {
            tx.execute(
                "DELETE FROM _oversync_failures WHERE user_key = ?1 AND id = ?2",
                [user_key, failure],
            )?;
            Retried::Stale
        }
    };
    tx.commit()?;
    Ok(outcome)
}
