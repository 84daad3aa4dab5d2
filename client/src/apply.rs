//! Applying one page: rows, versions and cursor, in one transaction.
//!
//! Capture is silent and foreign keys wait for the commit. Entries that meet an
//! unsent edit go to the shadow, entries that cannot be written are parked;
//! neither holds the page up.

use crate::capture;
use crate::db::{Store, Txn};
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::parked::{self, Why};
use crate::place::{self, Placed, ServerState};
use crate::resync;
use crate::row::{self, Known};
use crate::schema::Table;
use crate::shadow::{self, More};
use crate::state::State;
use crate::step::Step;
use oversync_shared::RowKey;
use oversync_shared::ServerId;
use oversync_shared::reconcile::{EntryAction, History, PageBounds, cursor_after, entry, history};
use oversync_shared::wire::{DownloadChange, DownloadReply};
use std::collections::HashSet;

/// What a page did.
#[derive(Debug, Default)]
pub(crate) struct PageDone {
    /// Rows written into tables.
    pub(crate) written: Vec<(RowRef, LocalKey)>,
    pub(crate) cursor: ServerId,
    /// Nothing was applied: the history was replaced, and a new pass begins.
    pub(crate) resync: bool,
}

/// Applies a page that was asked for at `asked_after`, in one transaction.
///
/// Foreign keys are judged at the commit. Should that refuse the page, for a
/// reason that cannot be told from one row alone, or a trigger of the application
/// roll it back, the page is cut in two, each with its own commit, until a single
/// entry is left. It, or what comes with it, is the reason: see [`Poison`].
pub(crate) fn apply(
    store: &mut Store,
    page: DownloadReply,
    asked_after: ServerId,
    ordered_feed: bool,
) -> Result<PageDone, Error> {
    let mut total = PageDone::default();
    let mut after = asked_after;
    let mut parts = vec![page];
    while let Some(part) = parts.pop() {
        let outcome =
            store.write(|txn| apply_page(txn, &part, after, ordered_feed, Poison::Unknown));
        let mut done = match outcome {
            Err(error) if error.is_of_one_row() && part.changes.len() > 1 => {
                Step::PageHalved.reached();
                let (first, second) = halves(part);
                parts.extend([second, first]);
                continue;
            }
            Err(error) if error.is_of_one_row() => around(store, &part, after, ordered_feed)?,
            other => other?,
        };
        Step::PageCommitted.reached();
        after = done.cursor;
        total.cursor = done.cursor;
        total.written.append(&mut done.written);
        if done.resync {
            total.resync = true;
            break;
        }
    }
    Ok(total)
}

/// Applies a page of one entry, or none, that has failed as a whole; leaves out of
/// it as little as goes through.
fn around(
    store: &mut Store,
    page: &DownloadReply,
    after: ServerId,
    ordered_feed: bool,
) -> Result<PageDone, Error> {
    let mut attempt =
        |poison| store.write(|txn| apply_page(txn, page, after, ordered_feed, poison));
    let mut outcome = attempt(Poison::Remembered);
    for poison in [Poison::Entries, Poison::Unnamed] {
        if matches!(&outcome, Err(error) if error.is_of_one_row()) {
            outcome = attempt(poison);
        }
    }
    let mut done = outcome?;
    if !done.resync {
        let more = More::of(page.has_more);
        done.written
            .extend(shadow::settle_apart(store, more)?.written);
    }
    Ok(done)
}

/// What may be the reason that a transaction has failed, and is left out of it; each
/// includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Poison {
    /// Nothing is.
    Unknown,
    /// A remembered row: they are settled afterwards, each by itself.
    Remembered,
    /// The entries of the page: they are parked.
    Entries,
    /// Deletes of rows that a whole pass has not named: they are parked.
    Unnamed,
}

/// Two pages of the same window.
fn halves(mut page: DownloadReply) -> (DownloadReply, DownloadReply) {
    let second = page.changes.split_off(page.changes.len() / 2);
    let middle = page
        .changes
        .last()
        .map_or(page.next_after, |change| change.server_id);
    let first = DownloadReply {
        has_more: true,
        next_after: middle,
        changes: std::mem::take(&mut page.changes),
        epoch: page.epoch.clone(),
        ..page
    };
    let second = DownloadReply {
        changes: second,
        ..page
    };
    (first, second)
}

