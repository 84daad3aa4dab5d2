//! Progress bars on long work: on standard error, only for a person at a
//! terminal, and only when it takes a while.
//!
//! What they show is the status stream's; a callback with more to say is shown by
//! [`Bar::reached`].

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oversqlite::{Progress, Status};
use std::time::Duration;

/// How often a bar is drawn anew.
const TICK: Duration = Duration::from_millis(200);

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("BUG: a constant template")
}

/// How many rows have come, and how long it will take.
fn downloading(progress: &Progress) -> String {
    let left = match progress.eta_seconds {
        None => String::new(),
        Some(seconds @ ..120) => format!(", about {seconds} s left"),
        Some(seconds @ ..7_200) => format!(", about {} min left", seconds.div_ceil(60)),
        Some(seconds) => format!(", about {} h left", seconds.div_ceil(3_600)),
    };
    format!(
        "downloading: {} %, {} rows{left}",
        progress.percent(),
        progress.rows
    )
}

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
        bar.set_style(style("{spinner} {msg} {wide_bar} {pos}/{len} {eta}"));
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
        } else if let Some(progress) = &status.progress {
            self.bar.set_message(downloading(progress));
            // The rate of the pages: a bar's own would begin with the first glance.
            self.bar
                .set_style(style("{spinner} {msg} {wide_bar} {pos}/{len}"));
            self.reached(progress.done, progress.total);
        } else if let Some(behind) = status.behind_by.filter(|behind| *behind > 0) {
            self.bar.set_message("downloading");
            self.reached(status.cursor, status.cursor + behind);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(eta_seconds: Option<u64>) -> Status {
        let mut status = Status::default();
        status.hydrated = true;
        status.cursor = 250;
        // A newer head than the pages lead to: another hint has come.
        status.behind_by = Some(9_000);
        status.progress = Some(Progress {
            done: 300,
            total: 1_200,
            rows: 290,
            eta_seconds,
        });
        status
    }

    #[test]
    fn the_bar_says_what_the_pages_say() {
        let bar = Bar::positions("synchronising", true);
        bar.show(&status(None), 0);
        assert_eq!((bar.bar.position(), bar.bar.length()), (300, Some(1_200)));
        assert_eq!(bar.bar.message(), "downloading: 25 %, 290 rows");
        for (seconds, left) in [(7, "7 s"), (119, "119 s"), (121, "3 min"), (7_201, "3 h")] {
            bar.show(&status(Some(seconds)), 0);
            assert!(
                bar.bar
                    .message()
                    .ends_with(&format!("rows, about {left} left"))
            );
        }
    }
}
