//! What folding asks of a database: to read a user's log, to write the places of
//! its fold beside those that are read, to put them in place at once, and to remove
//! what they replace; each step a small transaction of its own.
//!
//! Nothing here decides what stays (`retention/`) or changes what anybody reads,
//! but [`Retention::put_in_place`].

use super::{DeviceKey, FoldNumber, StoreError, UserKey};
use async_trait::async_trait;
use oversync_shared::{DeviceId, RowKey, ServerId, UserId};
use std::time::Duration;

/// Entries read, written or removed at a time: a few milliseconds.
pub(crate) const STEP: i64 = 500;

/// Bytes of payload read at a time, about.
pub(super) const STEP_BYTES: usize = 4 * 1024 * 1024;

/// How long a device counts that has stopped in the middle of a fold, in seconds: it
/// begins again.
pub(super) const STARTING_SECONDS: i64 = 24 * 3_600;

/// How old `seen_at` may be of a device that comes again and again, in seconds:
/// one that has nothing to read is not written down at every request.
pub(super) const SEEN_SECONDS: i64 = 3_600;

/// What requests have said of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The cursor that it came with last, where it did not only upload.
    pub asked: Option<ServerId>,
    /// From where on it needs the stream, where that is known.
    pub stand: Option<Stand>,
    /// Whether it has come with a cursor that is one of the stream's, not a place in
    /// the middle of a fold.
    pub has_moved: bool,
}

/// From where on a device needs a user's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// Its cursor, or the lowest that it will come with next, 0 left aside: who comes
    /// from the start needs nothing kept.
    pub cursor: ServerId,
    /// Up to where it needs nothing of what follows, where that is known.
    pub through: Option<ServerId>,
    /// Whether it reads its own changes too.
    pub wants_own: bool,
}

/// What becomes of entries that folding removes from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// They are gone.
    Gone,
    /// They are moved to the history, in the same transaction.
    Kept,
}

/// What may be folded.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A device that has not read for so long does not hold the floor; one that has
    /// not been heard of at all is forgotten.
    pub silent: Duration,
    /// Entries stay unfolded for so long: longer than it takes until what one
    /// process has heard of a device's cursor is known to all.
    pub age: Duration,
    /// A user is left alone with fewer entries than this that could be folded.
    pub at_least: i64,
    /// What becomes of entries that are removed.
    pub removed: Removed,
    /// Whether indexes that have become loose are built anew after a pass.
    pub reindexes: bool,
}

/// A user with something to fold or to remove.
#[derive(Debug, Clone)]
pub struct Ripe {
    /// Its number.
    pub user: UserKey,
    /// Its name.
    pub user_id: UserId,
    /// Up to where it is folded.
    pub floor: ServerId,
    /// Up to where it may be; the floor, or above it.
    pub ceiling: ServerId,
    /// How many entries were ever written between the two: places that a restore has
    /// left out are none.
    pub entries: i64,
    /// The fold that is read.
    pub fold: FoldNumber,
    /// How many rows that has.
    pub size: i64,
    /// Whether nothing is left of what it replaced.
    pub is_swept: bool,
    /// When it was folded last.
    pub folded_at: Moment,
}

/// A time by the clock of who folds: microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(crate) i64);

impl Moment {
    /// Before all others.
    pub const FIRST: Self = Self(i64::MIN);
}

/// An entry of a log, or of its fold.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Where it stands: in the fold or in the log.
    pub place: ServerId,
    /// The log entry.
    pub at: ServerId,
    /// The table's number.
    pub table: i64,
    /// Who changed it.
    pub device: DeviceKey,
    /// The row.
    pub key: RowKey,
    /// Whether the row lives after it.
    pub lives: bool,
    /// The payload, of the tables that were asked for.
    pub payload: Option<String>,
}

/// Which part of a user's log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The fold that is read now.
    Folded,
    /// The log itself.
    Logged,
}

/// The right to fold: one process of a database has it at a time.
#[async_trait]
pub trait Retention: Send {
    /// The numbers of the registered tables, by place in the catalog.
    fn table_numbers(&self) -> Vec<i64>;

    /// Forgets devices that have been silent: how far they had read, and what is
    /// left of their changes. How many.
    async fn forget_silent(&mut self, rules: Rules) -> Result<u64, StoreError>;

    /// What time it is.
    async fn now(&mut self) -> Result<Moment, StoreError>;

    /// Users with something to do, those first that have waited longest: a limited
    /// number after `after`, last folded before `until`.
    async fn ripe(
        &mut self,
        after: (Moment, UserKey),
        until: Moment,
        rules: Rules,
    ) -> Result<Vec<Ripe>, StoreError>;

    /// The user's devices that have uploaded and never come with a cursor: they have
    /// what they wrote, however often they begin from the start. Those that are revoked
    /// are not waited for.
    async fn unmoved(&mut self, user: UserKey) -> Result<Vec<DeviceKey>, StoreError>;

    /// A step of a part of a user's log, from above `after` up to `until`, with the
    /// payloads of the tables of these numbers; none at the end.
    async fn scan(
        &mut self,
        ripe: &Ripe,
        part: Part,
        after: ServerId,
        until: ServerId,
        payloads_of: &[i64],
    ) -> Result<Vec<Scanned>, StoreError>;

    /// Removes a step of the places of all folds but one; whether there are more.
    async fn clear_all_but(&mut self, user: UserKey, fold: FoldNumber) -> Result<bool, StoreError>;

    /// Writes places of a fold that nobody reads yet, from `first` on.
    async fn write(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        first: ServerId,
        entries: &[ServerId],
    ) -> Result<(), StoreError>;

    /// Lets the fold after [`Ripe::fold`] be read, up to `floor`; `false` when
    /// somebody may still need what it replaces.
    async fn put_in_place(
        &mut self,
        ripe: &Ripe,
        floor: ServerId,
        rules: Rules,
    ) -> Result<bool, StoreError>;

    /// A step of the log's entries above `after` up to `until`.
    async fn entries(
        &mut self,
        user: UserKey,
        after: ServerId,
        until: ServerId,
    ) -> Result<Vec<ServerId>, StoreError>;

    /// Removes entries at or below the floor while this fold is the one that is
    /// read. What must be known of their changes stays. How many.
    async fn remove(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        entries: &[ServerId],
        removed: Removed,
    ) -> Result<u64, StoreError>;

    /// Removes the records of changes that their devices have settled, and says
    /// that nothing is left to remove.
    async fn swept(&mut self, user: UserKey, fold: FoldNumber) -> Result<(), StoreError>;

    /// Makes what has become much larger than it must be small again, where that holds
    /// up nobody: indexes are built anew on PostgreSQL, and nothing is done on the embedded
    /// store, whose pages are joined as they empty.
    async fn tidy(&mut self) -> Result<(), StoreError>;

    /// Gives back to the file system what lies unused among what is stored. May take
    /// minutes. The embedded store writes its whole file anew, and nothing else
    /// meanwhile; on PostgreSQL our indexes are built anew, beside whoever reads and writes.
    async fn compact(&mut self) -> Result<(), StoreError>;
}
