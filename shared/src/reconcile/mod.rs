//! The device's decisions, without a database or a network in sight.
//!
//! Each function takes what a device knows about one row, one answer or one
//! page, and says what to do; `oversqlite` reads the facts and carries the
//! action out in one transaction. Every function is total: the last word on a
//! case that "cannot happen" is written here too, and tested.

#[cfg(test)]
mod tests;

use crate::ids::{RowVersion, ServerId};
use crate::wire::{ChangeStatus, Op, StatusKind, reason};

/// What a device holds of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The newest server version seen or acknowledged.
    pub version: RowVersion,
    /// Whether that version was a tombstone.
    pub deleted: bool,
}

impl Held {
    /// Of a row the device has never heard about from the server.
    pub const NOTHING: Self = Self {
        version: RowVersion::NEVER_SEEN,
        deleted: false,
    };
}

/// Where a local edit of a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is none: the row is as the server has it.
    None,
    /// Captured, not yet frozen.
    Pending,
    /// Frozen, perhaps sent, not answered.
    InFlight,
    /// Refused for good; kept in the rejected list until somebody decides.
    Rejected,
}

/// What to do with an entry of a downloaded page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryAction {
    /// The device already holds this state or a newer one.
    Skip,
    /// A local edit stands in the way: remember the entry until it is settled.
    Shadow,
    /// Write it into the table.
    Apply,
}

/// Decides about one entry of a page (PROTOCOL.md section 6, rules 5 and 8).
pub fn entry(version: RowVersion, held: Held, unsent: Unsent) -> EntryAction {
    if version <= held.version {
        return EntryAction::Skip;
    }
    match unsent {
        Unsent::None => EntryAction::Apply,
        Unsent::Pending | Unsent::InFlight | Unsent::Rejected => EntryAction::Shadow,
    }
}

/// What to do with a remembered server row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowAction {
    /// The edit it met is not settled yet.
    Keep,
    /// The device holds this state or a newer one by now.
    Drop,
    /// No edit is left: write it into the table.
    Apply,
    /// The edit says the same: both are settled, nothing is written.
    Adopt,
    /// The server's row is what the edit was made on, under another version, or of a
    /// life that the edit knew nothing of: the edit stands, based on this version.
    Rebase,
    /// A real conflict: ask the resolver.
    Resolve,
}

/// How the content of a server row relates to the pending edit it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Both say the same.
    SameContent,
    /// The server's row says what the edit was made on.
    UnchangedSinceBase,
    /// The edit has made the row anew ([`is_made_anew`]); the server's row is a tombstone.
    MadeAnew,
    /// Both have changed.
    BothChanged,
}

/// Decides about a remembered server row and the edit it met.
pub fn shadow(version: RowVersion, held: Held, unsent: Unsent, meeting: Meeting) -> ShadowAction {
    match unsent {
        Unsent::InFlight => ShadowAction::Keep,
        _ if version <= held.version => ShadowAction::Drop,
        Unsent::None => ShadowAction::Apply,
        // A refused edit whose row has moved on is a conflict like any other.
        Unsent::Pending | Unsent::Rejected => match meeting {
            Meeting::SameContent => ShadowAction::Adopt,
            Meeting::UnchangedSinceBase | Meeting::MadeAnew => ShadowAction::Rebase,
            Meeting::BothChanged => ShadowAction::Resolve,
        },
    }
}

/// What a captured edit amounts to, once the row is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// The server has what the device has.
    Nothing,
    /// Send this.
    Send(Op),
}

/// Derives the operation from the state of the row, never from the sequence of
/// statements: DELETE, INSERT, DELETE of a row the server has is one DELETE.
///
/// `held` must be what the server will hold once everything in flight is
/// answered; ask only when nothing of this row is in flight.
pub fn edit(exists: bool, held: Held) -> Edit {
    let on_server = held.version > RowVersion::NEVER_SEEN && !held.deleted;
    match (exists, on_server) {
        (true, true) => Edit::Send(Op::Update),
        (true, false) => Edit::Send(Op::Insert),
        (false, true) => Edit::Send(Op::Delete),
        (false, false) => Edit::Nothing,
    }
}

