//! What the server counts and measures, by name.
//!
//! Only the macros of `metrics` are used here: the binary installs a recorder,
//! a host application may install its own, and without one all of this costs
//! next to nothing. Labels have few values; none names a user or a device.

mod names;

use crate::admission::Class;
use crate::rates::Limit;
use crate::store::PoolUse;
use crate::upload::UploadError;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};
use names::*;
use oversync_shared::upload::{Fault, Verdict};
use oversync_shared::wire::ByeReason;
use std::time::{Duration, Instant};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Only rises.
    Counter,
    /// Has a value now.
    Gauge,
    /// A histogram of seconds.
    Seconds,
    /// A histogram of numbers of uploads.
    Sizes,
}

/// A metric.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// The name of its label; empty where it has none.
    label: &'static str,
    /// Of the label, as far as they are known beforehand.
    values: &'static [&'static str],
    help: &'static str,
}

/// Every metric.
pub(crate) const fn all() -> &'static [Meter] {
    ALL
}

/// Tells the recorder what each name means, and that nothing has happened yet;
/// again for each recorder.
pub(crate) fn describe() {
    for meter in ALL {
        let Meter { name, help, .. } = *meter;
        match meter.shape {
            Shape::Counter => describe_counter!(name, help),
            Shape::Gauge => describe_gauge!(name, help),
            Shape::Seconds => describe_histogram!(name, Unit::Seconds, help),
            Shape::Sizes => describe_histogram!(name, help),
        }
        let nothing = |labels: Vec<metrics::Label>| match meter.shape {
            Shape::Counter => counter!(name, labels).increment(0),
            Shape::Gauge => gauge!(name, labels).increment(0.0),
            // To be known is enough.
            Shape::Seconds | Shape::Sizes => drop(histogram!(name, labels)),
        };
        if meter.label.is_empty() {
            nothing(Vec::new());
        }
        for value in meter.values {
            nothing(vec![metrics::Label::new(meter.label, *value)]);
        }
    }
}

/// Counts in a gauge as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(&'static str);

impl Counted {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1);
        Self(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1);
    }
}

/// An upload is being applied.
pub(crate) fn upload_in_flight() -> Counted {
    Counted::new(UPLOADS_IN_FLIGHT)
}

/// A page is being read, or waits to be.
pub(crate) fn download_in_flight() -> Counted {
    Counted::new(DOWNLOADS_IN_FLIGHT)
}

/// A long poll waits.
pub(crate) fn poll() -> Counted {
    Counted::new(POLLS_WAITING)
}

/// A session does not read what it is sent.
pub(crate) fn stalled() -> Counted {
    Counted::new(SESSIONS_STALLED)
}

/// Something waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    stage: &'static str,
    since: Instant,
    _counted: Counted,
}

impl Waiting {
    /// An upload waits in its user's mailbox.
    pub(crate) fn for_turn() -> Self {
        Self::new("turn", TURNS_WAITING)
    }

    /// A commit waits for a lane.
    pub(crate) fn for_lane() -> Self {
        Self::new("lane", COMMITS_WAITING)
    }

    fn new(stage: &'static str, gauge: &'static str) -> Self {
        Self {
            stage,
            since: Instant::now(),
            _counted: Counted::new(gauge),
        }
    }

    /// The turn has come.
    pub(crate) fn over(self) {
        upload_stage(self.stage, self.since.elapsed());
    }
}

fn upload_stage(stage: &'static str, took: Duration) {
    histogram!(UPLOAD_STAGE_SECONDS, "stage" => stage).record(took);
}

/// An upload's body has arrived.
pub(crate) fn body(took: Duration) {
    upload_stage("body", took);
}

/// An upload's body has been checked, well or not.
pub(crate) fn checked(took: Duration) {
    upload_stage("check", took);
}

/// An upload has been answered, or not.
pub(crate) fn upload(result: Result<&[Verdict], &UploadError>, took: Duration) {
    let status = match result {
        Ok(verdicts) => {
            histogram!(UPLOAD_SECONDS).record(took);
            changes(verdicts);
            "answered"
        }
        Err(UploadError::EpochMismatch(_) | UploadError::AnswerTooLarge) => "refused",
        Err(UploadError::Store(crate::store::StoreError::Overloaded)) => "overloaded",
        Err(UploadError::Store(crate::store::StoreError::Failed(_))) => "failed",
    };
    counter!(UPLOADS, "status" => status).increment(1);
}

