//! What the server asks of its database: few verbs, whole batches.
//!
//! Two stores keep this contract, PostgreSQL and the embedded SQLite file; one
//! story test runs against both. Order and uniqueness come from here: every
//! write of a user is guarded by compare-and-set on the user's head row in the
//! transaction that appends to the stream. Nothing outside these modules knows
//! SQL.

pub mod audit;
mod devices;
mod embedded;
pub mod handler;
pub(crate) mod heads_message;
mod metered;
mod postgres;
pub mod retention;

pub use devices::{Access, DeviceRecord, Revocations, RevokedDevices};
pub use embedded::EmbeddedStore;
pub(crate) use metered::MeteredStore;
pub use postgres::PostgresStore;
use retention::{Heard, Retention, Stand};

use crate::clock::Clock;
use crate::projection::{Business, BusinessTable, Failure, Retried};
use async_trait::async_trait;
use bytestring::ByteString;
use oversync_shared::Catalog;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::upload::{
    ColumnValue, Fingerprint, Holder, Recorded, RowAt, RowState, RowWrite,
};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion, ServerId, TableName, UserId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::mpsc;

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

/// Where a device stands in a fold: the last page of it that it was given. Of any
/// other cursor below the floor nobody knows which history it was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFold {
    /// The fold.
    pub fold: FoldNumber,
    /// The cursor that the page was asked from: it may be asked for again.
    pub asked: ServerId,
    /// Where the page ended.
    pub place: ServerId,
}

impl InFold {
    /// From where on the device needs the stream, when the fold ends at `floor`; below
    /// it, only the fold itself says so.
    pub(crate) fn cursor(&self, floor: ServerId) -> ServerId {
        if self.place >= floor {
            self.place
        } else {
            self.asked
        }
    }

    /// As stored: fold, asked and place, each of them or none.
    pub(crate) fn stored(
        fold: Option<i64>,
        asked: Option<i64>,
        place: Option<i64>,
    ) -> Option<Self> {
        Some(Self {
            fold: FoldNumber(fold?),
            asked: ServerId::new(asked?),
            place: ServerId::new(place?),
        })
    }
}

/// A stretch of the stream that a device need not read: it holds nothing but the
/// device's own changes, which it leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needless {
    /// The device's cursor.
    pub cursor: ServerId,
    /// Up to where.
    pub through: ServerId,
}

impl Needless {
    /// As stored, both or none; for a question that leaves out the device's own.
    pub(crate) fn stored(
        query: &PageQuery,
        cursor: Option<i64>,
        through: Option<i64>,
    ) -> Option<Self> {
        (!query.include_self).then_some(())?;
        Some(Self {
            cursor: ServerId::new(cursor?),
            through: ServerId::new(through?),
        })
    }
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

/// A new entry of the stream, with its payload.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Its place.
    pub server_id: ServerId,
    /// The row.
    pub row: RowAt,
    /// What happens to it.
    pub op: Op,
    /// The row's version afterwards.
    pub version: RowVersion,
    /// The device's number for it.
    pub change_id: ChangeId,
    /// Of its content.
    pub fingerprint: Fingerprint,
    /// The row as JSON text, as it came; none for a delete.
    pub payload: Option<ByteString>,
}

/// The writing device of a commit.
#[derive(Debug, Clone)]
pub struct DeviceWrite {
    /// Its number.
    pub key: DeviceKey,
    /// Its name.
    pub id: DeviceId,
    /// Its highest change id afterwards.
    pub highest: ChangeId,
    /// Below which it sends no change id again, where it has said so.
    pub settled_below: Option<ChangeId>,
}

/// One upload's writes, or only its guard when `entries` is empty.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose.
    pub user: UserKey,
    /// The user's name, for business rows.
    pub user_id: UserId,
    /// The history the decision was made in.
    pub epoch: Arc<str>,
    /// The revision the decision was made at.
    pub revision: Revision,
    /// The user's head afterwards.
    pub head: ServerId,
    /// The device that writes.
    pub device: DeviceWrite,
    /// New entries, dense and ascending.
    pub entries: Vec<NewEntry>,
    /// Rows afterwards.
    pub rows: Vec<RowWrite>,
    /// Entries whose payload the answer shows.
    pub show: Show,
}

