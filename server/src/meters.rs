//! What the server counts and measures, by name.
//!
//! Only the macros of `metrics` are used here: the binary installs a recorder,
//! a host application may install its own, and without one all of this costs
//! next to nothing. Labels have few values; none names a user or a device.

use crate::admission::Class;
use crate::rates::Limit;
use crate::upload::UploadError;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};
use oversync_shared::upload::Verdict;
use std::time::Duration;

const UPLOADS: &str = "oversync_uploads_total";
const UPLOAD_SECONDS: &str = "oversync_upload_seconds";
const CHANGES: &str = "oversync_changes_total";
const DOWNLOADS: &str = "oversync_downloads_total";
const DOWNLOAD_SECONDS: &str = "oversync_download_seconds";
const QUIET_DOWNLOADS: &str = "oversync_quiet_downloads_total";
const HEAD_QUESTIONS: &str = "oversync_head_questions_total";
const HEADS_HEARD: &str = "oversync_heads_heard_total";
const SENT_AWAY: &str = "oversync_downloads_sent_away_total";
const LIMITED: &str = "oversync_limited_total";
const SHED: &str = "oversync_answers_shed_total";
const ANSWER_BYTES: &str = "oversync_answer_bytes_in_flight";
const REFUSALS: &str = "oversync_refusals_total";
const SESSIONS: &str = "oversync_sessions";
const HINTS: &str = "oversync_hints_total";
const PROJECTION_FAILURES: &str = "oversync_projection_failures_total";
const BYTES_IN_FLIGHT: &str = "oversync_upload_bytes_in_flight";
const LIVE_BYTES: &str = "oversync_live_bytes";
const FOLDED_USERS: &str = "oversync_folded_users_total";
const FOLDED_ENTRIES: &str = "oversync_folded_entries_total";
const FORGOTTEN: &str = "oversync_forgotten_devices_total";
const PRUNED: &str = "oversync_history_pruned_total";
pub(crate) const COMMIT_UPLOADS: &str = "oversync_commit_uploads";

/// Tells the recorder what each name means; again for each recorder.
pub(crate) fn describe() {
    describe_counter!(
        UPLOADS,
        "Uploads, of devices and of the server itself, by status: answered, refused, overloaded, failed"
    );
    describe_histogram!(
        UPLOAD_SECONDS,
        Unit::Seconds,
        "From an upload's checked body to its answer"
    );
    describe_counter!(
        CHANGES,
        "Changes of answered uploads by status: applied, conflict, invalid"
    );
    describe_counter!(
        DOWNLOADS,
        "Pages read from the store, a long poll's included, by status: answered, failed"
    );
    describe_histogram!(
        DOWNLOAD_SECONDS,
        Unit::Seconds,
        "Reading one page, without waiting"
    );
    describe_counter!(
        QUIET_DOWNLOADS,
        "Downloads that found nothing new, answered without reading a page"
    );
    describe_counter!(
        HEAD_QUESTIONS,
        "Questions for heads put to the database, each of many users"
    );
    describe_counter!(HEADS_HEARD, "Heads heard from other processes");
    describe_counter!(
        SENT_AWAY,
        "Downloads refused because too many waited, by class: download, hydrate"
    );
    describe_counter!(
        LIMITED,
        "Requests refused by a limit: user_requests, address_requests, user_sockets, address_sockets, and sockets, of the whole process"
    );
    describe_counter!(
        SHED,
        "Answers cut off because their client stood still and others needed the room"
    );
    describe_gauge!(
        ANSWER_BYTES,
        Unit::Bytes,
        "Memory that large answers hold now, while they are sent"
    );
    describe_counter!(REFUSALS, "Requests answered with an error, by its code");
    describe_gauge!(SESSIONS, "Open WebSocket sessions");
    describe_counter!(HINTS, "Hints sent: that there are changes");
    describe_counter!(
        PROJECTION_FAILURES,
        "Rows that could not be written into their business table"
    );
    describe_gauge!(
        BYTES_IN_FLIGHT,
        Unit::Bytes,
        "Memory that upload bodies hold now"
    );
    describe_gauge!(
        LIVE_BYTES,
        Unit::Bytes,
        "Memory that the program has allocated and not freed, SQLite's own left out"
    );
    describe_histogram!(COMMIT_UPLOADS, "Uploads that shared one commit");
    describe_counter!(FOLDED_USERS, "Times that a user's log has been folded");
    describe_counter!(
        FOLDED_ENTRIES,
        "Entries removed from logs because newer ones replace them"
    );
    describe_counter!(
        FORGOTTEN,
        "Devices forgotten that had been silent for too long"
    );
    describe_counter!(
        PRUNED,
        "Downloads refused because their cursor lies below the floor"
    );
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
            Verdict::Invalid(_) => invalid += 1,
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

/// A page has been read, or not.
pub(crate) fn page(is_read: bool, took: Duration) {
    if is_read {
        histogram!(DOWNLOAD_SECONDS).record(took);
    }
    let status = if is_read { "answered" } else { "failed" };
    counter!(DOWNLOADS, "status" => status).increment(1);
}

/// A download was answered from memory.
pub(crate) fn quiet_download() {
    counter!(QUIET_DOWNLOADS).increment(1);
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

/// A session was told of changes.
pub(crate) fn hint() {
    counter!(HINTS).increment(1);
}

/// So many rows could not be projected, by a commit that stands.
pub(crate) fn projection_failures(rows: usize) {
    if rows > 0 {
        counter!(PROJECTION_FAILURES).increment(rows as u64);
    }
}

/// A group commit of this many uploads.
pub(crate) fn commit(uploads: usize) {
    histogram!(COMMIT_UPLOADS).record(uploads as f64);
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
