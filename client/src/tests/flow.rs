//! Pages into the tables, one case after the other: what is written, what is parked, and
//! what is not sent back.

use super::words::{FAMILY, NOTES, in_step, row};
use super::{Device, entry, uuid};
use crate::status;
use oversync_shared::wire::Op;

#[test]
fn a_page_is_applied_once_and_never_backwards() {
    let (mut device, id) = in_step(None);
    device.apply(vec![entry("t", &id, 3, Some(&row(&id, 3)))]);
    let old = device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    assert!(old.written.is_empty());
    assert_eq!(device.count("SELECT v FROM t"), 3);
    device.apply(vec![entry("t", &id, 4, None)]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 0);
    assert!(device.freeze().is_empty());
}

#[test]
fn only_carried_columns_are_written() {
    let mut device = Device::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v, w DEFAULT 'mine')",
        &["t"],
    );
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    assert_eq!(
        device.text("SELECT v || w FROM t").as_deref(),
        Some("2mine")
    );
}

/// Once, this ended the database thread, and again after every start.
#[test]
fn a_peers_object_in_a_blob_column_meets_an_edit_and_harms_nothing() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v BLOB, w)", &["t"]);
    let (id, other) = (uuid(1), uuid(2));
    device.apply(vec![entry(
        "t",
        &id,
        1,
        Some(&format!(r#"{{"id":"{id}","v":"AA=="}}"#)),
    )]);
    device.run("UPDATE t SET w = 1");
    for (version, value) in [(2, "{}"), (3, "[1,2]")] {
        let payload = format!(r#"{{"id":"{id}","v":{value}}}"#);
        device.apply(vec![
            entry("t", &id, version, Some(&payload)),
            entry(
                "t",
                &other,
                version,
                Some(&format!(r#"{{"id":"{other}","w":{version}}}"#)),
            ),
        ]);
        device.freeze();
    }
    assert_eq!(device.count("SELECT w FROM t WHERE v IS NULL"), 3);
}

#[test]
fn unknown_columns_and_tables_are_kept() {
    let mut device = Device::new(NOTES, &["t"]);
    let id = uuid(1);
    let payload =
        format!(r#"{{"id":"{id}","v":1,"new":[1.50,{{"a":null}}],"\"; DROP TABLE t; --":2}}"#);
    device.apply(vec![
        entry("t", &id, 1, Some(&payload)),
        entry("later", &id, 1, Some("{}")),
    ]);
    device.run("UPDATE t SET v = 5");
    let sent = device.freeze();
    let text = sent[0].payload.clone().expect("a payload");
    assert!(text.contains(r#""new":[1.50,{"a":null}]"#), "{text}");
    assert!(text.contains(r#""\"; DROP TABLE t; --":2"#), "{text}");
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 1);
}

#[test]
fn a_page_does_not_touch_an_unsent_edit_and_remembers_the_row() {
    let (mut device, id) = in_step(None);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    // The default: the server's row stands, what lost is kept.
    assert_eq!(device.count("SELECT v FROM t"), 2);
    assert!(device.freeze().is_empty());
    let kept = device.write(|txn| crate::conflicts::list(txn.conn));
    assert_eq!(kept[0].mine.as_deref(), Some(row(&id, 10).as_str()));
    assert_eq!(kept[0].base.as_deref(), Some(row(&id, 1).as_str()));
}

#[test]
fn children_without_parents_are_parked_until_they_come() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child, leaf) = (uuid(1), uuid(2), uuid(3));
    let child_row = format!(r#"{{"id":"{child}","p_id":"{parent}","v":1}}"#);
    let leaf_row = format!(r#"{{"id":"{leaf}","c_id":"{child}"}}"#);
    device.apply(vec![
        entry("s", &leaf, 1, Some(&leaf_row)),
        entry("c", &child, 1, Some(&child_row)),
    ]);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 2);
    let done = device.apply(vec![entry("p", &parent, 1, Some(&row(&parent, 1)))]);
    assert_eq!(done.written.len(), 3);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
    assert!(device.freeze().is_empty());
}

#[test]
fn a_ring_of_rows_is_applied_as_a_whole() {
    let ring = "CREATE TABLE t (id TEXT PRIMARY KEY, next TEXT REFERENCES t (id))";
    let mut device = Device::new(ring, &["t"]);
    let link = |from: u32, to: u32| format!(r#"{{"id":"{}","next":"{}"}}"#, uuid(from), uuid(to));
    let done = device.apply(vec![
        entry("t", &uuid(9), 1, Some(&link(9, 8))),
        entry("t", &uuid(1), 1, Some(&link(1, 2))),
        entry("t", &uuid(2), 1, Some(&link(2, 3))),
        entry("t", &uuid(3), 1, Some(&link(3, 1))),
        entry("t", &uuid(4), 1, Some(&link(4, 4))),
    ]);
    assert_eq!(done.written.len(), 4);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 1);
}

#[test]
fn a_refused_row_is_parked_and_the_page_goes_on() {
    let mut device = Device::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER UNIQUE CHECK (v < 100))",
        &["t"],
    );
    let rows = [(1, 1), (2, 1), (3, 500), (4, 4)];
    let entries = rows
        .iter()
        .map(|(n, v)| entry("t", &uuid(*n), 1, Some(&row(&uuid(*n), *v))))
        .collect();
    assert_eq!(device.apply(entries).written.len(), 2);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 2);
    // The first gives the value up: the second fits now.
    let id = uuid(1);
    let done = device.apply(vec![entry("t", &id, 2, Some(&row(&id, 11)))]);
    assert_eq!(done.written.len(), 2);
    // Two rows that exchange their values in one page.
    let swap = vec![
        entry("t", &uuid(1), 3, Some(&row(&uuid(1), 1))),
        entry("t", &uuid(2), 3, Some(&row(&uuid(2), 12))),
    ];
    assert_eq!(device.apply(swap).written.len(), 2);
}

#[test]
fn cascades_of_an_applied_delete_are_this_devices_edits() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child, leaf) = (uuid(1), uuid(2), uuid(3));
    let child_row = format!(r#"{{"id":"{child}","p_id":"{parent}","v":1}}"#);
    let leaf_row = format!(r#"{{"id":"{leaf}","c_id":"{child}"}}"#);
    device.apply(vec![
        entry("p", &parent, 1, Some(&row(&parent, 1))),
        entry("c", &child, 1, Some(&child_row)),
        entry("s", &leaf, 1, Some(&leaf_row)),
    ]);
    device.apply(vec![entry("p", &parent, 2, None)]);
    let sent = device.freeze();
    let ops: Vec<(Op, String)> = sent.iter().map(|c| (c.op, c.row.key.to_string())).collect();
    assert_eq!(ops, [(Op::Update, leaf), (Op::Delete, child)]);
}

#[test]
fn a_delete_that_would_carry_off_an_unsent_row_is_parked() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child) = (uuid(1), uuid(2));
    device.apply(vec![entry("p", &parent, 1, Some(&row(&parent, 1)))]);
    device.run(&format!("INSERT INTO c VALUES ('{child}', '{parent}', 1)"));
    device.apply(vec![entry("p", &parent, 2, None)]);
    assert_eq!(device.count("SELECT count(*) FROM c"), 1);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 1);
    // The application gives the child up: the delete goes through.
    device.run("DELETE FROM c");
    device.apply(vec![]);
    assert_eq!(device.count("SELECT count(*) FROM p"), 0);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
}

#[test]
fn application_triggers_fired_by_a_page_are_not_uploaded() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v, at);
        CREATE TRIGGER stamp AFTER UPDATE OF v ON t BEGIN UPDATE t SET at = 'now' WHERE id = NEW.id; END;";
    let mut device = Device::new(sql, &["t"]);
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    assert_eq!(device.text("SELECT at FROM t").as_deref(), Some("now"));
    assert!(device.freeze().is_empty());
}

