//! The rows of one page: what becomes of each, and in which order.
//!
//! An entry is passed over, remembered beside the edit it met, or written; what
//! cannot be written yet is tried again when the others are, in rings at last, and
//! parked in the end. Called by `apply.rs`, inside the page's transaction, while
//! capture is silent.

use crate::apply::Poison;
use crate::capture;
use crate::error::Error;
use crate::hand::Hand;
use crate::key::{LocalKey, RowRef};
use crate::parked::{self, Why};
use crate::place::{self, Placed, ServerState, Told};
use crate::resync;
use crate::row::Known;
use crate::schema::Table;
use crate::shadow;
use crate::step::Step;
use crate::store::{NoTriggers, Txn};
use oversync_shared::reconcile::{EntryAction, Unsent, entry};
use oversync_shared::wire::DownloadChange;
use oversync_shared::{RowKey, RowVersion};
use std::collections::HashSet;

/// Switching triggers off and on makes SQLite prepare every statement anew: smaller
/// pages have less to gain from it.
const WORTH_SWITCHING: usize = 64;

/// The rows of one page, and what they left undone.
pub(crate) struct Round<'a> {
    txn: &'a Txn<'a>,
    hand: Hand<'a>,
    /// No trigger fires: there is none but ours, which would be silent.
    quiet: Option<NoTriggers<'a>>,
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
    /// For these changes.
    pub(crate) fn new(txn: &'a Txn<'a>, changes: &[DownloadChange]) -> Result<Self, Error> {
        let is_quiet = |change: &DownloadChange| {
            let table = txn.tables.by_wire(&change.table);
            table.is_none_or(|table| !table.fires)
        };
        let switch = changes.len() >= WORTH_SWITCHING && changes.iter().all(is_quiet);
        let quiet = match switch {
            true => Some(NoTriggers::on(txn.conn)?),
            false => None,
        };
        Ok(Self {
            hand: Hand::for_page(txn, changes.len())?,
            quiet,
            parked: parked::is_any(txn.conn)?,
            awaited: capture::is_any_waiting(txn.conn)?,
            txn,
            nothing_assumed: HashSet::new(),
            written: Vec::new(),
            deferred: Vec::new(),
        })
    }

    /// Tries entries again that were parked, and nothing else.
    pub(crate) fn again(
        txn: &Txn<'_>,
        parked: &[ServerState],
    ) -> Result<Vec<(RowRef, LocalKey)>, Error> {
        let mut round = Round::new(txn, &[])?;
        for state in parked {
            round.once_more(state.clone())?;
        }
        round.finish(Poison::Parked)
    }

    /// Deals with the next one.
    pub(crate) fn take(&mut self, change: &DownloadChange) -> Result<(), Error> {
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
        let told = Told {
            row: RowRef::new(table, key),
            version: change.server_version,
            payload,
        };
        self.decide(table, told)
    }

    /// Parks an entry that fails the page's commit.
    pub(crate) fn park(&mut self, change: &DownloadChange) -> Result<(), Error> {
        let payload = change.payload.as_deref().map(|raw| raw.get());
        let as_it_came = parked::Entry {
            wire_table: &change.table,
            pk: &change.pk,
            version: change.server_version,
            payload: payload.filter(|_| !change.deleted),
        };
        let table = self.txn.tables.by_wire(&change.table);
        if let (Some(table), Some(key)) = (table, RowKey::parse(&change.pk)) {
            resync::named(self.txn.conn, RowRef::new(table, key))?;
        }
        parked::add_unknown(self.txn.conn, &as_it_came, Why::ForeignKeys)
    }

    fn decide(&mut self, table: &Table, told: Told<'_>) -> Result<(), Error> {
        let known = self.hand.known(table, told.row)?;
        let action = entry(told.version, known.held, known.unsent);
        // What is written loses the mark with the new version.
        if known.lost_version > RowVersion::NEVER_SEEN && action != EntryAction::Apply {
            resync::named(self.txn.conn, told.row)?;
        }
        match action {
            EntryAction::Skip => {
                Step::RowPassedOver.reached();
                self.overtaken(table, told)
            }
            EntryAction::Shadow => {
                shadow::remember(self.txn.conn, &told.to_state())?;
                self.overtaken(table, told)
            }
            EntryAction::Apply if known.lost_version > told.version => {
                self.hand.now_unsent(told.row);
                resync::keep_newer(self.txn, table, &told.to_state(), &known)
            }
            EntryAction::Apply => self.place(table, told, known),
        }
    }

    /// A state that was parked is not needed any more.
    fn overtaken(&self, table: &Table, told: Told<'_>) -> Result<(), Error> {
        match self.parked {
            true => parked::overtaken(self.txn.conn, table, told.row, told.version),
            false => Ok(()),
        }
    }

    fn place(&mut self, table: &Table, told: Told<'_>, known: Known) -> Result<(), Error> {
        // A parked state is tried while a newer one of this page may wait.
        let mut waiting = self.deferred.iter();
        if waiting.any(|other| other.row == told.row && other.version > told.version) {
            return Ok(());
        }
        // An older state of the row that waits already is overtaken by this one.
        self.deferred.retain(|older| older.row != told.row);
        let (hand, assumed) = (&mut self.hand, &self.nothing_assumed);
        match place::place_known(hand, self.txn, table, told, known, assumed)? {
            Placed::Done(key) => self.done(table, told, key),
            _ => {
                self.deferred.push(told.to_state());
                Ok(())
            }
        }
    }

    fn done(&mut self, table: &Table, told: Told<'_>, key: LocalKey) -> Result<(), Error> {
        self.overtaken(table, told)?;
        if self.awaited {
            capture::parent_arrived(self.txn.conn, told.row)?;
        }
        self.written.push((told.row, key));
        Step::RowApplied.reached();
        Ok(())
    }

    /// Tries what was deferred, and what was parked earlier, as long as
    /// something moves; then rings of rows; parks the rest. Where one that was parked
    /// may be the poison, they are left for a transaction of their own.
    pub(crate) fn finish(mut self, poison: Poison) -> Result<Vec<(RowRef, LocalKey)>, Error> {
        let mut looked_at = 0;
        let retries = self.parked && poison < Poison::Parked;
        if retries {
            // Of any table, also of one with triggers.
            self.quiet = None;
            for state in parked::to_retry(self.txn)? {
                self.once_more(state)?;
            }
        }
        loop {
            let arrived = looked_at..self.written.len();
            looked_at = self.written.len();
            if retries {
                let arrived: Vec<RowRef> =
                    self.written[arrived].iter().map(|(row, _)| *row).collect();
                for state in parked::waiting_for(self.txn, &arrived)? {
                    self.once_more(state)?;
                }
            }
            for state in std::mem::take(&mut self.deferred) {
                self.once_more(state)?;
            }
            if self.written.len() == looked_at && !self.place_rings()? {
                break;
            }
        }
        self.hand.flush()?;
        for state in std::mem::take(&mut self.deferred) {
            if let Some(table) = self.txn.tables.by_number(state.row.tbl) {
                let why = place::place(self.txn, table, &state, &self.nothing_assumed)?;
                match why {
                    Placed::Done(key) => self.done(table, state.told(), key)?,
                    why => {
                        resync::named(self.txn.conn, state.row)?;
                        parked::add(self.txn.conn, table, &state, &why)?;
                    }
                }
            }
        }
        if self.parked && !retries {
            parked::let_go(self.txn.conn, &self.written)?;
        }
        Ok(self.written)
    }

    fn once_more(&mut self, state: ServerState) -> Result<(), Error> {
        let Some(table) = self.txn.tables.by_number(state.row.tbl) else {
            return Ok(());
        };
        if state.version == RowVersion::NEVER_SEEN && state.payload.is_none() {
            // A row that a whole pass did not name: there is no version to compare. Not
            // where it has been named, or edited, since.
            let known = self.hand.known(table, state.row)?;
            let is_unknown = known.remembered().version == RowVersion::NEVER_SEEN;
            if known.unsent == Unsent::None && is_unknown {
                return self.place(table, state.told(), known);
            }
        }
        self.decide(table, state.told())
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
        self.hand.flush()?;
        self.hand.look_again();
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
            self.done(table, state.told(), key)?;
        }
        Step::RingApplied.reached();
        Ok(None)
    }
}
