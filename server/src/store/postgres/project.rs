//! Writing rows into business tables, set by set, inside the upload's
//! transaction.
//!
//! All of a group commit first, under one savepoint; when that fails, user by
//! user, then row by row, so that one bad row fails alone. Deferred constraints
//! are checked before each savepoint is released: at COMMIT they would take
//! everybody's upload with them.

use super::cascade::{self, Reached};
use super::expressions::{
    column_value, is_owner, key_value, owner_name, query, quoted, quoted_table,
};
use super::handled;
use super::work::{Failed, Passing, Projected, Trouble, Work, Writer};
use crate::projection::{NOT_UNIQUE, NOT_YOURS, Projection};
use crate::store::handler::Row;
use oversync_shared::upload::RowAt;
use oversync_shared::{RowKey, UserId};
use sqlx::{PgConnection, PgPool, Postgres, Row as _, Transaction};
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// What is known of rows once they are written.
#[derive(Default)]
struct Written {
    /// Left out: somebody else's.
    foreign: Vec<usize>,
    reached: Vec<Reached>,
}

/// Writes all rows that can be written; says which cannot, and why. `work` is
/// in the order parents' upserts, children's upserts, children's deletes,
/// parents' deletes.
pub(super) async fn project(
    tx: &mut Transaction<'_, Postgres>,
    work: &[Work<'_>],
    passing: Passing,
) -> Result<Projected, sqlx::Error> {
    let all: Vec<usize> = (0..work.len()).collect();
    let mut done = Projected::default();
    for part in all.chunk_by(|a, b| work[*a].is_alone() == work[*b].is_alone()) {
        if work[part[0]].is_alone() {
            for &index in part {
                if let Some(error) = attempt(tx, work, &[index], &mut done, passing).await? {
                    done.failed.push(Failed { index, error });
                }
            }
        } else {
            project_set(tx, work, part, &mut done, passing).await?;
        }
    }
    try_again(tx, work, done, passing).await
}

/// Writes rows together; where that fails, in smaller sets.
async fn project_set(
    tx: &mut Transaction<'_, Postgres>,
    work: &[Work<'_>],
    all: &[usize],
    done: &mut Projected,
    passing: Passing,
) -> Result<(), sqlx::Error> {
    if attempt(tx, work, all, done, passing).await?.is_none() {
        return Ok(());
    }
    let mut by_user: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for &index in all {
        by_user.entry(work[index].user).or_default().push(index);
    }
    let users = by_user.len();
    for indexes in by_user.into_values() {
        if users > 1 && attempt(tx, work, &indexes, done, passing).await?.is_none() {
            continue;
        }
        // Rows that may need each other are tried together before one by one.
        for unit in indexes.chunk_by(|a, b| are_one_unit(&work[*a], &work[*b])) {
            if unit.len() > 1 && attempt(tx, work, unit, done, passing).await?.is_none() {
                continue;
            }
            for &index in unit {
                if let Some(error) = attempt(tx, work, &[index], done, passing).await? {
                    done.failed.push(Failed { index, error });
                }
            }
        }
    }
    Ok(())
}

/// A unique value may have been freed by a later row of the same upload.
async fn try_again(
    tx: &mut Transaction<'_, Postgres>,
    work: &[Work<'_>],
    mut done: Projected,
    passing: Passing,
) -> Result<Projected, sqlx::Error> {
    for before in std::mem::take(&mut done.failed) {
        let is_ours = matches!(work[before.index].writer, Writer::Projection(_));
        if before.error != NOT_UNIQUE || !is_ours {
            done.failed.push(before);
        } else if let Some(error) = attempt(tx, work, &[before.index], &mut done, passing).await? {
            done.failed.push(Failed {
                index: before.index,
                error,
            });
        }
    }
    Ok(done)
}

fn are_one_unit(a: &Work<'_>, b: &Work<'_>) -> bool {
    a.writer.is_cyclic()
        && a.writer.rank() == b.writer.rank()
        && a.payload.is_some() == b.payload.is_some()
}

/// Writes these rows under a savepoint. `Some` when that failed: nothing of
/// them is written then. Rows that are somebody else's are only left out.
async fn attempt(
    tx: &mut Transaction<'_, Postgres>,
    work: &[Work<'_>],
    indexes: &[usize],
    done: &mut Projected,
    passing: Passing,
) -> Result<Option<String>, sqlx::Error> {
    // A business row held by somebody's open transaction fails alone, soon.
    sqlx::raw_sql("SET LOCAL lock_timeout = '2s'; SAVEPOINT projection")
        .execute(&mut **tx)
        .await?;
    let written = write(tx, work, indexes).await;
    match written.map_err(|trouble| passing.judge(trouble)) {
        Ok(written) => {
            // As they were before write().
            sqlx::raw_sql("SET CONSTRAINTS ALL DEFERRED; RELEASE SAVEPOINT projection")
                .execute(&mut **tx)
                .await?;
            done.reached.extend(written.reached);
            done.failed
                .extend(written.foreign.into_iter().map(|index| Failed {
                    index,
                    error: NOT_YOURS.to_owned(),
                }));
            Ok(None)
        }
        Err(Trouble::Data(error)) => {
            // Without the release each failure would nest one level deeper.
            for sql in [
                "ROLLBACK TO SAVEPOINT projection",
                "RELEASE SAVEPOINT projection",
            ] {
                sqlx::query(sql).execute(&mut **tx).await?;
            }
            Ok(Some(error))
        }
        Err(Trouble::Store(error)) => Err(error),
    }
}

/// Leaves the constraints immediate where it succeeds.
async fn write(
    connection: &mut PgConnection,
    work: &[Work<'_>],
    indexes: &[usize],
) -> Result<Written, Trouble> {
    let mut written = Written::default();
    let mut mine: HashSet<usize> = indexes.iter().copied().collect();
    claim(connection, work, &mut mine).await?;
    written.foreign.extend(
        indexes
            .iter()
            .copied()
            .filter(|index| !mine.contains(index)),
    );

    let mine: Vec<usize> = indexes
        .iter()
        .copied()
        .filter(|index| mine.contains(index))
        .collect();
    for set in mine.chunk_by(|a, b| same_table(&work[*a], &work[*b])) {
        if let Writer::Handler(handled) = work[set[0]].writer {
            for work in set.iter().map(|index| &work[*index]) {
                let row = Row {
                    user: work.user_id,
                    key: RowKey::new(work.pk),
                    version: work.version,
                    payload: work.payload,
                    before: work.before,
                };
                handled::write(connection, handled, row).await?;
            }
            continue;
        }
        if work[set[0]].payload.is_none() {
            let cascades = work[set[0]].cascades;
            let reached = cascade::reached(connection, cascades, work, set).await?;
            written.reached.extend(reached);
            remove(connection, work, set).await?;
            continue;
        }
        // Absent columns are left alone, so rows with the same columns go together.
        let mut by_columns: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for &index in set {
            by_columns
                .entry(work[index].present()?)
                .or_default()
                .push(index);
        }
        for (columns, set) in by_columns {
            upsert(connection, work, &set, &columns, &mut written.foreign).await?;
        }
    }
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    let ours: Vec<usize> = mine
        .into_iter()
        .filter(|index| !written.foreign.contains(index))
        .collect();
    let standing = work[indexes[0]].standing;
    standing.check(connection, work, &ours).await?;
    Ok(written)
}

fn same_table(a: &Work<'_>, b: &Work<'_>) -> bool {
    a.table_key == b.table_key && a.payload.is_some() == b.payload.is_some()
}

/// For tables without an owner column: keeps the rows that are this user's, or
/// nobody's and not yet there.
async fn claim(
    connection: &mut PgConnection,
    work: &[Work<'_>],
    mine: &mut HashSet<usize>,
) -> Result<(), Trouble> {
    let mut by_table: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for &index in mine.iter() {
        if matches!(work[index].writer, Writer::Projection(projection) if projection.owner.is_none())
        {
            by_table
                .entry(work[index].table_key)
                .or_default()
                .push(index);
        }
    }
    for (table_key, indexes) in by_table {
        let projection = work[indexes[0]].projection();
        // In one order, so that two processes cannot deadlock over shared keys.
        let mut indexes = indexes;
        indexes.sort_by_key(|index| work[*index].pk);
        let users: Vec<i64> = indexes.iter().map(|index| work[*index].user).collect();
        let keys: Vec<Uuid> = indexes.iter().map(|index| work[*index].pk).collect();
        // Row by row, by the index: a join planned while the tables were empty would
        // read them whole until statistics are gathered.
        let sql = format!(
            "INSERT INTO oversync.owners (table_key, pk, user_key) \
             SELECT $1, w.pk, w.user_key FROM unnest($2::uuid[], $3::bigint[]) AS w (pk, user_key) \
             WHERE NOT EXISTS (SELECT FROM {table} b WHERE b.{key} = {value} OFFSET 0) \
             ON CONFLICT DO NOTHING",
            table = quoted_table(projection),
            key = quoted(&projection.key.name),
            value = key_value("w.pk", projection.key.kind),
        );
        let claimed = query(&sql)
            .bind(table_key)
            .bind(&keys)
            .bind(&users)
            .execute(&mut *connection)
            .await?;
        // All are new, as most are: nobody had any of them.
        if claimed.rows_affected() == keys.len() as u64 {
            continue;
        }
        let rows = sqlx::query(
            "SELECT w.place FROM unnest($2::uuid[], $3::bigint[]) WITH ORDINALITY AS w (pk, user_key, place) \
             WHERE w.user_key = (SELECT o.user_key FROM oversync.owners o WHERE o.table_key = $1 AND o.pk = w.pk)",
        )
        .bind(table_key)
        .bind(&keys)
        .bind(&users)
        .fetch_all(&mut *connection)
        .await?;
        let held: HashSet<usize> = rows
            .iter()
            .map(|row| indexes[row.get::<i64, _>(0) as usize - 1])
            .collect();
        // The removal of a row that is not there, or not ours, has nothing to do.
        mine.retain(|index| {
            work[*index].table_key != table_key
                || held.contains(index)
                || work[*index].payload.is_none()
        });
    }
    Ok(())
}

async fn upsert(
    connection: &mut PgConnection,
    work: &[Work<'_>],
    set: &[usize],
    present: &[bool],
    foreign: &mut Vec<usize>,
) -> Result<(), Trouble> {
    let projection = work[set[0]].projection();
    let sql = upsert_sql(projection, present);
    let mut set = set.to_vec();
    set.sort_by_key(|index| work[*index].pk);
    let keys: Vec<Uuid> = set.iter().map(|index| work[*index].pk).collect();
    let owners: Vec<&str> = set
        .iter()
        .map(|index| work[*index].user_id.as_str())
        .collect();
    let payloads: Vec<Option<&str>> = set.iter().map(|index| work[*index].payload).collect();
    // Only the statement for whole rows is worth keeping: a client could make
    // up any number of column sets.
    let written = query(&sql)
        .persistent(present.iter().all(|present| *present))
        .bind(&keys)
        .bind(&owners)
        .bind(&payloads)
        .execute(&mut *connection)
        .await?;
    if written.rows_affected() as usize == set.len() {
        return Ok(());
    }
    if let [only] = set[..] {
        // The WHERE of the conflict clause held it back: another owner's row.
        foreign.push(only);
        return Ok(());
    }
    Err(Trouble::Data(NOT_YOURS.to_owned()))
}

/// `INSERT … ON CONFLICT` for rows that have these columns; $1 keys, $2 owners,
/// $3 payloads.
fn upsert_sql(projection: &Projection, present: &[bool]) -> String {
    let key = quoted(&projection.key.name);
    let mut names = vec![key.clone()];
    let mut values = vec![key_value("w.pk", projection.key.kind)];
    let mut sets = Vec::new();
    for (column, _) in projection
        .columns
        .iter()
        .zip(present)
        .filter(|(_, present)| **present)
    {
        let name = quoted(&column.column.name);
        values.push(column_value(
            &column.wire_name,
            &column.column.type_name,
            column.column.kind,
            column.is_reference(),
        ));
        sets.push(format!("{name} = excluded.{name}"));
        names.push(name);
    }
    let mut guard = String::new();
    if let Some(owner) = &projection.owner {
        let name = quoted(&owner.name);
        values.push(format!("w.owner::{}", owner.type_name));
        let new = owner_name("excluded", owner);
        guard = format!(" WHERE {} = {new}", owner_name("b", owner));
        names.push(name);
    }
    if sets.is_empty() {
        // Nothing to set, but the guard must speak.
        sets.push(format!("{key} = excluded.{key}"));
    }
    format!(
        "INSERT INTO {table} AS b ({names}) SELECT {values} \
         FROM unnest($1::uuid[], $2::text[], $3::json[]) AS w (pk, owner, payload) \
         ON CONFLICT ({key}) DO UPDATE SET {sets}{guard}",
        table = quoted_table(projection),
        names = names.join(", "),
        values = values.join(", "),
        sets = sets.join(", "),
    )
}

async fn remove(
    connection: &mut PgConnection,
    work: &[Work<'_>],
    set: &[usize],
) -> Result<(), Trouble> {
    let first = &work[set[0]];
    let projection = first.projection();
    let keys: Vec<Uuid> = set.iter().map(|index| work[*index].pk).collect();
    let value = key_value("w.pk", projection.key.kind);
    let (table, key) = (quoted_table(projection), quoted(&projection.key.name));
    if let Some(owner) = &projection.owner {
        let owners: Vec<&str> = set
            .iter()
            .map(|index| work[*index].user_id.as_str())
            .collect();
        let sql = format!(
            "DELETE FROM {table} b USING unnest($1::uuid[], $2::text[]) AS w (pk, owner) \
             WHERE b.{key} = {value} AND {is_owner}",
            is_owner = is_owner(owner, "w.owner"),
        );
        query(&sql)
            .bind(&keys)
            .bind(&owners)
            .execute(connection)
            .await?;
        return Ok(());
    }
    let users: Vec<i64> = set.iter().map(|index| work[*index].user).collect();
    let sql = format!(
        "WITH released AS ( \
             DELETE FROM oversync.owners o USING unnest($1::uuid[], $2::bigint[]) AS w (pk, user_key) \
             WHERE o.table_key = $3 AND o.pk = w.pk AND o.user_key = w.user_key RETURNING o.pk) \
         DELETE FROM {table} b USING released w WHERE b.{key} = {value}",
    );
    query(&sql)
        .bind(&keys)
        .bind(&users)
        .bind(first.table_key)
        .execute(connection)
        .await?;
    Ok(())
}

/// Which of these rows the business table has for this user: its own, or, where
/// no column says whose a row is, one that synchronisation gave to nobody.
pub(super) async fn visible(
    pool: &PgPool,
    projection: &Projection,
    table_key: i32,
    user: i64,
    user_id: &UserId,
    rows: &[RowAt],
) -> Result<Vec<RowAt>, sqlx::Error> {
    let keys: Vec<Uuid> = rows.iter().map(|row| row.key.uuid()).collect();
    let mine = match &projection.owner {
        Some(owner) => is_owner(owner, "$2"),
        None => "$2::text IS NOT NULL AND NOT EXISTS (SELECT FROM oversync.owners o \
                 WHERE o.table_key = $3 AND o.pk = w.pk AND o.user_key <> $4)"
            .to_owned(),
    };
    let sql = format!(
        "SELECT w.place FROM unnest($1::uuid[]) WITH ORDINALITY AS w (pk, place) \
         JOIN {table} b ON b.{key} = {value} WHERE ($3::integer, $4::bigint) IS NOT NULL AND {mine}",
        table = quoted_table(projection),
        key = quoted(&projection.key.name),
        value = key_value("w.pk", projection.key.kind),
    );
    let found = query(&sql)
        .bind(keys)
        .bind(user_id.as_str())
        .bind(table_key)
        .bind(user)
        .fetch_all(pool)
        .await?;
    Ok(found
        .iter()
        .map(|row| rows[row.get::<i64, _>(0) as usize - 1])
        .collect())
}
