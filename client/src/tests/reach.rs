//! Foreign-key actions that a page fires, through tables that are not synchronised,
//! and over several tables: what they do is this device's own edit.

use super::{Device, entry, uuid};
use crate::{parked, status};
use oversync_shared::wire::Op;

/// The parent that a page changes, and the child that must follow.
const PARENT: &str = "CREATE TABLE p (id TEXT PRIMARY KEY, code TEXT UNIQUE);";

fn parent(code: &str) -> String {
    format!(r#"{{"id":"{}","code":"{code}"}}"#, uuid(1))
}

/// A parent and a child `c`, both on the server, with the application's own rows
/// between them.
fn device(between: &str, child: &str, rows: &str, refers_to: &str) -> Device {
    let sql = format!("{PARENT} {between} {child}");
    let mut device = Device::new(&sql, &["p", "c"]);
    device.apply(vec![entry("p", &uuid(1), 1, Some(&parent("x")))]);
    device.run(rows);
    let payload = format!(r#"{{"id":"{}","u":"{refers_to}","n":7}}"#, uuid(2));
    device.apply(vec![entry("c", &uuid(2), 1, Some(&payload))]);
    assert_eq!(device.count("SELECT count(*) FROM c"), 1, "{sql}");
    assert!(device.freeze().is_empty(), "{sql}");
    device
}

/// What is to send of the child: the operation, and the new reference.
fn sent(device: &mut Device) -> Vec<(Op, Option<String>)> {
    let sent = device.freeze();
    let told = sent.iter().map(|one| {
        assert_eq!(one.row.key.to_string(), uuid(2));
        let payload = one.payload.as_deref();
        let row = payload.map(|text| serde_json::from_str(text).expect("JSON"));
        let value = row.and_then(|row: serde_json::Value| Some(row["u"].as_str()?.to_owned()));
        (one.op, value)
    });
    told.collect()
}

const CHILD: &str =
    "CREATE TABLE c (id TEXT PRIMARY KEY, n, u TEXT DEFAULT 'other' REFERENCES u (id)";

/// Tables between the two, and rows of them that lead from one to the other.
fn ways() -> Vec<(&'static str, String)> {
    let p = uuid(1);
    vec![
        (
            "CREATE TABLE u (id TEXT PRIMARY KEY, p TEXT REFERENCES p (id) ON DELETE CASCADE);",
            format!("INSERT INTO u VALUES ('a', '{p}'), ('other', NULL);"),
        ),
        // Names in another case, and columns that hide names of the row number.
        (
            "CREATE TABLE u (id TEXT PRIMARY KEY, rowid, oid, p TEXT REFERENCES P ON DELETE CASCADE);",
            format!("INSERT INTO u (id, p) VALUES ('a', '{p}'), ('other', NULL);"),
        ),
        // Without row numbers, by a key of two columns.
        (
            "CREATE TABLE u (k, id TEXT UNIQUE, p TEXT REFERENCES p (id) ON DELETE CASCADE,
                PRIMARY KEY (id, k)) WITHOUT ROWID;",
            format!("INSERT INTO u VALUES (1, 'a', '{p}'), (1, 'other', NULL);"),
        ),
        // Over another table, and a chain of rows of one table.
        (
            "CREATE TABLE first (n INTEGER PRIMARY KEY, p TEXT REFERENCES p (id) ON DELETE CASCADE);
             CREATE TABLE u (id TEXT PRIMARY KEY, f REFERENCES first (n) ON DELETE CASCADE,
                up TEXT REFERENCES u (id) ON DELETE CASCADE);",
            format!(
                "INSERT INTO first VALUES (5, '{p}');
                 INSERT INTO u VALUES ('other', NULL, 'other'), ('c', 5, NULL), ('b', NULL, 'c'),
                    ('a', NULL, 'b'), ('d', NULL, 'a');"
            ),
        ),
        // A row that refuses and goes itself.
        (
            "CREATE TABLE u (id TEXT PRIMARY KEY, p TEXT REFERENCES p (id) ON DELETE CASCADE);
             CREATE TABLE v (u TEXT REFERENCES u (id), p TEXT REFERENCES p (id) ON DELETE CASCADE);",
            format!(
                "INSERT INTO u VALUES ('a', '{p}'), ('other', NULL);
                 INSERT INTO v VALUES ('a', '{p}');"
            ),
        ),
    ]
}

/// Found by reading: the child went, and nobody was told.
#[test]
fn a_delete_through_tables_that_are_not_synchronised_is_this_devices_edit() {
    for (between, rows) in ways() {
        let actions = [
            ("CASCADE", Op::Delete, None),
            ("SET NULL", Op::Update, None),
            ("SET DEFAULT", Op::Update, Some("other")),
        ];
        for (action, op, value) in actions {
            let child = format!("{CHILD} ON DELETE {action});");
            let mut device = device(between, &child, &rows, "a");
            device.apply(vec![entry("p", &uuid(1), 2, None)]);
            assert_eq!(device.count("SELECT count(*) FROM p"), 0, "{between}");
            let expected = (op, value.map(str::to_owned));
            assert_eq!(sent(&mut device), [expected], "{between} {action}");
            assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
        }
    }
}

#[test]
fn a_delete_that_would_take_an_unsent_edit_along_waits_for_it() {
    for (between, rows) in ways() {
        let child = format!("{CHILD} ON DELETE CASCADE);");
        let mut device = device(between, &child, &rows, "a");
        device.run("UPDATE c SET n = 8");
        device.apply(vec![entry("p", &uuid(1), 2, None)]);
        let listed = device.write(|txn| parked::list(txn.conn));
        assert_eq!(listed.len(), 1, "{between}");
        assert_eq!(listed[0].reason, "blocked");
        let edit = (Op::Update, Some("a".to_owned()));
        assert_eq!(sent(&mut device), [edit], "{between}");
        let frozen = device.freeze();
        device.settle_applied(&frozen);
        // Settled: nothing is in the way any more.
        device.apply(vec![]);
        assert_eq!(sent(&mut device), [(Op::Delete, None)], "{between}");
    }
}

/// A row between the two that stays refuses.
#[test]
fn a_row_that_refuses_a_delete_from_far_blocks_it() {
    let between =
        "CREATE TABLE u (id TEXT PRIMARY KEY, p TEXT REFERENCES p (id) ON DELETE CASCADE);
         CREATE TABLE v (u TEXT REFERENCES u (id));";
    let rows = format!(
        "INSERT INTO u VALUES ('a', '{}'); INSERT INTO v VALUES ('a');",
        uuid(1)
    );
    let mut device = device(between, &format!("{CHILD});"), &rows, "a");
    device.run("DELETE FROM c");
    let gone = device.freeze();
    device.settle_applied(&gone);
    device.apply(vec![entry("p", &uuid(1), 2, None)]);
    let listed = device.write(|txn| parked::list(txn.conn));
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&*listed[0].reason, &*listed[0].detail),
        ("blocked", "rows of v refer to it")
    );
    device.run("DELETE FROM v");
    device.apply(vec![]);
    assert_eq!(device.count("SELECT count(*) FROM p"), 0);
    assert!(device.freeze().is_empty());
}

