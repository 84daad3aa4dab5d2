//! One row that can never succeed among a thousand: the others arrive, and it
//! stands in a list with its reason, whatever the reason is.

use super::flow::{invalid, row};
use super::{Device, applied, entry, uuid};
use crate::{parked, rejected};
use oversync_shared::wire::{ChangeStatus, DownloadChange, reason};
use serde_json::json;

const ROWS: u32 = 1_000;

/// Somewhere in the middle.
const POISONED: u32 = 617;

#[test]
fn whatever_the_server_says_of_one_change_the_others_are_settled() {
    let codes = [
        reason::FK_MISSING,
        reason::BAD_PAYLOAD,
        reason::PRECHECK_ERROR,
        reason::INTERNAL_ERROR,
        reason::UNREGISTERED_TABLE,
        "a_code_of_later",
    ];
    for code in codes {
        let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
        let rows: Vec<String> = (0..ROWS).map(|n| format!("('{}', {n})", uuid(n))).collect();
        device.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        let sent = device.freeze();
        assert_eq!(sent.len(), ROWS as usize);
        let statuses: Vec<ChangeStatus> = sent
            .iter()
            .map(
                |frozen| match frozen.row.key.to_string() == uuid(POISONED) {
                    true => invalid(code, json!({"error": "no"})),
                    false => applied(frozen),
                },
            )
            .collect();
        let done = device.settle(&sent, statuses);
        assert_eq!((done.applied, done.rejected), (999, 1), "{code}");
        assert!(
            device.freeze().is_empty(),
            "{code}: nothing is left to send"
        );
        let listed = device.write(|txn| rejected::list(txn.conn));
        assert_eq!(listed.len(), 1, "{code}");
        assert_eq!(
            (&*listed[0].key, &*listed[0].reason),
            (&*uuid(POISONED), code)
        );
    }
}

/// A file with every kind of constraint.
const STRICT: &str = "
    CREATE TABLE shelves (id INTEGER PRIMARY KEY);
    CREATE TABLE p (id TEXT PRIMARY KEY, v);
    CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER NOT NULL CHECK (v < 2000) UNIQUE,
        p_id TEXT REFERENCES p (id), shelf INTEGER REFERENCES shelves (id),
        bytes BLOB, n INT) STRICT;
    CREATE TRIGGER no_sevens BEFORE INSERT ON t WHEN NEW.n = 7
        BEGIN SELECT RAISE(ABORT, 'no sevens'); END;
    INSERT INTO t (id, v) VALUES ('00000000-0000-4000-8000-999999999999', 1500);";

#[test]
fn whatever_is_wrong_with_one_entry_the_others_are_applied() {
    let id = uuid(POISONED);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let kinds = [
        ("t", r#"{"v":null}"#.to_owned(), "refused"),
        ("t", r#"{"n":1}"#.to_owned(), "refused"),
        ("t", r#"{"v":2001}"#.to_owned(), "refused"),
        ("t", r#"{"v":1500}"#.to_owned(), "refused"),
        ("t", r#"{"v":1501,"shelf":1}"#.to_owned(), "refused"),
        ("t", r#"{"v":1501,"n":"many"}"#.to_owned(), "refused"),
        ("t", r#"{"v":1501,"n":7}"#.to_owned(), "refused"),
        (
            "t",
            r#"{"v":1501,"bytes":"not base64!"}"#.to_owned(),
            "refused",
        ),
        ("t", r#"{"v":1501,"bytes":{}}"#.to_owned(), "refused"),
        ("t", r#"{"v":1501,"v":1502}"#.to_owned(), "refused"),
        ("t", format!(r#"{{"v":1501,"x":{deep}}}"#), "refused"),
        ("t", r#"{"v":1501,"x":"\ud800"}"#.to_owned(), "refused"),
        ("t", r#"["v"]"#.to_owned(), "refused"),
        (
            "t",
            format!(r#"{{"v":1501,"p_id":"{}"}}"#, uuid(1)),
            "missing_parent",
        ),
        ("nowhere", r#"{"v":1}"#.to_owned(), "unknown_table"),
    ];
    for (table, payload, reason) in kinds {
        let mut device = Device::new(STRICT, &["p", "t"]);
        let page: Vec<DownloadChange> = (0..ROWS)
            .map(|n| match n == POISONED {
                true => entry(table, &id, 1, Some(&payload)),
                false => entry("t", &uuid(n), 1, Some(&row(&uuid(n), i64::from(n)))),
            })
            .collect();
        assert_eq!(device.apply(page).written.len(), 999, "{payload}");
        let listed = device.write(|txn| parked::list(txn.conn));
        assert_eq!(listed.len(), 1, "{payload}");
        assert_eq!(
            (
                &*listed[0].key,
                &*listed[0].reason,
                listed[0].payload.as_deref()
            ),
            (&*id, reason, Some(&*payload)),
        );
        assert_eq!(listed[0].detail.is_empty(), table == "nowhere", "{payload}");
        // The row that was here before is this device's own edit, and no other.
        assert_eq!(device.freeze().len(), 1, "{payload}");
    }
}
