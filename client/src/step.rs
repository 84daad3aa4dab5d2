//! The named steps of synchronising, told as trace events.
//!
//! Each step writes one event of level TRACE under the target
//! [`Step::TARGET`], with its name in the field `step`. The event comes where the
//! step is: inside the transaction it belongs to, or between two of them. For
//! people who want to know how far a device has got; it costs one comparison when
//! nobody listens.

/// A step of opening, uploading, downloading or leaving.
///
/// An application that has a `tracing` subscriber sees them with the filter
/// `oversqlite::step=trace`; the command line with
/// `OVERSQLITE_LOG=oversqlite::step=trace`. Steps "inside" a transaction are undone
/// together with it when the process dies before its end.
///
/// ```
/// use oversqlite::Step;
///
/// assert_eq!(Step::TARGET, "oversqlite::step");
/// assert!(Step::ALL.iter().any(|step| step.name() == "batch_frozen"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Inside: the file is this user's and device's, or was so already.
    FileClaimed,
    /// Inside: tables are numbered, triggers are up to date.
    TriggersInstalled,
    /// After the commit that opens the file.
    FileOpened,
    /// Inside: the capture log has been emptied into the pending edits.
    EditsCollected,
    /// Inside: a change has its number and its content in the outbox.
    ChangeFrozen,
    /// Inside: a batch is frozen.
    BatchFrozen,
    /// After the commit of the batch, before the request.
    BatchSending,
    /// The server's answer is here; nothing of it is written.
    BatchAnswered,
    /// The server wants fewer changes at once.
    BatchHalved,
    /// Inside: an answer says that the change is in the stream.
    ChangeApplied,
    /// Inside: an answer brings a newer row of the server.
    ChangeConflicted,
    /// Inside: the change's number was used for another one; the edit waits for a
    /// new number.
    ChangeRenumbered,
    /// Inside: the server has never seen the row, or this device never the one that
    /// was deleted there; the edit is sent as new.
    ChangeStartedOver,
    /// Inside: the edit waits for the row it refers to.
    ChangeWaits,
    /// Inside: the change has been refused for good.
    ChangeRefused,
    /// Inside: an edit stands in the rejected list, whoever refused it.
    EditRejected,
    /// Inside: the whole answer is carried out.
    BatchSettled,
    /// After the commit of the answer.
    BatchDone,
    /// Inside: a server row that met an unsent edit is remembered.
    RowRemembered,
    /// Inside: a remembered row is no newer than what is held.
    RememberedDropped,
    /// Inside: a remembered row is written, its edit being settled.
    RememberedApplied,
    /// Inside: the edit and the remembered row say the same.
    EditAdopted,
    /// Inside: the edit stands, based on the remembered row.
    EditRebased,
    /// Inside: a conflict has been decided and carried out.
    ConflictDecided,
    /// Inside: what lost in a conflict is kept.
    ConflictRecorded,
    /// Before the request for a page.
    PageAsked,
    /// The page is here; nothing of it is written.
    PageReceived,
    /// Inside: a row of a page, or one parked earlier, is written.
    RowApplied,
    /// Inside: an entry of a page says nothing new.
    RowPassedOver,
    /// Inside: an entry cannot be written here now, and is kept aside.
    EntryParked,
    /// Inside: rows that refer to one another in a ring are written.
    RingApplied,
    /// Inside: a foreign-key action is about to change a row: noted as an edit.
    CascadeNoted,
    /// The page failed its commit: nothing of it is written, its halves are next.
    PageHalved,
    /// Inside: all entries of a page are dealt with.
    PageApplied,
    /// Inside: the cursor stands behind the page.
    CursorMoved,
    /// After the commit of a page.
    PageCommitted,
    /// Inside: a first or new pass over everything has come to its end.
    PassCompleted,
    /// Inside: a new pass over everything begins.
    ResyncBegun,
    /// Inside: a new pass names an older state of a row: the newer one is sent
    /// again.
    NewerKept,
    /// Inside: a new pass has not named a row, and that is dealt with.
    UnnamedSettled,
    /// Inside: another file uses this device's name: numbers go on above its.
    CountedAbove,
    /// Inside: a rejected edit is a pending one again.
    RejectedRetried,
    /// Inside: a rejected edit is given up.
    RejectedDropped,
    /// Inside: what lost in a conflict is written back, as an edit.
    ConflictRestored,
    /// Inside: signing out has emptied the synchronised tables.
    TablesEmptied,
    /// After the commit that leaves nothing of the user in the file.
    SignedOut,
}

