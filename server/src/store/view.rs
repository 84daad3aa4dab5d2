//! What operators look at: users, their devices, rows and entries, and what could
//! not be projected. The console and `oversync doctor` ask for it; nothing here
//! writes, and nothing reads more than one page: every list has a limit, and goes on
//! after what was told last. Payloads are told by their beginning and their size.

use super::embedded::EmbeddedView;
use super::jumps::Jumps;
use super::postgres::PostgresView;
use super::retention::Rules;
use super::{OpenError, Place, StoreError};
use async_trait::async_trait;
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use std::sync::Arc;
use time::OffsetDateTime;
use uuid::Uuid;

/// Characters of a payload that a list tells.
pub(super) const BEGINNING: i64 = 2_000;

/// Entries that are looked at beyond a device's cursor for the first that it needs:
/// before it, one device's own may stand without end.
pub(super) const LOOKED_AT: i64 = 10_000;

/// After every name that begins with what it is appended to: the highest character,
/// which stands in no name that means anything.
const HIGHEST: char = '\u{10FFFF}';

/// Devices of one user that are looked at for who holds the log back; the first by
/// name.
pub const DEVICES_LOOKED_AT: i64 = 500;

/// A user as its head row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The name.
    pub user: UserId,
    /// The highest place of the stream.
    pub head: ServerId,
    /// At or below it the fold is read.
    pub floor: ServerId,
    /// When it was folded last.
    pub folded_at: Option<OffsetDateTime>,
    /// Up to here entries are old enough to be folded; asked for one user only.
    pub aged: Option<ServerId>,
}

/// A device of a user: one that has uploaded, or read, or is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Its name.
    pub device: String,
    /// Its highest change id on record; `None` when it has never uploaded.
    pub highest_change_id: Option<ChangeId>,
    /// When that change was taken, where its entry is kept.
    pub last_change_at: Option<OffsetDateTime>,
    /// How far it has read, where that is known.
    pub cursor: Option<ServerId>,
    /// The place before the first entry that it has not read and needs; `None` where
    /// it needs nothing, or nothing is known of it.
    pub needs_after: Option<ServerId>,
    /// Whether it holds the floor back: it has read within the time of silence.
    pub counts: bool,
    /// Its last download that was written down.
    pub read_at: Option<OffsetDateTime>,
    /// Its last request of any kind that was written down.
    pub seen_at: Option<OffsetDateTime>,
    /// Since when it is revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

impl DeviceView {
    /// One of which nothing is written down.
    pub fn unheard(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            highest_change_id: None,
            last_change_at: None,
            cursor: None,
            needs_after: None,
            counts: false,
            read_at: None,
            seen_at: None,
            revoked_at: None,
        }
    }

    /// The place above which nothing is folded as long as it counts; `None` where it
    /// holds nothing back.
    pub fn holds_at(&self) -> Option<ServerId> {
        match (self.counts, self.cursor) {
            (false, _) => None,
            (true, None) => Some(ServerId::ZERO),
            (true, Some(_)) => self.needs_after,
        }
    }

    /// How many entries it has not read that it needs, where the stream ends at `head`;
    /// `None` where nobody knows how far it has read.
    pub fn behind(&self, head: ServerId, jumps: &Jumps) -> Option<i64> {
        self.cursor?;
        let needs = self.needs_after.unwrap_or(head);
        Some(jumps.entries_between(needs, head))
    }
}

/// Of these devices, those that hold the log back although it is old enough up to
/// `aged`: each with its place, in the order given.
pub fn holders(
    devices: &[DeviceView],
    aged: ServerId,
) -> impl Iterator<Item = (ServerId, &DeviceView)> {
    let held = devices
        .iter()
        .filter_map(|device| Some((device.holds_at()?, device)));
    held.filter(move |(place, _)| *place < aged)
}

/// The beginning of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// At most 2,000 characters of it.
    pub text: String,
    /// Its size.
    pub bytes: u64,
}

impl Beginning {
    /// As read; none for a delete.
    pub(super) fn read(text: Option<String>, bytes: Option<i64>) -> Option<Self> {
        Some(Self {
            text: text?,
            bytes: bytes?.unsigned_abs(),
        })
    }
}

/// A row as it stands, a tombstone included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowView {
    /// Its table.
    pub table: TableName,
    /// Its key.
    pub key: RowKey,
    /// How often it has been written.
    pub version: RowVersion,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The place of its last change.
    pub place: ServerId,
    /// Who made that change, and when; `None` where its entry was folded away.
    pub changed: Option<Changed>,
    /// What it holds.
    pub payload: Option<Beginning>,
}

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The device.
    pub device: String,
    /// Its number for the change.
    pub change_id: ChangeId,
    /// When it was taken.
    pub at: OffsetDateTime,
}

