//! Tables of every shape, and applications of every age: what travels, what the
//! triggers say, and what a version of the application keeps for the others.

use super::words::row;
use super::{Device, entry, uuid};
use crate::outbox::Frozen;
use oversync_shared::wire::Op;
use rusqlite::Connection;

/// Takes frozen changes to another device as a page.
fn page(device: &mut Device, table: &str, version: i64, sent: &[Frozen]) {
    let entries = sent
        .iter()
        .map(|one| {
            let key = one.row.key.to_string();
            entry(table, &key, version, one.payload.as_deref())
        })
        .collect();
    assert_eq!(device.apply(entries).written.len(), sent.len());
}

/// Writes on one device, applies on another, and back: both tables are equal.
fn travels(table: &str, sql: &str, writes: &[&str], look: &str) {
    let mut here = Device::new(sql, &[table]);
    let mut there = Device::new(sql, &[table]);
    for (version, write) in (1..).zip(writes) {
        here.run(write);
        let sent = here.freeze();
        assert!(!sent.is_empty(), "{write}");
        page(&mut there, table, version, &sent);
        here.settle_applied(&sent);
        assert_eq!(here.text(look), there.text(look), "{write}");
        assert!(there.freeze().is_empty(), "{write}");
    }
}

/// As many columns as SQLite takes.
#[test]
fn two_thousand_columns_travel() {
    let columns: Vec<String> = (1..2_000).map(|n| format!("c{n}")).collect();
    let sql = format!(
        "CREATE TABLE wide (id TEXT PRIMARY KEY, {})",
        columns.join(", ")
    );
    let values: Vec<String> = (1..2_000).map(|n| n.to_string()).collect();
    let insert = format!(
        "INSERT INTO wide VALUES ('{}', {})",
        uuid(1),
        values.join(", ")
    );
    travels(
        "wide",
        &sql,
        &[
            &insert,
            "UPDATE wide SET c1 = 'x', c1999 = 'y'",
            "DELETE FROM wide",
        ],
        &format!(
            "SELECT group_concat(id || {}) FROM wide",
            ["c1", "c1000", "c1999"].join(" || ")
        ),
    );
}

#[test]
fn awkward_names_travel() {
    let sql = "CREATE TABLE \"order\" (
        \"the \"\"key\"\"\n--\" TEXT PRIMARY KEY, \"größe\" TEXT, \"🙂\", \"select\", \"a\nCREATE b\", \"{n}\", \"[x]\", \"rowid\", \"?1\"
    )";
    let write = |value: &str| {
        format!(
            "REPLACE INTO \"order\" VALUES ('{}', '{value}', '{value}', 1, '{value}', 2, '{value}', 'r', 9)",
            uuid(1)
        )
    };
    travels(
        "order",
        sql,
        &[
            &write("a"),
            &write("b"),
            "UPDATE \"order\" SET \"größe\" = 'ß', \"?1\" = 'q', \"{n}\" = x''  || 'n'",
            "DELETE FROM \"order\"",
        ],
        "SELECT group_concat(\"größe\" || \"🙂\" || \"select\" || \"a\nCREATE b\" || \"{n}\" || \"[x]\" || \"rowid\" || \"?1\") FROM \"order\"",
    );
}

#[test]
fn tables_without_row_numbers_and_with_generated_columns_travel() {
    travels(
        "t",
        "CREATE TABLE t (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)), n INTEGER NOT NULL,
             twice INTEGER AS (n * 2) STORED UNIQUE, more INTEGER GENERATED ALWAYS AS (twice + 1) VIRTUAL, b BLOB)
         STRICT, WITHOUT ROWID",
        &[
            "INSERT INTO t (n, b) VALUES (1, x'00'), (2, NULL), (3, x'')",
            "UPDATE t SET n = n + 10",
            "REPLACE INTO t (n) VALUES (11)",
        ],
        "SELECT group_concat(twice || more || quote(b)) FROM (SELECT * FROM t WHERE n > 11 ORDER BY n)",
    );
}