fn changes(verdicts: &[Verdict]) {
    let (mut applied, mut conflict, mut invalid) = (0, 0, 0);
    for verdict in verdicts {
        match verdict {
            Verdict::Applied(_) => applied += 1,
            Verdict::Conflict(_) => conflict += 1,
            Verdict::Invalid(fault) => {
                if let Fault::QuotaExceeded(exceeded) = fault {
                    counter!(OVER_QUOTA, "quota" => exceeded.quota.as_str()).increment(1);
                }
                invalid += 1;
            }
        }
    }
    for (status, number) in [
        ("applied", applied),
        ("conflict", conflict),
        ("invalid", invalid),
    ] {
        if number > 0 {
            counter!(CHANGES, "status" => status).increment(number);
        }
    }
}

/// A download was let in to read.
pub(crate) fn admitted(waited: Duration) {
    histogram!(DOWNLOAD_STAGE_SECONDS, "stage" => "admission").record(waited);
}

/// A page has been read, or not.
pub(crate) fn page(is_read: bool, took: Duration) {
    if is_read {
        histogram!(DOWNLOAD_SECONDS).record(took);
        histogram!(DOWNLOAD_STAGE_SECONDS, "stage" => "read").record(took);
    }
    let status = if is_read { "answered" } else { "failed" };
    counter!(DOWNLOADS, "status" => status).increment(1);
}

/// A download was answered from memory.
pub(crate) fn quiet_download() {
    counter!(QUIET_DOWNLOADS).increment(1);
}

/// Changes were wanted, and were in memory or not.
pub(crate) fn newest(is_found: bool) {
    let found = if is_found { "yes" } else { "no" };
    counter!(NEWEST, "found" => found).increment(1);
}

/// Memory that newest changes hold now.
pub(crate) fn newest_bytes(bytes: usize) {
    gauge!(NEWEST_BYTES).set(bytes as f64);
}

/// Heads of some users are asked for.
pub(crate) fn heads_question() {
    counter!(HEAD_QUESTIONS).increment(1);
}

/// Another process told of a head.
pub(crate) fn head_heard() {
    counter!(HEADS_HEARD).increment(1);
}

/// A download found too many before it.
pub(crate) fn sent_away(class: Class) {
    counter!(SENT_AWAY, "class" => class.name()).increment(1);
}

/// A configured limit was met.
pub(crate) fn limited(limit: Limit) {
    counter!(LIMITED, "limit" => limit.name()).increment(1);
}

/// An answer that stood still was cut off.
pub(crate) fn shed() {
    counter!(SHED).increment(1);
}

/// Memory that large answers hold now.
pub(crate) fn answer_bytes(bytes: usize) {
    gauge!(ANSWER_BYTES).set(bytes as f64);
}

/// A request has been answered with an error.
pub(crate) fn refusal(code: &'static str) {
    counter!(REFUSALS, "code" => code).increment(1);
}

/// A session has opened …
pub(crate) fn session_opened() {
    gauge!(SESSIONS).increment(1);
}

/// … and closed.
pub(crate) fn session_closed() {
    gauge!(SESSIONS).decrement(1);
}

/// A session was told of changes, the first of which was committed here so long ago.
pub(crate) fn hint(after: Option<Duration>) {
    counter!(HINTS).increment(1);
    if let Some(after) = after {
        histogram!(HINT_SECONDS).record(after);
    }
}

/// A change stood in another device's file so long after its commit here.
pub(crate) fn visible(after: Duration) {
    histogram!(VISIBLE_SECONDS).record(after);
}

/// A head goes with another's hint.
pub(crate) fn hint_coalesced() {
    counter!(HINTS_COALESCED).increment(1);
}

/// A hint's session has just ended.
pub(crate) fn hint_dropped() {
    counter!(HINTS_DROPPED).increment(1);
}

