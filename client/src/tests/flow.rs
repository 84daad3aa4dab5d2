//! Freeze, settle, apply: one case after the other.

use super::{Device, applied, entry, uuid};
use crate::outbox::{self, BatchLimits};
use crate::resolver::{ClientWins, Conflict, Resolution};
use crate::status;
use oversync_shared::RowVersion;
use oversync_shared::wire::{ChangeStatus, InvalidDetail, Op, ServerRow, StatusKind, reason};
use serde_json::json;
use serde_json::value::RawValue;

const NOTES: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v)";

pub(super) const FAMILY: &str = "
CREATE TABLE p (id TEXT PRIMARY KEY, v);
CREATE TABLE c (id TEXT PRIMARY KEY, p_id TEXT REFERENCES p (id) ON DELETE CASCADE, v);
CREATE TABLE s (id TEXT PRIMARY KEY, c_id TEXT REFERENCES c (id) ON DELETE SET NULL);
CREATE TABLE x (id TEXT PRIMARY KEY, p_id TEXT REFERENCES p (id));
";

pub(super) fn row(id: &str, v: i64) -> String {
    format!(r#"{{"id":"{id}","v":{v}}}"#)
}

pub(super) fn conflict(id: &str, version: i64, payload: Option<&str>) -> ChangeStatus {
    ChangeStatus {
        source_change_id: oversync_shared::ChangeId::new(0),
        status: StatusKind::Conflict,
        new_server_version: None,
        server_row: Some(ServerRow {
            schema_name: "public".into(),
            table_name: "t".into(),
            id: id.to_owned(),
            server_version: RowVersion::new(version),
            deleted: payload.is_none(),
            payload: payload.map(|text| RawValue::from_string(text.to_owned()).expect("JSON")),
        }),
        message: None,
        invalid: None,
    }
}

/// Any refusal that is for good.
pub(super) fn refused() -> ChangeStatus {
    invalid(reason::PRECHECK_ERROR, json!({"error": "no"}))
}

pub(super) fn invalid(code: &str, details: serde_json::Value) -> ChangeStatus {
    ChangeStatus {
        source_change_id: oversync_shared::ChangeId::new(0),
        status: StatusKind::Invalid,
        new_server_version: None,
        server_row: None,
        message: None,
        invalid: Some(InvalidDetail {
            reason: code.to_owned(),
            details,
        }),
    }
}

/// A device that has one row in common with the server, at version 1.
pub(super) fn in_step(resolver: Option<fn(&Conflict<'_>) -> Resolution>) -> (Device, String) {
    let mut device = Device::with(NOTES, |config| {
        let config = config.table("t");
        match resolver {
            Some(resolver) => config.resolver(resolver),
            None => config,
        }
    })
    .expect("opens");
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    assert!(
        device.freeze().is_empty(),
        "what was applied is not captured"
    );
    (device, id)
}

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
fn a_page_in_the_middle_of_an_upload_waits_for_its_answer() {
    let (mut device, id) = in_step(None);
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    // Ours was applied as version 2, and another device has written 3 since.
    device.apply(vec![entry("t", &id, 3, Some(&row(&id, 3)))]);
    assert_eq!(device.count("SELECT v FROM t"), 10);
    device.settle_applied(&sent);
    assert_eq!(device.count("SELECT v FROM t"), 3);
    assert!(device.freeze().is_empty());
    assert_eq!(device.write(|txn| status::read(txn.conn)).conflicts, 0);
}

#[test]
fn the_client_wins_under_a_new_number() {
    let (mut device, id) = in_step(Some(|_| Resolution::Mine));
    device.run("UPDATE t SET v = 10");
    let first = device.freeze();
    device.settle(&first, vec![conflict(&id, 5, Some(&row(&id, 5)))]);
    let second = device.freeze();
    assert!(second[0].id > first[0].id);
    assert_eq!(second[0].version.get(), 5);
    assert_eq!(second[0].payload, first[0].payload);
    assert_eq!(second[0].base.as_deref(), Some(row(&id, 5).as_str()));
    let _ = ClientWins;
}

#[test]
fn a_merged_row_is_written_and_sent() {
    let merge: fn(&Conflict<'_>) -> Resolution = |_| Resolution::Merged(r#"{"v":77}"#.into());
    let (mut device, id) = in_step(Some(merge));
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    device.settle(&sent, vec![conflict(&id, 5, Some(&row(&id, 5)))]);
    assert_eq!(device.count("SELECT v FROM t"), 77);
    let sent = device.freeze();
    assert_eq!(sent[0].payload.as_deref(), Some(row(&id, 77).as_str()));
    assert_eq!(sent[0].version.get(), 5);
}

#[test]
fn a_conflict_with_a_tombstone_ends() {
    let (mut device, id) = in_step(None);
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    device.settle(&sent, vec![conflict(&id, 2, None)]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 0);
    assert!(device.freeze().is_empty());
}

#[test]
fn equal_edits_and_a_number_that_clashes_are_no_conflicts() {
    let (mut device, id) = in_step(None);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 10)))]);
    assert!(device.freeze().is_empty());
    device.run("UPDATE t SET v = 11");
    let sent = device.freeze();
    device.settle(&sent, vec![conflict(&id, 2, Some(&row(&id, 10)))]);
    let again = device.freeze();
    assert_eq!(again[0].payload, sent[0].payload);
    assert!(again[0].id > sent[0].id);
    assert_eq!(device.write(|txn| status::read(txn.conn)).conflicts, 0);
}

