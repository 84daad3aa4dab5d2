//! Every kind of value, from one file to another and back, byte for byte.

use super::{Device, entry, uuid};
use crate::rejected;

const TABLE: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v, b BLOB, r REAL)";

/// Writes `v` on one device, takes it to another by its payload, compares.
fn travels(column: &str, sql_value: &str) -> String {
    let mut from = Device::new(TABLE, &["t"]);
    let mut to = Device::new(TABLE, &["t"]);
    from.run(&format!(
        "INSERT INTO t (id, {column}) VALUES ('{}', {sql_value})",
        uuid(1)
    ));
    let sent = from.freeze();
    assert_eq!(sent.len(), 1, "{sql_value} is carried");
    let payload = sent[0].payload.clone().expect("a payload");
    let done = to.apply(vec![entry("t", &uuid(1), 1, Some(&payload))]);
    assert_eq!(done.written.len(), 1, "{payload}");
    let look = format!(
        "SELECT typeof({column}) || hex({column}) || quote({column}) || length(CAST({column} AS BLOB)) FROM t"
    );
    assert_eq!(from.text(&look), to.text(&look), "{payload}");
    payload
}

#[test]
fn values_travel_unchanged() {
    for value in [
        "NULL",
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "9007199254740993",
        "1.0",
        "-0.0",
        "0.1",
        "1e300",
        "5e-324",
        "1.7976931348623157e308",
        "9e999",
        "-9e999",
        "''",
        "'text'",
        "'null'",
        "'1'",
        "'a\"b\\c'",
        "char(0)",
        "'x' || char(0) || 'y'",
        "char(9, 10, 31, 127, 8232, 65535, 128512)",
    ] {
        travels("v", value);
    }
    for value in ["x''", "x'00'", "x'00ff10'", "NULL", "7", "1.5"] {
        travels("b", value);
    }
    for value in ["1", "-0.0", "9e999", "1e16"] {
        travels("r", value);
    }
}