/// Why the server called a change invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidReason {
    /// A referenced row does not exist there.
    FkMissing,
    /// The change itself is malformed.
    BadPayload,
    /// A check before the write failed.
    Precheck,
    /// Among others: a row the server has never seen was sent with a version.
    Internal,
    /// The table is not synchronised there.
    UnregisteredTable,
    /// The batch as a whole, not this change.
    BatchTooLarge,
    /// A code this device does not know.
    Other(String),
}

impl InvalidReason {
    /// Reads a code of PROTOCOL.md section 3.
    pub fn of(code: &str) -> Self {
        match code {
            reason::FK_MISSING => Self::FkMissing,
            reason::BAD_PAYLOAD => Self::BadPayload,
            reason::PRECHECK_ERROR => Self::Precheck,
            reason::INTERNAL_ERROR => Self::Internal,
            reason::UNREGISTERED_TABLE => Self::UnregisteredTable,
            reason::BATCH_TOO_LARGE => Self::BatchTooLarge,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        match self {
            Self::FkMissing => reason::FK_MISSING,
            Self::BadPayload => reason::BAD_PAYLOAD,
            Self::Precheck => reason::PRECHECK_ERROR,
            Self::Internal => reason::INTERNAL_ERROR,
            Self::UnregisteredTable => reason::UNREGISTERED_TABLE,
            Self::BatchTooLarge => reason::BATCH_TOO_LARGE,
            Self::Other(code) => code,
        }
    }
}

/// The server's answer to one change, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// In the stream; no version for the delete of a row never seen.
    Applied(Option<RowVersion>),
    /// The row stands there like this; none when the server sent no row.
    Conflict(Option<Held>),
    /// Not as it is.
    Invalid(InvalidReason),
}

impl Answer {
    /// Reads a status of an upload's reply.
    pub fn of(status: &ChangeStatus) -> Self {
        match status.status {
            StatusKind::Applied => Self::Applied(status.new_server_version),
            StatusKind::Conflict => Self::Conflict(status.server_row.as_ref().map(|row| Held {
                version: row.server_version,
                deleted: row.deleted,
            })),
            StatusKind::Invalid => Self::Invalid(InvalidReason::of(
                status
                    .invalid
                    .as_ref()
                    .map_or("", |invalid| invalid.reason.as_str()),
            )),
        }
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The operation.
    pub op: Op,
    /// The version it was based on.
    pub base: RowVersion,
    /// Whether the device knew the row when it was edited, or may have, also where it
    /// holds no version of it any more.
    pub knew_row: bool,
}

/// Whether an edit has made a row under a key of which the device knew nothing: it stands
/// on a tombstone, whether a page or an answer tells of that.
pub fn is_made_anew(exists: bool, base: RowVersion, knew_row: bool) -> bool {
    exists && base == RowVersion::NEVER_SEEN && !knew_row
}

impl Sent {
    fn is_made_anew(self) -> bool {
        is_made_anew(self.op.is_upsert(), self.base, self.knew_row)
    }
}

/// Whether a row that the server misses is on its way from this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// It has an unsent edit here, or stands in the rejected list: the child
    /// waits with it.
    OnItsWay,
    /// This device has nothing to send for it.
    NotHere,
}

/// Whether another file of the same device name may have used the change's
/// number: the server has seen that number, or a higher one, from this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// No: the answer is about the content.
    Sound,
    /// Perhaps; it has not been sent under another number yet.
    Doubtful,
}

/// What an answer means for the frozen change it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done; hold this version from now on.
    Done(Held),
    /// Done, and the server knows nothing of the row.
    Forgotten,
    /// Remember the server's row and let the resolver decide.
    Conflict,
    /// The row was made under a key that was used before, for a row that is gone and
    /// that the device never knew: send it again on this tombstone.
    MakeAnew(Held),
    /// The number was used up by another change of this device (a copy of the
    /// file, a restored file): send the same edit under a new one.
    Renumber,
    /// The server has never seen the row: send it again as new.
    StartOver,
    /// Keep it, unsent, until the row it refers to has arrived.
    WaitForParent,
    /// Into the rejected list.
    Reject(InvalidReason),
    /// Nothing was decided about this change: send a smaller batch.
    SmallerBatch,
}

