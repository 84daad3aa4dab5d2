//! Tables that come and go: taken off the list and put on again, rebuilt, without
//! triggers for a while.

use super::words::{refused, row};
use super::{Device, applied, entry, uuid};
use crate::capture;
use crate::error::{Error, SetupError};
use crate::sign_out;
use crate::status::{self, Status};
use crate::triggers::{self, Installed};
use oversync_shared::wire::Op;

const OLD_LOG: &str = include_str!("old_log.sql");

const TWO: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v);
    CREATE TABLE u (id TEXT PRIMARY KEY, v);";

fn read(device: &mut Device) -> Status {
    device.write(|txn| status::read(txn.conn))
}

fn has_work(device: &mut Device) -> bool {
    device.write(|txn| capture::has_work(txn.conn))
}

/// A device with both tables, and one row in each that the server has.
fn in_step() -> (Device, String) {
    let mut device = Device::new(TWO, &["t", "u"]);
    let id = uuid(1);
    device.apply(vec![
        entry("t", &id, 1, Some(&row(&id, 1))),
        entry("u", &id, 1, Some(&row(&id, 1))),
    ]);
    (device, id)
}

#[test]
fn edits_of_a_table_taken_off_the_list_wait_and_are_shown() {
    let (mut device, id) = in_step();
    device.run("UPDATE t SET v = 10; UPDATE u SET v = 10");
    device.reopen(&["u"]);
    let sent = device.freeze();
    assert_eq!(sent.len(), 1, "the listed table goes on");
    device.settle_applied(&sent);
    device.apply(vec![]);
    assert!(
        !has_work(&mut device),
        "nothing can be done about the other"
    );
    let shown = read(&mut device);
    assert_eq!(shown.unsent, 1);
    let why = shown.stalled_reason.expect("a reason");
    assert!(why.contains("no longer listed"), "{why}");
    // Meanwhile another device has written another column; ours waits all the same.
    device.reopen(&["t", "u"]);
    assert!(has_work(&mut device));
    let sent = device.freeze();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].payload, Some(row(&id, 10)));
    assert_eq!(
        sent[0].base,
        Some(row(&id, 1)),
        "made on what the server has"
    );
    device.settle_applied(&sent);
    assert_eq!(
        read(&mut device),
        Status {
            unsent: 0,
            stalled_reason: None,
            ..read(&mut device)
        }
    );
}

#[test]
fn a_pending_edit_of_a_table_taken_off_the_list_is_no_work() {
    let (mut device, id) = in_step();
    device.run("UPDATE t SET v = 10");
    device.write(capture::collect);
    device.reopen(&["u"]);
    assert!(!has_work(&mut device));
    assert!(device.freeze().is_empty());
    assert_eq!(read(&mut device).unsent, 1);
    device.reopen(&["t", "u"]);
    assert_eq!(device.freeze()[0].payload, Some(row(&id, 10)));
}

#[test]
fn what_was_written_while_a_table_was_not_listed_is_found() {
    let mut device = Device::new(TWO, &["t", "u"]);
    let (kept, changed, gone, made) = (uuid(1), uuid(2), uuid(3), uuid(4));
    let rows = [&kept, &changed, &gone].map(|id| entry("t", id, 1, Some(&row(id, 1))));
    device.apply(rows.into());
    device.reopen(&["u"]);
    device.run(&format!(
        "UPDATE t SET v = 2 WHERE id = '{changed}'; DELETE FROM t WHERE id = '{gone}';
         INSERT INTO t VALUES ('{made}', 4)"
    ));
    assert!(device.freeze().is_empty());
    device.reopen(&["t", "u"]);
    let mut sent: Vec<(String, Op)> = device
        .freeze()
        .into_iter()
        .map(|one| (one.row.key.to_string(), one.op))
        .collect();
    sent.sort();
    let expected = [
        (kept, Op::Update),
        (changed, Op::Update),
        (gone, Op::Delete),
        (made, Op::Insert),
    ];
    assert_eq!(sent, expected);
}

#[test]
fn what_is_frozen_is_sent_and_settled_though_its_table_is_off_the_list() {
    let (mut device, _) = in_step();
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    device.reopen(&["u"]);
    let again = device.freeze();
    assert_eq!(again, sent);
    let table = device.write(|txn| crate::upload::wire_name(txn, sent[0].row.tbl));
    assert_eq!(
        table, "t",
        "under its name: it may have been applied already"
    );
    device.settle(&again, vec![applied(&again[0])]);
    assert_eq!(read(&mut device).unsent, 0);
    device.reopen(&["t", "u"]);
    device.freeze();
    let held = device.count("SELECT max(server_version) FROM _sync_outbox");
    assert_eq!(held, 2, "the version of the answer is held");
}

