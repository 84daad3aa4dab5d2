//! Of tests in which the log is folded: settings with which it is folded at once, when
//! that has happened, and what makes devices and entries older than they are.

use crate::backend::{Backend, Database};
use crate::config::Config;
use crate::device::insert;
use crate::eventually::eventually;
use serde_json::{Value, json};

/// Folds all the time, and everything at once that no device is known to need.
pub fn eager() -> Config {
    Config::default()
        .folding()
        .set("retention.keep_seconds", 0.02)
        .set("retention.pause_ms", 10)
}

/// Nothing is folded but by `oversync fold`, and then all but what is some milliseconds old.
pub fn folded_by_hand() -> Config {
    Config::default()
        .set("retention.enabled", false)
        .set("retention.pause_ms", 10)
        .set("retention.keep_seconds", 0.02)
        .set("retention.min_entries", 5)
}

/// A table of the server's own, or a column of it, for this store.
pub fn own(database: &Database, name: &str) -> String {
    match database.backend() {
        Backend::Embedded => format!("_oversync_{name}"),
        Backend::Postgres => format!("oversync.{name}"),
    }
}

/// How many rows there are in a table of the server's own; a condition may follow its name.
pub async fn count(database: &Database, what: &str) -> i64 {
    let (table, rest) = what.split_once(' ').unwrap_or((what, ""));
    let sql = format!("SELECT count(*) FROM {} {rest}", own(database, table));
    let text = database.ask(&sql).await.expect("a count");
    text.parse().expect("a number")
}

/// How often the one user's log has been folded.
pub async fn folds(database: &Database) -> i64 {
    let folds = format!(
        "SELECT coalesce(max(fold), 0) FROM {}",
        own(database, "users")
    );
    let folds = database.ask(&folds).await.expect("a number");
    folds.parse().expect("a number")
}

/// Waits until everything is folded and nothing is left over.
pub async fn folded_up_to(database: &Database, floor: i64) {
    let users = own(database, "users");
    let sql = format!("SELECT count(*) FROM {users} WHERE floor = {floor} AND swept = fold");
    eventually("the log is folded", || async {
        (database.ask(&sql).await? == "1").then_some(())
    })
    .await;
}

/// Lets all entries be old enough to be folded.
pub async fn long_written(database: &Database) {
    let long_ago = match database.backend() {
        Backend::Embedded => "- 86400000000",
        Backend::Postgres => "- interval '1 day'",
    };
    let sql = format!("UPDATE {} SET ts = ts {long_ago}", own(database, "log"));
    database.execute(&sql).await;
}

/// Lets a device have been silent for longer than anybody is waited for.
pub async fn silence(database: &Database, device: &str) {
    let readers = own(database, "readers");
    let long_ago = match database.backend() {
        Backend::Embedded => "- 91 * 86400000000",
        Backend::Postgres => "- interval '91 days'",
    };
    let sql = format!(
        "UPDATE {readers} SET seen_at = seen_at {long_ago}, read_at = read_at {long_ago} WHERE device_id = '{device}'"
    );
    database.execute(&sql).await;
}

/// The places of a page's changes.
pub fn ids(changes: &Value) -> Vec<i64> {
    let changes = changes.as_array().expect("a list").iter();
    changes
        .map(|change| change["server_id"].as_i64().expect("an id"))
        .collect()
}

/// A payload that says which change it came with.
pub fn name_of(number: i64) -> Value {
    json!({ "name": format!("name {number}") })
}

/// Rows of these keys, by changes from `first` on.
pub fn people(first: i64, keys: &[String]) -> Vec<Value> {
    let rows = (first..).zip(keys);
    rows.map(|(id, key)| insert(id, "business.users", key, name_of(id)))
        .collect()
}
