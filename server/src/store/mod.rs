//! What the server asks of its database: few verbs, whole batches.
//!
//! Two stores keep this contract, PostgreSQL and the embedded SQLite file; one
//! story test runs against both. Order and uniqueness come from here: every
//! write of a user is guarded by compare-and-set on the user's head row in the
//! transaction that appends to the stream. Nothing outside these modules knows
//! SQL.

pub mod audit;
mod commit;
mod devices;
mod embedded;
pub mod handler;
pub(crate) mod heads_message;
pub mod history;
pub mod jumps;
mod metered;
pub(crate) mod moving;
mod open;
mod page;
mod postgres;
pub(crate) mod recovery;
pub mod retention;
pub mod usage;
pub mod view;

pub use commit::{Commit, DeviceWrite, NewEntry, Outcome, Show};
pub use devices::{Access, DeviceRecord, Revocations, RevokedDevices};
pub use embedded::EmbeddedStore;
pub(crate) use metered::MeteredStore;
pub(crate) use open::Place;
pub use open::{OpenError, open};
pub(crate) use page::has_place;
pub use page::{Entry, InFold, Needless, Page, PageQuery, Reach, Reached};
pub use postgres::PostgresStore;
use retention::{Heard, Retention};
use view::View;

use crate::projection::{Business, BusinessTable, Failure, Retried};
use async_trait::async_trait;
use oversync_shared::Catalog;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::upload::{ColumnValue, Fingerprint, Holder, Recorded, RowAt, RowState};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowVersion, ServerId, TableName, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use usage::Usage;

/// What can go wrong in a store: one variant per thing a caller can do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Too much is waiting already; try again later.
    #[error("the store has too much waiting already")]
    Overloaded,
    /// The database cannot be reached, refused, or is damaged. The text is for
    /// the log, never for a client.
    #[error("{0}")]
    Failed(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Overloaded,
            other => Self::Failed(format!("PostgreSQL: {other}")),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(format!("SQLite: {error}"))
    }
}

/// A user's number inside one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey(pub(crate) i64);

/// A device's number inside one user; 0 is the server itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceKey(pub(crate) i32);

impl DeviceKey {
    /// Under which the server writes on its own behalf.
    pub const SERVER: Self = Self(0);
}

/// Moves with every write of a user, retention included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision(pub(crate) i64);

/// Which fold of a user's log stands at or below the floor; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldNumber(pub(crate) i64);

impl FoldNumber {
    /// Before the first one, and where nothing is asked of a fold.
    pub(crate) const NONE: Self = Self(0);
}

/// A user's head row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The user's number.
    pub user: UserKey,
    /// The user's name.
    pub user_id: UserId,
    /// The highest server id.
    pub head: ServerId,
    /// To be matched by the next write.
    pub revision: Revision,
}

/// A device that has uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownDevice {
    /// Its number.
    pub key: DeviceKey,
    /// Its highest change id on record.
    pub highest: ChangeId,
}

/// What an upload needs to know, as one question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whose; created when never seen.
    pub user: UserId,
    /// The calling device.
    pub device: DeviceId,
    /// Rows whose state is wanted.
    pub rows: Vec<RowAt>,
    /// Change ids of the calling device that may be on record.
    pub ids: Vec<ChangeId>,
}

/// The answer to an [`Ask`], read from one snapshot.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The user's head row.
    pub head: Head,
    /// The database's history.
    pub epoch: Arc<str>,
    /// The calling device, if it has uploaded before.
    pub device: Option<KnownDevice>,
    /// The key a new device would get.
    pub next_device: DeviceKey,
    /// Of the rows asked for, those that were ever synchronised.
    pub rows: HashMap<RowAt, RowState>,
    /// Of the ids asked for, those on record.
    pub recorded: HashMap<ChangeId, Recorded>,
}

/// A value that a payload refers to, with the column that should hold it.
pub type Referred = (ColumnIx, ColumnValue);
/// A row as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// How often it has been written.
    pub version: RowVersion,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The row as JSON text; none for a tombstone.
    pub payload: Option<String>,
}

/// Connections to a database that is elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    /// Open, and with nothing to do.
    pub idle: usize,
    /// At work.
    pub busy: usize,
}

/// Something on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is, in a word.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
}

/// Which failures are wanted.
#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    /// Only of this schema.
    pub schema: Option<String>,
    /// Only of this table.
    pub table: Option<String>,
    /// Only those with a lower number.
    pub before: Option<i64>,
}

/// Bytes of payload in one piece of a failure list, which has at least one failure:
/// a list of a thousand rows of a mebibyte is never in memory as a whole.
pub const FAILURE_PIECE_BYTES: i64 = 2 * 1024 * 1024;

/// Carries heads between the processes of one database. Messages may be lost,
/// doubled or late: they say that there is something to read, and no more.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Tells the other processes (and this one).
    async fn publish(&self, heads: Vec<(UserId, ServerId)>) -> Result<(), StoreError>;

    /// Hears of heads from now on, until the connection is lost for good.
    async fn listen(&self) -> Result<mpsc::Receiver<(UserId, ServerId)>, StoreError>;
}