/// An entry of a user's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryView {
    /// Its place.
    pub place: ServerId,
    /// Its table.
    pub table: TableName,
    /// The row.
    pub key: RowKey,
    /// What happened.
    pub op: Op,
    /// The row's version afterwards.
    pub version: RowVersion,
    /// Who made it.
    pub changed: Changed,
    /// What the row held afterwards.
    pub payload: Option<Beginning>,
}

/// A row that could not be projected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureView {
    /// Where the list goes on after it.
    pub at: FailureAt,
    /// Whose.
    pub user: UserId,
    /// Its table.
    pub table: TableName,
    /// The row.
    pub key: RowKey,
    /// The version that could not be written.
    pub version: RowVersion,
    /// What was to be done.
    pub op: Op,
    /// What the row was to hold.
    pub payload: Option<Beginning>,
    /// Why.
    pub error: String,
    /// Since when.
    pub first_seen: OffsetDateTime,
    /// How often it was tried again.
    pub retries: i64,
}

/// The place of a failure among those of all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailureAt {
    /// The user's number inside this database.
    pub user: i64,
    /// The failure's number among that user's.
    pub id: i64,
}

impl FailureAt {
    /// Above what a list begins, and the last user in it: of one user or of all, above
    /// `after` where that is said.
    pub(super) fn range(of: Option<i64>, after: Option<Self>) -> (Self, i64) {
        let first = Self {
            user: of.unwrap_or(i64::MIN),
            id: i64::MIN,
        };
        let last = of.unwrap_or(i64::MAX);
        (after.map_or(first, |after| after.max(first)), last)
    }
}

/// Which rows of a user are wanted.
#[derive(Debug, Clone, Default)]
pub struct RowFilter {
    /// Only tables whose `schema.table` begins so.
    pub table: String,
    /// Only keys in here.
    pub keys: KeyRange,
    /// Only what comes after this row.
    pub after: Option<(TableName, RowKey)>,
}

/// Keys from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    /// The first.
    pub low: Uuid,
    /// The last.
    pub high: Uuid,
}

impl Default for KeyRange {
    fn default() -> Self {
        Self {
            low: Uuid::nil(),
            high: Uuid::max(),
        }
    }
}

impl KeyRange {
    /// All keys that begin so, dashes left out of account; `None` for what no key
    /// begins with.
    pub fn beginning_with(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
        if !is_hex || digits.len() > 32 {
            return None;
        }
        let low = Uuid::try_parse(&format!("{digits:0<32}"));
        let high = Uuid::try_parse(&format!("{digits:f<32}"));
        low.ok()
            .zip(high.ok())
            .map(|(low, high)| Self { low, high })
    }

    /// What of it comes after a key.
    pub(super) fn after(self, key: RowKey) -> Option<Self> {
        let next = key.uuid().as_u128().checked_add(1)?;
        let low = self.low.max(Uuid::from_u128(next));
        (low <= self.high).then_some(Self { low, ..self })
    }
}

/// A table to read rows of, with the keys wanted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRange {
    pub(super) table: TableName,
    /// Its number inside the database.
    pub(super) number: i64,
    pub(super) keys: KeyRange,
}

impl RowFilter {
    /// Of all tables, given with their numbers, those that are to be read, in order.
    pub(super) fn ranges(&self, tables: Vec<(TableName, i64)>) -> Vec<TableRange> {
        let mut wanted: Vec<_> = tables
            .into_iter()
            .filter(|(table, _)| table.to_string().starts_with(&self.table))
            .filter_map(|(table, number)| {
                let keys = match &self.after {
                    Some((last, key)) if *last == table => self.keys.after(*key)?,
                    Some((last, _)) if order(&table) < order(last) => return None,
                    Some(_) | None => self.keys,
                };
                Some(TableRange {
                    table,
                    number,
                    keys,
                })
            })
            .collect();
        wanted.sort_by(|a, b| order(&a.table).cmp(&order(&b.table)));
        wanted
    }
}

fn order(table: &TableName) -> (&str, &str) {
    (&table.schema, &table.table)
}

/// The first name that does not begin with `prefix` any more.
pub(super) fn end_of(prefix: &str) -> String {
    format!("{prefix}{HIGHEST}")
}

