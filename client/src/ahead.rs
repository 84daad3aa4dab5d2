//! The page that is asked for while the one before it is applied: the network and
//! the file work at the same time.
//!
//! At most one, and only inside a window whose end is known. A page that is not
//! what is needed by then (the pass has begun anew, somebody paused) is thrown
//! away; nothing is ever applied because it was asked for.

use crate::error::NetworkError;
use crate::step::Step;
use crate::transport::{PageRequest, Transport};
use oversync_shared::wire::DownloadReply;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Older than this, what a page says of the head is no news any more.
const FRESH: Duration = Duration::from_secs(30);

type Reply = Result<DownloadReply, NetworkError>;

struct Asked {
    request: PageRequest,
    at: Instant,
    /// One task; ends with this value.
    reply: JoinSet<Reply>,
}

/// Where the next page comes from.
#[derive(Default)]
pub(crate) struct Ahead {
    asked: Mutex<Option<Asked>>,
}

async fn ask(transport: &Transport, request: &PageRequest) -> Reply {
    Step::PageAsked.reached();
    transport.download(request).await
}

impl Ahead {
    /// The page: the one that was asked for ahead, if it is the same.
    pub(crate) async fn page(&self, transport: &Transport, request: &PageRequest) -> Reply {
        let asked = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.take()
        };
        if let Some(mut asked) = asked
            && asked.request == *request
            && asked.at.elapsed() < FRESH
            && let Some(Ok(Ok(page))) = asked.reply.join_next().await
        {
            return Ok(page);
        }
        // What went wrong ahead is found out, and told, by asking again.
        ask(transport, request).await
    }

    /// Asks for a page that will be needed next.
    pub(crate) fn ask(&self, transport: &Arc<Transport>, request: PageRequest) {
        let mut reply = JoinSet::new();
        let (transport, page) = (Arc::clone(transport), request.clone());
        reply.spawn(async move { ask(&transport, &page).await });
        let asked = Asked {
            request,
            at: Instant::now(),
            reply,
        };
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }
}