/// The database behind a server.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Whether other processes may write to the same database.
    fn is_shared(&self) -> bool;

    /// The way to the other processes, where there are any.
    fn bus(&self) -> Option<Arc<dyn Bus>>;

    /// How many commits may run at a time.
    fn lanes(&self) -> usize;

    /// How the database describes the business tables; those that do not exist
    /// are left out.
    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError>;

    /// Tells the store which tables are registered, which of them are projected
    /// and where values are looked up; once, before the verbs below. Tables keep
    /// their numbers across restarts.
    async fn register(&self, catalog: &Catalog, business: Business) -> Result<(), StoreError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// The database's history.
    async fn epoch(&self) -> Result<Arc<str>, StoreError>;

    /// Reads what an upload needs from one snapshot.
    async fn load(&self, ask: &Ask) -> Result<Loaded, StoreError>;

    /// Writes the uploads of many users, no user twice, in one transaction.
    /// One outcome each, in order. On an error the fate of all is unknown until
    /// they are loaded again.
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError>;

    /// Which of these rows the business tables have for this user: its own, or
    /// nobody's.
    async fn in_business(
        &self,
        user: UserKey,
        user_id: &UserId,
        rows: &[RowAt],
    ) -> Result<HashSet<RowAt>, StoreError>;

    /// Who holds these values: of a synchronised table the business rows that
    /// this user may see (its own, or nobody's), of another table all. A value
    /// that a column cannot hold is held by nobody; values without a holder may
    /// be left out. At most `at_most` holders of one value are named.
    async fn holders(
        &self,
        user: UserKey,
        user_id: &UserId,
        values: Vec<Referred>,
        at_most: usize,
    ) -> Result<HashMap<Referred, Vec<Holder>>, StoreError>;

    /// The user's rows that could not be projected, newest first, at most
    /// `limit`; of one schema or table only when given.
    async fn failures(
        &self,
        user: &UserId,
        only: FailureFilter,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError>;

    /// Projects the current state of a failed row again.
    async fn retry(&self, user: &UserId, failure: i64) -> Result<Retried, StoreError>;

    /// What a user has; or, of what was committed above `since`, the most that it may
    /// have added. The second costs what was committed, the first what the user has.
    async fn usage(&self, user: UserKey, since: Option<ServerId>) -> Result<Usage, StoreError>;

    /// The bytes of the payloads of these entries; 0 for a delete, nothing for one that
    /// is not there.
    async fn sizes(
        &self,
        user: UserKey,
        entries: Vec<ServerId>,
    ) -> Result<HashMap<ServerId, u64>, StoreError>;

    /// Reads a page of one user's stream.
    async fn page(&self, query: PageQuery) -> Result<Page, StoreError>;

    /// Reads one row of a user; `None` when it has never been synchronised.
    async fn row(&self, user: &UserId, row: RowAt) -> Result<Option<StoredRow>, StoreError>;

    /// How far the streams of users reach, and for each what is on record of one of
    /// its devices, where one is named.
    async fn heads(&self, of: &[(UserId, Option<DeviceId>)]) -> Result<Reached, StoreError>;

    /// A user's devices: those that have uploaded and those that are revoked,
    /// by name.
    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError>;

    /// Revokes or reinstates a device, also one that was never seen. Doing it
    /// twice is doing it once.
    async fn set_access(
        &self,
        user: &UserId,
        device: &DeviceId,
        access: Access,
    ) -> Result<(), StoreError>;

    /// Takes down how far devices have read, and that they are there; those of users
    /// never seen are left out. What is written here may be behind what is true,
    /// never the reverse for long: a device that goes back to the start says so by
    /// itself ([`reads_fold`](Self::reads_fold)).
    async fn heard(&self, readers: Vec<Heard>) -> Result<(), StoreError>;

    /// A device has begun to read a fold from the start, and is not through: it is
    /// given a page that ends here. `floor` is where that fold ends.
    async fn reads_fold(
        &self,
        user: &UserId,
        device: &DeviceId,
        at: InFold,
        floor: ServerId,
    ) -> Result<(), StoreError>;

    /// The right to fold; `None` while another process has it.
    async fn retention(&self) -> Result<Option<Box<dyn Retention>>, StoreError>;

    /// All revoked devices; `None` when the list is still the one of `known`.
    async fn revoked(
        &self,
        known: Option<Revocations>,
    ) -> Result<Option<RevokedDevices>, StoreError>;

    /// How its connections are used now.
    fn pool(&self) -> PoolUse;

    /// What operators look at, through the same connections.
    fn view(&self) -> Arc<dyn View>;

    /// What it has on disk, by kind. Looks at sizes only, never at rows.
    async fn storage(&self) -> Result<Vec<Stored>, StoreError>;

    /// Finishes what is running and lets go of the database.
    async fn close(&self);
}

/// A moment as it is stored: microseconds since 1970.
fn moment(micros: i64) -> Result<OffsetDateTime, StoreError> {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    moment.map_err(|error| {
        StoreError::Failed(format!("the database holds the time {micros}: {error}"))
    })
}

/// A user's name as it is stored.
fn stored_user(name: String) -> Result<UserId, StoreError> {
    UserId::new(name).map_err(|error| StoreError::Failed(format!("a stored user name {error}")))
}

/// The number an operation is stored under.
const fn op_code(op: Op) -> i16 {
    match op {
        Op::Insert => 1,
        Op::Update => 2,
        Op::Delete => 3,
    }
}

fn op_from_code(code: i64) -> Result<Op, StoreError> {
    match code {
        1 => Ok(Op::Insert),
        2 => Ok(Op::Update),
        3 => Ok(Op::Delete),
        other => Err(StoreError::Failed(format!(
            "the log holds an unknown operation {other}"
        ))),
    }
}

fn fingerprint_from(bytes: &[u8]) -> Result<Fingerprint, StoreError> {
    bytes.try_into().map(Fingerprint).map_err(|_| {
        StoreError::Failed("the log holds a fingerprint that is not 16 bytes".to_owned())
    })
}
