//! One download: ask for a page, apply it; the next one is on its way meanwhile.

use crate::apply;
use crate::conflicts;
use crate::core::Core;
use crate::error::{Error, NetworkError};
use crate::progress::Pass;
use crate::state::State;
use crate::step::Step;
use crate::transport::PageRequest;
use oversync_shared::ServerId;
use oversync_shared::wire::DownloadReply;
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
    let server = core.server().await?;
    let state = core.db.read(State::load).await?;
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
    core.saw_head(page.head);
    let (has_more, until) = (page.has_more, page.window_until);
    let asked_after = request.after;
    if has_more {
        core.ahead.ask(&core.transport, behind(&page, request));
        begin_pass(core, asked_after, until);
    }
    let done = core
        .db
        .run(move |store| apply::apply(store, page, asked_after, server.ordered_feed))
        .await?;
    if done.resync {
        core.live(|live| {
            live.head = ServerId::ZERO;
            live.pass = None;
        });
        return Ok(starting_over());
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
