//! Every metric by name: what kind it is, its labels and their values, what it
//! means. docs/METRICS.md is this table, and a test holds it to it.

use super::Meter;
use super::Shape::{Counter, Gauge, Seconds, Sizes};

pub(super) const UPLOADS: &str = "oversync_uploads_total";
pub(super) const UPLOAD_SECONDS: &str = "oversync_upload_seconds";
pub(super) const UPLOAD_STAGE_SECONDS: &str = "oversync_upload_stage_seconds";
pub(super) const UPLOADS_IN_FLIGHT: &str = "oversync_uploads_in_flight";
pub(super) const BYTES_IN_FLIGHT: &str = "oversync_upload_bytes_in_flight";
pub(super) const TURNS_WAITING: &str = "oversync_turns_waiting";
pub(super) const COMMITS_WAITING: &str = "oversync_commits_waiting";
pub(super) const COMMIT_UPLOADS: &str = "oversync_commit_uploads";
pub(super) const CHANGES: &str = "oversync_changes_total";
pub(super) const OVER_QUOTA: &str = "oversync_over_quota_total";
pub(super) const PROJECTION_FAILURES: &str = "oversync_projection_failures_total";
pub(super) const DOWNLOADS: &str = "oversync_downloads_total";
pub(super) const DOWNLOAD_SECONDS: &str = "oversync_download_seconds";
pub(super) const DOWNLOAD_STAGE_SECONDS: &str = "oversync_download_stage_seconds";
pub(super) const DOWNLOADS_IN_FLIGHT: &str = "oversync_downloads_in_flight";
pub(super) const QUIET_DOWNLOADS: &str = "oversync_quiet_downloads_total";
pub(super) const NEWEST: &str = "oversync_newest_downloads_total";
pub(super) const NEWEST_BYTES: &str = "oversync_newest_bytes";
pub(super) const SENT_AWAY: &str = "oversync_downloads_sent_away_total";
pub(super) const POLLS_WAITING: &str = "oversync_polls_waiting";
pub(super) const ANSWER_BYTES: &str = "oversync_answer_bytes_in_flight";
pub(super) const SHED: &str = "oversync_answers_shed_total";
pub(super) const SESSIONS: &str = "oversync_sessions";
pub(super) const SESSIONS_STALLED: &str = "oversync_sessions_stalled";
pub(super) const BYES: &str = "oversync_byes_total";
pub(super) const HINTS: &str = "oversync_hints_total";
pub(super) const HINTS_COALESCED: &str = "oversync_hints_coalesced_total";
pub(super) const HINTS_DROPPED: &str = "oversync_hints_dropped_total";
pub(super) const HINT_SECONDS: &str = "oversync_hint_seconds";
pub(super) const VISIBLE_SECONDS: &str = "oversync_visible_seconds";
pub(super) const HEAD_QUESTIONS: &str = "oversync_head_questions_total";
pub(super) const HEADS_HEARD: &str = "oversync_heads_heard_total";
pub(super) const HEADS_MISSED: &str = "oversync_heads_missed_total";
pub(super) const BUS_SECONDS: &str = "oversync_bus_publish_seconds";
pub(super) const BUS_LOST: &str = "oversync_bus_lost_total";
pub(super) const LIMITED: &str = "oversync_limited_total";
pub(super) const REFUSALS: &str = "oversync_refusals_total";
pub(super) const QUESTIONS: &str = "oversync_store_questions_total";
pub(super) const QUESTION_SECONDS: &str = "oversync_store_seconds";
pub(super) const QUESTIONS_IN_FLIGHT: &str = "oversync_store_in_flight";
pub(super) const CONNECTIONS: &str = "oversync_pool_connections";
pub(super) const STORAGE: &str = "oversync_storage_bytes";
pub(super) const FOLDED_USERS: &str = "oversync_folded_users_total";
pub(super) const FOLDED_ENTRIES: &str = "oversync_folded_entries_total";
pub(super) const FORGOTTEN: &str = "oversync_forgotten_devices_total";
pub(super) const PRUNED: &str = "oversync_history_pruned_total";
pub(super) const LIVE_BYTES: &str = "oversync_live_bytes";

/// One without labels.
const fn plain(name: &'static str, shape: super::Shape, help: &'static str) -> Meter {
    Meter {
        name,
        shape,
        label: "",
        values: &[],
        help,
    }
}

/// One with a label, and its values where all of them are known.
const fn by(
    name: &'static str,
    shape: super::Shape,
    label: &'static str,
    values: &'static [&'static str],
    help: &'static str,
) -> Meter {
    Meter {
        name,
        shape,
        label,
        values,
        help,
    }
}