#[test]
fn signing_out_empties_tables_that_were_listed_once() {
    let (mut device, _) = in_step();
    device.run("UPDATE t SET v = 10; CREATE TABLE other (n); INSERT INTO other VALUES (1)");
    device.reopen(&["u"]);
    let refused = sign_out::wipe(&mut device.store, false);
    assert!(
        matches!(
            refused,
            Err(Error::Setup(SetupError::Unsent { unsent: 1, .. }))
        ),
        "{refused:?}"
    );
    sign_out::wipe(&mut device.store, true).expect("wiped");
    assert_eq!(
        device.count("SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM u)"),
        0
    );
    assert_eq!(device.count("SELECT count(*) FROM other"), 1);
}

/// Deletes of rows whose key is spelt as usual, and of one that is not.
fn deleted_without_triggers(key: &str, sql: &str) {
    let table = format!("CREATE TABLE t (id {key} PRIMARY KEY, v)");
    let mut device = Device::new(&table, &["t"]);
    let literal = |n: u32| match key {
        "BLOB" => format!("x'{}'", uuid(n).replace('-', "")),
        _ if n == 2 => format!("'{{{}}}'", uuid(n)),
        _ => format!("'{}'", uuid(n)),
    };
    device.run(&format!(
        "INSERT INTO t VALUES ({}, 1), ({}, 2), ({}, 3)",
        literal(1),
        literal(2),
        literal(3)
    ));
    let sent = device.freeze();
    device.settle_applied(&sent);
    device.run(&sql.replace("KEYS", &format!("{}, {}", literal(1), literal(2))));
    device.freeze();
    let found = device.count("SELECT count(*) FROM _sync_outbox WHERE op = 'DELETE'");
    assert_eq!(found, 2, "{key}: {sql}");
}

#[test]
fn deletes_made_while_there_were_no_triggers_are_found() {
    for key in ["TEXT", "BLOB"] {
        // Another program takes the trigger off.
        deleted_without_triggers(
            key,
            "DROP TRIGGER _sync_1_after_delete; DELETE FROM t WHERE id IN (KEYS)",
        );
        // … and puts it back as it was, as programs that rebuild tables do.
        let sql = "DROP TRIGGER _sync_1_after_delete; DELETE FROM t WHERE id IN (KEYS);
            CREATE TRIGGER _sync_1_after_delete AFTER DELETE ON \"t\"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_1 (op, key, \"_v\") VALUES (3, OLD.\"id\", OLD.\"v\");
END;";
        deleted_without_triggers(key, sql);
        // The table is rebuilt without some of its rows.
        let rebuilt = format!(
            "CREATE TABLE t2 (id {key} PRIMARY KEY, v TEXT);
             INSERT INTO t2 SELECT id, v FROM t WHERE id NOT IN (KEYS);
             DROP TABLE t; ALTER TABLE t2 RENAME TO t;"
        );
        deleted_without_triggers(key, &rebuilt);
    }
}

/// What a file of the version before had noted: what was edited, deleted, made,
/// replaced, and only perhaps replaced; with the images of it.
#[test]
fn a_file_of_the_version_before_keeps_its_edits_and_their_base_images() {
    let mut device = Device::new(TWO, &["t", "u"]);
    let ids: Vec<String> = (1..=6).map(uuid).collect();
    let there = ids[..5].iter();
    device.apply(
        there
            .map(|id| entry("t", id, 1, Some(&row(id, 1))))
            .collect(),
    );
    device.apply(vec![entry("u", &ids[0], 1, Some(&row(&ids[0], 1)))]);
    device.run(OLD_LOG);
    device.run(&format!(
        "UPDATE t SET v = 2 WHERE id = '{0}'; UPDATE t SET v = 3 WHERE id = '{0}';
         DELETE FROM t WHERE id = '{1}';
         REPLACE INTO t VALUES ('{2}', 4);
         INSERT OR IGNORE INTO t VALUES ('{3}', 5);
         INSERT INTO t VALUES ('{4}', 6); UPDATE t SET v = 7 WHERE id = '{4}';
         UPDATE u SET v = 8;",
        ids[0], ids[1], ids[2], ids[3], ids[5]
    ));
    // One table stays behind: what it has waits, and is counted.
    device.reopen(&["t"]);
    assert_eq!(read(&mut device).unsent, 5);
    let sent = device.freeze();
    let of = |id: &String| {
        let found = sent.iter().find(|one| one.row.key.to_string() == *id);
        let found = found.map(|one| (one.op, one.payload.clone(), one.base.clone()));
        found.unwrap_or_else(|| panic!("{id} is not sent"))
    };
    let base = |id: &String| Some(row(id, 1));
    assert_eq!(
        of(&ids[0]),
        (Op::Update, Some(row(&ids[0], 3)), base(&ids[0]))
    );
    assert_eq!(of(&ids[1]), (Op::Delete, None, base(&ids[1])));
    assert_eq!(
        of(&ids[2]),
        (Op::Update, Some(row(&ids[2], 4)), base(&ids[2]))
    );
    assert_eq!(of(&ids[5]), (Op::Insert, Some(row(&ids[5], 7)), None));
    assert_eq!(sent.len(), 4, "{sent:?}");
    let left =
        "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_base\\_1%' ESCAPE '\\'";
    assert_eq!(device.count(left), 0);
    device.settle_applied(&sent);
    device.reopen(&["t", "u"]);
    let sent = device.freeze();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].base, base(&ids[0]));
    let left = "SELECT count(*) FROM sqlite_schema WHERE name = '_sync_log'";
    assert_eq!(device.count(left), 0);
}

