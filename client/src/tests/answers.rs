//! What the server answers to an upload, case by case: applied, conflict, refused, and
//! what waits for another row's answer.

use super::words::{FAMILY, NOTES, conflict, in_step, invalid, row};
use super::{Device, applied, entry, uuid};
use crate::outbox::{self, BatchLimits};
use crate::resolver::{ClientWins, Conflict, Resolution, Resolver as _};
use crate::status;
use oversync_shared::wire::{Op, reason};
use serde_json::json;

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
    let (mut device, id) = in_step(Some(|conflict| ClientWins.resolve(conflict)));
    device.run("UPDATE t SET v = 10");
    let first = device.freeze();
    device.settle(&first, vec![conflict(&id, 5, Some(&row(&id, 5)))]);
    let second = device.freeze();
    assert!(second[0].id > first[0].id);
    assert_eq!(second[0].version.get(), 5);
    assert_eq!(second[0].payload, first[0].payload);
    assert_eq!(second[0].base.as_deref(), Some(row(&id, 5).as_str()));
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
