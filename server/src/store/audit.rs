//! What `verify` and `history` ask of a database: to read all that the server keeps
//! about a user, from one snapshot or step by step.
//!
//! It runs beside serving processes, so it takes no lock that one of them would
//! wait for; it never writes and never migrates. What it reads may be damaged:
//! nothing here trusts that the constraints hold.

use super::embedded::EmbeddedAudit;
use super::history::{Only, Written};
use super::postgres::PostgresAudit;
use super::{DeviceKey, FoldNumber, OpenError, Place, StoreError};
use crate::projection::{BusinessTable, Projection};
use async_trait::async_trait;
use oversync_shared::upload::RowState;
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use std::collections::{HashMap, HashSet};

/// The largest part of a log that is held in memory at a time, in bytes of
/// payload: a few of the largest that may be sent.
pub(super) const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Entries or rows read at a time: enough that the round trips do not count.
pub(super) const CHUNK_ROWS: i64 = 1_000;

/// Strays of one kind that are read at most.
pub(super) const MAX_STRAYS: i64 = 100;

/// A table's number inside one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableKey(pub(crate) i64);

/// A row of one user, by the table's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowName {
    /// The table's number.
    pub table: TableKey,
    /// The row's key.
    pub key: RowKey,
}

/// What the server keeps about a user besides log and rows.
#[derive(Debug, Clone)]
pub struct Book {
    /// The user's head.
    pub head: ServerId,
    /// Entries at or below it may be folded away.
    pub floor: ServerId,
    /// The fold that is read instead of them.
    pub fold: FoldNumber,
    /// Whether nothing is left of what it replaced.
    pub is_swept: bool,
    /// Places that restores have left out: above the one, up to the other.
    pub jumps: HashMap<ServerId, ServerId>,
    /// The highest change id on record of each device.
    pub devices: HashMap<DeviceKey, ChangeId>,
    /// All tables that were ever registered with this database.
    pub tables: HashMap<TableKey, TableName>,
    /// Rows that stand in the failure list, each with a version that could not
    /// be written.
    pub failures: HashSet<(RowName, RowVersion)>,
}

/// An entry of the log as it is stored.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Its place.
    pub server_id: ServerId,
    /// Who sent it.
    pub device: DeviceKey,
    /// The device's number for it.
    pub change_id: ChangeId,
    /// The row.
    pub row: RowName,
    /// What happened; `None` for a number that means nothing.
    pub op: Option<Op>,
    /// The row's version at this entry.
    pub version: RowVersion,
    /// When it was taken, in microseconds since 1970; `None` for no time at all.
    pub micros: Option<i64>,
    /// Of its content.
    pub fingerprint: Vec<u8>,
    /// The row as JSON text.
    pub payload: Option<String>,
}

/// A place of the fold that is read.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The place.
    pub place: ServerId,
    /// The entry that stands there.
    pub entry: ServerId,
    /// Its payload, where the entry is there and has one.
    pub payload: Option<String>,
}

/// What is wrong with a business row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusinessFault {
    /// It is not there.
    Missing,
    /// It is there, and not this user's.
    NotOwned,
    /// It is this user's and should be gone.
    NotGone,
    /// A column has another value.
    Value {
        /// The column.
        column: String,
        /// What the business table has.
        recorded: Option<String>,
        /// What projecting the payload gives.
        recomputed: Option<String>,
    },
    /// The payload cannot be written, and the failure list does not say so.
    Unprojectable(String),
}

/// Something that belongs to nobody.
#[derive(Debug, Clone)]
pub struct Stray {
    /// The user's name, or number where there is no name.
    pub user: String,
    /// What it is.
    pub what: &'static str,
    /// The table.
    pub table: Option<TableName>,
    /// The row.
    pub key: Option<RowKey>,
}

/// A database that is read and nothing else.
#[async_trait]
pub trait Audit: Send + Sync {
    /// See [`super::Store::is_shared`].
    fn is_shared(&self) -> bool;

    /// See [`super::Store::describe`].
    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError>;

    /// Users in the order of their names, a limited number after `after`.
    async fn users(&self, after: Option<&UserId>) -> Result<Vec<UserId>, StoreError>;

    /// Everything about one user as it is at this moment; `None` for a user
    /// never seen.
    async fn snapshot(
        &mut self,
        user: &UserId,
    ) -> Result<Option<(Book, Box<dyn Snapshot + '_>)>, StoreError>;

    /// A step of all that was ever written to a user's rows, as far as it is kept: what
    /// is wanted of it above `after`, in the order of the stream, empty at the end; `None`
    /// for a user never seen.
    async fn history(
        &mut self,
        user: &UserId,
        after: ServerId,
        only: &Only,
    ) -> Result<Option<Vec<Written>>, StoreError>;

    /// Rows and entries of no known user, and owner records without a live row.
    /// `owned` are the projected tables without an owner column.
    async fn strays(&mut self, owned: &[TableName]) -> Result<Vec<Stray>, StoreError>;
}

/// One user at one moment.
#[async_trait]
pub trait Snapshot: Send {
    /// Entries in ascending order, a limited number after `after`; none at the
    /// end.
    async fn log(&mut self, after: ServerId) -> Result<Vec<Logged>, StoreError>;

    /// Places of a fold in ascending order, a limited number after `after`; none at
    /// the end.
    async fn folded(
        &mut self,
        fold: FoldNumber,
        after: ServerId,
    ) -> Result<Vec<Placed>, StoreError>;

    /// Row states in the order of their names, a limited number after `after`;
    /// none at the end.
    async fn rows(
        &mut self,
        after: Option<RowName>,
    ) -> Result<Vec<(RowName, RowState)>, StoreError>;

    /// Compares business rows of one table with what these states, each with
    /// the payload of the entry it points to, are projected to.
    async fn business(
        &mut self,
        projection: &Projection,
        table: TableKey,
        rows: &[(RowKey, RowState)],
    ) -> Result<Vec<(RowKey, BusinessFault)>, StoreError>;
}

/// Opens the database behind a URL, to read.
pub async fn open(url: &str) -> Result<Box<dyn Audit>, OpenError> {
    Ok(match Place::of(url)? {
        Place::Embedded(path) => Box::new(EmbeddedAudit::open(&path)?),
        Place::Postgres(url) => Box::new(PostgresAudit::open(&url).await?),
    })
}