#[test]
fn rejected_rows_delay_nobody_and_return_when_edited() {
    let mut device = Device::new(NOTES, &["t"]);
    device.run(&format!(
        "INSERT INTO t VALUES ('{}', 1), ('{}', 2)",
        uuid(1),
        uuid(2)
    ));
    let sent = device.freeze();
    let statuses = vec![
        invalid(reason::BAD_PAYLOAD, json!({"error": "too odd"})),
        applied(&sent[1]),
    ];
    let done = device.settle(&sent, statuses);
    assert_eq!((done.applied, done.rejected), (1, 1));
    assert!(device.freeze().is_empty());
    let listed = device.write(|txn| crate::rejected::list(txn.conn));
    assert_eq!(listed[0].payload, sent[0].payload);
    device.run(&format!("UPDATE t SET v = 3 WHERE id = '{}'", uuid(1)));
    let again = device.freeze();
    assert_eq!((again.len(), again[0].op), (1, Op::Insert));
    assert!(
        device
            .write(|txn| crate::rejected::list(txn.conn))
            .is_empty()
    );
}

#[test]
fn a_child_waits_for_its_parent_and_for_nothing_else() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child, lonely) = (uuid(1), uuid(2), uuid(3));
    device.run(&format!(
        "INSERT INTO p VALUES ('{parent}', 1); INSERT INTO c VALUES ('{child}', '{parent}', 1);
         INSERT INTO x VALUES ('{lonely}', NULL);"
    ));
    let sent = device.freeze();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0].row.key.to_string(), parent, "parents first");
    let missing = json!({"missing": [format!("public.p:{parent}")]});
    let statuses = sent
        .iter()
        .map(|change| match change.row.key.to_string() {
            key if key == parent => invalid(reason::PRECHECK_ERROR, json!({})),
            key if key == child => invalid(reason::FK_MISSING, missing.clone()),
            _ => applied(change),
        })
        .collect();
    let done = device.settle(&sent, statuses);
    assert_eq!((done.applied, done.rejected, done.waiting), (1, 1, 1));
    assert!(
        device.freeze().is_empty(),
        "the child waits with its parent"
    );
    device.run("UPDATE p SET v = 2");
    let sent = device.freeze();
    assert_eq!(sent.len(), 2, "both go together");
    let done = device.settle_applied(&sent);
    assert_eq!(done.applied, 2);
    // A parent that this device has nothing to send for: rejected at once.
    device.run(&format!("UPDATE c SET v = 9 WHERE id = '{child}'"));
    let sent = device.freeze();
    let done = device.settle(&sent, vec![invalid(reason::FK_MISSING, missing)]);
    assert_eq!((done.rejected, done.waiting), (1, 0));
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
fn a_replaced_history_loses_no_local_row() {
    let (mut device, id) = in_step(None);
    let (other, lost, edited) = (uuid(2), uuid(3), uuid(4));
    device.apply(vec![
        entry("t", &other, 4, Some(&row(&other, 4))),
        entry("t", &lost, 1, Some(&row(&lost, 1))),
        entry("t", &edited, 1, Some(&row(&edited, 1))),
    ]);
    device.run(&format!("UPDATE t SET v = 40 WHERE id = '{edited}'"));
    device.write(|txn| {
        crate::capture::collect(txn)?;
        crate::resync::begin(txn, crate::resync::Cause::HistoryReplaced, Some("new"))
    });
    // The new history knows one row as it is, one in an older state, one as the
    // edit found it, and one not at all.
    device.apply(vec![
        entry("t", &id, 1, Some(&row(&id, 1))),
        entry("t", &other, 2, Some(&row(&other, 2))),
        entry("t", &edited, 1, Some(&row(&edited, 1))),
    ]);
    let sent = device.freeze();
    let mut found: Vec<(String, i64, Op)> = sent
        .iter()
        .map(|c| (c.row.key.to_string(), c.version.get(), c.op))
        .collect();
    found.sort();
    let expected = vec![
        (other, 2, Op::Update),
        (lost, 0, Op::Insert),
        (edited, 1, Op::Update),
    ];
    assert_eq!(found, expected);
    assert_eq!(device.write(|txn| status::read(txn.conn)).conflicts, 0);
}