#[test]
fn bad_payloads_of_a_peer_are_parked() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, b BLOB)", &["t"]);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let entries = vec![
        entry("t", &uuid(1), 1, Some(r#"{"b":"not base64!"}"#)),
        entry("t", &uuid(2), 1, Some(r#"{"b":1,"b":2}"#)),
        entry("t", &uuid(3), 1, Some(&format!(r#"{{"b":{deep}}}"#))),
        entry("t", &uuid(4), 1, Some("[]")),
        entry("t", "no uuid", 1, Some("{}")),
        entry("t", &uuid(6), 1, Some(r#"{"B":"AA=="}"#)),
    ];
    let done = device.apply(entries);
    assert_eq!(done.written.len(), 1);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 5);
}

#[test]
fn an_entry_that_fails_the_commit_is_parked_alone() {
    // The child refers to a column that is not the key: its parent's update
    // leaves it behind, which only the commit notices.
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY, v INTEGER UNIQUE);
        CREATE TABLE c (id TEXT PRIMARY KEY, v INTEGER REFERENCES p (v));";
    let mut device = Device::new(sql, &["p", "c"]);
    let (parent, child) = (uuid(1), uuid(2));
    device.apply(vec![
        entry("p", &parent, 1, Some(&row(&parent, 1))),
        entry("c", &child, 1, Some(&row(&child, 1))),
    ]);
    let mut page: Vec<_> = (10..20)
        .map(|n| entry("p", &uuid(n), 1, Some(&row(&uuid(n), i64::from(n)))))
        .collect();
    page.insert(5, entry("p", &parent, 2, Some(&row(&parent, 2))));
    assert_eq!(device.apply(page).written.len(), 10);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 1);
    assert_eq!(device.count("SELECT count(*) FROM p"), 11);
    // A newer state of the row that does no harm replaces it.
    device.apply(vec![entry("p", &parent, 3, Some(&row(&parent, 1)))]);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
    assert!(device.freeze().is_empty());
}

/// Clauses and triggers of the application's schema that would skip a row, take
/// another one away, end the transaction, or know more than this client.
#[test]
fn the_applications_own_clauses_and_triggers_park_a_row_and_nothing_else() {
    for (columns, trigger) in [
        ("v INTEGER UNIQUE ON CONFLICT REPLACE", ""),
        ("v INTEGER UNIQUE ON CONFLICT IGNORE", ""),
        ("v INTEGER UNIQUE ON CONFLICT ROLLBACK", ""),
        ("v INTEGER, CHECK (v <> 1) ON CONFLICT ROLLBACK", ""),
        ("v INTEGER NOT NULL ON CONFLICT ROLLBACK", ""),
        (
            "v",
            "BEFORE INSERT ON t WHEN NEW.v = 1 BEGIN SELECT RAISE(IGNORE); END",
        ),
        (
            "v",
            "BEFORE INSERT ON t WHEN NEW.v = 1 BEGIN SELECT RAISE(ABORT, 'no'); END",
        ),
        (
            "v",
            "AFTER INSERT ON t WHEN NEW.v = 1 BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        ),
        (
            "v",
            "AFTER INSERT ON t WHEN NEW.v = 1 BEGIN SELECT RAISE(FAIL, 'no'); END",
        ),
        (
            "v",
            "AFTER INSERT ON t BEGIN SELECT known_to_the_application(NEW.v); END",
        ),
    ] {
        let trigger = match trigger {
            "" => String::new(),
            text => format!("CREATE TRIGGER own {text};"),
        };
        let sql = format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY, {columns}); CREATE TABLE u (id TEXT PRIMARY KEY, v);"
        );
        let mut device = Device::new(&sql, &["t", "u"]);
        let (first, second) = (uuid(1), uuid(2));
        let is_unique = columns.contains("UNIQUE");
        let held = i64::from(is_unique);
        if is_unique {
            device.apply(vec![entry("t", &first, 1, Some(&row(&first, 1)))]);
        }
        device.run(&trigger);
        let bad = match columns.contains("NOT NULL") {
            true => format!(r#"{{"id":"{second}","v":null}}"#),
            false => row(&second, 1),
        };
        let done = device.apply(vec![
            entry("u", &first, 1, Some(&row(&first, 1))),
            entry("t", &second, 1, Some(&bad)),
            entry("u", &second, 1, Some(&row(&second, 2))),
        ]);
        assert_eq!(done.written.len(), 2, "{columns} {trigger}");
        assert_eq!(
            device.count("SELECT count(*) FROM u"),
            2,
            "{columns} {trigger}"
        );
        assert_eq!(
            device.count("SELECT count(*) FROM t"),
            held,
            "{columns} {trigger}"
        );
        let shown = device.write(|txn| status::read(txn.conn));
        assert_eq!(shown.parked, 1, "{columns} {trigger}");
        assert!(device.freeze().is_empty(), "{columns} {trigger}");
        assert_eq!(device.count("SELECT applying FROM _sync_guard"), 0);
        // A newer state that does no harm goes in.
        device.run("DROP TRIGGER IF EXISTS own");
        device.apply(vec![entry("t", &second, 2, Some(&row(&second, 7)))]);
        assert_eq!(device.count("SELECT count(*) FROM t WHERE v = 7"), 1);
        assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
    }
}

#[test]
fn a_delete_that_a_trigger_leaves_out_is_parked() {
    let (mut device, id) = in_step(None);
    device.run("CREATE TRIGGER own BEFORE DELETE ON t BEGIN SELECT RAISE(IGNORE); END");
    device.apply(vec![entry("t", &id, 2, None)]);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 1);
    device.run("DROP TRIGGER own");
    device.apply(vec![]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 0);
    assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
}
