//! One download: ask for a page, apply it; the next one is on its way meanwhile.

use crate::apply;
use crate::conflicts;
use crate::core::Core;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::progress::Pass;
use crate::schema::Tables;
use crate::state::State;
use crate::step::Step;
use crate::trace::Told;
use crate::transport::PageRequest;
use opentelemetry::KeyValue;
use oversync_shared::trace::MAX_CHANGES;
use oversync_shared::wire::{DownloadChange, DownloadReply};
use oversync_shared::{RowKey, ServerId};
use std::collections::HashSet;
use std::time::Instant;

/// What a page came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Downloaded {
    /// Rows written into tables.
    pub applied: usize,
    /// Whether there is another page.
    pub has_more: bool,
    /// Where it starts: the cursor.
    pub next_after: ServerId,
}

/// Downloads and applies one page of at most `limit` changes. The caller has
/// the turn.
pub(crate) async fn once(core: &Core, limit: Option<usize>) -> Result<Downloaded, Error> {
    let state = core.db.read(State::load).await?;
    page(core, state, limit).await
}

/// The same for who has just read the file's state.
pub(crate) async fn page(
    core: &Core,
    state: State,
    limit: Option<usize>,
) -> Result<Downloaded, Error> {
    let server = core.server().await?;
    let request = PageRequest {
        after: state.cursor,
        limit: limit.unwrap_or(server.page).clamp(1, server.page),
        include_self: !state.hydrated || state.shares_device,
        schema: state.schema,
        until: state.window_until,
        epoch: state.epoch,
    };
    let page = match core.ahead.page(&core.transport, &request).await {
        Ok(page) => page,
        Err(error @ (NetworkError::EpochMismatch { .. } | NetworkError::HistoryPruned { .. })) => {
            core.start_over(error).await?;
            return Ok(starting_over());
        }
        Err(error) => {
            // How long the rest will take is anybody's guess.
            core.live(|live| live.pass = None);
            return Err(error.into());
        }
    };
    Step::PageReceived.reached();
    core.saw_head(page.head, page.epoch.as_deref());
    let (has_more, until) = (page.has_more, page.window_until);
    let is_empty = page.changes.is_empty();
    let began = core.transport.traces().begin();
    let told = began.map(|began| (began, newest(&page)));
    let asked_after = request.after;
    if has_more {
        core.ahead.ask(&core.transport, behind(&page, request));
        begin_pass(core, asked_after, until);
    }
    let (done, told) = core
        .db
        .run(move |store| {
            let done = apply::apply(store, page, asked_after, server.ordered_feed)?;
            let told =
                told.map(|(began, all)| (began, applied(all, &store.tables(), &done.written)));
            Ok((done, told))
        })
        .await?;
    if done.resync {
        core.starts_over();
        return Ok(starting_over());
    }
    if let Some((began, told)) = told {
        let user = core.user();
        core.transport
            .traces()
            .changes("change.apply", &user, began, told);
    }
    if !is_empty {
        core.transport.has_applied(done.cursor);
    }
    let applied = done.written.len();
    core.page_done(done.cursor, applied, has_more);
    core.announce(done.written).await?;
    if !has_more {
        prune(core).await?;
    }
    Ok(Downloaded {
        applied,
        has_more,
        next_after: done.cursor,
    })
}

/// A change of a page: its table, its key, and what is told of it once it is written.
type Named = (String, Option<RowKey>, Told);

/// The newest changes of a page.
fn newest(page: &DownloadReply) -> Vec<Named> {
    let named = |change: &DownloadChange| {
        let told = Told {
            source: change.source_id.clone(),
            change: change.source_change_id,
            edited_at: None,
            attributes: vec![
                KeyValue::new("oversync.place", change.server_id.get()),
                KeyValue::new("oversync.version", change.server_version.get()),
            ],
        };
        (change.table.clone(), RowKey::parse(&change.pk), told)
    };
    let newest = page.changes.iter().rev().take(MAX_CHANGES);
    newest.map(named).collect()
}

/// Those of them that stand in the application's tables now: one that met an edit, was
/// parked, or was here already has not been applied.
fn applied(changes: Vec<Named>, tables: &Tables, written: &[(RowRef, LocalKey)]) -> Vec<Told> {
    let written: HashSet<RowRef> = written.iter().map(|(row, _)| *row).collect();
    let row = |table: &str, key| Some(RowRef::new(tables.by_wire(table)?, key));
    let is_written = |(table, key, _): &Named| {
        let row = key.and_then(|key| row(table, key));
        row.is_some_and(|row| written.contains(&row))
    };
    let changes = changes.into_iter().filter(is_written);
    changes.map(|(_, _, told)| told).collect()
}

/// The request for the page behind this one.
fn behind(page: &DownloadReply, request: PageRequest) -> PageRequest {
    PageRequest {
        after: page.next_after,
        until: Some(page.window_until),
        epoch: page.epoch.clone().or(request.epoch),
        ..request
    }
}

/// Goes on with the pass that this page belongs to, or begins one with it.
fn begin_pass(core: &Core, from: ServerId, until: ServerId) {
    core.live(|live| {
        let is_it = |pass: &Pass| pass.leads_to(until);
        if !live.pass.as_ref().is_some_and(|(pass, _)| is_it(pass)) {
            let now = Instant::now();
            let mut pass = Pass::begin(now, from, until);
            let progress = pass.page(now, from, 0);
            live.pass = Some((pass, progress));
        }
    });
}

/// Now and then, deletes conflict records that have been kept for long enough.
async fn prune(core: &Core) -> Result<(), Error> {
    let Some(now) = core.transport.server_time() else {
        return Ok(());
    };
    if !core.is_time_to_prune(now) {
        return Ok(());
    }
    while core.db.write(move |txn| conflicts::prune(txn, now)).await? {}
    Ok(())
}

fn starting_over() -> Downloaded {
    Downloaded {
        applied: 0,
        has_more: true,
        next_after: ServerId::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Device, entry, uuid};

    /// Found by reading: a row that was parked was told of as applied.
    #[test]
    fn only_what_was_written_is_told_of_as_applied() {
        let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER CHECK (v < 100))";
        let mut device = Device::new(sql, &["t"]);
        let row = |n: u32, v: i64| {
            let payload = format!(r#"{{"id":"{}","v":{v}}}"#, uuid(n));
            entry("t", &uuid(n), i64::from(n), Some(&payload))
        };
        device.run(&format!("INSERT INTO t VALUES ('{}', 7)", uuid(4)));
        assert_eq!(device.freeze().len(), 1);
        let changes = || vec![row(1, 1), row(2, 500), row(3, 3), row(4, 4)];
        let page = DownloadReply {
            changes: changes(),
            has_more: false,
            next_after: ServerId::new(4),
            window_until: ServerId::new(4),
            epoch: None,
            head: None,
            highest_source_change_id: None,
        };
        let done = device.apply_page(changes(), true);
        let told = applied(newest(&page), &device.store.tables(), &done.written);
        let told: Vec<i64> = told.iter().map(|one| one.change.get()).collect();
        assert_eq!(told, [3, 1], "2 is parked, 4 met an edit on its way");
    }
}
