//! Pages of a user's stream.
//!
//! One statement reads the page and the facts its reply carries. It touches as
//! much of the log as the page is long, wherever in the stream that is. A page
//! with large payloads, of which only some may be held at a time, is read by a
//! second statement that adds their sizes up.

use crate::store::{
    Entry, FoldNumber, InFold, Needless, Page, PageQuery, StoreError, op_from_code,
};
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{Decode, Postgres, Row as _, Type};
use std::collections::HashMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// Columns of `page.sql`, by place: finding them by name costs a search for each
/// column of each row. Entries come first, then what only the first row has.
mod column {
    pub const SERVER_ID: usize = 0;
    pub const VERSION: usize = 1;
    pub const CHANGE_ID: usize = 2;
    pub const TS: usize = 3;
    pub const OP: usize = 4;
    pub const DEVICE_KEY: usize = 5;
    pub const TABLE_KEY: usize = 6;
    pub const PK: usize = 7;
    pub const PAYLOAD: usize = 8;

    pub const EPOCH: usize = PAYLOAD;
    pub const FACTS: usize = 9;
    pub const DEVICE_KEYS: usize = 10;
    pub const DEVICE_IDS: usize = 11;
    pub const TABLE_KEYS: usize = 12;
    pub const SCHEMA_NAMES: usize = 13;
    pub const TABLE_NAMES: usize = 14;
}

/// Columns of `page_of_large.sql`.
mod large {
    pub const EPOCH: usize = 0;
    pub const HEAD: usize = 1;
    pub const FLOOR: usize = 2;
    pub const HIGHEST_CHANGE_ID: usize = 3;
    pub const FOLD: usize = 4;
    pub const BEGAN: usize = 5;
    pub const ASKED: usize = 6;
    pub const PLACE: usize = 7;
    pub const CURSOR: usize = 8;
    pub const THROUGH: usize = 9;
    pub const SERVER_ID: usize = 10;
    pub const SCHEMA: usize = 11;
    pub const TABLE: usize = 12;
    pub const OP: usize = 13;
    pub const PK: usize = 14;
    pub const VERSION: usize = 15;
    pub const SOURCE: usize = 16;
    pub const CHANGE_ID: usize = 17;
    pub const TS: usize = 18;
    pub const FITS: usize = 19;
    pub const PAYLOAD: usize = 20;
}

/// Reads one page.
pub(super) async fn read(pool: &PgPool, query: &PageQuery) -> Result<Page, StoreError> {
    // Payloads of this size all fit, however many there are.
    let payload_bytes = query.max_bytes / query.limit.max(1);
    let rows = fetch(pool, include_str!("page.sql"), query, payload_bytes).await?;
    let is_facts = |row: &&PgRow| {
        row.try_get::<Option<i64>, _>(column::SERVER_ID)
            .is_ok_and(|id| id.is_none())
    };
    let first = rows.iter().find(is_facts).ok_or_else(no_epoch)?;
    let facts: Vec<Option<i64>> = first.try_get(column::FACTS)?;
    let [
        user,
        head,
        floor,
        highest,
        fold,
        began,
        asked,
        place,
        cursor,
        through,
    ] = facts[..]
    else {
        return Err(StoreError::Failed("a page without its facts".to_owned()));
    };
    let mut entries = Vec::with_capacity(rows.len());
    let mut names = Names::read(first)?;
    for row in rows.iter().filter(|row| !is_facts(row)) {
        let op = op_from_code(row.try_get::<i16, _>(column::OP)?.into())?;
        let payload: Option<String> = row.try_get(column::PAYLOAD)?;
        if payload.is_none() && op.is_upsert() {
            return read_large(pool, query).await;
        }
        let device: i32 = row.try_get(column::DEVICE_KEY)?;
        if !names.devices.contains_key(&device) {
            names.ask(pool, user, &rows).await?;
        }
        entries.push(Entry {
            server_id: ServerId::new(row.try_get(column::SERVER_ID)?),
            table: known(&names.tables, row.try_get(column::TABLE_KEY)?)?,
            op,
            key: RowKey::new(row.try_get(column::PK)?),
            version: RowVersion::new(row.try_get(column::VERSION)?),
            source: known(&names.devices, device)?,
            change_id: ChangeId::new(row.try_get(column::CHANGE_ID)?),
            ts: row.try_get::<OffsetDateTime, _>(column::TS)?,
            payload,
        });
    }
    // UNION ALL keeps the order in practice; nothing promises it.
    entries.sort_by_key(|entry| entry.server_id);
    let is_followed = entries.len() > query.limit;
    entries.truncate(query.limit);
    Ok(Page {
        epoch: first.try_get::<&str, _>(column::EPOCH)?.into(),
        head: ServerId::new(head.unwrap_or(0)),
        floor: ServerId::new(floor.unwrap_or(0)),
        fold: FoldNumber(fold.unwrap_or(0)),
        began: InFold::stored(began, asked, place),
        needless: Needless::stored(query, cursor, through),
        highest_change_id: highest.map(ChangeId::new),
        entries,
        has_more: is_followed,
        is_cut: false,
    })
}