#[test]
fn after_pruning_rows_the_server_does_not_name_are_gone() {
    let (mut device, id) = in_step(None);
    let gone = uuid(2);
    device.apply(vec![entry("t", &gone, 1, Some(&row(&gone, 1)))]);
    device.write(|txn| {
        crate::capture::collect(txn)?;
        crate::resync::begin(txn, crate::resync::Cause::HistoryPruned, None)
    });
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 1);
    assert!(device.freeze().is_empty());
}

#[test]
fn a_name_that_is_shared_is_noticed() {
    let (mut device, id) = in_step(None);
    device.run("UPDATE t SET v = 2");
    let sent = device.freeze();
    let reply = oversync_shared::wire::UploadReply {
        accepted: true,
        highest_server_seq: oversync_shared::ServerId::ZERO,
        statuses: vec![applied(&sent[0])],
        epoch: None,
        head: None,
        highest_source_change_id: Some(oversync_shared::ChangeId::new(900)),
    };
    crate::settle::acknowledge(&mut device.store, &sent, &reply).expect("settles");
    let state = device.write(|txn| crate::state::State::load(txn.conn));
    assert!(!state.hydrated && state.shares_device);
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    device.run("UPDATE t SET v = 3");
    assert_eq!(device.freeze()[0].id.get(), 901);
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

/// Found by reading: they filled a whole batch, and the next one waited for a poll.
#[test]
fn edits_that_cannot_be_sent_hold_nothing_up() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v BLOB)", &["t"]);
    for n in 0..7 {
        device.run(&format!("INSERT INTO t VALUES ('{}', 'no blob')", uuid(n)));
    }
    let good = uuid(9);
    device.run(&format!("INSERT INTO t VALUES ('{good}', x'00')"));
    let limits = BatchLimits {
        changes: 3,
        bytes: 1 << 20,
    };
    let sent = device.write(|txn| {
        crate::capture::collect(txn)?;
        outbox::next_batch(txn, limits)
    });
    let keys: Vec<String> = sent.iter().map(|one| one.row.key.to_string()).collect();
    assert_eq!(keys, [good]);
    assert_eq!(device.write(|txn| status::read(txn.conn)).rejected, 7);
    // The same where nothing stands behind them: it ends.
    device.settle_applied(&sent);
    device.run("UPDATE t SET v = 'none either' WHERE v = 'no blob'");
    let sent = device.write(|txn| {
        crate::capture::collect(txn)?;
        outbox::next_batch(txn, limits)
    });
    assert!(sent.is_empty());
}

#[test]
fn a_refused_child_gives_way_to_its_parents_delete() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, old, new) = (uuid(1), uuid(2), uuid(3));
    let child_row = format!(r#"{{"id":"{old}","p_id":"{parent}","v":1}}"#);
    device.apply(vec![
        entry("p", &parent, 1, Some(&row(&parent, 1))),
        entry("c", &old, 1, Some(&child_row)),
    ]);
    device.run(&format!(
        "UPDATE c SET v = 2; INSERT INTO c VALUES ('{new}', '{parent}', 3)"
    ));
    let sent = device.freeze();
    // Meanwhile another device has deleted the parent and what it had of it.
    device.apply(vec![
        entry("c", &old, 2, None),
        entry("p", &parent, 2, None),
    ]);
    assert_eq!(device.count("SELECT count(*) FROM c"), 2);
    let missing = json!({"missing": [format!("public.p:{parent}")]});
    let statuses = sent
        .iter()
        .map(|_| invalid(reason::FK_MISSING, missing.clone()))
        .collect();
    device.settle(&sent, statuses);
    device.apply(vec![]);
    assert_eq!(
        device.count("SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM p)"),
        0
    );
    let status = device.write(|txn| status::read(txn.conn));
    assert_eq!(
        (status.rejected, status.parked, status.conflicts),
        (0, 0, 2)
    );
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