/// A database as operators see it.
#[async_trait]
pub trait View: Send + Sync + 'static {
    /// What time the database has; `None` where it has no clock of its own.
    async fn now(&self) -> Result<Option<OffsetDateTime>, StoreError>;

    /// The database's history.
    async fn epoch(&self) -> Result<Arc<str>, StoreError>;

    /// Users whose names begin so, in order, after one.
    async fn users(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: i64,
    ) -> Result<Vec<UserRecord>, StoreError>;

    /// One user; `None` for one never seen.
    async fn user(&self, user: &UserId, rules: Rules) -> Result<Option<UserRecord>, StoreError>;

    /// Where a user's stream has places that were never handed out; the newest 10,000.
    async fn jumps(&self, user: &UserId) -> Result<Jumps, StoreError>;

    /// A user's devices in the order of their names, after one.
    async fn devices(
        &self,
        user: &UserId,
        after: Option<&str>,
        rules: Rules,
        limit: i64,
    ) -> Result<Vec<DeviceView>, StoreError>;

    /// A user's rows, by table and key.
    async fn rows(
        &self,
        user: &UserId,
        only: RowFilter,
        limit: i64,
    ) -> Result<Vec<RowView>, StoreError>;

    /// A user's log, newest first, below a place.
    async fn entries(
        &self,
        user: &UserId,
        before: Option<ServerId>,
        limit: i64,
    ) -> Result<Vec<EntryView>, StoreError>;

    /// What could not be projected, of one user or of all, after one.
    async fn failures(
        &self,
        user: Option<&UserId>,
        after: Option<FailureAt>,
        limit: i64,
    ) -> Result<Vec<FailureView>, StoreError>;
}

/// Opens the database behind a URL, to look, beside whatever server runs on it.
pub async fn open(url: &str) -> Result<Arc<dyn View>, OpenError> {
    Ok(match Place::of(url)? {
        Place::Embedded(path) => Arc::new(EmbeddedView::open(&path)?),
        Place::Postgres(url) => Arc::new(PostgresView::open(&url).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse("business", name).expect("a name")
    }

    #[test]
    fn who_has_not_read_what_is_old_enough_holds_the_log() {
        let device = |name: &str, counts, cursor: Option<i64>, needs: Option<i64>| DeviceView {
            counts,
            cursor: cursor.map(ServerId::new),
            needs_after: needs.map(ServerId::new),
            ..DeviceView::unheard(name)
        };
        let devices = [
            device("reads nothing any more", true, None, None),
            device("behind", true, Some(3), Some(5)),
            device("has all it needs", true, Some(3), None),
            device("silent", false, Some(1), Some(1)),
            device("reads the young", true, Some(9), Some(9)),
        ];
        let found: Vec<(i64, &str)> = holders(&devices, ServerId::new(9))
            .map(|(place, device)| (place.get(), &*device.device))
            .collect();
        assert_eq!(found, [(0, "reads nothing any more"), (5, "behind")]);
    }

    #[test]
    fn keys_are_found_by_how_they_begin() {
        let range = KeyRange::beginning_with("0F8FAD5B-d9").expect("a beginning");
        assert_eq!(
            range.low.to_string(),
            "0f8fad5b-d900-0000-0000-000000000000"
        );
        assert_eq!(
            range.high.to_string(),
            "0f8fad5b-d9ff-ffff-ffff-ffffffffffff"
        );
        assert_eq!(KeyRange::beginning_with(""), Some(KeyRange::default()));
        for wrong in ["x", "0f8fad5b-d9cb-469f-a165-70867728950e0", "%", "é"] {
            assert_eq!(KeyRange::beginning_with(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_list_of_rows_goes_on_after_the_last() {
        let all = || vec![(table("users"), 1), (table("posts"), 2), (table("tags"), 3)];
        let key = RowKey::new(Uuid::from_u128(7));
        let after = RowFilter {
            after: Some((table("tags"), key)),
            ..RowFilter::default()
        };
        let ranges = after.ranges(all());
        let names: Vec<_> = ranges.iter().map(|range| &*range.table.table).collect();
        assert_eq!(names, ["tags", "users"]);
        assert_eq!(ranges[0].keys.low.as_u128(), 8);
        assert_eq!(ranges[1].keys, KeyRange::default());
        let last = RowFilter {
            after: Some((table("users"), RowKey::new(Uuid::max()))),
            ..RowFilter::default()
        };
        assert_eq!(last.ranges(all()), []);
        let only = RowFilter {
            table: "business.p".to_owned(),
            ..RowFilter::default()
        };
        assert_eq!(only.ranges(all()).len(), 1);
    }
}