/// All of them, in the order an operator looks.
pub(super) const ALL: &[Meter] = &[
    by(
        UPLOADS,
        Counter,
        "status",
        &["answered", "refused", "overloaded", "failed"],
        "Uploads, of devices and of the server itself",
    ),
    plain(
        UPLOAD_SECONDS,
        Seconds,
        "From an upload's checked body to its answer",
    ),
    by(
        UPLOAD_STAGE_SECONDS,
        Seconds,
        "stage",
        &["body", "check", "turn", "lane", "commit"],
        "Parts of an upload: its body arrives, is checked, waits for its user's turn, waits for a commit lane, is committed; loading is oversync_store_seconds{verb=\"load\"}",
    ),
    plain(UPLOADS_IN_FLIGHT, Gauge, "Uploads that are being applied"),
    plain(
        BYTES_IN_FLIGHT,
        Gauge,
        "Memory in bytes that upload bodies hold",
    ),
    plain(
        TURNS_WAITING,
        Gauge,
        "Uploads in the mailboxes of their users' actors",
    ),
    plain(
        COMMITS_WAITING,
        Gauge,
        "Commits that wait for a commit lane",
    ),
    plain(COMMIT_UPLOADS, Sizes, "Uploads that shared one commit"),
    by(
        CHANGES,
        Counter,
        "status",
        &["applied", "conflict", "invalid"],
        "Changes of answered uploads",
    ),
    by(
        OVER_QUOTA,
        Counter,
        "quota",
        &["user_rows", "user_bytes", "user_devices"],
        "Changes refused because their user has as much as it may have; of oversync_changes_total{status=\"invalid\"}",
    ),
    plain(
        PROJECTION_FAILURES,
        Counter,
        "Rows that could not be written into their business table",
    ),
    by(
        DOWNLOADS,
        Counter,
        "status",
        &["answered", "failed"],
        "Pages read from the store, a long poll's included",
    ),
    plain(
        DOWNLOAD_SECONDS,
        Seconds,
        "Reading one page, without waiting",
    ),
    by(
        DOWNLOAD_STAGE_SECONDS,
        Seconds,
        "stage",
        &["admission", "read"],
        "Parts of a download that reads a page: it waits to be let in, the page is read",
    ),
    plain(
        DOWNLOADS_IN_FLIGHT,
        Gauge,
        "Pages that are being read or wait to be",
    ),
    plain(
        QUIET_DOWNLOADS,
        Counter,
        "Downloads that found nothing new, answered without reading a page",
    ),
    by(
        NEWEST,
        Counter,
        "found",
        &["yes", "no"],
        "Downloads of something new: whether the changes were in memory, or a page was to be read",
    ),
    plain(
        NEWEST_BYTES,
        Gauge,
        "Memory in bytes that users' newest changes hold, about",
    ),
    by(
        SENT_AWAY,
        Counter,
        "class",
        &["download", "hydrate"],
        "Downloads refused because too many waited",
    ),
    plain(POLLS_WAITING, Gauge, "Long polls that wait for something"),
    plain(
        ANSWER_BYTES,
        Gauge,
        "Memory in bytes that large answers hold while they are sent",
    ),
    plain(
        SHED,
        Counter,
        "Answers cut off because their client stood still and others needed the room",
    ),
    plain(SESSIONS, Gauge, "Open WebSocket sessions"),
    plain(
        SESSIONS_STALLED,
        Gauge,
        "Sessions whose device has not proven to have read what was sent: hints wait for them",
    ),
    by(
        BYES,
        Counter,
        "reason",
        &["token_expired", "shutting_down", "slow_consumer", "revoked"],
        "Sessions told to go",
    ),
    plain(HINTS, Counter, "Hints sent: that there are changes"),
    plain(
        HINTS_COALESCED,
        Counter,
        "Heads that a session was or will be told with another's hint",
    ),
    plain(
        HINTS_DROPPED,
        Counter,
        "Hints for sessions that had just ended",
    ),
    plain(
        HINT_SECONDS,
        Seconds,
        "From a commit of this process to its hint in a session's hands; of several commits in one hint the first counts",
    ),
    plain(
        VISIBLE_SECONDS,
        Seconds,
        "From a commit of this process to the row in another device's file, by what devices say with their next request; of several changes applied together the last counts",
    ),
    plain(
        HEAD_QUESTIONS,
        Counter,
        "Questions for heads put to the database, each of many users",
    ),
    plain(HEADS_HEARD, Counter, "Heads heard from other processes"),
    plain(
        HEADS_MISSED,
        Counter,
        "Heads that were news when the database was asked, every two seconds: the bus lost them, or lags",
    ),
    plain(
        BUS_SECONDS,
        Seconds,
        "From a commit to its head's publication to other processes, gathering included",
    ),
    plain(
        BUS_LOST,
        Counter,
        "Messages to other processes that could not be published",
    ),
    by(
        LIMITED,
        Counter,
        "limit",
        &[
            "user_requests",
            "address_requests",
            "user_sockets",
            "address_sockets",
            "sockets",
        ],
        "Requests refused by a limit; sockets is that of the whole process",
    ),
    by(
        REFUSALS,
        Counter,
        "code",
        &[],
        "Requests answered with an error",
    ),
    by(
        QUESTIONS,
        Counter,
        "verb",
        &["load", "commit", "page", "heads", "ping"],
        "Questions to the database; the verbs are the store's, these and rarer ones",
    ),
    by(
        QUESTION_SECONDS,
        Seconds,
        "verb",
        &["load", "commit", "page", "heads", "ping"],
        "How long the database took for one, waiting for a connection or a thread included",
    ),
    plain(
        QUESTIONS_IN_FLIGHT,
        Gauge,
        "Questions to the database under way",
    ),
    by(
        CONNECTIONS,
        Gauge,
        "state",
        &["idle", "busy"],
        "Connections to PostgreSQL; 0 on the embedded store",
    ),
    by(
        STORAGE,
        Gauge,
        "kind",
        &[],
        "Bytes on disk, measured once a minute at most: on PostgreSQL by table of ours with its indexes, and the whole database; on the embedded store the file, its log, and what is free in the file",
    ),
    plain(
        FOLDED_USERS,
        Counter,
        "Times that a user's log has been folded",
    ),
    plain(
        FOLDED_ENTRIES,
        Counter,
        "Entries removed from logs because newer ones replace them",
    ),
    plain(
        FORGOTTEN,
        Counter,
        "Devices forgotten that had been silent for too long",
    ),
    plain(
        PRUNED,
        Counter,
        "Downloads refused because their cursor lies below the floor",
    ),
    plain(
        LIVE_BYTES,
        Gauge,
        "Memory in bytes that the program has allocated and not freed, SQLite's own left out",
    ),
];
