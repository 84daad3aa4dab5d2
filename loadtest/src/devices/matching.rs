//! Which upload a hint or a download belongs to. An uploader learns its place in
//! the stream from the reply; the others learn how far the stream goes from
//! hints and downloads. Either may come first.

use crate::measure::{Recorder, Stage};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Places a listener has reached that are remembered for uploads whose replies
/// are still under way; far more than can be under way.
const REMEMBERED: usize = 256;

#[derive(Default)]
struct Listener {
    /// Places reached, and when.
    reached: VecDeque<(i64, Instant)>,
    /// Uploads it has not heard of: place and when they were due.
    waiting: Vec<(i64, Instant)>,
}

/// The listeners of one user, for one stage.
pub struct Matching {
    stage: Stage,
    recorder: Arc<Recorder>,
    listeners: Mutex<HashMap<usize, Listener>>,
}

impl Matching {
    /// Nobody listens yet.
    pub fn new(stage: Stage, recorder: Arc<Recorder>) -> Self {
        Self {
            stage,
            recorder,
            listeners: Mutex::default(),
        }
    }

    /// From now on this device is measured.
    pub fn join(&self, device: usize) {
        self.lock().entry(device).or_default();
    }

    /// From now on it is not: it has gone away on purpose.
    pub fn leave(&self, device: usize) {
        self.lock().remove(&device);
    }

    /// An upload that was due then has this place in the stream.
    pub fn uploaded(&self, origin: usize, place: i64, due: Instant) {
        for (device, listener) in self.lock().iter_mut() {
            if *device == origin {
                continue;
            }
            match listener.reached.iter().find(|(at, _)| *at >= place) {
                Some((_, when)) => self.record(due, *when),
                None => listener.waiting.push((place, due)),
            }
        }
    }

    /// A device has heard of everything up to this place.
    pub fn reached(&self, device: usize, place: i64, now: Instant) {
        let mut listeners = self.lock();
        let Some(listener) = listeners.get_mut(&device) else {
            return;
        };
        if listener.reached.back().is_some_and(|last| last.0 >= place) {
            return;
        }
        listener.reached.push_back((place, now));
        if listener.reached.len() > REMEMBERED {
            listener.reached.pop_front();
        }
        listener.waiting.retain(|(waiting, due)| {
            let done = *waiting <= place;
            if done {
                self.record(*due, now);
            }
            !done
        });
    }

    fn record(&self, due: Instant, when: Instant) {
        self.recorder
            .record(self.stage, when.saturating_duration_since(due));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Listener>> {
        self.listeners
            .lock()
            .expect("BUG: no panic under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_hints_match_in_either_order_and_never_the_origin() {
        let recorder = Arc::new(Recorder::default());
        recorder.begin_phase("p", "hold");
        let matching = Matching::new(Stage::Hint, Arc::clone(&recorder));
        for device in 0..3 {
            matching.join(device);
        }
        let now = Instant::now();
        // The reply first, then the hint at 1; the hint first at 2.
        matching.reached(2, 7, now);
        matching.uploaded(0, 7, now);
        matching.reached(0, 7, now);
        matching.reached(1, 6, now);
        matching.reached(1, 9, now);
        matching.leave(2);
        matching.uploaded(0, 12, now);
        matching.reached(1, 12, now);
        matching.reached(1, 12, now);
        let done = recorder.finish();
        assert_eq!(done.stages[0].latency.samples, 3);
    }
}
