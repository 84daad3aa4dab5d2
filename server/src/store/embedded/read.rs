//! Reading from the embedded store, each time from one snapshot.

use super::super::{
    Ask, DeviceKey, Entry, FoldNumber, Head, InFold, KnownDevice, Loaded, Needless, Page,
    PageQuery, Reach, Reached, Revision, StoreError, StoredRow, UserKey, fingerprint_from,
    has_place, moment, op_from_code,
};
use oversync_shared::upload::{Recorded, RowState};
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion, ServerId, TableName, UserId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

struct UserRow {
    key: i64,
    head: i64,
    revision: i64,
    floor: i64,
    fold: i64,
}

fn user_row(tx: &Transaction<'_>, user: &str) -> Result<Option<UserRow>, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT user_key, head, revision, floor, fold FROM _oversync_users WHERE user_id = ?1",
        )?
        .query_row([user], |row| {
            Ok(UserRow {
                key: row.get(0)?,
                head: row.get(1)?,
                revision: row.get(2)?,
                floor: row.get(3)?,
                fold: row.get(4)?,
            })
        })
        .optional()?)
}

fn known_device(
    tx: &Transaction<'_>,
    user: i64,
    device: &str,
) -> Result<Option<KnownDevice>, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT device_key, highest_change_id FROM _oversync_devices WHERE user_key = ?1 AND device_id = ?2",
        )?
        .query_row(params![user, device], |row| {
            Ok(KnownDevice { key: DeviceKey(row.get(0)?), highest: ChangeId::new(row.get(1)?) })
        })
        .optional()?)
}

fn epoch(tx: &Transaction<'_>) -> Result<Arc<str>, StoreError> {
    let text: String = tx
        .prepare_cached("SELECT epoch FROM _oversync_meta")?
        .query_row([], |row| row.get(0))?;
    Ok(text.into())
}

/// `None` when the user has never been seen.
pub(super) fn load(
    connection: &mut Connection,
    ask: &Ask,
    table_keys: &[i64],
) -> Result<Option<Loaded>, StoreError> {
    let tx = connection.transaction()?;
    let Some(user) = user_row(&tx, ask.user.as_str())? else {
        return Ok(None);
    };
    let device = known_device(&tx, user.key, ask.device.as_str())?;
    let last_device: Option<i32> = tx
        .prepare_cached("SELECT max(device_key) FROM _oversync_devices WHERE user_key = ?1")?
        .query_row([user.key], |row| row.get(0))?;
    let mut rows = HashMap::with_capacity(ask.rows.len());
    let mut state = tx.prepare_cached(
        "SELECT version, deleted, server_id FROM _oversync_rows WHERE user_key = ?1 AND table_key = ?2 AND pk = ?3",
    )?;
    for row in &ask.rows {
        let found = state
            .query_row(
                params![
                    user.key,
                    table_keys[row.table.index()],
                    row.key.uuid().as_bytes()
                ],
                |found| {
                    Ok(RowState {
                        version: RowVersion::new(found.get(0)?),
                        deleted: found.get(1)?,
                        at: ServerId::new(found.get(2)?),
                    })
                },
            )
            .optional()?;
        rows.extend(found.map(|found| (*row, found)));
    }
    let mut recorded = HashMap::new();
    if let Some(device) = device {
        let mut record = tx.prepare_cached(
            "SELECT fingerprint, version FROM _oversync_log WHERE user_key = ?1 AND device_key = ?2 AND change_id = ?3 \
             UNION ALL \
             SELECT fingerprint, version FROM _oversync_records \
             WHERE user_key = ?1 AND device_key = ?2 AND change_id = ?3",
        )?;
        for id in &ask.ids {
            let found: Option<(Vec<u8>, i64)> = record
                .query_row(params![user.key, device.key.0, id.get()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            if let Some((bytes, version)) = found {
                let fingerprint = fingerprint_from(&bytes)?;
                recorded.insert(
                    *id,
                    Recorded {
                        fingerprint,
                        version: RowVersion::new(version),
                    },
                );
            }
        }
    }
    Ok(Some(Loaded {
        head: Head {
            user: UserKey(user.key),
            user_id: ask.user.clone(),
            head: ServerId::new(user.head),
            revision: Revision(user.revision),
        },
        epoch: epoch(&tx)?,
        device,
        next_device: DeviceKey(last_device.unwrap_or(0) + 1),
        rows,
        recorded,
    }))
}

/// `None` for a row that has never been synchronised.
pub(super) fn row(
    connection: &mut Connection,
    user: &UserId,
    table: i64,
    key: RowKey,
) -> Result<Option<StoredRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT r.version, r.deleted, l.payload FROM _oversync_users u \
         JOIN _oversync_rows r ON r.user_key = u.user_key \
         LEFT JOIN _oversync_log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
         WHERE u.user_id = ?1 AND r.table_key = ?2 AND r.pk = ?3",
    )?;
    let found = statement.query_row(
        params![user.as_str(), table, key.uuid().as_bytes()],
        |row| {
            Ok(StoredRow {
                version: RowVersion::new(row.get(0)?),
                deleted: row.get(1)?,
                payload: row.get(2)?,
            })
        },
    );
    Ok(found.optional()?)
}

