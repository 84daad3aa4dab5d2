//! One download: ask for a page, apply it.

use crate::apply;
use crate::conflicts;
use crate::core::Core;
use crate::error::{Error, NetworkError};
use crate::state::State;
use crate::transport::PageRequest;
use oversync_shared::ServerId;

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
    let page = match core.transport.download(&request).await {
        Ok(page) => page,
        Err(error @ (NetworkError::EpochMismatch { .. } | NetworkError::HistoryPruned { .. })) => {
            core.start_over(error).await?;
            return Ok(starting_over());
        }
        Err(error) => return Err(error.into()),
    };
    core.saw_head(page.head);
    let has_more = page.has_more;
    let asked_after = request.after;
    let done = core
        .db
        .run(move |store| apply::apply(store, page, asked_after, server.ordered_feed))
        .await?;
    if done.resync {
        core.live(|live| live.head = ServerId::ZERO);
        return Ok(starting_over());
    }
    let applied = done.written.len();
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
