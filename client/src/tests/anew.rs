//! Passes over everything, in the same history or in another file's place: what is
//! not named is gone, what is named stays as it is; and rows made anew under keys that
//! were used before.

use super::words::{conflict, in_step, row};
use super::{Device, WIDE, applied, entry, reply, uuid};
use crate::resync::{self, Cause};
use crate::settle::Acknowledged;
use crate::state::State;
use crate::{capture, conflicts, outbox, parked, status};
use oversync_shared::wire::{ChangeStatus, Op, UploadReply};
use oversync_shared::{ChangeId, ServerId};

/// Settles as a server answers that knows of a higher number of this device.
fn settle_shared(device: &mut Device, statuses: Vec<ChangeStatus>) -> Acknowledged {
    let sent = device.freeze();
    assert_eq!(sent.len(), statuses.len());
    let reply = UploadReply {
        highest_source_change_id: Some(ChangeId::new(900)),
        ..reply(statuses)
    };
    device.acknowledge(&sent, &reply)
}

fn prune(device: &mut Device) {
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryPruned, None)
    });
}

/// What would be sent: key, operation, version.
fn outgoing(device: &mut Device) -> Vec<(String, Op, i64)> {
    let sent = device.freeze().into_iter();
    let mut sent: Vec<_> = sent
        .map(|one| (one.row.key.to_string(), one.op, one.version.get()))
        .collect();
    sent.sort_by(|a, b| a.0.cmp(&b.0));
    sent
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
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryReplaced, Some("new"))
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
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryPruned, None)
    });
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 1);
    assert!(device.freeze().is_empty());
}

/// A backup that is put back passes over everything from 0 on: nobody tells it that
/// deletions were folded away since.
#[test]
fn a_file_put_back_loses_what_others_have_deleted() {
    let (mut device, kept) = in_step(None);
    let (gone, edited, deleted, again) = (uuid(2), uuid(3), uuid(4), uuid(5));
    for id in [&gone, &edited, &deleted, &again] {
        device.apply(vec![entry("t", id, 1, Some(&row(id, 1)))]);
    }
    device.apply(vec![entry("t", &again, 2, None)]);
    device.run(&format!("UPDATE t SET v = 2 WHERE id = '{kept}'"));
    settle_shared(&mut device, vec![conflict(&kept, 7, Some(&row(&kept, 7)))]);
    let state = device.write(|txn| State::load(txn.conn));
    assert!(!state.hydrated && state.shares_device);
    assert_eq!(
        (state.cursor, state.resync),
        (ServerId::ZERO, Some(Cause::HistoryPruned))
    );
    device.run(&format!(
        "UPDATE t SET v = 3 WHERE id = '{edited}'; DELETE FROM t WHERE id = '{deleted}';
         INSERT INTO t VALUES ('{again}', 4)"
    ));
    device.apply(vec![entry("t", &kept, 7, Some(&row(&kept, 7)))]);
    let left = "SELECT group_concat(substr(id, -1) || v, ' ') FROM (SELECT * FROM t ORDER BY id)";
    assert_eq!(device.text(left).as_deref(), Some("17 33 54"));
    assert!(device.write(|txn| State::load(txn.conn)).hydrated);
    // What was done to rows that are gone is judged there, each on what it was done to.
    let expected = [
        (edited, Op::Update, 1),
        (deleted, Op::Delete, 1),
        (again, Op::Insert, 2),
    ];
    assert_eq!(outgoing(&mut device), expected);
    assert_eq!(device.freeze()[0].id, ChangeId::new(901));
}

/// Found by reading: the row was deleted, because nothing could be written of it.
#[test]
fn a_row_that_is_named_and_cannot_be_written_stays() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER CHECK (v < 100))";
    let mut device = Device::new(sql, &["t"]);
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    prune(&mut device);
    device.apply(vec![entry("t", &id, 2, Some(&row(&id, 500)))]);
    assert_eq!(device.count("SELECT v FROM t"), 1);
    assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 1);
    assert!(device.freeze().is_empty());
}

/// Found by reading: it was thrown away with the first try, because nothing is known of
/// the row any more.
#[test]
fn a_deletion_that_nobody_names_waits_for_what_is_in_its_way() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);
        CREATE TABLE own (t TEXT REFERENCES t (id) ON DELETE RESTRICT)";
    let mut device = Device::new(sql, &["t"]);
    let (kept, gone) = (uuid(1), uuid(2));
    for id in [&kept, &gone] {
        device.apply(vec![entry("t", id, 1, Some(&row(id, 1)))]);
    }
    device.run(&format!("INSERT INTO own VALUES ('{gone}')"));
    prune(&mut device);
    for version in 1..=4 {
        device.apply(vec![entry("t", &kept, version, Some(&row(&kept, version)))]);
        assert_eq!(device.count("SELECT count(*) FROM t"), 2);
        assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 1);
    }
    device.run("DELETE FROM own");
    device.apply(vec![entry("t", &kept, 5, Some(&row(&kept, 5)))]);
    assert_eq!(device.text("SELECT group_concat(id) FROM t"), Some(kept));
    assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 0);
    assert!(device.freeze().is_empty(), "nothing is sent again");
    // Made anew, it is one like any other.
    device.apply(vec![entry("t", &gone, 3, Some(&row(&gone, 3)))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 2);
}

