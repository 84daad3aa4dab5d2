//! What lost in a conflict or was refused by the server: got back, given up,
//! kept for as long as it should be.

use super::words::{FAMILY, conflict, invalid, refused, row};
use super::{Device, entry, uuid};
use crate::capture;
use crate::conflicts::{self, ConflictRecord};
use crate::error::{Error, SetupError};
use crate::field_merge::DeletePolicy;

use crate::rejected::{self, Rejected};
use oversync_shared::wire::{Op, reason};
use serde_json::json;

const NOTES: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v, w DEFAULT 'w')";

const DAY: i64 = 86_400;

fn in_step(policy: DeletePolicy) -> (Device, String) {
    let mut device =
        Device::with(NOTES, |config| config.table("t").merge_deletes("t", policy)).expect("opens");
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&full(&id, 1, "w")))]);
    (device, id)
}

fn full(id: &str, v: i64, w: &str) -> String {
    format!(r#"{{"id":"{id}","v":{v},"w":"{w}"}}"#)
}

fn conflicts_of(device: &mut Device) -> Vec<ConflictRecord> {
    device.write(|txn| conflicts::list(txn.conn))
}

fn rejected_of(device: &mut Device) -> Vec<Rejected> {
    device.write(|txn| rejected::list(txn.conn))
}

fn look(device: &Device) -> Option<String> {
    device.text("SELECT group_concat(v || w) FROM t")
}

fn fails(
    device: &mut Device,
    work: impl FnOnce(&crate::store::Txn<'_>) -> Result<(), Error>,
) -> SetupError {
    match device.store.write(work) {
        Err(Error::Setup(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_value_comes_back_as_an_edit() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    let kept = conflicts_of(&mut device);
    // What came later stays: only the column that lost is written.
    device.apply(vec![entry("t", &id, 3, Some(&full(&id, 3, "later")))]);
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(look(&device).as_deref(), Some("10later"));
    let sent = device.freeze();
    assert_eq!(
        (sent.len(), sent[0].op, sent[0].version.get()),
        (1, Op::Update, 3)
    );
    assert!(conflicts_of(&mut device).is_empty());
    let error = fails(&mut device, |txn| conflicts::restore(txn, 1));
    assert!(matches!(
        error,
        SetupError::NoSuchEntry {
            list: "conflict",
            id: 1
        }
    ));
}

#[test]
fn a_row_that_lost_to_a_delete_is_made_again() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, None)]);
    assert_eq!(look(&device), None);
    let kept = conflicts_of(&mut device);
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(look(&device).as_deref(), Some("10w"));
    let sent = device.freeze();
    assert_eq!((sent[0].op, sent[0].version.get()), (Op::Insert, 2));
}

#[test]
fn a_delete_that_lost_deletes() {
    let (mut device, id) = in_step(DeletePolicy::EditWins);
    device.run("DELETE FROM t");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    assert_eq!(look(&device).as_deref(), Some("2theirs"));
    let kept = conflicts_of(&mut device);
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(device.freeze()[0].op, Op::Delete);
}

#[test]
fn a_lost_column_of_a_row_that_is_gone_brings_the_row() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    device.apply(vec![entry("t", &id, 3, None)]);
    let kept = conflicts_of(&mut device);
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(look(&device).as_deref(), Some("10w"));
}

#[test]
fn what_cannot_be_restored_stays_on_the_list() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER UNIQUE)";
    let mut device = Device::new(sql, &["t"]);
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 2)))]);
    device.run(&format!("INSERT INTO t VALUES ('{}', 10)", uuid(2)));
    let kept = conflicts_of(&mut device)[0].id;
    let error = fails(&mut device, |txn| conflicts::restore(txn, kept));
    assert!(matches!(error, SetupError::CannotRestore { .. }), "{error}");
    assert_eq!(conflicts_of(&mut device).len(), 1);
    device.write(|txn| conflicts::dismiss(txn, kept));
    assert!(conflicts_of(&mut device).is_empty());
}

/// One pass that finds nothing new: what time it is here, and at the server.
fn pass(device: &mut Device, now: i64, server: i64) {
    device.write(|txn| {
        let txn = crate::store::Txn { now, ..*txn };
        conflicts::prune(&txn, server)
    });
}