/// ON UPDATE, also where a delete sets what others refer to.
#[test]
fn an_update_through_tables_that_are_not_synchronised_is_this_devices_edit() {
    let between = |actions: &str| {
        format!(
            "CREATE TABLE u (n INTEGER PRIMARY KEY, code TEXT UNIQUE REFERENCES p (code) {actions});"
        )
    };
    let child = |action: &str| {
        format!(
            "CREATE TABLE c (id TEXT PRIMARY KEY, n, u TEXT REFERENCES u (code) ON UPDATE {action});"
        )
    };
    let rows = "INSERT INTO u VALUES (1, 'x')";
    for (action, value) in [("CASCADE", Some("y")), ("SET NULL", None)] {
        let between = between("ON UPDATE CASCADE");
        let mut device = device(&between, &child(action), rows, "x");
        device.apply(vec![entry("p", &uuid(1), 2, Some(&parent("x")))]);
        assert_eq!(sent(&mut device), [], "nothing has changed");
        device.apply(vec![entry("p", &uuid(1), 3, Some(&parent("y")))]);
        let expected = (Op::Update, value.map(str::to_owned));
        assert_eq!(sent(&mut device), [expected], "{action}");
    }
    for action in ["CASCADE", "SET NULL"] {
        let between = between("ON DELETE SET NULL");
        let mut device = device(&between, &child(action), rows, "x");
        device.apply(vec![entry("p", &uuid(1), 2, None)]);
        assert_eq!(sent(&mut device), [(Op::Update, None)], "{action}");
    }
}