/// Found by reading: what was parked took the place of what the page had just brought.
#[test]
fn what_was_parked_does_not_overtake_what_a_page_brings() {
    let sql = "CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, v INTEGER);
        CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER CHECK (v < 100),
            p TEXT REFERENCES p (id));
        CREATE TABLE own (t TEXT REFERENCES t (id) ON DELETE RESTRICT)";
    let child = |id: &str, v: i64, p: &str| format!(r#"{{"id":"{id}","v":{v},"p":"{p}"}}"#);
    let (kept, gone, parent, late) = (uuid(1), uuid(2), uuid(3), uuid(4));
    let mut device = Device::new(sql, &["p", "t"]);
    for id in [&kept, &gone] {
        device.apply(vec![entry("t", id, 1, Some(&row(id, 1)))]);
    }
    // A delete that nobody named, and a state that cannot be written.
    device.run(&format!("INSERT INTO own VALUES ('{gone}')"));
    prune(&mut device);
    device.apply(vec![
        entry("t", &kept, 1, Some(&row(&kept, 1))),
        entry("t", &late, 3, Some(&row(&late, 300))),
    ]);
    assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 2);
    device.run("DELETE FROM own");
    // Both wait for their parent, which comes behind them, while the older are tried.
    device.apply_page(
        vec![
            entry("t", &gone, 5, Some(&child(&gone, 5, &parent))),
            entry("t", &late, 4, Some(&child(&late, 4, &parent))),
        ],
        true,
    );
    device.apply(vec![entry("p", &parent, 1, Some(&row(&parent, 1)))]);
    let values = "SELECT group_concat(v, ' ') FROM (SELECT v FROM t ORDER BY id)";
    assert_eq!(device.text(values).as_deref(), Some("1 5 4"));
    assert_eq!(device.write(|txn| parked::list(txn.conn)).len(), 0);
}

/// Found by reading: the rows that the restored server had lost were deleted.
#[test]
fn a_pass_over_another_history_that_is_cut_short_deletes_nothing() {
    let (mut device, id) = in_step(None);
    let lost = uuid(2);
    device.apply(vec![entry("t", &lost, 1, Some(&row(&lost, 1)))]);
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryReplaced, Some("new"))
    });
    device.apply_page(vec![entry("t", &id, 1, Some(&row(&id, 1)))], true);
    prune(&mut device);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 2);
    assert_eq!(outgoing(&mut device), [(lost, Op::Insert, 0)]);
}

/// The fold has the row as it was at the floor, the log above it what this device has
/// acknowledged since: the older states are old news.
#[test]
fn older_states_of_a_pass_are_no_conflicts() {
    let (mut device, id) = in_step(None);
    device.apply(vec![entry("t", &id, 5, Some(&row(&id, 5)))]);
    prune(&mut device);
    for version in 3..=5 {
        let page = vec![entry("t", &id, version, Some(&row(&id, version)))];
        device.apply_page(page, version < 5);
        assert_eq!(device.count("SELECT v FROM t"), 5);
    }
    assert!(device.freeze().is_empty());
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 0);
}

/// In the same history the server knows the number: a new one might do it twice.
#[test]
fn what_is_frozen_stays_so_when_the_history_is_pruned() {
    let (mut device, id) = in_step(None);
    let fresh = uuid(2);
    device.run(&format!("INSERT INTO t VALUES ('{fresh}', 1)"));
    let sent = device.freeze();
    // It is applied, the answer is lost, and the application goes on.
    device.run(&format!("UPDATE t SET v = 2 WHERE id = '{fresh}'"));
    prune(&mut device);
    device.apply(vec![
        entry("t", &id, 1, Some(&row(&id, 1))),
        entry("t", &fresh, 1, Some(&row(&fresh, 1))),
    ]);
    let again = device.write(|txn| outbox::next_batch(txn, WIDE));
    assert_eq!(again, sent);
    device.settle(&again, vec![applied(&again[0])]);
    assert_eq!(outgoing(&mut device), [(fresh, Op::Update, 1)]);
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 0);
}