#[test]
fn a_record_goes_after_thirty_days_and_not_because_a_clock_jumps() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    let start = crate::clock::unix_now();
    pass(&mut device, start, start);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    assert_eq!(conflicts_of(&mut device).len(), 1);
    // A year ahead at every start of this device, for twenty days.
    for start_number in 1..=1_000 {
        let server = start + 20 * DAY * start_number / 1_000;
        pass(&mut device, start + 365 * DAY * start_number, server);
    }
    assert_eq!(conflicts_of(&mut device).len(), 1, "this clock alone");
    // The server's is set a year ahead, and back: a day or two at most.
    for server in [start + 365 * DAY, start + 366 * DAY, start + 20 * DAY] {
        for _ in 0..100 {
            pass(&mut device, start + 365 * DAY, server);
        }
    }
    assert_eq!(conflicts_of(&mut device).len(), 1, "that one alone");
    // By the server's calendar only: this device's clock stands still.
    for day in 21..=60 {
        pass(&mut device, start, start + day * DAY);
    }
    assert_eq!(conflicts_of(&mut device).len(), 1);
    pass(&mut device, start + 31 * DAY, start + 60 * DAY);
    assert!(conflicts_of(&mut device).is_empty());
}

#[test]
fn a_file_of_an_earlier_version_keeps_its_conflicts() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    device.run(
        "DROP INDEX _sync_conflicts_at; ALTER TABLE _sync_conflicts DROP COLUMN lost;
         ALTER TABLE _sync_conflicts DROP COLUMN day; ALTER TABLE _sync_client DROP COLUMN day",
    );
    device.write(|txn| Ok(crate::upgrade::run(txn.conn)?));
    let kept = conflicts_of(&mut device);
    assert_eq!(kept[0].lost.as_deref(), Some(&*full(&id, 10, "w")));
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(look(&device).as_deref(), Some("10w"));
}

/// Takes the columns away that the first version did not have.
const AS_IT_WAS: &str =
    "DROP INDEX _sync_conflicts_at; ALTER TABLE _sync_conflicts DROP COLUMN lost;
     ALTER TABLE _sync_conflicts DROP COLUMN day; ALTER TABLE _sync_client DROP COLUMN day;
     ALTER TABLE _sync_client DROP COLUMN day_at; ALTER TABLE _sync_pending DROP COLUMN at;
     ALTER TABLE _sync_outbox DROP COLUMN at; ALTER TABLE _sync_table DROP COLUMN listed;
     ALTER TABLE _sync_client DROP COLUMN schema_seen;";

#[test]
fn looking_at_a_file_of_an_earlier_version_brings_it_up_at_once_or_not_at_all() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    device.run(AS_IT_WAS);
    let schema =
        "SELECT group_concat(sql) FROM sqlite_schema WHERE name LIKE '\\_sync%' ESCAPE '\\'";
    let before = device.text(schema);
    // It fails in the middle: the column is added, what is to stand in it is not.
    device.run(
        "CREATE TRIGGER stop BEFORE UPDATE ON _sync_conflicts BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let path = device.app.path().expect("a path").to_owned();
    assert!(crate::client::inspect(&path).is_err());
    device.run("DROP TRIGGER stop");
    assert_eq!(device.text(schema), before, "nothing has changed");
    let seen = crate::client::inspect(&path).expect("a look");
    assert_eq!(seen.status().expect("a status").conflicts, 1);
    let kept = seen.conflicts().expect("a list");
    assert_eq!(kept[0].lost, Some(full(&id, 10, "w")));
}

/// A record without the lost values, written by a version that knew nothing of
/// them beside one that does: it is a row that lost, not a delete.
#[test]
fn a_record_without_lost_values_restores_the_row_and_its_nulls() {
    let (mut device, id) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = NULL");
    device.apply(vec![entry("t", &id, 2, Some(&full(&id, 2, "theirs")))]);
    assert_eq!(look(&device).as_deref(), Some("2theirs"));
    device.run("UPDATE _sync_conflicts SET lost = NULL");
    let kept = conflicts_of(&mut device);
    device.write(|txn| conflicts::restore(txn, kept[0].id));
    assert_eq!(
        device.count("SELECT count(*) FROM t WHERE v IS NULL AND w = 'w'"),
        1
    );
    assert_eq!(device.freeze()[0].op, Op::Update);
}

