//! Reading for `verify`: a connection of its own that can only read, beside the
//! server that holds the file's lock. A snapshot is a read transaction; in WAL
//! mode it stops nobody.

use super::threads::Threads;
use super::{compare, describe, file, history};
use crate::projection::{BusinessTable, Projection};
use crate::store::audit::{
    Audit, Book, BusinessFault, CHUNK_BYTES, CHUNK_ROWS, Logged, MAX_STRAYS, Placed, RowName,
    Snapshot, Stray, TableKey,
};
use crate::store::history::{Only, Written};
use crate::store::{DeviceKey, FoldNumber, OpenError, StoreError, op_from_code, stored_user};
use async_trait::async_trait;
use oversync_shared::upload::RowState;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use uuid::Uuid;

/// Jobs that may wait; there is never more than one.
const WAITING: usize = 4;

/// A SQLite file that is only read.
pub(in crate::store) struct EmbeddedAudit {
    reader: Threads,
}

impl EmbeddedAudit {
    /// Opens the file, and makes sure that its schema is the one this code knows.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            let problem = format!("{} does not exist", path.display());
            return Err(StoreError::Failed(problem).into());
        }
        let connection = file::open_reader(path)?;
        file::check_steps(&connection)?;
        Ok(Self {
            reader: Threads::start("store-audit", vec![connection], WAITING)?,
        })
    }
}

impl Drop for EmbeddedAudit {
    fn drop(&mut self) {
        self.reader.stop();
    }
}

#[async_trait]
impl Audit for EmbeddedAudit {
    fn is_shared(&self) -> bool {
        false
    }

    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
        let tables = tables.to_vec();
        self.reader
            .run(move |connection| describe::describe(connection, &tables))
            .await
    }

    async fn users(&self, after: Option<&UserId>) -> Result<Vec<UserId>, StoreError> {
        let after = after.cloned();
        self.reader
            .run(move |connection| {
                end(connection)?;
                let mut statement = connection.prepare_cached(
                    "SELECT user_id FROM _oversync_users WHERE ?1 IS NULL OR user_id > ?1 ORDER BY user_id LIMIT ?2",
                )?;
                let mut rows =
                    statement.query(params![after.as_ref().map(UserId::as_str), CHUNK_ROWS])?;
                let mut users = Vec::new();
                while let Some(row) = rows.next()? {
                    users.push(stored_user(row.get(0)?)?);
                }
                Ok(users)
            })
            .await
    }

    async fn snapshot(
        &mut self,
        user: &UserId,
    ) -> Result<Option<(Book, Box<dyn Snapshot + '_>)>, StoreError> {
        let user_id = user.clone();
        let begun = self
            .reader
            .run(move |connection| begin(connection, &user_id))
            .await?;
        Ok(begun.map(|(user_key, book)| {
            let snapshot = EmbeddedSnapshot {
                reader: &self.reader,
                user_key,
                user_id: user.clone(),
            };
            (book, Box::new(snapshot) as Box<dyn Snapshot>)
        }))
    }

    async fn history(
        &mut self,
        user: &UserId,
        after: ServerId,
        only: &Only,
    ) -> Result<Option<Vec<Written>>, StoreError> {
        let (user, only) = (user.clone(), only.clone());
        self.reader
            .run(move |connection| {
                // No snapshot for long: the server could not shorten its log of writes.
                end(connection)?;
                history::read(connection, &user, after, &only)
            })
            .await
    }

    async fn strays(&mut self, owned: &[TableName]) -> Result<Vec<Stray>, StoreError> {
        let owned: Vec<String> = owned.iter().map(TableName::to_string).collect();
        let owned = serde_json::to_string(&owned).expect("BUG: names serialise");
        self.reader
            .run(move |connection| {
                end(connection)?;
                let mut statement = connection.prepare(include_str!("strays.sql"))?;
                let strays = statement.query_map(params![owned, MAX_STRAYS], read_stray)?;
                Ok(strays.collect::<Result<_, _>>()?)
            })
            .await
    }
}

fn read_stray(row: &Row<'_>) -> rusqlite::Result<Stray> {
    let (schema, table): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
    Ok(Stray {
        user: row.get(1)?,
        what: match row.get::<_, i64>(0)? {
            1 => "entries of a user that does not exist",
            2 => "row states of a user that does not exist",
            _ => "an owner record without a live row",
        },
        table: schema
            .zip(table)
            .map(|(schema, table)| TableName { schema, table }),
        key: row
            .get::<_, Option<[u8; 16]>>(4)?
            .map(|bytes| RowKey::new(Uuid::from_bytes(bytes))),
    })
}

/// Ends the snapshot before, if there is one.
fn end(connection: &Connection) -> Result<(), StoreError> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    Ok(())
}