/// The file under another name, beside a file that has the same tables.
#[test]
fn what_is_written_through_attach_is_captured() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let path = device.app.path().expect("a path").to_owned();
    let other = Connection::open_in_memory().expect("opens");
    other
        .execute_batch(&format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY, v); INSERT INTO t VALUES ('{}', 1), ('{}', 2);
             CREATE TABLE _sync_log_1 (a, b, c, op, key); CREATE TEMP TABLE _sync_guard (applying);
             ATTACH '{path}' AS file;
             INSERT INTO file.t SELECT * FROM main.t; UPDATE main.t SET v = 9;
             UPDATE file.t SET v = v + 1; DELETE FROM file.t WHERE v = 3;",
            uuid(1),
            uuid(2)
        ))
        .expect("runs");
    let sent = device.freeze();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].payload, Some(row(&uuid(1), 2)));
    let strangers: i64 = other
        .query_row("SELECT count(*) FROM main._sync_log_1", [], |row| {
            row.get(0)
        })
        .expect("a count");
    assert_eq!(strangers, 0);
}

/// The triggers run in whatever SQLite the application has: plain inserts, selects
/// and comparisons, no function, nothing of the last fifteen years. A real one of 2017
/// runs them in `tests/it/old_sqlite.rs`.
#[test]
fn the_triggers_say_nothing_that_an_old_sqlite_does_not_know() {
    let device = Device::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT NOT NULL DEFAULT 'd' UNIQUE, w, UNIQUE (v, w COLLATE NOCASE))",
        &["t"],
    );
    let text = device
        .text("SELECT group_concat(sql, ' ') FROM sqlite_schema WHERE type = 'trigger'")
        .expect("triggers");
    assert_eq!(text.matches("CREATE TRIGGER").count(), 6);
    let plain: Vec<&str> =
        "CREATE TRIGGER BEFORE AFTER INSERT UPDATE DELETE OF ON WHEN BEGIN END INTO \
         SELECT FROM AS WHERE AND OR NOT EXISTS IS NULL VALUES COLLATE BINARY NOCASE NEW OLD \
         CASE THEN ELSE applying op key rowid oid t r d"
            .split_whitespace()
            .collect();
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with(|c: char| c.is_alphabetic())) {
        assert!(
            plain.contains(&word) || ["id", "v", "w"].contains(&word),
            "{word}"
        );
    }
    // A function's name stands right before its bracket.
    let before_bracket = text.split('(').map(|part| part.chars().last());
    for last in before_bracket.take(text.matches('(').count()) {
        assert!(
            matches!(last, Some(' ' | '(' | '\n')),
            "{last:?} before a bracket"
        );
    }
}

