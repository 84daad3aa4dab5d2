//! Waits until something is due, to some fifty microseconds.
//!
//! The runtime's timers have a resolution of a millisecond and are late by up to two: more
//! than a round trip, and whoever counts from when an operation was due would count it.
//! So the runtime waits for all but the last milliseconds, and one thread for those.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What the thread waits for: twice what a timer of the runtime may be late.
const LAST: Duration = Duration::from_millis(3);

/// Who waits for what is due.
struct Waiting {
    due: Instant,
    wake: oneshot::Sender<()>,
}

/// Returns at that time, or at once when it is past.
pub async fn wait_until(due: Instant) {
    let rest = due.saturating_duration_since(Instant::now());
    if let Some(coarse) = rest.checked_sub(LAST) {
        tokio::time::sleep(coarse).await;
    }
    if due <= Instant::now() {
        return;
    }
    static THREAD: OnceLock<Sender<Waiting>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (sender, waiting) = channel();
        std::thread::Builder::new()
            .name("due".to_owned())
            .spawn(move || wake(&waiting))
            .expect("BUG: a thread can be started");
        sender
    });
    let (wake, woken) = oneshot::channel();
    if thread.send(Waiting { due, wake }).is_ok() {
        // An error would say that the thread has gone: then it is due now.
        let _ = woken.await;
    }
}

/// Wakes each in its time, for as long as anybody may come.
fn wake(coming: &Receiver<Waiting>) {
    let mut waiting: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    loop {
        let came = match waiting.peek() {
            Some(Reverse(next)) => {
                coming.recv_timeout(next.due.saturating_duration_since(Instant::now()))
            }
            None => coming.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match came {
            Ok(one) => waiting.push(Reverse(one)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse(next)| next.due <= now) {
            if let Some(Reverse(next)) = waiting.pop() {
                // Who has gone needs no waking.
                let _ = next.wake.send(());
            }
        }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}
