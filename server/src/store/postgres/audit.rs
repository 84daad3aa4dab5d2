//! Reading for `verify`: one REPEATABLE READ, READ ONLY transaction per user.

use super::expressions::{column_value, is_owner, key_value, quoted, quoted_table};
use super::{connect_options, describe, history};
use crate::projection::{BusinessTable, Kind, Projection};
use crate::store::audit::{
    Audit, Book, BusinessFault, CHUNK_BYTES, CHUNK_ROWS, Logged, MAX_STRAYS, Placed, RowName,
    Snapshot, Stray, TableKey,
};
use crate::store::history::{Only, Written};
use crate::store::{DeviceKey, FoldNumber, OpenError, StoreError, op_from_code, stored_user};
use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use oversync_shared::upload::RowState;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Postgres, Row as _, Transaction};
use std::collections::{HashMap, HashSet};

/// One connection for the snapshot, one for everything else.
const CONNECTIONS: u32 = 2;

/// A PostgreSQL database that is only read.
pub(in crate::store) struct PostgresAudit {
    pool: PgPool,
}

impl PostgresAudit {
    /// Connects, and makes sure that the schema is the one this code knows.
    pub(in crate::store) async fn open(url: &str) -> Result<Self, OpenError> {
        let options = connect_options(url)?.options([("default_transaction_read_only", "on")]);
        // A pool keeps trying and then only says that time is up; the first
        // connection says why.
        options.connect().await?.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect_with(options)
            .await?;
        let migrator: Migrator = sqlx::migrate!("../migrations/postgres");
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass('oversync._migrations') IS NOT NULL")
                .fetch_one(&pool)
                .await?;
        let done: i64 = if exists {
            sqlx::query_scalar("SELECT count(*) FROM oversync._migrations WHERE success")
                .fetch_one(&pool)
                .await?
        } else {
            0
        };
        let (done, known) = (done.unsigned_abs() as usize, migrator.iter().count());
        if done != known {
            return Err(OpenError::Steps { done, known });
        }
        Ok(Self { pool })
    }
}

