//! Applying one page: rows, versions and cursor, in one transaction.
//!
//! Capture is silent and foreign keys are judged at the commit. Entries that meet an
//! unsent edit go to the shadow, entries that cannot be written are parked;
//! neither holds the page up.

use crate::capture;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::parked;
use crate::place;
use crate::resync;
use crate::round::Round;
use crate::shadow::{self, More};
use crate::state::State;
use crate::step::Step;
use crate::store::{Durability, Store, Txn};
use oversync_shared::ServerId;
use oversync_shared::reconcile::{History, PageBounds, cursor_after, history};
use oversync_shared::wire::DownloadReply;

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
/// entry is left, and what the end of a pass brings stands by itself. It, or what comes
/// with it, is the reason: see [`Poison`].
pub(crate) fn apply(
    store: &mut Store,
    page: DownloadReply,
    asked_after: ServerId,
    ordered_feed: bool,
) -> Result<PageDone, Error> {
    let mut total = PageDone::default();
    let mut after = asked_after;
    // Of its window: by then the rows have come that learned values refer to.
    let is_last = !page.has_more;
    let mut parts = vec![page];
    while let Some(part) = parts.pop() {
        // In the middle of a window nothing is lost with the power but the way to it:
        // rows and cursor go back together, and the next commit of an upload, or of the
        // last page, makes it all durable.
        let durability = match part.has_more {
            true => Durability::Later,
            false => Durability::Now,
        };
        let outcome = store.write_as(durability, |txn| {
            apply_page(txn, &part, after, ordered_feed, Poison::Unknown)
        });
        let mut done = match outcome {
            Err(error) if error.is_of_one_row() && can_be_cut(&part) => {
                Step::PageHalved.reached();
                let (first, second) = halves(part);
                parts.extend([second, first]);
                continue;
            }
            Err(error) if error.is_of_one_row() => around(store, &part, after, ordered_feed)?,
            other => other?,
        };
        Step::PageCommitted.reached();
        if !done.written.is_empty() {
            store.has_new_rows();
        }
        after = done.cursor;
        total.cursor = done.cursor;
        total.written.append(&mut done.written);
        if done.resync {
            total.resync = true;
            break;
        }
    }
    store.hear();
    if is_last && let Err(error) = store.learn_more() {
        // The page is in, and is told of; this is tried again behind the next one.
        tracing::warn!(%error, "learned columns could not be filled");
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
    for poison in [Poison::Parked, Poison::Entries, Poison::Unnamed] {
        if matches!(&outcome, Err(error) if error.is_of_one_row()) {
            outcome = attempt(poison);
        }
    }
    let mut done = outcome?;
    if !done.resync {
        let more = More::of(page.has_more);
        done.written
            .extend(shadow::settle_apart(store, more)?.written);
        done.written.extend(retry_apart(store)?);
    }
    Ok(done)
}

/// Tries what is parked again, all of it in one transaction, its halves where that
/// fails, until a single entry is left: it is not tried again until a newer one comes.
/// As long as something moves: it may be what others wait for.
fn retry_apart(store: &mut Store) -> Result<Vec<(RowRef, LocalKey)>, Error> {
    let mut written = Vec::new();
    loop {
        let before = written.len();
        let mut parts = vec![store.write(parked::to_retry)?];
        while let Some(mut part) = parts.pop() {
            let tried = store.write(|txn| {
                capture::collect(txn)?;
                place::silently(txn, || Round::again(txn, &part))
            });
            match (tried, &part[..]) {
                (Ok(done), _) => written.extend(done),
                (Err(error), [one]) if error.is_of_one_row() => {
                    store.write(|txn| match txn.tables.by_number(one.row.tbl) {
                        Some(table) => parked::set_aside(txn.conn, table, one),
                        None => Ok(()),
                    })?;
                }
                (Err(error), [_, _, ..]) if error.is_of_one_row() => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
                (Err(error), _) => return Err(error),
            }
        }
        if written.len() == before {
            return Ok(written);
        }
    }
}

/// What may be the reason that a transaction has failed, and is left out of it; each
/// includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Poison {
    /// Nothing is.
    Unknown,
    /// A remembered row: they are settled afterwards, each by itself.
    Remembered,
    /// An entry that was parked earlier: they are tried afterwards, apart.
    Parked,
    /// The entries of the page: they are parked.
    Entries,
    /// Deletes of rows that a whole pass has not named: they are parked.
    Unnamed,
}

/// The last page of a window does more than its entries: an entry may be innocent of
/// that.
fn can_be_cut(page: &DownloadReply) -> bool {
    match page.has_more {
        true => page.changes.len() > 1,
        false => !page.changes.is_empty(),
    }
}

/// Two pages of the same window; the second may be empty where it is the last.
fn halves(mut page: DownloadReply) -> (DownloadReply, DownloadReply) {
    let second = page.changes.split_off(page.changes.len().div_ceil(2));
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
    if resync::continue_above(txn, &mut state, page.highest_source_change_id)? {
        state.save(txn.conn)?;
        return Ok(PageDone {
            resync: true,
            ..PageDone::default()
        });
    }
    let written = place::silently(txn, || {
        let mut round = Round::new(txn, &page.changes)?;
        for change in &page.changes {
            match poison < Poison::Entries {
                true => round.take(change)?,
                false => round.park(change)?,
            }
        }
        round.finish(poison)
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
