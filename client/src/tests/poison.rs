//! One row that can never succeed among a thousand: the others arrive, and it
//! stands in a list with its reason, whatever the reason is.

use super::words::{conflict, invalid, row};
use super::{Device, WIDE, applied, entry, uuid};
use crate::state::State;
use crate::{capture, parked, rejected, resync, status, upload};
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

/// What makes the server's new code of a parent fail the transaction.
const IN_THE_WAY: [&str; 2] = [
    "",
    "CREATE TRIGGER own BEFORE UPDATE OF code ON p WHEN NEW.code = 2
     BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
];

fn parent(id: &str, code: i64, note: &str) -> String {
    format!(r#"{{"id":"{id}","code":{code},"note":"{note}"}}"#)
}

/// Two parents with unsent edits; a child refers to the code of the first one.
fn with_edits_of_parents(trigger: &str) -> (Device, String, String, String) {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY, code INTEGER UNIQUE, note TEXT);
        CREATE TABLE c (id TEXT PRIMARY KEY, v INTEGER REFERENCES p (code));";
    let mut device = Device::new(sql, &["p", "c"]);
    let (first, second, child) = (uuid(1), uuid(2), uuid(3));
    device.apply(vec![
        entry("p", &first, 1, Some(&parent(&first, 1, "old"))),
        entry("p", &second, 1, Some(&parent(&second, 10, "old"))),
        entry("c", &child, 1, Some(&row(&child, 1))),
    ]);
    device.run(trigger);
    device.run("UPDATE p SET note = 'mine'");
    (device, first, second, child)
}

/// The second parent's edit is merged, the first one's is in the list.
fn only_the_first_is_set_aside(device: &mut Device, second: &str) {
    let found = device.write(|txn| status::read(txn.conn));
    assert_eq!((found.conflicts, found.parked, found.rejected), (1, 1, 0));
    assert_eq!(device.count("SELECT count(*) FROM _sync_shadow"), 0);
    assert_eq!(device.count("SELECT applying FROM _sync_guard"), 0);
    let sent = device.freeze();
    let keys: Vec<String> = sent.iter().map(|one| one.row.key.to_string()).collect();
    assert_eq!(keys, [second]);
    assert_eq!(sent[0].payload, Some(parent(second, 20, "mine")));
    device.settle_applied(&sent);
    assert!(device.freeze().is_empty());
}

/// Found by reading: the answer was rolled back, and the same batch sent for ever.
#[test]
fn a_remembered_row_that_fails_the_commit_is_set_aside_and_the_answer_stands() {
    for trigger in IN_THE_WAY {
        let (mut device, first, second, child) = with_edits_of_parents(trigger);
        let sent = device.freeze();
        let statuses = sent.iter().map(|one| {
            let id = one.row.key.to_string();
            let code = if id == first { 2 } else { 20 };
            conflict(&id, 2, Some(&parent(&id, code, "old")))
        });
        let statuses = statuses.collect();
        let done = device.settle(&sent, statuses);
        assert_eq!((done.conflicts, done.written.len()), (1, 1), "{trigger}");
        only_the_first_is_set_aside(&mut device, &second);
        // The page brings the child as well: with it the parent goes in.
        device.run("DROP TRIGGER IF EXISTS own");
        device.apply(vec![
            entry("p", &first, 2, Some(&parent(&first, 2, "old"))),
            entry("c", &child, 2, Some(&row(&child, 2))),
        ]);
        assert_eq!(device.count("SELECT v FROM c"), 2, "{trigger}");
        assert_eq!(device.write(|txn| status::read(txn.conn)).parked, 0);
    }
}

#[test]
fn a_remembered_row_that_fails_the_commit_holds_no_page_up() {
    for trigger in IN_THE_WAY {
        let (mut device, first, second, _) = with_edits_of_parents(trigger);
        let other = uuid(7);
        device.apply(vec![
            entry("p", &first, 2, Some(&parent(&first, 2, "old"))),
            entry("p", &second, 2, Some(&parent(&second, 20, "old"))),
            entry("p", &other, 2, Some(&parent(&other, 70, "old"))),
        ]);
        assert_eq!(device.count("SELECT count(*) FROM p"), 3, "{trigger}");
        only_the_first_is_set_aside(&mut device, &second);
    }
}

#[test]
fn a_remembered_row_that_fails_the_commit_holds_no_upload_up() {
    for trigger in IN_THE_WAY {
        let (mut device, first, second, _) = with_edits_of_parents(trigger);
        // As an older version, or an edit in flight, has left it.
        device.write(|txn| {
            crate::capture::collect(txn)?;
            let sql = "INSERT INTO _sync_shadow (tbl, pk, version, payload)
                SELECT tbl, pk, 2, ?1 FROM _sync_pending
                WHERE local_key = ?2";
            for (id, code) in [(&first, 2), (&second, 20)] {
                txn.conn
                    .execute(sql, (parent(id, code, "old"), id))
                    .expect("remembered");
            }
            Ok(())
        });
        let batch = upload::prepare(&mut device.store, WIDE).expect("prepares");
        assert_eq!(batch.expect("hydrated").sent.len(), 1, "{trigger}");
        only_the_first_is_set_aside(&mut device, &second);
    }
}