#[async_trait]
impl Audit for PostgresAudit {
    fn is_shared(&self) -> bool {
        true
    }

    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
        describe::describe(&self.pool, tables).await
    }

    async fn users(&self, after: Option<&UserId>) -> Result<Vec<UserId>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT user_id FROM oversync.users WHERE $1::text IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2",
        )
        .bind(after.map(UserId::as_str))
        .bind(CHUNK_ROWS)
        .fetch_all(&self.pool)
        .await?;
        names.into_iter().map(stored_user).collect()
    }

    async fn snapshot(
        &mut self,
        user: &UserId,
    ) -> Result<Option<(Book, Box<dyn Snapshot + '_>)>, StoreError> {
        let mut tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let known = sqlx::query(
            "SELECT user_key, head, floor, fold, swept FROM oversync.users WHERE user_id = $1",
        )
        .bind(user.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(known) = known else {
            return Ok(None);
        };
        let user_key: i64 = known.try_get(0)?;
        let devices = sqlx::query(
            "SELECT device_key, highest_change_id FROM oversync.devices WHERE user_key = $1",
        )
        .bind(user_key)
        .fetch_all(&mut *tx)
        .await?;
        let devices = devices
            .iter()
            .map(|row| Ok((DeviceKey(row.try_get(0)?), ChangeId::new(row.try_get(1)?))))
            .collect::<Result<_, StoreError>>()?;
        let tables = sqlx::query("SELECT table_key, schema_name, table_name FROM oversync.tables")
            .fetch_all(&mut *tx)
            .await?;
        let tables = tables
            .iter()
            .map(|row| {
                let name = TableName {
                    schema: row.try_get(1)?,
                    table: row.try_get(2)?,
                };
                Ok((TableKey(row.try_get::<i32, _>(0)?.into()), name))
            })
            .collect::<Result<_, StoreError>>()?;
        let failures = sqlx::query(
            "SELECT table_key, pk, attempted_version FROM oversync.failures WHERE user_key = $1",
        )
        .bind(user_key)
        .fetch_all(&mut *tx)
        .await?;
        let failures = failures
            .iter()
            .map(|row| Ok((row_name(row)?, RowVersion::new(row.try_get(2)?))))
            .collect::<Result<HashSet<_>, StoreError>>()?;
        let jumps: Vec<(i64, i64)> =
            sqlx::query_as("SELECT after, through FROM oversync.jumps WHERE user_key = $1")
                .bind(user_key)
                .fetch_all(&mut *tx)
                .await?;
        let jumps = jumps.into_iter();
        let book = Book {
            jumps: jumps
                .map(|(after, through)| (ServerId::new(after), ServerId::new(through)))
                .collect(),
            head: ServerId::new(known.try_get(1)?),
            floor: ServerId::new(known.try_get(2)?),
            fold: FoldNumber(known.try_get::<i32, _>(3)?.into()),
            is_swept: known.try_get::<i32, _>(3)? == known.try_get::<i32, _>(4)?,
            devices,
            tables,
            failures,
        };
        let snapshot = PostgresSnapshot {
            tx,
            user_key,
            user_id: user.clone(),
        };
        Ok(Some((book, Box::new(snapshot))))
    }

    async fn history(
        &mut self,
        user: &UserId,
        after: ServerId,
        only: &Only,
    ) -> Result<Option<Vec<Written>>, StoreError> {
        history::read(&self.pool, user, after, only).await
    }

    async fn strays(&mut self, owned: &[TableName]) -> Result<Vec<Stray>, StoreError> {
        let schemas: Vec<&str> = owned.iter().map(|name| name.schema.as_str()).collect();
        let names: Vec<&str> = owned.iter().map(|name| name.table.as_str()).collect();
        let rows = sqlx::query(include_str!("strays.sql"))
            .bind(schemas)
            .bind(names)
            .bind(MAX_STRAYS)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let schema: Option<String> = row.try_get("schema_name")?;
                let table: Option<String> = row.try_get("table_name")?;
                Ok(Stray {
                    user: row.try_get("whose")?,
                    what: match row.try_get::<i32, _>("kind")? {
                        1 => "entries of a user that does not exist",
                        2 => "row states of a user that does not exist",
                        _ => "an owner record without a live row",
                    },
                    table: schema
                        .zip(table)
                        .map(|(schema, table)| TableName { schema, table }),
                    key: row.try_get::<Option<uuid::Uuid>, _>("pk")?.map(RowKey::new),
                })
            })
            .collect()
    }
}