/// A session is told to go.
pub(crate) fn bye(reason: ByeReason) {
    let reason = match reason {
        ByeReason::TokenExpired => "token_expired",
        ByeReason::ShuttingDown => "shutting_down",
        ByeReason::SlowConsumer => "slow_consumer",
        ByeReason::Revoked => "revoked",
    };
    counter!(BYES, "reason" => reason).increment(1);
}

/// Heads were published to other processes, or could not be.
pub(crate) fn published(is_published: bool, took: Duration) {
    if is_published {
        histogram!(BUS_SECONDS).record(took);
    } else {
        counter!(BUS_LOST).increment(1);
    }
}

/// Nobody had told of a head that the database has.
pub(crate) fn head_missed() {
    counter!(HEADS_MISSED).increment(1);
}

/// So many rows could not be projected, by a commit that stands.
pub(crate) fn projection_failures(rows: usize) {
    if rows > 0 {
        counter!(PROJECTION_FAILURES).increment(rows as u64);
    }
}

/// A group commit of this many uploads.
pub(crate) fn commit(uploads: usize, took: Duration) {
    histogram!(COMMIT_UPLOADS).record(uploads as f64);
    upload_stage("commit", took);
}

/// The pool of connections; said when somebody asks.
pub(crate) fn pool(now: PoolUse) {
    for (state, number) in [("idle", now.idle), ("busy", now.busy)] {
        gauge!(CONNECTIONS, "state" => state).set(number as f64);
    }
}

/// Bytes on disk of one kind.
pub(crate) fn storage(kind: &str, bytes: u64) {
    gauge!(STORAGE, "kind" => kind.to_owned()).set(bytes as f64);
}

/// A question is put to the database; it ends with what is returned.
pub(crate) fn question(verb: &'static str) -> Question {
    counter!(QUESTIONS, "verb" => verb).increment(1);
    gauge!(QUESTIONS_IN_FLIGHT).increment(1);
    Question {
        verb,
        since: Instant::now(),
    }
}

/// A question under way.
pub(crate) struct Question {
    verb: &'static str,
    since: Instant,
}

impl Drop for Question {
    fn drop(&mut self) {
        gauge!(QUESTIONS_IN_FLIGHT).decrement(1);
        histogram!(QUESTION_SECONDS, "verb" => self.verb).record(self.since.elapsed());
    }
}

/// Memory that is allocated now; said when somebody asks.
pub(crate) fn live_bytes(bytes: usize) {
    gauge!(LIVE_BYTES).set(bytes as f64);
}

/// Memory that upload bodies hold now; said when somebody asks.
pub(crate) fn bytes_in_flight(bytes: usize) {
    gauge!(BYTES_IN_FLIGHT).set(bytes as f64);
}

/// A user's log has been folded.
pub(crate) fn folded_user() {
    counter!(FOLDED_USERS).increment(1);
}

/// Entries have been removed that were folded away.
pub(crate) fn folded_entries(entries: u64) {
    counter!(FOLDED_ENTRIES).increment(entries);
}

/// Devices have been forgotten.
pub(crate) fn forgotten_devices(devices: u64) {
    counter!(FORGOTTEN).increment(devices);
}

/// A download has been refused: its cursor lies below the floor.
pub(crate) fn history_pruned() {
    counter!(PRUNED).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn the_manual_is_what_is_counted() {
        let mut table = String::new();
        for Meter {
            name,
            shape,
            label,
            values,
            help,
        } in all()
        {
            let kind = match shape {
                Shape::Counter => "counter",
                Shape::Gauge => "gauge",
                Shape::Seconds => "histogram, seconds",
                Shape::Sizes => "histogram",
            };
            let labels = match (*label, values.is_empty()) {
                ("", _) => String::new(),
                (label, true) => format!("`{label}`"),
                (label, false) => format!("`{label}`: {}", values.join(", ")),
            };
            writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").expect("text");
        }
        let manual = include_str!("../../docs/METRICS.md");
        assert!(
            manual.contains(&format!("|---|---|---|---|\n{table}\n")),
            "docs/METRICS.md must have this table:\n{table}"
        );
    }
}
