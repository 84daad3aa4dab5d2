//! Work that blocks, on a thread of its own, while somebody waits who may want it to
//! end early.
//!
//! Whoever works asks at every step whether to go on; whoever waits is told how far it
//! is, and always how it ended. So what was half made is gone before the program is.

use super::{Progress, RecoveryError};
use crate::store::recovery::Far;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// Comes when somebody wants a backup or a restore to end early. Not asked again after
/// it has come.
pub(crate) type Stop<'a> = Pin<&'a mut (dyn Future<Output = ()> + 'a)>;

/// What work on a thread of its own knows of who waits for it.
#[derive(Clone)]
pub(super) struct Waiting {
    wants_end: Arc<AtomicBool>,
    told: watch::Sender<Far>,
}

impl Waiting {
    /// Says how far it is; whether to go on.
    pub(super) fn told(&self, far: Far) -> ControlFlow<()> {
        self.told.send_replace(far);
        self.goes_on()
    }

    /// Whether to go on.
    pub(super) fn goes_on(&self) -> ControlFlow<()> {
        match self.wants_end.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Runs it to its end, which it may find early once `stop` has come.
pub(super) async fn apart<T: Send + 'static>(
    progress: Progress<'_>,
    mut stop: Stop<'_>,
    work: impl FnOnce(&Waiting) -> Result<T, RecoveryError> + Send + 'static,
) -> Result<T, RecoveryError> {
    let (told, mut far) = watch::channel(Far { done: 0, of: 0 });
    let waiting = Waiting {
        wants_end: Arc::default(),
        told,
    };
    let wants_end = waiting.wants_end.clone();
    let mut run = spawn_blocking(move || work(&waiting));
    loop {
        tokio::select! {
            done = &mut run => return done.expect("BUG: recovery does not panic"),
            Ok(()) = far.changed() => progress(*far.borrow_and_update()),
            () = &mut stop, if !wants_end.load(Ordering::Relaxed) => {
                wants_end.store(true, Ordering::Relaxed);
            }
        }
    }
}