struct PostgresSnapshot {
    tx: Transaction<'static, Postgres>,
    user_key: i64,
    user_id: UserId,
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn log(&mut self, after: ServerId) -> Result<Vec<Logged>, StoreError> {
        let mut rows = sqlx::query(
            "SELECT table_key, pk, server_id, device_key, change_id, op, version, fingerprint, payload, \
                    CASE WHEN ts BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999' \
                         THEN (extract(epoch FROM ts) * 1000000)::bigint END AS micros \
             FROM oversync.log WHERE user_key = $1 AND server_id > $2 ORDER BY server_id LIMIT $3",
        )
        .bind(self.user_key)
        .bind(after.get())
        .bind(CHUNK_ROWS)
        .fetch(&mut *self.tx);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let payload: Option<String> = row.try_get("payload")?;
            bytes += payload.as_ref().map_or(0, String::len);
            entries.push(Logged {
                server_id: ServerId::new(row.try_get("server_id")?),
                device: DeviceKey(row.try_get("device_key")?),
                change_id: ChangeId::new(row.try_get("change_id")?),
                row: row_name(&row)?,
                op: op_from_code(row.try_get::<i16, _>("op")?.into()).ok(),
                version: RowVersion::new(row.try_get("version")?),
                micros: row.try_get("micros")?,
                fingerprint: row.try_get("fingerprint")?,
                payload,
            });
            if bytes > CHUNK_BYTES {
                break;
            }
        }
        Ok(entries)
    }

    async fn folded(
        &mut self,
        fold: FoldNumber,
        after: ServerId,
    ) -> Result<Vec<Placed>, StoreError> {
        let mut rows = sqlx::query(
            "SELECT f.place, f.server_id, l.payload FROM oversync.folded f \
             LEFT JOIN oversync.log l ON l.user_key = f.user_key AND l.server_id = f.server_id \
             WHERE f.user_key = $1 AND f.fold = $2 AND f.place > $3 ORDER BY f.place LIMIT $4",
        )
        .bind(self.user_key)
        .bind(fold.0)
        .bind(after.get())
        .bind(CHUNK_ROWS)
        .fetch(&mut *self.tx);
        let (mut places, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let payload: Option<String> = row.try_get(2)?;
            bytes += payload.as_ref().map_or(0, String::len);
            places.push(Placed {
                place: ServerId::new(row.try_get(0)?),
                entry: ServerId::new(row.try_get(1)?),
                payload,
            });
            if bytes > CHUNK_BYTES {
                break;
            }
        }
        Ok(places)
    }

    async fn rows(
        &mut self,
        after: Option<RowName>,
    ) -> Result<Vec<(RowName, RowState)>, StoreError> {
        let rows = sqlx::query(
            "SELECT table_key, pk, version, server_id, deleted FROM oversync.rows \
             WHERE user_key = $1 AND ($2::integer IS NULL OR (table_key, pk) > ($2, $3)) \
             ORDER BY table_key, pk LIMIT $4",
        )
        .bind(self.user_key)
        .bind(after.map(|row| row.table.0 as i32))
        .bind(after.map(|row| row.key.uuid()))
        .bind(CHUNK_ROWS)
        .fetch_all(&mut *self.tx)
        .await?;
        rows.iter()
            .map(|row| {
                let state = RowState {
                    version: RowVersion::new(row.try_get("version")?),
                    deleted: row.try_get("deleted")?,
                    at: ServerId::new(row.try_get("server_id")?),
                };
                Ok((row_name(row)?, state))
            })
            .collect()
    }

    async fn business(
        &mut self,
        projection: &Projection,
        table: TableKey,
        rows: &[(RowKey, RowState)],
    ) -> Result<Vec<(RowKey, BusinessFault)>, StoreError> {
        let mut faults = Vec::new();
        if let Some(error) = self.compare(projection, table, rows, &mut faults).await? {
            if let [(key, _)] = rows {
                faults.push((*key, BusinessFault::Unprojectable(error)));
                return Ok(faults);
            }
            // One of them cannot even be projected: which?
            for row in rows {
                let alone = std::slice::from_ref(row);
                if let Some(error) = self.compare(projection, table, alone, &mut faults).await? {
                    faults.push((row.0, BusinessFault::Unprojectable(error)));
                }
            }
        }
        Ok(faults)
    }
}

