//! A page of a user's stream: what is asked for, what is read, and where a device stands
//! that got it. How far streams reach is the same question without the rows.

use super::FoldNumber;
use super::retention::Stand;
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion, ServerId, TableName, UserId};
use std::sync::Arc;
use time::OffsetDateTime;

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

/// How far streams reach, from one snapshot.
#[derive(Debug, Clone)]
pub struct Reached {
    /// The database's history.
    pub epoch: Arc<str>,
    /// One for each that was asked for, in order; `None` for a user never seen.
    pub reaches: Vec<Option<Reach>>,
}

/// How far one user's stream reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The user's head.
    pub head: ServerId,
    /// At or below it the fold is read, not the log.
    pub floor: ServerId,
    /// The highest change id on record of the device that was asked for.
    pub highest_change_id: Option<ChangeId>,
}

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