impl Step {
    /// The target of the events.
    pub const TARGET: &'static str = "oversqlite::step";

    /// Every step there is, in the order in which they are listed above.
    pub const ALL: &'static [Self] = &[
        Self::FileClaimed,
        Self::TriggersInstalled,
        Self::FileOpened,
        Self::EditsCollected,
        Self::ChangeFrozen,
        Self::BatchFrozen,
        Self::BatchSending,
        Self::BatchAnswered,
        Self::BatchHalved,
        Self::ChangeApplied,
        Self::ChangeConflicted,
        Self::ChangeRenumbered,
        Self::ChangeStartedOver,
        Self::ChangeWaits,
        Self::ChangeRefused,
        Self::EditRejected,
        Self::BatchSettled,
        Self::BatchDone,
        Self::RowRemembered,
        Self::RememberedDropped,
        Self::RememberedApplied,
        Self::EditAdopted,
        Self::EditRebased,
        Self::ConflictDecided,
        Self::ConflictRecorded,
        Self::PageAsked,
        Self::PageReceived,
        Self::RowApplied,
        Self::RowPassedOver,
        Self::EntryParked,
        Self::RingApplied,
        Self::CascadeNoted,
        Self::PageHalved,
        Self::PageApplied,
        Self::CursorMoved,
        Self::PageCommitted,
        Self::PassCompleted,
        Self::ResyncBegun,
        Self::NewerKept,
        Self::UnnamedSettled,
        Self::CountedAbove,
        Self::RejectedRetried,
        Self::RejectedDropped,
        Self::ConflictRestored,
        Self::TablesEmptied,
        Self::SignedOut,
    ];

    /// Its name in the field `step`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileClaimed => "file_claimed",
            Self::TriggersInstalled => "triggers_installed",
            Self::FileOpened => "file_opened",
            Self::EditsCollected => "edits_collected",
            Self::ChangeFrozen => "change_frozen",
            Self::BatchFrozen => "batch_frozen",
            Self::BatchSending => "batch_sending",
            Self::BatchAnswered => "batch_answered",
            Self::BatchHalved => "batch_halved",
            Self::ChangeApplied => "change_applied",
            Self::ChangeConflicted => "change_conflicted",
            Self::ChangeRenumbered => "change_renumbered",
            Self::ChangeStartedOver => "change_started_over",
            Self::ChangeWaits => "change_waits",
            Self::ChangeRefused => "change_refused",
            Self::EditRejected => "edit_rejected",
            Self::BatchSettled => "batch_settled",
            Self::BatchDone => "batch_done",
            Self::RowRemembered => "row_remembered",
            Self::RememberedDropped => "remembered_dropped",
            Self::RememberedApplied => "remembered_applied",
            Self::EditAdopted => "edit_adopted",
            Self::EditRebased => "edit_rebased",
            Self::ConflictDecided => "conflict_decided",
            Self::ConflictRecorded => "conflict_recorded",
            Self::PageAsked => "page_asked",
            Self::PageReceived => "page_received",
            Self::RowApplied => "row_applied",
            Self::RowPassedOver => "row_passed_over",
            Self::EntryParked => "entry_parked",
            Self::RingApplied => "ring_applied",
            Self::CascadeNoted => "cascade_noted",
            Self::PageHalved => "page_halved",
            Self::PageApplied => "page_applied",
            Self::CursorMoved => "cursor_moved",
            Self::PageCommitted => "page_committed",
            Self::PassCompleted => "pass_completed",
            Self::ResyncBegun => "resync_begun",
            Self::NewerKept => "newer_kept",
            Self::UnnamedSettled => "unnamed_settled",
            Self::CountedAbove => "counted_above",
            Self::RejectedRetried => "rejected_retried",
            Self::RejectedDropped => "rejected_dropped",
            Self::ConflictRestored => "conflict_restored",
            Self::TablesEmptied => "tables_emptied",
            Self::SignedOut => "signed_out",
        }
    }

    /// Tells that it has been reached.
    pub(crate) fn reached(self) {
        tracing::trace!(target: Step::TARGET, step = self.name());
    }
}