#[test]
fn a_new_version_of_the_application_finds_what_it_kept_for_the_others() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let (quiet, edited, migrated) = (uuid(1), uuid(2), uuid(3));
    let wide =
        |id: &str, v: i64| format!(r#"{{"id":"{id}","v":{v},"w":"theirs","n":7,"later":[1]}}"#);
    let all = [&quiet, &edited, &migrated];
    device.apply(all.map(|id| entry("t", id, 1, Some(&wide(id, 1)))).into());
    device.run(&format!("UPDATE t SET v = 2 WHERE id = '{edited}'"));
    // The new version brings the columns, and fills one of them in one row itself.
    device.run(&format!(
        "ALTER TABLE t ADD COLUMN w TEXT; ALTER TABLE t ADD COLUMN n INTEGER NOT NULL DEFAULT 0;
         UPDATE t SET w = 'ours' WHERE id = '{migrated}'"
    ));
    let sent = device.freeze();
    let payloads: Vec<&str> = sent
        .iter()
        .filter_map(|one| one.payload.as_deref())
        .collect();
    let expected = [
        format!(r#"{{"id":"{edited}","v":2,"w":"theirs","n":7,"later":[1]}}"#),
        format!(r#"{{"id":"{migrated}","v":1,"w":"ours","n":7,"later":[1]}}"#),
    ];
    assert_eq!(
        payloads, expected,
        "the others' values go out, not defaults"
    );
    assert_eq!(
        device
            .text("SELECT v || w || n FROM t WHERE id LIKE '%1'")
            .as_deref(),
        Some("1theirs7")
    );
    device.settle_applied(&sent);
    // The same through a rebuilt table.
    device.run(
        "CREATE TABLE t2 (id TEXT PRIMARY KEY, v, w, n, later TEXT); INSERT INTO t2 SELECT *, NULL FROM t;
         DROP TABLE t; ALTER TABLE t2 RENAME TO t;",
    );
    device.freeze();
    assert_eq!(
        device.count("SELECT count(*) FROM t WHERE later = '[1]'"),
        3
    );
    assert_eq!(device.count("SELECT count(*) FROM _sync_extra"), 0);
}

#[test]
fn a_kept_value_that_the_new_column_refuses_is_in_the_conflict_list() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let (first, second) = (uuid(1), uuid(2));
    let wide = |id: &str, w: &str| format!(r#"{{"id":"{id}","v":1,"w":{w}}}"#);
    device.apply(vec![
        entry("t", &first, 1, Some(&wide(&first, "500"))),
        entry("t", &second, 1, Some(&wide(&second, "5"))),
    ]);
    device.run("ALTER TABLE t ADD COLUMN w INTEGER CHECK (w < 100)");
    assert!(device.freeze().is_empty());
    assert_eq!(
        device.text("SELECT group_concat(w) FROM t").as_deref(),
        Some("5")
    );
    let kept = device.write(|txn| crate::conflicts::list(txn.conn));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].lost.as_deref(), Some(r#"{"w":500}"#));
    assert_eq!(kept[0].columns, ["w"]);
}

/// Found by reading: the one was dropped, the other taken for a refused value.
#[test]
fn a_kept_value_that_a_trigger_stops_is_not_lost() {
    let id = uuid(1);
    let prepare = |raise: &str| {
        let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
        let wide = format!(r#"{{"id":"{id}","v":1,"w":5}}"#);
        device.apply(vec![entry("t", &id, 1, Some(&wide))]);
        device.run(&format!(
            "CREATE TRIGGER own BEFORE UPDATE ON t BEGIN SELECT RAISE({raise}); END;
             ALTER TABLE t ADD COLUMN w INTEGER"
        ));
        device
    };
    let mut device = prepare("IGNORE");
    assert!(device.freeze().is_empty());
    let kept = device.write(|txn| crate::conflicts::list(txn.conn));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].lost.as_deref(), Some(r#"{"w":5}"#));
    // One that ends the transaction holds nothing up.
    let mut device = prepare("ROLLBACK, 'no'");
    assert!(device.freeze().is_empty());
    let kept = device.write(|txn| crate::conflicts::list(txn.conn));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].lost.as_deref(), Some(r#"{"w":5}"#));
    device.run("DROP TRIGGER own");
    device.write(|txn| crate::conflicts::restore(txn, kept[0].id));
    assert_eq!(device.count("SELECT w FROM t"), 5);
}

/// Found by reading: the file could not be opened any more, nor anything be sent.
#[test]
fn rows_whose_kept_value_makes_a_trigger_roll_back_are_left_out_and_no_others() {
    const ROWS: u32 = 500;
    let learned = "ALTER TABLE t ADD COLUMN w INTEGER;
        CREATE TRIGGER own AFTER UPDATE ON t WHEN NEW.w % {each} = 0
        BEGIN SELECT RAISE(ROLLBACK, 'no'); END;";
    // One row in fifty; all of them.
    for (each, left) in [(50, 10), (1, ROWS)] {
        for is_opened_anew in [false, true] {
            let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
            let rows = (0..ROWS).map(|n| {
                let id = uuid(n);
                let payload = format!(r#"{{"id":"{id}","v":1,"w":{n}}}"#);
                entry("t", &id, 1, Some(&payload))
            });
            device.apply(rows.collect());
            device.run(&learned.replace("{each}", &each.to_string()));
            if is_opened_anew {
                device.reopen(&["t"]);
            }
            assert!(device.freeze().is_empty(), "{each}");
            let filled = i64::from(ROWS - left);
            assert_eq!(device.count("SELECT count(w) FROM t"), filled, "{each}");
            let kept = device.write(|txn| crate::conflicts::list(txn.conn));
            assert_eq!(kept.len(), left as usize, "{each}");
            assert!(kept.iter().all(|one| one.columns == ["w"]));
            assert_eq!(device.count("SELECT count(*) FROM _sync_extra"), 0);
            assert_eq!(device.count("SELECT applying FROM _sync_guard"), 0);
            // The device goes on.
            device.run(&format!("INSERT INTO t (id) VALUES ('{}')", uuid(ROWS)));
            assert_eq!(device.freeze().len(), 1, "{each}");
        }
    }
}

/// What is kept for columns that nobody here knows may be much, and says nothing new.
#[test]
fn what_is_kept_is_read_at_opening_only_where_something_waits() {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY);
        CREATE TABLE t (id TEXT PRIMARY KEY, v, p TEXT REFERENCES p (id))";
    let mut device = Device::new(sql, &["p", "t"]);
    let id = uuid(1);
    let wide = format!(r#"{{"id":"{id}","v":1,"w":5}}"#);
    device.apply(vec![entry("t", &id, 1, Some(&wide))]);
    // Whoever reads it finds it unreadable, and sets it aside.
    device.run("UPDATE _sync_extra SET payload = '?'");
    device.reopen(&["p", "t"]);
    let left = "SELECT count(*) FROM _sync_extra WHERE payload = '?'";
    assert_eq!(device.count(left), 1);
    // A file of an earlier version is looked through once.
    for (times, expected) in [(1, 0), (2, 1)] {
        if times == 1 {
            device.run("ALTER TABLE _sync_table DROP COLUMN learns");
        } else {
            device.run("INSERT INTO _sync_extra SELECT tbl, pk, '?' FROM _sync_row");
        }
        device.reopen(&["p", "t"]);
        assert_eq!(device.count(left), expected, "{times}");
    }
}

/// Unknown members, unknown types, members of the wrong kind.
#[test]
fn rows_this_schema_cannot_hold_are_parked_and_shown() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER NOT NULL, b BLOB, k TEXT CHECK (length(k) < 4)) STRICT";
    let mut device = Device::new(sql, &["t"]);
    let (bad, good) = (uuid(1), uuid(2));
    let payloads = [
        r#"{"n":null}"#,
        r#"{"k":"ok"}"#,
        r#"{"n":"seven"}"#,
        r#"{"n":1.5}"#,
        r#"{"n":{}}"#,
        r#"{"n":1,"b":"?"}"#,
        r#"{"n":1,"b":7}"#,
        r#"{"n":1,"k":"long"}"#,
        r#"{"n":1e999}"#,
    ];
    for (version, payload) in (1..).zip(payloads) {
        let good_row = format!(r#"{{"n":{version},"any":[{{}}]}}"#);
        let done = device.apply(vec![
            entry("t", &bad, version, Some(payload)),
            entry("t", &good, version, Some(&good_row)),
        ]);
        assert_eq!(done.written.len(), 1, "{payload}");
        assert_eq!(device.count("SELECT n FROM t"), version, "{payload}");
        let why = device.text("SELECT reason || length(detail) FROM _sync_parked");
        assert!(
            why.as_deref().is_some_and(|why| why > "refused1"),
            "{payload}: {why:?}"
        );
    }
    device.apply(vec![entry("t", &bad, 99, Some(r#"{"n":1}"#))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 2);
    assert_eq!(device.count("SELECT count(*) FROM _sync_parked"), 0);
    device.run("DELETE FROM t");
    assert!(device.freeze().iter().all(|one| one.op == Op::Delete));
}

/// Found by reading: the commit failed at every opening, and the file could not be
/// opened any more.
#[test]
fn a_kept_value_that_refers_to_a_row_waits_for_it() {
    for deferred in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        let mut device = Device::new("CREATE TABLE notes (id TEXT PRIMARY KEY, v)", &["notes"]);
        let (note, other, folder) = (uuid(1), uuid(2), uuid(9));
        let wide = |id: &str| format!(r#"{{"id":"{id}","v":1,"folder":"{folder}","w":2}}"#);
        let named = format!(r#"{{"id":"{folder}","name":"f"}}"#);
        device.apply(vec![
            entry("folders", &folder, 1, Some(&named)),
            entry("notes", &note, 1, Some(&wide(&note))),
            entry("notes", &other, 1, Some(&wide(&other))),
        ]);
        device.run(&format!(
            "CREATE TABLE folders (id TEXT PRIMARY KEY, name);
             ALTER TABLE notes ADD COLUMN folder TEXT REFERENCES folders (id) {deferred};"
        ));
        device.reopen(&["notes", "folders"]);
        let filled = "SELECT count(*) FROM notes WHERE folder IS NOT NULL";
        assert_eq!(device.count(filled), 0, "the folder is not here yet");
        // What is edited meanwhile takes nothing away.
        device.run(&format!("UPDATE notes SET v = 7 WHERE id = '{note}'"));
        let sent = device.freeze();
        assert_eq!(sent.len(), 1);
        let sent = sent[0].payload.as_deref().expect("a row");
        assert!(sent.contains(&format!(r#""folder":"{folder}""#)), "{sent}");
        assert!(sent.contains(r#""w":2"#), "{sent}");
        // Any page brings the parked folder in.
        let third = uuid(3);
        device.apply(vec![entry("notes", &third, 1, Some(&row(&third, 1)))]);
        assert_eq!(device.count("SELECT count(*) FROM folders"), 1);
        assert_eq!(device.count(filled), 2);
        device.run("UPDATE notes SET folder = NULL");
        device.reopen(&["notes", "folders"]);
        assert_eq!(device.count(filled), 0, "nothing is kept any more");
        let kept = device.write(|txn| crate::conflicts::list(txn.conn));
        assert_eq!(kept.len(), 0);
    }
}

/// Found by reading: each process remembered for itself whether anything waits, and tried
/// it at every poll.
#[test]
fn what_waits_is_in_the_file_and_is_tried_again_only_after_a_write() {
    let mut device = Device::new("CREATE TABLE notes (id TEXT PRIMARY KEY, v)", &["notes"]);
    let (note, folder) = (uuid(1), uuid(9));
    let wide = format!(r#"{{"id":"{note}","v":1,"folder":"{folder}"}}"#);
    device.apply(vec![entry("notes", &note, 1, Some(&wide))]);
    device.run(
        "CREATE TABLE folders (id TEXT PRIMARY KEY, name);
         ALTER TABLE notes ADD COLUMN folder TEXT REFERENCES folders (id);",
    );
    // Another process is the first to see it.
    let _other = device.another(&["notes"]);
    device.apply(vec![]);
    let filled = "SELECT count(*) FROM notes WHERE folder IS NOT NULL";
    assert_eq!(device.count("SELECT learns FROM _sync_table"), 1);
    // An empty page costs as much as where nothing waits.
    let poll = |device: &mut Device| {
        let changes = |device: &Device| device.store.read(|conn| Ok(conn.total_changes()));
        let before = changes(device).expect("a number");
        device.apply(vec![]);
        changes(device).expect("a number") - before
    };
    let waiting = poll(&mut device);
    device.run(&format!("INSERT INTO folders VALUES ('{folder}', 'mine')"));
    assert_eq!(device.count(filled), 0);
    device.apply(vec![]);
    assert_eq!(device.count(filled), 1, "the application has made the row");
    assert_eq!(waiting, poll(&mut device));
}