/// What stands in the parked list: key and reason.
fn listed(device: &mut Device) -> Vec<(String, String)> {
    let listed = device.write(|txn| parked::list(txn.conn));
    listed
        .into_iter()
        .map(|one| (one.key, one.reason))
        .collect()
}

/// Found by reading: no page went in any more, whatever it brought.
#[test]
fn a_parked_row_that_makes_a_trigger_roll_back_holds_no_page_up() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v);";
    let mut device = Device::new(sql, &["t"]);
    // Of a table that only newer applications have.
    let later = |n: u32| entry("later", &uuid(n), 1, Some(&row(&uuid(n), i64::from(n))));
    device.apply((1..=5).map(later).collect());
    device.run(
        "CREATE TABLE later (id TEXT PRIMARY KEY, v);
         CREATE TRIGGER own AFTER INSERT ON later WHEN NEW.v = 3
         BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    );
    device.reopen(&["t", "later"]);
    let page = (1..=20).map(|n| entry("t", &uuid(n), 1, Some(&row(&uuid(n), 1))));
    let done = device.apply(page.collect());
    assert_eq!(device.count("SELECT count(*) FROM t"), 20);
    assert_eq!(device.count("SELECT count(*) FROM later"), 4);
    assert_eq!(done.written.len(), 24, "all are told to the application");
    let bad = (uuid(3), "foreign_keys".to_owned());
    assert_eq!(listed(&mut device), [bad]);
    assert_eq!(device.count("SELECT applying FROM _sync_guard"), 0);
    assert!(device.freeze().is_empty());
    // A newer state that does no harm goes in.
    device.apply(vec![entry("later", &uuid(3), 2, Some(&row(&uuid(3), 7)))]);
    assert_eq!(device.count("SELECT count(*) FROM later"), 5);
    assert_eq!(listed(&mut device), []);
}

/// Found by reading: the parent was parked in the child's place, for ever.
#[test]
fn a_child_that_makes_a_trigger_roll_back_does_not_hold_its_parent_up() {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY, v);
        CREATE TABLE c (id TEXT PRIMARY KEY, v TEXT REFERENCES p (id), n);
        CREATE TABLE g (id TEXT PRIMARY KEY, v TEXT REFERENCES c (id));
        CREATE TRIGGER own AFTER INSERT ON c WHEN NEW.n = 1
        BEGIN SELECT RAISE(ROLLBACK, 'no'); END;";
    let mut device = Device::new(sql, &["p", "c", "g"]);
    let parent = uuid(1);
    let child = |id: u32, n: i64| {
        let text = format!(r#"{{"id":"{}","v":"{parent}","n":{n}}}"#, uuid(id));
        entry("c", &uuid(id), 1, Some(&text))
    };
    let grandchild = |id: u32, of: u32| {
        let text = format!(r#"{{"id":"{}","v":"{}"}}"#, uuid(id), uuid(of));
        entry("g", &uuid(id), 1, Some(&text))
    };
    device.apply(vec![
        child(2, 1),
        child(3, 2),
        grandchild(4, 2),
        grandchild(5, 3),
    ]);
    assert_eq!(listed(&mut device).len(), 4);
    device.apply(vec![entry("p", &parent, 1, Some(&row(&parent, 1)))]);
    assert_eq!(device.count("SELECT count(*) FROM p"), 1);
    assert_eq!(
        device.text("SELECT group_concat(id) FROM c"),
        Some(uuid(3)),
        "the other child"
    );
    assert_eq!(device.text("SELECT group_concat(id) FROM g"), Some(uuid(5)));
    let waits = [
        (uuid(2), "foreign_keys".to_owned()),
        (uuid(4), "missing_parent".to_owned()),
    ];
    assert_eq!(listed(&mut device), waits);
    assert!(device.freeze().is_empty());
}

/// Found by reading: RAISE(FAIL) keeps what was done before it, and the row that was
/// listed as refused stood in the table.
#[test]
fn a_trigger_that_fails_leaves_nothing_of_a_refused_row() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE log (v);";
    let mut device = Device::new(sql, &["t"]);
    let (changed, deleted, good) = (uuid(1), uuid(2), uuid(3));
    device.apply(vec![
        entry("t", &changed, 1, Some(&row(&changed, 5))),
        entry("t", &deleted, 1, Some(&row(&deleted, 1))),
    ]);
    device.run(
        "CREATE TRIGGER changed AFTER UPDATE ON t WHEN NEW.v = 1
         BEGIN INSERT INTO log VALUES (1); SELECT RAISE(FAIL, 'no'); END;
         CREATE TRIGGER gone AFTER DELETE ON t
         BEGIN INSERT INTO log VALUES (2); SELECT RAISE(FAIL, 'no'); END;",
    );
    device.apply(vec![
        entry("t", &changed, 2, Some(&row(&changed, 1))),
        entry("t", &deleted, 2, None),
        entry("t", &good, 1, Some(&row(&good, 9))),
    ]);
    let values = "SELECT group_concat(v) FROM (SELECT v FROM t ORDER BY id)";
    assert_eq!(device.text(values).as_deref(), Some("5,1,9"));
    assert_eq!(device.count("SELECT count(*) FROM log"), 0);
    assert_eq!(listed(&mut device).len(), 2);
    assert!(device.freeze().is_empty());
}