/// Entries whose payload an answer shows, and how much it may be.
#[derive(Debug, Clone, Default)]
pub struct Show {
    /// Each with how often it is shown.
    pub entries: BTreeMap<ServerId, usize>,
    /// Bytes of payload in the answer, at most.
    pub max_bytes: usize,
}

/// What became of one [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written and durable; or, without entries, proven still true.
    Done {
        /// The payloads asked for with [`Commit::show`].
        shown: HashMap<ServerId, Option<String>>,
    },
    /// Another writer was faster, or holds the user's head row: nothing was
    /// written; load and decide again.
    LeftOut,
    /// The payloads to be shown are more than [`Show::max_bytes`]: nothing was
    /// written.
    TooMuchToShow,
}

/// Which part of a stream is wanted.
#[derive(Debug, Clone)]
pub struct PageQuery {
    /// Whose stream.
    pub user: UserId,
    /// The calling device.
    pub device: DeviceId,
    /// Whether the calling device's own entries are wanted too.
    pub include_self: bool,
    /// Only this schema.
    pub schema: Option<String>,
    /// Entries above this id …
    pub after: ServerId,
    /// … and up to this one; the head when not given.
    pub until: Option<ServerId>,
    /// At most this many.
    pub limit: usize,
    /// About this many bytes of payload at most, but one entry at least.
    pub max_bytes: usize,
    /// The history the reader believes in.
    pub epoch: Option<String>,
}

/// One entry of a stream as it is sent.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place.
    pub server_id: ServerId,
    /// Its table.
    pub table: Arc<TableName>,
    /// What happened.
    pub op: Op,
    /// The row.
    pub key: RowKey,
    /// The row's version at this entry.
    pub version: RowVersion,
    /// The device that sent it.
    pub source: Arc<str>,
    /// That device's number for it.
    pub change_id: ChangeId,
    /// When it was taken.
    pub ts: OffsetDateTime,
    /// The row as JSON text; none for a delete.
    pub payload: Option<String>,
}

/// A page of a stream, read from one snapshot.
#[derive(Debug, Clone)]
pub struct Page {
    /// The database's history.
    pub epoch: Arc<str>,
    /// The user's head; 0 for a user never seen.
    pub head: ServerId,
    /// At or below it the fold is read, not the log.
    pub floor: ServerId,
    /// The fold that was read.
    pub fold: FoldNumber,
    /// Where the calling device is in the fold that it began to read from the
    /// start, and is not through with as far as is known.
    pub began: Option<InFold>,
    /// A cursor of the calling device above which it needs nothing up to a place,
    /// when it leaves out its own changes, as far as is known.
    pub needless: Option<Needless>,
    /// The calling device's highest change id on record.
    pub highest_change_id: Option<ChangeId>,
    /// Ascending, at most `limit`.
    pub entries: Vec<Entry>,
    /// Whether the window holds more visible entries; of a cut page, only that
    /// there are more than this.
    pub has_more: bool,
    /// Whether entries that belong to the page were left out for their size;
    /// ask again from the last one on.
    pub is_cut: bool,
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

/// Whether a cursor is one of the two that a device may come with that is reading
/// this fold.
pub(crate) fn has_place(began: Option<InFold>, fold: FoldNumber, after: ServerId) -> bool {
    began.is_some_and(|at| at.fold == fold && (after == at.asked || after == at.place))
}

impl PageQuery {
    /// Whether nothing of other devices is left out.
    fn reads_all_of_others(&self) -> bool {
        self.schema.is_none() && !self.include_self
    }
}

impl Page {
    /// Whether the cursor that was asked from means nothing any more: it lies
    /// below the floor, and is of another time than the fold. A device that is
    /// reading this very fold has its place in it.
    pub fn is_pruned_for(&self, after: ServerId) -> bool {
        let needs_nothing = self
            .needless
            .is_some_and(|known| known.cursor == after && known.through >= self.floor);
        after > ServerId::ZERO
            && after < self.floor
            && !needs_nothing
            && !has_place(self.began, self.fold, after)
    }

