//! What a person sees while a run goes on: a bar for the phase and one line with
//! the last second's work. Where stderr is not a terminal, a plain line now and
//! then, so that a log shows that something happens.

use crate::measure::Glance;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const PLAIN_EVERY: u64 = 30;

/// The line; clones share it.
#[derive(Debug, Clone)]
pub struct LiveLine {
    bar: ProgressBar,
    /// Seconds shown so far, where there is no terminal.
    plain: Option<Arc<AtomicU64>>,
}

impl LiveLine {
    /// A line on stderr, when that is a terminal.
    pub fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{prefix:<12} {bar:24} {pos}/{len} s  {msg}")
            .expect("BUG: the template is valid");
        Self {
            bar: ProgressBar::with_draw_target(Some(1), target).with_style(style),
            plain: (!is_terminal).then(Arc::default),
        }
    }

    /// A new phase of this length.
    pub fn phase(&self, name: &str, length: Duration) {
        self.bar.set_prefix(name.to_owned());
        self.bar.set_length(length.as_secs().max(1));
        self.bar.set_position(0);
        self.bar.set_message("");
    }

    /// How far the phase is.
    pub fn at(&self, began: Instant) {
        self.bar.set_position(began.elapsed().as_secs());
    }

    /// Something that has no length.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// The last second.
    pub fn show(&self, glance: &Glance) {
        let latency = glance
            .p99_ms
            .map_or_else(String::new, |p99| format!("  p99 {p99:.1} ms"));
        let line = format!(
            "{:.0} operations/s  {:.0} changes/s{latency}  errors {}",
            glance.operations, glance.changes, glance.errors
        );
        if let Some(shown) = &self.plain
            && shown.fetch_add(1, Ordering::Relaxed) % PLAIN_EVERY == 0
        {
            eprintln!("{line}");
        }
        self.bar.set_message(line);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