/// Found by reading: only the first of them was followed.
#[test]
fn an_update_is_followed_over_several_synchronised_tables() {
    let sql = format!(
        "{PARENT}
         CREATE TABLE c (id TEXT PRIMARY KEY, u TEXT UNIQUE REFERENCES p (code) ON UPDATE CASCADE);
         CREATE TABLE d (id TEXT PRIMARY KEY, u TEXT REFERENCES c (u) ON UPDATE CASCADE);"
    );
    let mut device = Device::new(&sql, &["p", "c", "d"]);
    let row = |n| format!(r#"{{"id":"{}","u":"x"}}"#, uuid(n));
    device.apply(vec![
        entry("p", &uuid(1), 1, Some(&parent("x"))),
        entry("c", &uuid(2), 1, Some(&row(2))),
        entry("d", &uuid(3), 1, Some(&row(3))),
    ]);
    assert!(device.freeze().is_empty());
    device.apply(vec![entry("p", &uuid(1), 2, Some(&parent("y")))]);
    let sent = device.freeze();
    let keys: Vec<String> = sent.iter().map(|one| one.row.key.to_string()).collect();
    assert_eq!(keys, [uuid(2), uuid(3)]);
    let is_new = |one: &crate::outbox::Frozen| {
        one.payload
            .as_deref()
            .is_some_and(|text| text.contains(r#""u":"y""#))
    };
    assert!(sent.iter().all(is_new), "{sent:?}");
}

/// A child whose key is the reference itself, and what refers to that: one is gone under
/// the old key and there under the new one, for everybody.
#[test]
fn a_cascade_into_a_rows_own_key_is_a_delete_and_an_insert() {
    let sql = format!(
        "{PARENT}
         CREATE TABLE c (id TEXT PRIMARY KEY REFERENCES p (code) ON UPDATE CASCADE, v);
         CREATE TABLE d (id TEXT PRIMARY KEY, c TEXT REFERENCES c (id) ON UPDATE CASCADE);"
    );
    let (old, new) = (uuid(7), uuid(8));
    let child = |id: &str| format!(r#"{{"id":"{id}","v":1}}"#);
    let grandchild = |c: &str| format!(r#"{{"id":"{}","c":"{c}"}}"#, uuid(3));
    let follows = |more: &[&str]| {
        let mut device = Device::new(&sql, &["p", "c", "d"]);
        device.apply(vec![
            entry("p", &uuid(1), 1, Some(&parent(&old))),
            entry("c", &old, 1, Some(&child(&old))),
            entry("d", &uuid(3), 1, Some(&grandchild(&old))),
        ]);
        let mut page = vec![entry("p", &uuid(1), 2, Some(&parent(&new)))];
        // What the device tells that has made the change.
        for told in more {
            page.push(match *told {
                "c made" => entry("c", &new, 1, Some(&child(&new))),
                _ => entry("c", &old, 2, None),
            });
        }
        device.apply(page);
        assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 0);
        assert_eq!(device.text("SELECT id FROM c"), Some(new.clone()));
        assert_eq!(device.text("SELECT c FROM d"), Some(new.clone()));
        let sent = device.freeze().into_iter();
        let sent: Vec<_> = sent
            .map(|one| (one.row.key.to_string(), one.op, one.payload))
            .collect();
        sent
    };
    assert_eq!(
        follows(&[]),
        [
            (new.clone(), Op::Insert, Some(child(&new))),
            (uuid(3), Op::Update, Some(grandchild(&new))),
            (old.clone(), Op::Delete, None),
        ]
    );
    let moved = (uuid(3), Op::Update, Some(grandchild(&new)));
    assert_eq!(
        follows(&["c made", "c gone"]),
        [moved],
        "c is as it was told"
    );
}

/// There is no key that it could have.
#[test]
fn an_action_that_takes_a_rows_own_key_away_is_blocked() {
    for (action, version) in [("UPDATE SET NULL", 2), ("DELETE SET NULL", 2)] {
        let sql = format!(
            "{PARENT} CREATE TABLE c (id TEXT PRIMARY KEY REFERENCES p (code) ON {action}, v);"
        );
        let mut device = Device::new(&sql, &["p", "c"]);
        let key = uuid(7);
        let child = format!(r#"{{"id":"{key}","v":1}}"#);
        device.apply(vec![
            entry("p", &uuid(1), 1, Some(&parent(&key))),
            entry("c", &key, 1, Some(&child)),
        ]);
        let changed = parent(&uuid(8));
        let changed = action.starts_with("UPDATE").then_some(&*changed);
        device.apply(vec![entry("p", &uuid(1), version, changed)]);
        let listed = device.write(|txn| parked::list(txn.conn));
        assert_eq!(listed.len(), 1, "{action}");
        assert_eq!(listed[0].reason, "blocked", "{action}");
        let why = format!("row {key} of c would lose its key");
        assert_eq!(listed[0].detail, why, "{action}");
        assert!(device.freeze().is_empty());
        // The child goes, and nothing is in the way any more.
        device.run("DELETE FROM c");
        device.freeze();
        device.apply(vec![]);
        assert_eq!(
            device.write(|txn| parked::list(txn.conn)).len(),
            0,
            "{action}"
        );
    }
}

/// Found by reading: the part of the reference that stayed as it was counted as lost, and
/// the parent's change waited for ever. Also one row further, where nothing of the key changes.
#[test]
fn an_update_of_a_part_of_a_reference_leaves_the_childs_key_in_the_other() {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY, tenant TEXT, UNIQUE (tenant, id));
         CREATE TABLE ext (id TEXT PRIMARY KEY, tenant TEXT, UNIQUE (tenant, id),
            FOREIGN KEY (tenant, id) REFERENCES p (tenant, id) ON UPDATE CASCADE);
         CREATE TABLE more (id TEXT PRIMARY KEY, tenant TEXT,
            FOREIGN KEY (tenant, id) REFERENCES ext (tenant, id) ON UPDATE CASCADE);
         CREATE TABLE apart (id TEXT PRIMARY KEY REFERENCES ext (id) ON UPDATE SET NULL);";
    let mut device = Device::new(sql, &["p", "ext", "more", "apart"]);
    let row = |tenant: &str| format!(r#"{{"id":"{}","tenant":"{tenant}"}}"#, uuid(1));
    let apart = format!(r#"{{"id":"{}"}}"#, uuid(1));
    device.apply(vec![
        entry("p", &uuid(1), 1, Some(&row("a"))),
        entry("ext", &uuid(1), 1, Some(&row("a"))),
        entry("more", &uuid(1), 1, Some(&row("a"))),
        entry("apart", &uuid(1), 1, Some(&apart)),
    ]);
    assert!(device.freeze().is_empty());
    device.apply(vec![entry("p", &uuid(1), 2, Some(&row("b")))]);
    assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 0);
    let sent = device.freeze().into_iter();
    let sent: Vec<_> = sent.map(|one| (one.row.tbl, one.op, one.payload)).collect();
    let changed = Some(row("b"));
    assert_eq!(
        sent,
        [(2, Op::Update, changed.clone()), (3, Op::Update, changed)]
    );
}