    /// Whether a page asked from here begins in the fold.
    fn begins_inside(&self, after: ServerId) -> bool {
        after == ServerId::ZERO || after < self.floor && has_place(self.began, self.fold, after)
    }

    /// Whether the device will come back in the middle of what is folded, or has
    /// begun and not ended.
    fn ends_inside(&self, after: ServerId) -> bool {
        let last = self.entries.last().map(|entry| entry.server_id);
        let comes_back = self.has_more || last.is_some_and(|last| last < self.floor);
        comes_back && self.begins_inside(after)
    }

    /// From where on a device that got this page needs the stream; `None` where only
    /// its place in the fold says so ([`leaves_inside`](Self::leaves_inside)), and
    /// where it got nothing.
    pub fn stand(&self, query: &PageQuery) -> Option<Stand> {
        let after = query.after;
        if self.is_pruned_for(after) || self.ends_inside(after) {
            return None;
        }
        let until = query.until.map_or(self.head, |until| until.min(self.head));
        let at = |cursor| Stand {
            cursor,
            through: None,
            wants_own: query.include_self,
        };
        if !self.begins_inside(after) {
            return Some(at(after));
        }
        match self.entries.last() {
            Some(last) => Some(at(last.server_id)),
            None if after == ServerId::ZERO => Some(at(until)),
            // It has read the fold to its end; what is left of it is its own.
            None => {
                let is_through = until >= self.floor && query.reads_all_of_others();
                let through = Some(self.floor);
                is_through.then_some(Stand {
                    through,
                    ..at(after)
                })
            }
        }
    }

    /// Where a device that asked from `after` and got this page is, when it will
    /// come back in the middle of what is folded, or has begun and not ended: it is
    /// to be known until it is through. `None` too when that is known already.
    pub fn leaves_inside(&self, after: ServerId) -> Option<InFold> {
        if !self.ends_inside(after) {
            return None;
        }
        let last = self.entries.last().map(|entry| entry.server_id);
        let at = InFold {
            fold: self.fold,
            asked: after,
            place: last.unwrap_or(after),
        };
        Some(at).filter(|at| self.began != Some(*at))
    }

    /// Whether waiting for more would be wrong: the reader's cursor lies below
    /// the floor, or its history is another one.
    pub fn answers_at_once(&self, query: &PageQuery) -> bool {
        let below_floor = self.is_pruned_for(query.after);
        let other_epoch = query
            .epoch
            .as_deref()
            .is_some_and(|epoch| epoch != &*self.epoch);
        below_floor || other_epoch
    }
}

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

    /// Reads a page of one user's stream.
    async fn page(&self, query: PageQuery) -> Result<Page, StoreError>;

    /// Reads one row of a user; `None` when it has never been synchronised.
    async fn row(&self, user: &UserId, row: RowAt) -> Result<Option<StoredRow>, StoreError>;

    /// The heads of users; those never seen are left out.
    async fn heads(&self, users: &[UserId]) -> Result<HashMap<UserId, ServerId>, StoreError>;

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

    /// What it has on disk, by kind. Looks at sizes only, never at rows.
    async fn storage(&self) -> Result<Vec<Stored>, StoreError>;

    /// Finishes what is running and lets go of the database.
    async fn close(&self);
}

/// Why a database URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither `sqlite://…` nor `postgres://…`.
    #[error("database_url must start with sqlite:// or postgres://, not \"{0}\"")]
    UnknownScheme(String),
    /// A server has the embedded store's file, or another program like this.
    #[error(
        "{0} is in use by another server process; the embedded store serves one process, use PostgreSQL for several"
    )]
    InUse(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens the database behind a URL and brings its schema up to date.
/// `schema_sql` is run first, once per start (an example's business tables).
pub async fn open(
    url: &str,
    schema_sql: Option<&str>,
    clock: Clock,
) -> Result<Arc<dyn Store>, OpenError> {
    if let Some(path) = url.strip_prefix("sqlite://") {
        return Ok(Arc::new(EmbeddedStore::open(
            path.as_ref(),
            schema_sql,
            clock,
        )?));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Arc::new(PostgresStore::open(url, schema_sql).await?));
    }
    let scheme = url.split("://").next().unwrap_or_default();
    Err(OpenError::UnknownScheme(scheme.to_owned()))
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