#[test]
fn a_rejected_edit_is_sent_again_as_the_row_stands() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child) = (uuid(1), uuid(2));
    device.run(&format!(
        "INSERT INTO p VALUES ('{parent}', 1); INSERT INTO c VALUES ('{child}', '{parent}', 1)"
    ));
    let sent = device.freeze();
    let missing = json!({"missing": [format!("public.p:{parent}")]});
    device.settle(&sent, vec![refused(), invalid(reason::FK_MISSING, missing)]);
    assert!(
        device.freeze().is_empty(),
        "the child waits with its parent"
    );
    let id = rejected_of(&mut device)[0].id;
    device.write(|txn| rejected::retry(txn, id));
    let again = device.freeze();
    assert_eq!(again.len(), 2, "both go");
    assert_eq!(again[0].row.key.to_string(), parent);
    assert!(again[0].id > sent[1].id, "under new numbers");
    assert_eq!(device.settle_applied(&again).applied, 2);
    assert!(rejected_of(&mut device).is_empty());
    let error = fails(&mut device, |txn| rejected::retry(txn, id));
    assert!(matches!(error, SetupError::NoSuchEntry { .. }));
}

/// Found by reading: of a row that was offered again to a server that had lost it, and
/// refused, the list forgot that it was known. It was made anew on another's delete.
#[test]
fn what_was_refused_and_is_tried_again_is_no_new_row() {
    for is_edited in [false, true] {
        let (mut device, _) = in_step(DeletePolicy::DeleteWins);
        let key = uuid(2);
        device.run(&format!("INSERT INTO t (id, v) VALUES ('{key}', 1)"));
        let sent = device.freeze();
        device.settle(&sent, vec![refused()]);
        if is_edited {
            device.run(&format!("UPDATE t SET v = 2 WHERE id = '{key}'"));
        } else {
            let id = rejected_of(&mut device)[0].id;
            device.write(|txn| rejected::retry(txn, id));
        }
        let again = device.freeze();
        let done = device.settle(&again, vec![conflict(&key, 2, None)]);
        assert_eq!(done.conflicts, 1, "the delete wins, and is told of");
        assert!(device.freeze().is_empty());
        assert_eq!(device.count("SELECT count(*) FROM t"), 1);
        assert_eq!(conflicts_of(&mut device).len(), 1);
    }
}

/// The file of a version that did not note it: what had been tried is no new row after the
/// update either, whether it waits, is frozen, or stands in the list still.
#[test]
fn what_an_earlier_version_has_tried_is_no_new_row() {
    let (mut device, _) = in_step(DeletePolicy::DeleteWins);
    let [frozen, retried, listed, fresh] = [2, 3, 4, 5].map(uuid);
    for key in [&frozen, &retried, &listed] {
        device.run(&format!("INSERT INTO t (id, v) VALUES ('{key}', 1)"));
    }
    let sent = device.freeze();
    device.settle(&sent, vec![refused(), refused(), refused()]);
    let list = rejected_of(&mut device);
    let entry_of = |key: &String| {
        let mut entries = list.iter();
        let entry = entries.find(|entry| entry.key == *key);
        entry.expect("it was refused").id
    };
    device.write(|txn| rejected::retry(txn, entry_of(&frozen)));
    assert_eq!(device.freeze().len(), 1);
    device.write(|txn| rejected::retry(txn, entry_of(&retried)));
    device.run(&format!("INSERT INTO t (id, v) VALUES ('{fresh}', 1)"));
    // It has come into the file of then.
    device.write(capture::collect);
    device.run(
        "ALTER TABLE _sync_pending DROP COLUMN was_known; ALTER TABLE _sync_outbox DROP COLUMN was_known",
    );

    device.reopen(&["t"]);
    device.run(&format!("UPDATE t SET v = 2 WHERE id = '{listed}'"));
    for waiting in [1, 3] {
        let sent = device.freeze();
        assert_eq!(sent.len(), waiting, "{sent:?}");
        let keys = sent.iter().map(|one| one.row.key.to_string());
        let gone = keys.map(|key| conflict(&key, 2, None)).collect();
        device.settle(&sent, gone);
    }
    let kept = conflicts_of(&mut device);
    assert_eq!(kept.len(), 3, "the deletes win, and are told of: {kept:?}");
    // Of that one nothing had ever been sent: it is made on the tombstone.
    let made = device.freeze();
    let made: Vec<_> = made.iter().map(|one| one.row.key.to_string()).collect();
    assert_eq!(made, [fresh]);
}