/// Begins a snapshot with the first read.
fn begin(connection: &Connection, user: &UserId) -> Result<Option<(i64, Book)>, StoreError> {
    end(connection)?;
    connection.execute_batch("BEGIN")?;
    let known: Option<(i64, i64, i64, i64, i64)> = connection
        .prepare_cached(
            "SELECT user_key, head, floor, fold, swept FROM _oversync_users WHERE user_id = ?1",
        )?
        .query_row([user.as_str()], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })
        .optional()?;
    let Some((user_key, head, floor, fold, swept)) = known else {
        return Ok(None);
    };
    let devices = connection
        .prepare_cached(
            "SELECT device_key, highest_change_id FROM _oversync_devices WHERE user_key = ?1",
        )?
        .query_map([user_key], |row| {
            Ok((DeviceKey(row.get(0)?), ChangeId::new(row.get(1)?)))
        })?
        .collect::<Result<_, _>>()?;
    let tables = connection
        .prepare_cached("SELECT table_key, schema_name, table_name FROM _oversync_tables")?
        .query_map([], |row| {
            let name = TableName {
                schema: row.get(1)?,
                table: row.get(2)?,
            };
            Ok((TableKey(row.get(0)?), name))
        })?
        .collect::<Result<_, _>>()?;
    let failures = connection
        .prepare_cached(
            "SELECT table_key, pk, attempted_version FROM _oversync_failures WHERE user_key = ?1",
        )?
        .query_map([user_key], |row| {
            Ok((row_name(row)?, RowVersion::new(row.get(2)?)))
        })?
        .collect::<Result<HashSet<_>, _>>()?;
    let jumps = connection
        .prepare_cached("SELECT after, through FROM _oversync_jumps WHERE user_key = ?1")?
        .query_map([user_key], |row| {
            Ok((ServerId::new(row.get(0)?), ServerId::new(row.get(1)?)))
        })?
        .collect::<Result<_, _>>()?;
    let book = Book {
        jumps,
        head: ServerId::new(head),
        floor: ServerId::new(floor),
        fold: FoldNumber(fold),
        is_swept: swept == fold,
        devices,
        tables,
        failures,
    };
    Ok(Some((user_key, book)))
}

struct EmbeddedSnapshot<'a> {
    reader: &'a Threads,
    user_key: i64,
    user_id: UserId,
}

#[async_trait]
impl Snapshot for EmbeddedSnapshot<'_> {
    async fn log(&mut self, after: ServerId) -> Result<Vec<Logged>, StoreError> {
        let user_key = self.user_key;
        self.reader
            .run(move |connection| read_log(connection, user_key, after))
            .await
    }

    async fn folded(
        &mut self,
        fold: FoldNumber,
        after: ServerId,
    ) -> Result<Vec<Placed>, StoreError> {
        let user_key = self.user_key;
        self.reader
            .run(move |connection| read_folded(connection, user_key, fold, after))
            .await
    }

    async fn rows(
        &mut self,
        after: Option<RowName>,
    ) -> Result<Vec<(RowName, RowState)>, StoreError> {
        let user_key = self.user_key;
        self.reader
            .run(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT table_key, pk, version, server_id, deleted FROM _oversync_rows \
                     WHERE user_key = ?1 AND (table_key, pk) > (?2, ?3) ORDER BY table_key, pk LIMIT ?4",
                )?;
                // Before the first: no table has this number.
                let (table, key) = after.map_or((i64::MIN, Vec::new()), |row| {
                    (row.table.0, row.key.uuid().as_bytes().to_vec())
                });
                let rows =
                    statement.query_map(params![user_key, table, key, CHUNK_ROWS], |row| {
                        let state = RowState {
                            version: RowVersion::new(row.get(2)?),
                            deleted: row.get(4)?,
                            at: ServerId::new(row.get(3)?),
                        };
                        Ok((row_name(row)?, state))
                    })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn business(
        &mut self,
        projection: &Projection,
        table: TableKey,
        rows: &[(RowKey, RowState)],
    ) -> Result<Vec<(RowKey, BusinessFault)>, StoreError> {
        let (user, user_id) = (self.user_key, self.user_id.clone());
        let (projection, rows) = (projection.clone(), rows.to_vec());
        self.reader
            .run(move |connection| {
                compare::compare(connection, &projection, table, user, &user_id, &rows)
            })
            .await
    }
}

fn read_log(
    connection: &Connection,
    user_key: i64,
    after: ServerId,
) -> Result<Vec<Logged>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT table_key, pk, server_id, device_key, change_id, op, version, ts, fingerprint, payload \
         FROM _oversync_log WHERE user_key = ?1 AND server_id > ?2 ORDER BY server_id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![user_key, after.get(), CHUNK_ROWS])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let payload: Option<String> = row.get(9)?;
        bytes += payload.as_ref().map_or(0, String::len);
        entries.push(Logged {
            server_id: ServerId::new(row.get(2)?),
            device: DeviceKey(row.get(3)?),
            change_id: ChangeId::new(row.get(4)?),
            row: row_name(row)?,
            op: op_from_code(row.get(5)?).ok(),
            version: RowVersion::new(row.get(6)?),
            micros: Some(row.get(7)?),
            fingerprint: row.get(8)?,
            payload,
        });
        if bytes > CHUNK_BYTES {
            break;
        }
    }
    Ok(entries)
}

fn read_folded(
    connection: &Connection,
    user_key: i64,
    fold: FoldNumber,
    after: ServerId,
) -> Result<Vec<Placed>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT f.place, f.server_id, l.payload FROM _oversync_folded f \
         LEFT JOIN _oversync_log l ON l.user_key = f.user_key AND l.server_id = f.server_id \
         WHERE f.user_key = ?1 AND f.fold = ?2 AND f.place > ?3 ORDER BY f.place LIMIT ?4",
    )?;
    let mut rows = statement.query(params![user_key, fold.0, after.get(), CHUNK_ROWS])?;
    let (mut places, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let payload: Option<String> = row.get(2)?;
        bytes += payload.as_ref().map_or(0, String::len);
        places.push(Placed {
            place: ServerId::new(row.get(0)?),
            entry: ServerId::new(row.get(1)?),
            payload,
        });
        if bytes > CHUNK_BYTES {
            break;
        }
    }
    Ok(places)
}

/// Of a row whose first columns are table and key.
fn row_name(row: &Row<'_>) -> rusqlite::Result<RowName> {
    Ok(RowName {
        table: TableKey(row.get(0)?),
        key: RowKey::new(Uuid::from_bytes(row.get(1)?)),
    })
}