/// Applies a page, or a part of one, inside the caller's transaction.
pub(crate) fn apply_page(
    txn: &Txn<'_>,
    page: &DownloadReply,
    asked_after: ServerId,
    ordered_feed: bool,
    poison: Poison,
) -> Result<PageDone, Error> {
    if page.has_more && page.next_after <= asked_after {
        let stuck = format!("a page after {asked_after} that does not end behind it");
        return Err(NetworkError::Protocol(stuck).into());
    }
    let mut state = State::load(txn.conn)?;
    capture::collect(txn)?;
    match history(
        state.epoch.as_deref(),
        page.epoch.as_deref(),
        asked_after,
        page.head,
    ) {
        History::Same => {}
        History::First => state.epoch.clone_from(&page.epoch),
        History::Replaced => {
            resync::begin(txn, resync::Cause::HistoryReplaced, page.epoch.as_deref())?;
            return Ok(PageDone {
                resync: true,
                ..PageDone::default()
            });
        }
    }
    // The device started anew while the page was under way.
    if state.cursor != asked_after {
        return Ok(PageDone {
            cursor: state.cursor,
            ..PageDone::default()
        });
    }
    if resync::continue_above(&mut state, page.highest_source_change_id) {
        state.save(txn.conn)?;
        return Ok(PageDone {
            resync: true,
            ..PageDone::default()
        });
    }
    let written = place::silently(txn, || {
        let mut round = Round::new(txn)?;
        for change in &page.changes {
            match poison < Poison::Entries {
                true => round.take(change)?,
                false => round.park(change)?,
            }
        }
        round.finish()
    })?;
    let settled = shadow::settle_all(txn, More::of(page.has_more), poison)?;
    Step::PageApplied.reached();
    let bounds = PageBounds {
        next_after: page.next_after,
        has_more: page.has_more,
        window_until: page.window_until,
        head: page.head,
    };
    state.cursor = cursor_after(state.cursor, bounds, ordered_feed);
    state.window_until = Some(page.window_until).filter(|_| page.has_more);
    if !page.has_more {
        state.last_confirmed_at = Some(txn.now);
        resync::pass_completed(txn, &mut state, poison)?;
    }
    state.save(txn.conn)?;
    Step::CursorMoved.reached();
    Ok(PageDone {
        written: written.into_iter().chain(settled.written).collect(),
        cursor: state.cursor,
        resync: false,
    })
}

/// The rows of one page, and what they left undone.
struct Round<'a> {
    txn: &'a Txn<'a>,
    nothing_assumed: HashSet<RowRef>,
    written: Vec<(RowRef, LocalKey)>,
    /// Newest state of each row that could not be written yet, in order.
    deferred: Vec<ServerState>,
    /// Whether anything was parked before this page: only then can an entry of it
    /// be overtaken. Asked once a page, not once a row.
    parked: bool,
    /// Whether any edit waited for a row before this page.
    awaited: bool,
}

impl<'a> Round<'a> {
    fn new(txn: &'a Txn<'a>) -> Result<Self, Error> {
        Ok(Self {
            parked: parked::is_any(txn.conn)?,
            awaited: capture::is_any_waiting(txn.conn)?,
            txn,
            nothing_assumed: HashSet::new(),
            written: Vec::new(),
            deferred: Vec::new(),
        })
    }

    fn take(&mut self, change: &DownloadChange) -> Result<(), Error> {
        let conn = self.txn.conn;
        let payload = change.payload.as_deref().map(|raw| raw.get());
        // The server says which; a payload beside `deleted` would be a lie.
        let payload = payload.filter(|_| !change.deleted && change.op.is_upsert());
        let as_it_came = parked::Entry {
            wire_table: &change.table,
            pk: &change.pk,
            version: change.server_version,
            payload,
        };
        let Some(table) = self.txn.tables.by_wire(&change.table) else {
            return parked::add_unknown(conn, &as_it_came, Why::UnknownTable);
        };
        let Some(key) = RowKey::parse(&change.pk) else {
            return parked::add_unknown(conn, &as_it_came, Why::BadKey);
        };
        let state = ServerState {
            row: RowRef::new(table, key),
            version: change.server_version,
            payload: payload.map(str::to_owned),
        };
        self.decide(table, state)
    }

    /// Parks an entry that fails the page's commit.
    fn park(&mut self, change: &DownloadChange) -> Result<(), Error> {
        let payload = change.payload.as_deref().map(|raw| raw.get());
        let as_it_came = parked::Entry {
            wire_table: &change.table,
            pk: &change.pk,
            version: change.server_version,
            payload: payload.filter(|_| !change.deleted),
        };
        parked::add_unknown(self.txn.conn, &as_it_came, Why::ForeignKeys)
    }

    fn decide(&mut self, table: &Table, state: ServerState) -> Result<(), Error> {
        let known = row::known(self.txn.conn, table, state.row)?;
        match entry(state.version, known.held, known.unsent) {
            EntryAction::Skip => {
                Step::RowPassedOver.reached();
                self.overtaken(table, &state)
            }
            EntryAction::Shadow => {
                shadow::remember(self.txn.conn, &state)?;
                self.overtaken(table, &state)
            }
            EntryAction::Apply if known.lost_version > state.version => {
                resync::keep_newer(self.txn, table, &state, &known)
            }
            EntryAction::Apply => self.place(table, state, known),
        }
    }