/// Decides what an answer means (PROTOCOL.md section 6, rules 2, 3 and 6).
pub fn settle(sent: Sent, answer: Answer, parent: Parent, numbering: Numbering) -> Settlement {
    match answer {
        Answer::Applied(Some(version)) => Settlement::Done(Held {
            version,
            deleted: !sent.op.is_upsert(),
        }),
        Answer::Applied(None) => Settlement::Forgotten,
        // The row has not moved since: the number clashed, not the content.
        Answer::Conflict(Some(row)) if row.version == sent.base => Settlement::Renumber,
        // A server that is behind what it told before, in the same history: the
        // edit would meet the same row for ever.
        Answer::Conflict(Some(row)) if row.version < sent.base => {
            Settlement::Reject(InvalidReason::Other("server_behind".to_owned()))
        }
        Answer::Conflict(Some(row)) if row.deleted && sent.is_made_anew() => {
            Settlement::MakeAnew(row)
        }
        Answer::Conflict(Some(_)) => Settlement::Conflict,
        Answer::Conflict(None) => start_over(sent, InvalidReason::Internal),
        Answer::Invalid(InvalidReason::Internal) => start_over(sent, InvalidReason::Internal),
        Answer::Invalid(InvalidReason::FkMissing) => match parent {
            Parent::OnItsWay => Settlement::WaitForParent,
            Parent::NotHere => Settlement::Reject(InvalidReason::FkMissing),
        },
        // The answer to a number that was used for another change is the same
        // as to a bad payload: one more attempt tells them apart.
        Answer::Invalid(InvalidReason::BadPayload) if numbering == Numbering::Doubtful => {
            Settlement::Renumber
        }
        Answer::Invalid(InvalidReason::BatchTooLarge) => Settlement::SmallerBatch,
        Answer::Invalid(why) => Settlement::Reject(why),
    }
}

/// A row sent with a version that the server has never seen can be sent once
/// more as new; one that was sent as new already is refused for good.
fn start_over(sent: Sent, why: InvalidReason) -> Settlement {
    if sent.base > RowVersion::NEVER_SEEN {
        Settlement::StartOver
    } else {
        Settlement::Reject(why)
    }
}

/// Whether the server still has the history the device knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Yes, or the server does not say.
    Same,
    /// The device has known none so far: keep this one.
    First,
    /// Another database, or an older state of it: synchronise anew, without
    /// losing local rows.
    Replaced,
}

/// Judges epoch and head of a reply that was read from the database. Never to
/// be asked about a hint.
pub fn history(
    known: Option<&str>,
    told: Option<&str>,
    cursor: ServerId,
    head: Option<ServerId>,
) -> History {
    match (known, told) {
        (Some(known), Some(told)) if known != told => History::Replaced,
        _ if head.is_some_and(|head| head < cursor) => History::Replaced,
        (None, Some(_)) => History::First,
        _ => History::Same,
    }
}

/// The bounds of a downloaded page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// Where the next page starts.
    pub next_after: ServerId,
    /// Whether there is one inside the window.
    pub has_more: bool,
    /// The window.
    pub window_until: ServerId,
    /// The user's head, when the server tells.
    pub head: Option<ServerId>,
}

/// Where the cursor stands once a page has been applied. It never moves back,
/// and beyond the last entry only on a server whose feed has no gaps.
pub fn cursor_after(cursor: ServerId, page: PageBounds, ordered_feed: bool) -> ServerId {
    let reached = cursor.max(page.next_after);
    match page.head {
        Some(head) if ordered_feed && !page.has_more => reached.max(page.window_until.min(head)),
        _ => reached,
    }
}