/// The pass after pruning ends with deletes of rows that the server has not named;
/// one of them rolls the whole transaction back, whatever else is left out.
#[test]
fn a_delete_nobody_named_that_rolls_back_holds_no_pass_up() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);";
    let mut device = Device::new(sql, &["t"]);
    let (gone, kept, new) = (uuid(1), uuid(2), uuid(3));
    device.apply(vec![
        entry("t", &gone, 1, Some(&row(&gone, 1))),
        entry("t", &kept, 1, Some(&row(&kept, 1))),
    ]);
    device.run(
        "CREATE TRIGGER stays BEFORE DELETE ON t
         BEGIN SELECT RAISE(ROLLBACK, 'nothing is ever deleted here'); END",
    );
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, resync::Cause::HistoryPruned, None)
    });
    device.apply(vec![
        entry("t", &kept, 2, Some(&row(&kept, 2))),
        entry("t", &new, 1, Some(&row(&new, 3))),
    ]);
    // One by one: the two entries go through, the delete is set aside.
    assert_eq!(device.count("SELECT count(*) FROM t"), 3);
    assert_eq!(device.count("SELECT sum(v) FROM t"), 1 + 2 + 3);
    let state = device.write(|txn| State::load(txn.conn));
    assert!(state.hydrated && state.resync.is_none(), "the pass is over");
    let parked = device.write(|txn| parked::list(txn.conn));
    let keys: Vec<&str> = parked.iter().map(|one| one.key.as_str()).collect();
    assert!(keys.contains(&gone.as_str()), "{parked:?}");
    assert!(device.freeze().is_empty(), "nothing is sent again");
}

/// Found by reading: RESTRICT is left to the commit only where foreign keys are
/// deferred, and fails with a code of its own where they are not.
#[test]
fn restrict_is_judged_at_the_commit() {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY, code UNIQUE);
        CREATE TABLE c (id TEXT PRIMARY KEY, v REFERENCES p (code) ON UPDATE RESTRICT ON DELETE RESTRICT);";
    let (parent, child) = (uuid(1), uuid(2));
    let code = |n: i64| format!(r#"{{"id":"{parent}","code":{n}}}"#);
    // Twice: a statement may have been prepared while they were deferred.
    let mut device = Device::new(sql, &["p", "c"]);
    device.apply(vec![
        entry("p", &parent, 1, Some(&code(1))),
        entry("c", &child, 1, Some(&row(&child, 1))),
    ]);
    for n in 2..=3 {
        device.apply(vec![
            entry("p", &parent, n, Some(&code(n))),
            entry("c", &child, n, Some(&row(&child, n))),
        ]);
        assert_eq!(listed(&mut device), []);
        assert_eq!(device.count("SELECT code FROM p"), n);
        assert_eq!(device.count("SELECT v FROM c"), n);
    }
}

/// A device that hears `history_pruned` is not told of tombstones again: what it knew
/// of them is what a row that is made anew stands on.
#[test]
fn a_deletion_is_remembered_when_the_history_is_pruned() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);";
    let mut device = Device::new(sql, &["t"]);
    let (again, never, kept) = (uuid(1), uuid(2), uuid(3));
    for id in [&again, &never, &kept] {
        device.apply(vec![entry("t", id, 1, Some(&row(id, 1)))]);
    }
    device.apply(vec![
        entry("t", &again, 2, None),
        entry("t", &never, 2, None),
    ]);
    device.run(&format!("INSERT INTO t VALUES ('{again}', 5)"));
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, resync::Cause::HistoryPruned, None)
    });
    device.apply(vec![entry("t", &kept, 1, Some(&row(&kept, 1)))]);
    device.run(&format!("INSERT INTO t VALUES ('{never}', 6)"));
    let mut sent: Vec<_> = device
        .freeze()
        .into_iter()
        .map(|change| (change.row.key.to_string(), change.version.get()))
        .collect();
    sent.sort();
    assert_eq!(sent, [(again, 2), (never, 2)]);
}