#[test]
fn the_wire_form_is_the_documented_one() {
    for (column, value, json) in [
        ("v", "1.0", r#""v":1.0"#),
        ("v", "-0.0", r#""v":-0.0"#),
        ("v", "5e-324", r#""v":5e-324"#),
        ("v", "9e999", r#""v":9e999"#),
        ("v", "-9e999", r#""v":-9e999"#),
        ("v", "9223372036854775807", r#""v":9223372036854775807"#),
        ("v", "char(0)", "\"v\":\"\\u0000\""),
        ("b", "x'00ff10'", r#""b":"AP8Q""#),
        ("b", "x''", r#""b":"""#),
        ("b", "NULL", r#""b":null"#),
    ] {
        let payload = travels(column, value);
        assert!(payload.contains(json), "{payload}");
    }
}

#[test]
fn what_cannot_be_carried_is_rejected_and_delays_nothing() {
    for (column, value) in [
        ("v", "x'00'"),
        ("v", "CAST(x'ff' AS TEXT)"),
        ("b", "'text'"),
    ] {
        let mut device = Device::new(TABLE, &["t"]);
        device.run(&format!(
            "INSERT INTO t (id, {column}) VALUES ('{}', {value}); INSERT INTO t (id) VALUES ('{}');",
            uuid(1),
            uuid(2)
        ));
        let sent = device.freeze();
        assert_eq!(sent.len(), 1, "{value}");
        let rejected = device.write(|txn| crate::rejected::list(txn.conn));
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].reason, "uncarriable_value");
        assert_eq!(rejected[0].key, uuid(1));
        // Mended by the application: the list empties, the row is sent.
        device.settle_applied(&sent);
        device.run(&format!(
            "UPDATE t SET {column} = NULL WHERE id = '{}'",
            uuid(1)
        ));
        assert_eq!(device.freeze().len(), 1);
        assert!(
            device
                .write(|txn| crate::rejected::list(txn.conn))
                .is_empty()
        );
    }
}

#[test]
fn a_key_that_is_no_uuid_is_rejected() {
    let mut device = Device::new(TABLE, &["t"]);
    device.run("INSERT INTO t (id) VALUES ('mine'), (NULL), (x'00')");
    assert!(device.freeze().is_empty());
    let rejected = device.write(|txn| crate::rejected::list(txn.conn));
    assert_eq!(rejected.len(), 3);
    assert!(rejected.iter().all(|entry| entry.reason == "bad_key"));
    device.run("DELETE FROM t");
    assert!(device.freeze().is_empty());
    assert!(
        device
            .write(|txn| crate::rejected::list(txn.conn))
            .is_empty()
    );
}

#[test]
fn keys_keep_their_spelling() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v);
        CREATE TABLE k (id BLOB PRIMARY KEY DEFAULT (randomblob(16)), p BLOB REFERENCES k (id));";
    let mut from = Device::new(tables, &["t", "k"]);
    let mut to = Device::new(tables, &["t", "k"]);
    from.run("INSERT INTO t VALUES ('{0F8FAD5B-D9CB-469F-A165-70867728950E}', 1)");
    from.run("INSERT INTO k DEFAULT VALUES; INSERT INTO k (p) SELECT id FROM k;");
    let sent = from.freeze();
    assert_eq!(sent.len(), 3);
    let entries = sent
        .iter()
        .map(|change| {
            let table = if change
                .payload
                .as_deref()
                .is_some_and(|p| p.contains("\"v\""))
            {
                "t"
            } else {
                "k"
            };
            entry(
                table,
                &change.row.key.to_string(),
                1,
                change.payload.as_deref(),
            )
        })
        .collect();
    assert_eq!(to.apply(entries).written.len(), 3);
    for look in [
        "SELECT group_concat(id) FROM t",
        "SELECT group_concat(hex(id) || quote(p)) FROM (SELECT * FROM k ORDER BY id)",
    ] {
        assert_eq!(from.text(look), to.text(look));
    }
    // An update in another spelling reaches the same row; ours stays.
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let payload = format!(r#"{{"id":"{id}","v":2}}"#);
    to.apply(vec![entry("t", id, 2, Some(&payload))]);
    assert_eq!(
        to.text("SELECT id || v FROM t").as_deref(),
        Some("{0F8FAD5B-D9CB-469F-A165-70867728950E}2")
    );
    // References to BLOB keys: dashed and hex are understood as well.
    let parent: String = to
        .text("SELECT lower(hex(id)) FROM k WHERE p IS NULL")
        .expect("one");
    for (version, spelling) in [
        (2, parent.clone()),
        (
            3,
            super::super::RowKey::parse(&parent)
                .expect("hex")
                .to_string(),
        ),
    ] {
        let child = to
            .text("SELECT lower(hex(id)) FROM k WHERE p IS NOT NULL")
            .expect("one");
        let payload = format!(r#"{{"p":"{spelling}"}}"#);
        assert_eq!(
            to.apply(vec![entry("k", &child, version, Some(&payload))])
                .written
                .len(),
            1
        );
        assert_eq!(
            to.count("SELECT count(*) FROM k AS c JOIN k AS p ON c.p = p.id"),
            1
        );
    }
}

/// Found by reading: under one key on the server, the second row overwrote the first.
#[test]
fn a_second_spelling_of_one_uuid_is_rejected_until_the_first_has_gone() {
    let (first, second) = (uuid(1), format!("{{{}}}", uuid(1)));
    let payload = |id: &str, r: &str| Some(format!(r#"{{"id":"{id}","v":1,"b":null,"r":{r}}}"#));
    for deleted_here in [true, false] {
        let mut device = Device::new(TABLE, &["t"]);
        device.run(&format!(
            "INSERT INTO t (id, v, r) VALUES ('{first}', 1, 1), ('{second}', 1, 2)"
        ));
        let sent = device.freeze();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].payload, payload(&first, "1.0"));
        // Its own edits do not make it another row.
        device.run(&format!("UPDATE t SET r = 3 WHERE id = '{second}'"));
        device.settle_applied(&sent);
        assert!(device.freeze().is_empty());
        let listed = device.write(|txn| rejected::list(txn.conn));
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((&*listed[0].reason, &listed[0].key), ("bad_key", &second));
        for spelling in [&first, &second] {
            assert!(listed[0].detail.contains(spelling), "{}", listed[0].detail);
        }
        device.write(|txn| rejected::retry(txn, listed[0].id));
        assert!(device.freeze().is_empty(), "no retry helps");
        if deleted_here {
            device.run(&format!("DELETE FROM t WHERE id = '{first}'"));
        } else {
            device.apply(vec![entry("t", &first, 2, None)]);
        }
        let sent = device.freeze();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].payload, payload(&second, "3.0"));
        device.settle_applied(&sent);
        assert!(device.freeze().is_empty());
        assert_eq!(device.count("SELECT count(*) FROM _sync_rejected"), 0);
        assert_eq!(device.count("SELECT count(*) FROM t"), 1);
    }
}

/// Found by reading: such a row was taken for its own twin.
#[test]
fn a_key_that_ignores_case_may_change_its_case() {
    let table = "CREATE TABLE t (id TEXT PRIMARY KEY COLLATE NOCASE, v)";
    let lower = "abcdef00-0000-4000-8000-000000000001";
    let upper = lower.to_uppercase();
    for statement in [
        format!("INSERT OR REPLACE INTO t VALUES ('{upper}', 2)"),
        format!("UPDATE t SET id = '{upper}', v = 2"),
    ] {
        let mut device = Device::new(table, &["t"]);
        device.run(&format!("INSERT INTO t VALUES ('{lower}', 1)"));
        let sent = device.freeze();
        device.settle_applied(&sent);
        device.run(&statement);
        let sent = device.freeze();
        assert_eq!(sent.len(), 1, "{statement}: {sent:?}");
        assert_eq!(device.count("SELECT count(*) FROM _sync_rejected"), 0);
        device.settle_applied(&sent);
        assert!(device.freeze().is_empty());
        assert_eq!(device.count("SELECT v FROM t"), 2);
    }
}
