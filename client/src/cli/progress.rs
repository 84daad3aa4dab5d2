//! Progress bars on long work: on standard error, only for a person at a
//! terminal, and only when it takes a while.
//!
//! What they show is the status stream's; a callback with more to say is shown by
//! [`Bar::reached`].

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oversqlite::Status;
use std::time::Duration;

/// How often a bar is drawn anew.
const TICK: Duration = Duration::from_millis(200);

/// One line at the bottom of the terminal.
pub(super) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar over positions of the server's stream.
    pub(super) fn positions(what: &'static str, as_json: bool) -> Self {
        // Nobody watches a pipe; a program reads the JSON.
        let target = match as_json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {eta}");
        bar.set_style(style.expect("BUG: a constant template"));
        bar.set_message(what);
        Self { bar }
    }

    /// So far, of so much.
    pub(super) fn reached(&self, done: i64, of: i64) {
        if self.bar.length().is_none() {
            self.bar.enable_steady_tick(TICK);
        }
        self.bar.set_length(u64::try_from(of).unwrap_or(0));
        self.bar.set_position(u64::try_from(done).unwrap_or(0));
    }

    /// How far a synchronisation has come. `unsent` is how much there was to send
    /// at its beginning.
    pub(super) fn show(&self, status: &Status, unsent: i64) {
        // The first pass comes first, then everything is sent, then the rest comes:
        // what was sent counts as not downloaded until then.
        if status.hydrated && status.unsent > 0 {
            self.bar.set_message("uploading");
            let most = unsent.max(status.unsent);
            self.reached(most - status.unsent, most);
        } else if status.behind_by > 0 {
            self.bar.set_message("downloading");
            self.reached(status.cursor, status.cursor + status.behind_by);
        }
    }

    /// Prints lines above it.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the line away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