    /// A state that was parked is not needed any more.
    fn overtaken(&self, table: &Table, state: &ServerState) -> Result<(), Error> {
        match self.parked {
            true => parked::overtaken(self.txn.conn, table, state.row, state.version),
            false => Ok(()),
        }
    }

    fn place(&mut self, table: &Table, state: ServerState, known: Known) -> Result<(), Error> {
        // An older state of the row that waits already is overtaken by this one.
        self.deferred.retain(|older| older.row != state.row);
        match place::place_known(self.txn, table, &state, known, &self.nothing_assumed)? {
            Placed::Done(key) => self.done(table, &state, key),
            _ => {
                self.deferred.push(state);
                Ok(())
            }
        }
    }

    fn done(&mut self, table: &Table, state: &ServerState, key: LocalKey) -> Result<(), Error> {
        self.overtaken(table, state)?;
        if self.awaited {
            capture::parent_arrived(self.txn.conn, state.row)?;
        }
        self.written.push((state.row, key));
        Step::RowApplied.reached();
        Ok(())
    }

    /// Tries what was deferred, and what was parked earlier, as long as
    /// something moves; then rings of rows; parks the rest.
    fn finish(mut self) -> Result<Vec<(RowRef, LocalKey)>, Error> {
        let mut looked_at = 0;
        for state in parked::to_retry(self.txn)? {
            self.again(state)?;
        }
        loop {
            let arrived: Vec<RowRef> = self.written[looked_at..]
                .iter()
                .map(|(row, _)| *row)
                .collect();
            looked_at = self.written.len();
            for state in parked::waiting_for(self.txn, &arrived)? {
                self.again(state)?;
            }
            for state in std::mem::take(&mut self.deferred) {
                self.again(state)?;
            }
            if self.written.len() == looked_at && !self.place_rings()? {
                break;
            }
        }
        for state in std::mem::take(&mut self.deferred) {
            if let Some(table) = self.txn.tables.by_number(state.row.tbl) {
                let why = place::place(self.txn, table, &state, &self.nothing_assumed)?;
                match why {
                    Placed::Done(key) => self.done(table, &state, key)?,
                    why => parked::add(self.txn.conn, table, &state, &why)?,
                }
            }
        }
        Ok(self.written)
    }

    fn again(&mut self, state: ServerState) -> Result<(), Error> {
        match self.txn.tables.by_number(state.row.tbl) {
            Some(table) => self.decide(table, state),
            None => Ok(()),
        }
    }

    /// Rows that refer to one another in a ring: the largest set in which every
    /// missing parent is itself in the set is written as a whole, or not at all.
    fn place_rings(&mut self) -> Result<bool, Error> {
        let mut candidates: Vec<ServerState> = self.deferred.clone();
        candidates.retain(|state| state.payload.is_some());
        loop {
            let ring: HashSet<RowRef> = candidates.iter().map(|state| state.row).collect();
            let before = candidates.len();
            let mut stands = Vec::with_capacity(before);
            for state in candidates {
                if place::has_parents(self.txn, &state, &ring)? {
                    stands.push(state);
                }
            }
            candidates = stands;
            if candidates.len() < before {
                continue;
            }
            if candidates.len() < 2 {
                return Ok(false);
            }
            match self.place_ring(&candidates, &ring)? {
                None => return Ok(true),
                Some(refused) => candidates.retain(|state| state.row != refused),
            }
        }
    }

    /// Writes all of a ring; on a refusal none of it, and says whose.
    fn place_ring(
        &mut self,
        ring: &[ServerState],
        assumed: &HashSet<RowRef>,
    ) -> Result<Option<RowRef>, Error> {
        let conn = self.txn.conn;
        conn.execute_batch("SAVEPOINT ring")?;
        let mut placed = Vec::with_capacity(ring.len());
        for state in ring {
            let table = self.txn.tables.by_number(state.row.tbl);
            let outcome = match table {
                Some(table) => place::place(self.txn, table, state, assumed)?,
                None => Placed::Refused(String::new()),
            };
            match (table, outcome) {
                (Some(table), Placed::Done(key)) => placed.push((table, state, key)),
                _ => {
                    conn.execute_batch("ROLLBACK TO ring; RELEASE ring")?;
                    return Ok(Some(state.row));
                }
            }
        }
        conn.execute_batch("RELEASE ring")?;
        for (table, state, key) in placed {
            self.deferred.retain(|other| other.row != state.row);
            self.done(table, state, key)?;
        }
        Step::RingApplied.reached();
        Ok(None)
    }
}