#[test]
fn all_rejected_edits_are_sent_again_whatever_their_reason() {
    let mut device = Device::new(NOTES, &["t"]);
    device.run(&format!(
        "INSERT INTO t (id, v) VALUES ('no uuid', 1), ('{}', x'00'), ('{}', 3)",
        uuid(2),
        uuid(3)
    ));
    let sent = device.freeze();
    device.settle(&sent, vec![refused()]);
    assert_eq!(rejected_of(&mut device).len(), 3);
    assert_eq!(device.write(rejected::retry_all), 3);
    assert_eq!(device.freeze().len(), 1, "one can be sent");
    let reasons: Vec<String> = rejected_of(&mut device)
        .into_iter()
        .map(|r| r.reason)
        .collect();
    assert_eq!(reasons, ["bad_key", "uncarriable_value"]);
}

#[test]
fn a_dropped_edit_leaves_what_the_server_has() {
    let mut device = Device::new(NOTES, &["t"]);
    let (edited, deleted, made) = (uuid(1), uuid(2), uuid(3));
    device.apply(vec![
        entry("t", &edited, 1, Some(&full(&edited, 1, "e"))),
        entry("t", &deleted, 1, Some(&full(&deleted, 2, "d"))),
    ]);
    device.run(&format!(
        "UPDATE t SET v = 10 WHERE id = '{edited}'; DELETE FROM t WHERE id = '{deleted}';
         INSERT INTO t VALUES ('{made}', 3, 'm'), ('no uuid', 4, 'k');"
    ));
    let sent = device.freeze();
    device.settle(&sent, sent.iter().map(|_| refused()).collect());
    let listed = rejected_of(&mut device);
    assert_eq!(listed.len(), 4);
    for entry in &listed {
        let line: serde_json::Value = serde_json::from_str(&entry.to_json_line()).expect("JSON");
        assert_eq!(
            (&line["table"], &line["key"]),
            (&json!("t"), &json!(entry.key))
        );
        assert!(
            line["payload"].is_object() || entry.payload.is_none(),
            "{line}"
        );
        device.write(|txn| rejected::give_up(txn, entry.id));
    }
    assert_eq!(look(&device).as_deref(), Some("1e,2d"));
    assert!(rejected_of(&mut device).is_empty());
    assert!(device.freeze().is_empty(), "giving up is no edit");
    let strangers = "SELECT count(*) FROM _sync_row WHERE version = 0";
    assert_eq!(device.count(strangers), 0);
    // And later entries of the rows are applied as ever.
    device.apply(vec![entry("t", &edited, 2, Some(&full(&edited, 5, "e")))]);
    assert_eq!(device.count("SELECT max(v) FROM t"), 5);
}

#[test]
fn a_row_that_others_need_is_not_dropped() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child) = (uuid(1), uuid(2));
    device.run(&format!(
        "INSERT INTO p VALUES ('{parent}', 1); INSERT INTO c VALUES ('{child}', '{parent}', 1)"
    ));
    let sent = device.freeze();
    let missing = json!({"missing": [format!("public.p:{parent}")]});
    device.settle(&sent, vec![refused(), invalid(reason::FK_MISSING, missing)]);
    let id = rejected_of(&mut device)[0].id;
    let error = fails(&mut device, |txn| rejected::give_up(txn, id).map(drop));
    assert!(matches!(error, SetupError::CannotDrop { .. }), "{error}");
    assert_eq!(device.count("SELECT count(*) FROM c"), 1);
    // The child first: then it goes.
    device.run("DELETE FROM c");
    device.write(|txn| rejected::give_up(txn, id));
    assert_eq!(device.count("SELECT count(*) FROM p"), 0);
    assert!(device.freeze().is_empty());
}

#[test]
fn an_edit_whose_base_is_lost_is_not_dropped_blindly() {
    let (mut device, _) = in_step(DeletePolicy::DeleteWins);
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    device.settle(&sent, vec![refused()]);
    device.run("UPDATE _sync_rejected SET base = NULL");
    let id = rejected_of(&mut device)[0].id;
    let error = fails(&mut device, |txn| rejected::give_up(txn, id).map(drop));
    assert!(matches!(error, SetupError::CannotDrop { .. }), "{error}");
    assert_eq!(look(&device).as_deref(), Some("10w"));
    // A conflict tells what the server has.
    device.write(|txn| rejected::retry(txn, id));
    let sent = device.freeze();
    let theirs = full(&uuid(1), 2, "theirs");
    device.settle(&sent, vec![conflict(&uuid(1), 2, Some(&theirs))]);
    assert_eq!(look(&device).as_deref(), Some("2theirs"));
}