/// How far users' streams reach, and what is known of one device of each.
pub(super) fn heads(
    connection: &mut Connection,
    of: &[(UserId, Option<DeviceId>)],
) -> Result<Reached, StoreError> {
    let tx = connection.transaction()?;
    let mut reaches = Vec::with_capacity(of.len());
    for (user, device) in of {
        let Some(user) = user_row(&tx, user.as_str())? else {
            reaches.push(None);
            continue;
        };
        let device = match device {
            Some(device) => known_device(&tx, user.key, device.as_str())?,
            None => None,
        };
        reaches.push(Some(Reach {
            head: ServerId::new(user.head),
            floor: ServerId::new(user.floor),
            highest_change_id: device.map(|device| device.highest),
        }));
    }
    Ok(Reached {
        epoch: epoch(&tx)?,
        reaches,
    })
}

pub(super) fn page(connection: &mut Connection, query: &PageQuery) -> Result<Page, StoreError> {
    let tx = connection.transaction()?;
    let epoch = epoch(&tx)?;
    let Some(user) = user_row(&tx, query.user.as_str())? else {
        return Ok(Page {
            epoch,
            head: ServerId::ZERO,
            floor: ServerId::ZERO,
            fold: FoldNumber(0),
            began: None,
            needless: None,
            highest_change_id: None,
            entries: Vec::new(),
            has_more: false,
            is_cut: false,
        });
    };
    let device = known_device(&tx, user.key, query.device.as_str())?;
    let left_out = match device {
        Some(device) if !query.include_self => device.key.0,
        _ => -1,
    };
    let until = query.until.map_or(user.head, ServerId::get);
    let reader = tx
        .prepare_cached(
            "SELECT fold, asked, place, cursor, through FROM _oversync_readers WHERE user_key = ?1 AND device_id = ?2",
        )?
        .query_row(params![user.key, query.device.as_str()], |row| {
            let began = InFold::stored(row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((began, Needless::stored(query, row.get(3)?, row.get(4)?)))
        })
        .optional()?;
    let (began, needless) = reader.unwrap_or((None, None));
    let fold = FoldNumber(user.fold);
    let is_in_fold = query.after == ServerId::ZERO || has_place(began, fold, query.after);
    let mut taking = Taking::new(query);
    if query.after.get() < user.floor && is_in_fold {
        let mut statement = tx.prepare_cached(include_str!("page_folded.sql"))?;
        taking.take(statement.query(params![
            user.key,
            query.after.get(),
            until,
            left_out,
            query.schema,
            query.limit as i64 + 1,
            user.fold,
            device.is_some(),
        ])?)?;
    }
    if !taking.is_full() {
        let mut statement = tx.prepare_cached(include_str!("page.sql"))?;
        taking.take(statement.query(params![
            user.key,
            query.after.get().max(user.floor),
            until,
            left_out,
            query.schema,
            (query.limit + 1 - taking.entries.len()) as i64,
        ])?)?;
    }
    let Taking {
        mut entries,
        is_cut,
        ..
    } = taking;
    let has_more = is_cut || entries.len() > query.limit;
    entries.truncate(query.limit);
    Ok(Page {
        epoch,
        head: ServerId::new(user.head),
        floor: ServerId::new(user.floor),
        fold,
        began,
        needless,
        highest_change_id: device.map(|device| device.highest),
        entries,
        has_more,
        is_cut,
    })
}

/// A page while it is read.
struct Taking<'a> {
    query: &'a PageQuery,
    names: Names,
    entries: Vec<Entry>,
    bytes: usize,
    is_cut: bool,
}

impl<'a> Taking<'a> {
    fn new(query: &'a PageQuery) -> Self {
        Self {
            query,
            names: Names::default(),
            entries: Vec::new(),
            bytes: 0,
            is_cut: false,
        }
    }

    /// Whether the page ends here; one entry more tells whether there are more.
    fn is_full(&self) -> bool {
        self.is_cut || self.entries.len() > self.query.limit
    }

    fn take(&mut self, mut rows: rusqlite::Rows<'_>) -> Result<(), StoreError> {
        while let Some(row) = rows.next()? {
            let entry = self.names.entry(row)?;
            let is_wanted = self.entries.len() < self.query.limit;
            self.is_cut = self.bytes > self.query.max_bytes && is_wanted;
            if self.is_cut {
                break;
            }
            self.bytes += entry.payload.as_ref().map_or(0, String::len);
            self.entries.push(entry);
        }
        Ok(())
    }
}

/// Table and device names repeat within a page: each is allocated once.
#[derive(Default)]
struct Names {
    tables: HashMap<(String, String), Arc<TableName>>,
    sources: HashMap<String, Arc<str>>,
}

impl Names {
    fn entry(&mut self, row: &Row<'_>) -> Result<Entry, StoreError> {
        let schema: String = row.get(1)?;
        let table: String = row.get(2)?;
        let table = self
            .tables
            .entry((schema.clone(), table.clone()))
            .or_insert_with(|| Arc::new(TableName { schema, table }))
            .clone();
        let source: String = row.get(6)?;
        let source = self
            .sources
            .entry(source.clone())
            .or_insert_with(|| source.into())
            .clone();
        let pk: [u8; 16] = row.get(4)?;
        let micros: i64 = row.get(8)?;
        Ok(Entry {
            server_id: ServerId::new(row.get(0)?),
            table,
            op: op_from_code(row.get(3)?)?,
            key: RowKey::new(Uuid::from_bytes(pk)),
            version: RowVersion::new(row.get(5)?),
            source,
            change_id: ChangeId::new(row.get(7)?),
            ts: moment(micros)?,
            payload: row.get(9)?,
        })
    }
}