/// A file of the version before whose table has been altered since: the edits stay,
/// the images are of another table.
#[test]
fn images_of_another_shape_are_not_taken_over() {
    let (mut device, id) = in_step();
    device.run(OLD_LOG);
    device.run("UPDATE t SET v = 2; ALTER TABLE t ADD COLUMN w DEFAULT 5;");
    let sent = device.freeze();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let expected = format!(r#"{{"id":"{id}","v":2,"w":5}}"#);
    assert_eq!((&sent[0].payload, &sent[0].base), (&Some(expected), &None));
}

/// Found by reading: every row of an older file was sent again, without its base.
#[test]
fn a_file_of_an_older_version_sends_nothing_but_the_deletes_it_missed() {
    let mut device = Device::new(TWO, &["t", "u"]);
    let ids = [uuid(1), uuid(2), uuid(3)];
    let rows = ids
        .each_ref()
        .map(|id| entry("t", id, 1, Some(&row(id, 1))));
    device.apply(rows.into());
    // Before that version there was no such trigger. Now it is one to be renewed,
    // not a sign of edits that nobody has seen.
    let older = format!("{OLD_LOG} DROP TRIGGER _sync_1_before_rowid;");
    let found = device.write(|txn| {
        let table = txn.tables.by_name("t").expect("listed");
        txn.conn.execute_batch(&older)?;
        triggers::look(txn.conn, table)
    });
    assert_eq!(found, Installed::Outdated);
    device.reopen(&["t", "u"]);
    assert!(device.freeze().is_empty(), "the server has all of it");
    assert_eq!(device.count("SELECT count(*) FROM _sync_pending"), 0);
    assert!(!has_work(&mut device));
    // A REPLACE by the row number, that it has not seen.
    device.run(&format!(
        "{older}
         REPLACE INTO t (rowid, id, v) SELECT rowid, '{}', 1 FROM t WHERE id = '{}'",
        ids[1], ids[0]
    ));
    device.reopen(&["t", "u"]);
    let sent: Vec<(String, Op)> = device
        .freeze()
        .into_iter()
        .map(|one| (one.row.key.to_string(), one.op))
        .collect();
    assert!(sent.contains(&(ids[0].clone(), Op::Delete)), "{sent:?}");
    assert!(sent.iter().all(|(id, _)| *id != ids[2]), "{sent:?}");
}

#[test]
fn a_delete_that_no_trigger_saw_is_found_before_a_page_is_applied() {
    let (mut device, id) = in_step();
    device.run("DROP TRIGGER _sync_1_after_delete; DELETE FROM t");
    // Were it not found, the page would bring the row back.
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 1)))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 0);
    assert_eq!(device.freeze()[0].op, Op::Delete);
}

/// Found by reading: any DDL, or a VACUUM, sent them as deletes for everyone.
#[test]
fn what_the_applications_triggers_delete_while_a_page_is_applied_is_never_sent() {
    for on in ["t", "u"] {
        let mut device = Device::new(TWO, &["t", "u"]);
        let (keeper, gone) = (uuid(1), uuid(2));
        device.apply(vec![
            entry("t", &gone, 1, Some(&row(&gone, 1))),
            entry("t", &keeper, 1, Some(&row(&keeper, 2))),
            entry("u", &keeper, 1, Some(&row(&keeper, 2))),
        ]);
        device.run(&format!(
            "CREATE TRIGGER own AFTER UPDATE ON {on} WHEN NEW.v = 9
             BEGIN DELETE FROM T WHERE v = 1; END"
        ));
        device.apply(vec![entry(on, &keeper, 2, Some(&row(&keeper, 9)))]);
        assert_eq!(device.count("SELECT count(*) FROM t"), 1);
        device.run("VACUUM; CREATE TABLE other (n)");
        assert!(device.freeze().is_empty(), "a trigger on {on}");
        device.reopen(&["t", "u"]);
        assert!(device.freeze().is_empty(), "a trigger on {on}");
        // Nor does it hide what the application deletes itself.
        device.run("DELETE FROM t");
        assert_eq!(device.freeze().len(), 1);
    }
}

/// Found by reading: the sweep took a refused delete for a new one, for ever.
#[test]
fn a_refused_delete_in_a_table_that_is_swept_is_not_sent_for_ever() {
    let sql =
        "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE UNIQUE INDEX part ON t (v) WHERE v > 5";
    let mut device = Device::new(sql, &["t"]);
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    device.run("DELETE FROM t");
    let sent = device.freeze();
    device.settle(&sent, vec![refused()]);
    assert!(device.freeze().is_empty());
    assert_eq!(read(&mut device).rejected, 1);
}