/// One row more than the page has tells whether there are more.
async fn fetch(
    pool: &PgPool,
    statement: &'static str,
    query: &PageQuery,
    bytes: usize,
) -> Result<Vec<PgRow>, StoreError> {
    let rows = sqlx::query(statement)
        .bind(query.user.as_str())
        .bind(query.device.as_str())
        .bind(query.after.get())
        .bind(query.until.map(ServerId::get))
        .bind(query.include_self)
        .bind(query.schema.as_deref())
        .bind(query.limit as i64 + 1)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX));
    Ok(rows.fetch_all(pool).await?)
}

pub(super) fn no_epoch() -> StoreError {
    StoreError::Failed("oversync.meta is empty".to_owned())
}

fn known<T: Clone>(names: &HashMap<i32, T>, key: i32) -> Result<T, StoreError> {
    let name = names.get(&key).cloned();
    name.ok_or_else(|| {
        StoreError::Failed(format!(
            "the log names a device or table {key} that is not there"
        ))
    })
}

/// What the numbers of a page's entries stand for.
struct Names {
    tables: HashMap<i32, Arc<TableName>>,
    devices: HashMap<i32, Arc<str>>,
}

impl Names {
    fn read(first: &PgRow) -> Result<Self, StoreError> {
        fn list<'r, T>(first: &'r PgRow, column: usize) -> Result<Vec<T>, StoreError>
        where
            Vec<T>: Decode<'r, Postgres> + Type<Postgres>,
        {
            Ok(first.try_get(column)?)
        }
        let tables = list::<String>(first, column::SCHEMA_NAMES)?
            .into_iter()
            .zip(list::<String>(first, column::TABLE_NAMES)?)
            .map(|(schema, table)| Arc::new(TableName { schema, table }));
        let devices = list::<String>(first, column::DEVICE_IDS)?;
        Ok(Self {
            tables: list(first, column::TABLE_KEYS)?
                .into_iter()
                .zip(tables)
                .collect(),
            devices: list(first, column::DEVICE_KEYS)?
                .into_iter()
                .zip(devices.into_iter().map(Arc::from))
                .collect(),
        })
    }

    /// Of a user with very many devices, those of this page.
    async fn ask(
        &mut self,
        pool: &PgPool,
        user: Option<i64>,
        rows: &[PgRow],
    ) -> Result<(), StoreError> {
        let keys = rows
            .iter()
            .filter_map(|row| {
                row.try_get::<Option<i32>, _>(column::DEVICE_KEY)
                    .transpose()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let found: Vec<(i32, String)> = sqlx::query_as(
            "SELECT device_key, device_id FROM oversync.devices WHERE user_key = $1 AND device_key = ANY($2)",
        )
        .bind(user)
        .bind(keys)
        .fetch_all(pool)
        .await?;
        self.devices
            .extend(found.into_iter().map(|(key, id)| (key, Arc::from(id))));
        Ok(())
    }
}

/// Reads a page of which some payloads are large, as far as they fit.
async fn read_large(pool: &PgPool, query: &PageQuery) -> Result<Page, StoreError> {
    let mut rows = fetch(
        pool,
        include_str!("page_of_large.sql"),
        query,
        query.max_bytes,
    )
    .await?;
    let first = rows.first().ok_or_else(no_epoch)?;
    let epoch = first.try_get::<&str, _>(large::EPOCH)?.into();
    let head: Option<i64> = first.try_get(large::HEAD)?;
    let floor: Option<i64> = first.try_get(large::FLOOR)?;
    let highest: Option<i64> = first.try_get(large::HIGHEST_CHANGE_ID)?;
    let fold: Option<i32> = first.try_get(large::FOLD)?;
    let began: [Option<i64>; 5] = [
        first.try_get(large::BEGAN)?,
        first.try_get(large::ASKED)?,
        first.try_get(large::PLACE)?,
        first.try_get(large::CURSOR)?,
        first.try_get(large::THROUGH)?,
    ];
    if first.try_get::<Option<i64>, _>(large::SERVER_ID)?.is_none() {
        rows.clear();
    }
    // The joins that name things need not keep the order.
    rows.sort_by_key(|row| row.get::<i64, _>(large::SERVER_ID));
    let is_followed = rows.len() > query.limit;
    rows.truncate(query.limit);
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        if !row.try_get::<bool, _>(large::FITS)? {
            break;
        }
        entries.push(Entry {
            server_id: ServerId::new(row.try_get(large::SERVER_ID)?),
            table: Arc::new(TableName {
                schema: row.try_get(large::SCHEMA)?,
                table: row.try_get(large::TABLE)?,
            }),
            op: op_from_code(row.try_get::<i16, _>(large::OP)?.into())?,
            key: RowKey::new(row.try_get(large::PK)?),
            version: RowVersion::new(row.try_get(large::VERSION)?),
            source: row.try_get::<&str, _>(large::SOURCE)?.into(),
            change_id: ChangeId::new(row.try_get(large::CHANGE_ID)?),
            ts: row.try_get::<OffsetDateTime, _>(large::TS)?,
            payload: row.try_get(large::PAYLOAD)?,
        });
    }
    let is_cut = entries.len() < rows.len();
    Ok(Page {
        epoch,
        head: ServerId::new(head.unwrap_or(0)),
        floor: ServerId::new(floor.unwrap_or(0)),
        fold: FoldNumber(fold.unwrap_or(0).into()),
        began: InFold::stored(began[0], began[1], began[2]),
        needless: Needless::stored(query, began[3], began[4]),
        highest_change_id: highest.map(ChangeId::new),
        entries,
        has_more: is_cut || is_followed,
        is_cut,
    })
}