impl PostgresSnapshot {
    /// `Some` when the payloads could not be compared; nothing is found then.
    async fn compare(
        &mut self,
        projection: &Projection,
        table: TableKey,
        rows: &[(RowKey, RowState)],
        faults: &mut Vec<(RowKey, BusinessFault)>,
    ) -> Result<Option<String>, StoreError> {
        let keys: Vec<uuid::Uuid> = rows.iter().map(|(key, _)| key.uuid()).collect();
        let ids: Vec<i64> = rows.iter().map(|(_, state)| state.at.get()).collect();
        let deleted: Vec<bool> = rows.iter().map(|(_, state)| state.deleted).collect();
        sqlx::query("SAVEPOINT comparison")
            .execute(&mut *self.tx)
            .await?;
        let sql = compare_sql(projection);
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(keys)
            .bind(ids)
            .bind(deleted)
            .bind(self.user_key)
            .bind(self.user_id.as_str())
            .bind(table.0 as i32)
            .fetch_all(&mut *self.tx)
            .await;
        let found = match found {
            Ok(found) => found,
            Err(sqlx::Error::Database(cause)) if is_about_data(cause.code().as_deref()) => {
                sqlx::query("ROLLBACK TO SAVEPOINT comparison")
                    .execute(&mut *self.tx)
                    .await?;
                return Ok(Some(cause.message().to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        sqlx::query("RELEASE SAVEPOINT comparison")
            .execute(&mut *self.tx)
            .await?;
        for row in &found {
            let key = RowKey::new(row.try_get("pk")?);
            let (is_there, is_mine): (bool, bool) =
                (row.try_get("is_there")?, row.try_get("is_mine")?);
            let fault = if row.try_get("deleted")? {
                BusinessFault::NotGone
            } else if !is_there {
                BusinessFault::Missing
            } else if !is_mine {
                BusinessFault::NotOwned
            } else {
                BusinessFault::Value {
                    column: row.try_get("name")?,
                    recorded: row.try_get("recorded")?,
                    recomputed: row.try_get("recomputed")?,
                }
            };
            faults.push((key, fault));
        }
        Ok(None)
    }
}

/// 22: data that does not fit, 23: constraints of a domain, P0: raised by a
/// function. Anything else, such as a missing privilege, says nothing about rows.
fn is_about_data(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        ["22", "23", "P0"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}

/// Rows that differ, each with the first column that does. $1–$3 keys, entries
/// and whether deleted, $4/$5 the user, $6 the table's number. Values are
/// compared as text, which every type has; a value is only computed where the
/// payload has the column, as it is when it is written.
fn compare_sql(projection: &Projection) -> String {
    let table = quoted_table(projection);
    let key = quoted(&projection.key.name);
    let mine = match &projection.owner {
        Some(owner) => format!(
            "coalesce({}, false) AND ($4::bigint, $6::integer) IS NOT NULL",
            is_owner(owner, "$5")
        ),
        None => "EXISTS (SELECT FROM oversync.owners o \
                 WHERE o.table_key = $6 AND o.pk = w.pk AND o.user_key = $4) AND $5::text IS NOT NULL"
            .to_owned(),
    };
    let values: Vec<String> = projection
        .columns
        .iter()
        .filter(|column| column.column.kind != Kind::Array)
        .map(|column| {
            let name = format!("'{}'", column.wire_name.replace('\'', "''"));
            let recorded = quoted(&column.column.name);
            let recomputed = column_value(
                &column.wire_name,
                &column.column.type_name,
                column.column.kind,
                column.is_reference(),
            );
            // Storing rounds to the column's precision.
            let stored = &column.column.stored_type;
            format!(
                "({name}, b.{recorded}::text, \
                  CASE WHEN (w.payload -> {name}) IS NOT NULL THEN ({recomputed})::{stored}::text END, \
                  (w.payload -> {name}) IS NOT NULL)"
            )
        })
        .chain(["(NULL::text, NULL::text, NULL::text, false)".to_owned()])
        .collect();
    format!(
        "SELECT w.pk, w.deleted, b.{key} IS NOT NULL AS is_there, m.is_mine, c.name, c.recorded, c.recomputed \
         FROM (SELECT e.pk, e.deleted, l.payload::json AS payload \
               FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS e (pk, server_id, deleted) \
               LEFT JOIN oversync.log l ON l.user_key = $4 AND l.server_id = e.server_id) w \
         LEFT JOIN {table} b ON b.{key} = {value} \
         CROSS JOIN LATERAL (SELECT {mine}) AS m (is_mine) \
         LEFT JOIN LATERAL ( \
             SELECT v.* FROM (VALUES {values}) AS v (name, recorded, recomputed, is_present) \
             WHERE b.{key} IS NOT NULL AND NOT w.deleted AND m.is_mine AND v.is_present \
               AND v.recorded COLLATE \"C\" IS DISTINCT FROM v.recomputed COLLATE \"C\" LIMIT 1) c ON true \
         WHERE CASE WHEN w.deleted THEN m.is_mine ELSE b.{key} IS NULL OR NOT m.is_mine OR c.name IS NOT NULL END",
        value = key_value("w.pk", projection.key.kind),
        values = values.join(", "),
    )
}

fn row_name(row: &PgRow) -> Result<RowName, StoreError> {
    Ok(RowName {
        table: TableKey(row.try_get::<i32, _>("table_key")?.into()),
        key: RowKey::new(row.try_get("pk")?),
    })
}
