//! Rows that could not be projected: recorded, listed, tried again.

use super::cascade::{Cascades, Effect, Reached};
use super::project;
use super::standing::Standing;
use super::work::{Failed, Passing, Projected, Work, Writer, present};
use crate::projection::{Failure, Retried};
use crate::store::handler::Before;
use crate::store::{FAILURE_PIECE_BYTES, FailureFilter, StoreError, op_code, op_from_code};
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, RowVersion, UserId};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _, Transaction};
use std::collections::{BTreeMap, HashSet};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// Takes the lock of one user's failure. By both numbers: nobody's retry may
/// wait for another user's.
const RETRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock(\
     hashtextextended(format('oversync failure %s of user %s', $2::bigint, $1::bigint), 0))";

/// Records what failed; what was written clears the row's earlier failures.
pub(super) async fn record(
    tx: &mut Transaction<'_, Postgres>,
    work: &[Work<'_>],
    done: &Projected,
) -> Result<(), sqlx::Error> {
    let failures: HashSet<usize> = done.failed.iter().map(|failed| failed.index).collect();
    let written = || {
        work.iter()
            .enumerate()
            .filter(|(index, _)| !failures.contains(index))
            .map(|(_, work)| work)
    };
    sqlx::query(
        "DELETE FROM oversync.failures f \
         USING unnest($1::bigint[], $2::integer[], $3::uuid[]) AS w (user_key, table_key, pk) \
         WHERE f.user_key = w.user_key AND f.table_key = w.table_key AND f.pk = w.pk",
    )
    .bind(written().map(|work| work.user).collect::<Vec<_>>())
    .bind(written().map(|work| work.table_key).collect::<Vec<_>>())
    .bind(written().map(|work| work.pk).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    // Numbered in the order of the work, which is the same whoever else is in it.
    let mut failed: Vec<&Failed> = done.failed.iter().collect();
    failed.sort_by_key(|failed| failed.index);
    for failed in &failed {
        let table = work[failed.index].writer.name();
        tracing::warn!(%table, error = failed.error, "a row could not be projected");
    }
    if !failed.is_empty() {
        let work = || failed.iter().map(|failed| &work[failed.index]);
        sqlx::query(include_str!("record.sql"))
            .bind(work().map(|work| work.user).collect::<Vec<_>>())
            .bind(work().map(|work| work.table_key).collect::<Vec<_>>())
            .bind(work().map(|work| work.pk).collect::<Vec<_>>())
            .bind(work().map(|work| work.version.get()).collect::<Vec<_>>())
            .bind(work().map(|work| work.op).collect::<Vec<_>>())
            .bind(work().map(|work| work.payload).collect::<Vec<_>>())
            .bind(
                failed
                    .iter()
                    .map(|failed| failed.error.as_str())
                    .collect::<Vec<_>>(),
            )
            .execute(&mut **tx)
            .await?;
    }
    record_reached(tx, &done.reached).await
}

/// Records live rows that the deletes of others have reached, by their own users
/// and with their current state.
async fn record_reached(
    tx: &mut Transaction<'_, Postgres>,
    reached: &[Reached],
) -> Result<(), sqlx::Error> {
    // A row once, by the worst that has happened to it.
    let mut worst: BTreeMap<(i64, i32, Uuid), Effect> = BTreeMap::new();
    for row in reached {
        let effect = worst
            .entry((row.user, row.table_key, row.pk))
            .or_insert(row.effect);
        *effect = row.effect.min(*effect);
    }
    if worst.is_empty() {
        return Ok(());
    }
    let live = sqlx::query(
        "SELECT r.user_key, r.table_key, r.pk, r.version, l.op, l.payload, w.error \
         FROM unnest($1::bigint[], $2::integer[], $3::uuid[], $4::text[]) WITH ORDINALITY \
             AS w (user_key, table_key, pk, error, place) \
         JOIN oversync.rows r ON r.user_key = w.user_key AND r.table_key = w.table_key AND r.pk = w.pk AND NOT r.deleted \
         JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
         ORDER BY w.place",
    )
    .bind(worst.keys().map(|row| row.0).collect::<Vec<_>>())
    .bind(worst.keys().map(|row| row.1).collect::<Vec<_>>())
    .bind(worst.keys().map(|row| row.2).collect::<Vec<_>>())
    .bind(worst.values().map(|effect| effect.text()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    if live.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("record.sql"))
        .bind(column::<i64>(&live, 0)?)
        .bind(column::<i32>(&live, 1)?)
        .bind(column::<Uuid>(&live, 2)?)
        .bind(column::<i64>(&live, 3)?)
        .bind(column::<i16>(&live, 4)?)
        .bind(column::<Option<String>>(&live, 5)?)
        .bind(column::<String>(&live, 6)?)
        .execute(&mut **tx)
        .await?;
    tracing::warn!(
        rows = live.len(),
        "live rows went or changed with the business rows they refer to"
    );
    Ok(())
}

fn column<'r, T>(rows: &'r [PgRow], place: usize) -> Result<Vec<T>, sqlx::Error>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    rows.iter().map(|row| row.try_get(place)).collect()
}

pub(super) async fn list(
    pool: &PgPool,
    user: &UserId,
    only: &FailureFilter,
    limit: i64,
) -> Result<Vec<Failure>, StoreError> {
    let rows = sqlx::query(include_str!("failures.sql"))
        .bind(user.as_str())
        .bind(&only.schema)
        .bind(&only.table)
        .bind(limit)
        .bind(only.before)
        .bind(FAILURE_PIECE_BYTES)
        .fetch_all(pool)
        .await?;
    rows.iter().map(read_failure).collect()
}

fn read_failure(row: &PgRow) -> Result<Failure, StoreError> {
    let payload: Option<String> = row.try_get("payload")?;
    let first_seen: OffsetDateTime = row.try_get("first_seen")?;
    Ok(Failure {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        schema: row.try_get("schema_name")?,
        table: row.try_get("table_name")?,
        pk: RowKey::new(row.try_get("pk")?),
        attempted_version: RowVersion::new(row.try_get("attempted_version")?),
        op: op_from_code(row.try_get::<i16, _>("op")?.into())?.as_str(),
        payload: payload
            .map(|text| RawValue::from_string(text).expect("BUG: stored payloads are JSON")),
        error: row.try_get("error")?,
        first_seen: first_seen
            .format(&Rfc3339)
            .expect("BUG: stored times have years of four digits"),
        retry_count: row.try_get("retry_count")?,
    })
}

/// Holds the user's head row, so that no upload writes a newer state of the row
/// in between.
pub(super) async fn retry<'a>(
    pool: &PgPool,
    user: &UserId,
    failure: i64,
    writer: impl Fn(i32) -> Option<Writer<'a>>,
    cascades: &Cascades,
    standing: &Standing,
) -> Result<Retried, StoreError> {
    let mut tx = pool.begin().await?;
    let known: Option<i64> = sqlx::query_scalar(
        "SELECT u.user_key FROM oversync.failures f JOIN oversync.users u USING (user_key) \
         WHERE f.id = $1 AND u.user_id = $2",
    )
    .bind(failure)
    .bind(user.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(user_key) = known else {
        return Ok(Retried::NotFound);
    };
    // Not the record's own row lock: uploads take the head row first.
    let ours: bool = sqlx::query_scalar(RETRY_LOCK)
        .bind(user_key)
        .bind(failure)
        .fetch_one(&mut *tx)
        .await?;
    if !ours {
        return Ok(Retried::InProgress);
    }
    sqlx::query("SELECT 1 FROM oversync.users WHERE user_key = $1 FOR UPDATE")
        .bind(user_key)
        .execute(&mut *tx)
        .await?;
    let record =
        sqlx::query("SELECT table_key, pk FROM oversync.failures WHERE user_key = $1 AND id = $2")
            .bind(user_key)
            .bind(failure)
            .fetch_optional(&mut *tx)
            .await?;
    let Some(record) = record else {
        return Ok(Retried::NotFound);
    };
    let (table_key, pk): (i32, Uuid) = (record.try_get(0)?, record.try_get(1)?);
    let current = sqlx::query(
        "SELECT r.version, r.deleted, coalesce(l.op, 3::smallint) AS op, l.payload FROM oversync.rows r \
         LEFT JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
         WHERE r.user_key = $1 AND r.table_key = $2 AND r.pk = $3",
    )
    .bind(user_key)
    .bind(table_key)
    .bind(pk)
    .fetch_optional(&mut *tx)
    .await?;
    let (Some(current), Some(writer)) = (current, writer(table_key)) else {
        sqlx::query("DELETE FROM oversync.failures WHERE user_key = $1 AND id = $2")
            .bind(user_key)
            .bind(failure)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        return Ok(Retried::Stale);
    };
    let version = RowVersion::new(current.try_get("version")?);
    let payload: Option<String> = current.try_get("payload")?;
    let work = Work {
        user: user_key,
        user_id: user,
        writer,
        before: Before::Unknown,
        table_key,
        pk,
        version,
        payload: payload.as_deref(),
        op: if payload.is_none() {
            op_code(Op::Delete)
        } else {
            current.try_get("op")?
        },
        columns: match (writer, &payload) {
            (Writer::Projection(projection), Some(payload)) => {
                present(projection, user, payload, |_| {})
            }
            _ => Ok(Vec::new()),
        },
        cascades,
        standing,
    };
    let work = [work];
    let mut done = project::project(&mut tx, &work, Passing::IsTheRows).await?;
    let outcome = match done.failed.pop() {
        None => {
            self::record(&mut tx, &work, &done).await?;
            Retried::Projected(version)
        }
        Some(failed) => {
            sqlx::query("UPDATE oversync.failures SET retry_count = retry_count + 1, error = $3 WHERE user_key = $1 AND id = $2")
                .bind(user_key)
                .bind(failure)
                .bind(&failed.error)
                .execute(&mut *tx)
                .await?;
            Retried::Failed(failed.error)
        }
    };
    tx.commit().await?;
    Ok(outcome)
}