/// The tombstone was folded away, or is on its way here: this row is another one.
#[test]
fn a_row_made_anew_under_a_used_key_stands_on_the_tombstone() {
    let (mut device, _) = in_step(None);
    let (stays, goes) = (uuid(2), uuid(3));
    device.run(&format!(
        "INSERT INTO t VALUES ('{stays}', 1), ('{goes}', 1)"
    ));
    let sent = device.freeze();
    device.run(&format!("DELETE FROM t WHERE id = '{goes}'"));
    let statuses = [&stays, &goes].map(|id| conflict(id, 6, None)).to_vec();
    let done = device.settle(&sent, statuses);
    assert_eq!((done.conflicts, done.rejected), (0, 0));
    assert_eq!(device.count("SELECT v FROM t WHERE id LIKE '%2'"), 1);
    let sent = device.freeze();
    let made: Vec<_> = sent.iter().map(|one| (one.op, one.version.get())).collect();
    assert_eq!(
        made,
        [(Op::Insert, 6)],
        "and nothing of the row that is gone again"
    );
    device.settle_applied(&sent);
    // Its page passes over what is older.
    device.apply(vec![entry("t", &stays, 6, None)]);
    assert_eq!(device.count("SELECT v FROM t WHERE id LIKE '%2'"), 1);
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 0);
}

/// Found by reading: the row that a restored server had lost, and that another device had
/// offered and deleted again, was made anew, and nobody was told.
#[test]
fn a_row_that_was_known_and_is_offered_again_is_not_made_anew() {
    let (mut device, kept) = in_step(None);
    let (offered, edited, made) = (uuid(2), uuid(3), uuid(4));
    for id in [&offered, &edited] {
        device.apply(vec![entry("t", id, 1, Some(&row(id, 1)))]);
    }
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryReplaced, Some("new"))
    });
    device.run(&format!(
        "UPDATE t SET v = 2 WHERE id = '{edited}'; INSERT INTO t VALUES ('{made}', 3)"
    ));
    device.apply(vec![entry("t", &kept, 1, Some(&row(&kept, 1)))]);
    let sent = device.freeze();
    let known: Vec<_> = sent.iter().map(|one| one.was_known).collect();
    assert_eq!(
        (sent.len(), known.iter().filter(|one| **one).count()),
        (3, 2)
    );
    // Sent in vain: it is still known.
    let again = device.write(|txn| {
        for one in &sent {
            capture::put_back(txn.conn, one)?;
            outbox::remove(txn.conn, one.id)?;
        }
        outbox::next_batch(txn, WIDE)
    });
    let statuses = again.iter();
    let statuses = statuses.map(|one| conflict(&one.row.key.to_string(), 2, None));
    let done = device.settle(&again, statuses.collect());
    assert_eq!(done.conflicts, 2, "the delete wins, and is told of");
    let left = "SELECT group_concat(v, ' ') FROM (SELECT v FROM t ORDER BY id)";
    assert_eq!(device.text(left).as_deref(), Some("1 3"));
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 2);
    assert_eq!(outgoing(&mut device), [(made, Op::Insert, 2)]);
}

/// Found by reading: the answer to an upload left it there, and a page that came first
/// removed it.
#[test]
fn a_row_made_anew_stands_whether_a_page_or_an_answer_tells_of_the_tombstone() {
    let (mut device, kept) = in_step(None);
    let made = uuid(2);
    device.run(&format!("INSERT INTO t VALUES ('{made}', 1)"));
    device.apply(vec![entry("t", &made, 6, None)]);
    assert_eq!(device.count("SELECT count(*) FROM t"), 2);
    assert_eq!(outgoing(&mut device), [(made, Op::Insert, 6)]);
    let sent = device.freeze();
    device.settle_applied(&sent);
    // A file put back may have sent it in a later life; so may one whose server has lost
    // the answer with its history. There the delete is news.
    let put_back = uuid(3);
    device.run(&format!("INSERT INTO t VALUES ('{put_back}', 1)"));
    device.write(|txn| {
        capture::collect(txn)?;
        let mut state = State::load(txn.conn)?;
        resync::continue_above(txn, &mut state, Some(ChangeId::new(900)))?;
        state.save(txn.conn)
    });
    let with = |gone: &str| {
        let stays = entry("t", &kept, 1, Some(&row(&kept, 1)));
        vec![stays, entry("t", gone, 2, None)]
    };
    device.apply(with(&put_back));
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 1);
    let unanswered = uuid(4);
    device.run(&format!("INSERT INTO t VALUES ('{unanswered}', 1)"));
    assert_eq!(device.freeze().len(), 1);
    device.write(|txn| {
        capture::collect(txn)?;
        resync::begin(txn, Cause::HistoryReplaced, Some("new"))
    });
    device.apply(with(&unanswered));
    assert_eq!(device.write(|txn| conflicts::list(txn.conn)).len(), 2);
    let left = "SELECT count(*) FROM t WHERE id LIKE '%3' OR id LIKE '%4'";
    assert_eq!(device.count(left), 0);
}
