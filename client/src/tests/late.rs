//! Answers that come when the file has gone on without this process: another one
//! has settled what was sent, or everything has begun anew.

use super::words::{conflict, in_step, refused, row};
use super::{Device, WIDE, applied, reply, uuid};
use crate::outbox::BatchLimits;
use crate::state::State;
use crate::{settle, status, upload};
use oversync_shared::wire::UploadReply;
use oversync_shared::{ChangeId, ServerId};

/// A change's answer as of before the file went on without this process.
#[test]
fn a_late_answer_settles_nothing_that_has_gone_its_way() {
    let (mut device, id) = in_step(None);
    let other = uuid(2);
    device.run(&format!(
        "UPDATE t SET v = 10; INSERT INTO t VALUES ('{other}', 1)"
    ));
    let sent = device.freeze();
    assert_eq!(sent.len(), 2);
    // Another process has had the answer, and has sent a newer edit since.
    device.settle_applied(&sent);
    device.run("UPDATE t SET v = 11");
    let newer = device.freeze();
    device.settle_applied(&newer);
    let held = "SELECT group_concat(version) FROM (SELECT version FROM _sync_row ORDER BY pk)";
    assert_eq!(device.text(held).as_deref(), Some("3,2"));
    // Whatever the answer says: as it was, a conflict, a refusal.
    for late in [
        vec![applied(&sent[0]), applied(&sent[1])],
        vec![conflict(&id, 2, Some(&row(&id, 10))), refused()],
    ] {
        let done = device.settle(&sent, late);
        assert_eq!((done.applied, done.rejected, done.conflicts), (0, 0, 0));
        assert_eq!(device.text(held).as_deref(), Some("3,2"));
        assert!(device.freeze().is_empty());
    }
    device.write(|txn| settle::reject_too_large(txn, &sent[0]));
    assert_eq!(device.write(|txn| status::read(txn.conn)).rejected, 0);
    // Begun anew: the edit has a new number, and the answer to the old one is void.
    device.run(&format!("UPDATE t SET v = 12 WHERE id = '{id}'"));
    let sent = device.freeze();
    device
        .write(|txn| crate::resync::begin(txn, crate::resync::Cause::HistoryReplaced, Some("new")));
    device.settle(&sent, vec![refused()]);
    let status = device.write(|txn| status::read(txn.conn));
    assert_eq!((status.unsent, status.rejected), (1, 0));
}

#[test]
fn a_late_answer_begins_nothing_anew() {
    let (mut device, _) = in_step(None);
    device.run("UPDATE t SET v = 10");
    let sent = device.freeze();
    device.settle_applied(&sent);
    device.apply(vec![]);
    // Its head was the newest when it was read.
    let late = UploadReply {
        highest_server_seq: ServerId::new(1),
        head: Some(ServerId::new(1)),
        ..reply(vec![applied(&sent[0])])
    };
    device.acknowledge(&sent, &late);
    let state = device.write(|txn| State::load(txn.conn));
    assert!(state.hydrated && state.cursor.get() > 1);
}

/// The server may forget every number below `settled_below`: none of them may ever
/// be sent again.
#[test]
fn settled_below_names_numbers_that_are_never_sent_again() {
    let (mut device, _) = in_step(None);
    let one = |device: &mut super::Device| {
        let few = BatchLimits { changes: 2, ..WIDE };
        let batch = upload::prepare(&mut device.store, few)
            .expect("prepares")
            .expect("hydrated");
        let ids: Vec<i64> = batch.sent.iter().map(|frozen| frozen.id.get()).collect();
        let below = batch.request.settled_below.map_or(1, |id| id.get());
        (ids, below, batch.sent)
    };
    let rows: Vec<String> = (2..7).map(|n| format!("('{}', {n})", uuid(n))).collect();
    device.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
    let (ids, below, _) = one(&mut device);
    assert_eq!((&*ids, below), (&[1, 2][..], 1), "nothing to forget yet");
    // Its answer was lost: the same again.
    let (ids, below, sent) = one(&mut device);
    assert_eq!((&*ids, below), (&[1, 2][..], 1));
    device.settle(&sent, vec![refused(), applied(&sent[1])]);
    let (ids, below, sent) = one(&mut device);
    assert_eq!((&*ids, below), (&[3, 4][..], 3));
    // A conflict goes again under a new number, a retried refusal, too.
    device.settle(&sent, vec![applied(&sent[0]), conflict(&uuid(5), 7, None)]);
    device.write(crate::rejected::retry_all);
    let mut newest = 4;
    loop {
        let (ids, below, sent) = one(&mut device);
        if sent.is_empty() {
            break;
        }
        assert!(ids.iter().all(|id| *id > newest), "{ids:?} after {newest}");
        assert_eq!(below, ids[0]);
        newest = ids[ids.len() - 1];
        device.settle_applied(&sent);
    }
    assert!(newest >= 6);
}

/// Found by history 1916 of the simulator: a file that had been put back gave out the
/// numbers of its earlier self before it had heard of them; that came out as ordinary
/// conflicts, and what the earlier self had written never came down.
#[test]
fn nothing_new_is_numbered_before_the_server_has_said_what_it_knows() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let id = uuid(1);
    device.run(&format!("INSERT INTO t VALUES ('{id}', 1)"));
    let batch = upload::prepare(&mut device.store, WIDE).expect("prepares");
    let batch = batch.expect("hydrated");
    assert!(batch.sent.is_empty() && batch.request.changes.is_empty());
    assert_eq!(device.count("SELECT count(*) FROM _sync_outbox"), 0);
    let reply = UploadReply {
        highest_server_seq: ServerId::new(5),
        highest_source_change_id: Some(ChangeId::new(9)),
        ..reply(Vec::new())
    };
    device.acknowledge(&[], &reply);
    // Everything comes down first, also what "this device" wrote.
    let state = device.write(|txn| State::load(txn.conn));
    assert!(state.shares_device && !state.hydrated);
    let batch = upload::prepare(&mut device.store, WIDE).expect("prepares");
    assert!(batch.is_none());
    device.apply(vec![]);
    let batch = upload::prepare(&mut device.store, WIDE).expect("prepares");
    let sent = batch.expect("hydrated").sent;
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].id, ChangeId::new(10));
    // What is frozen is sent again without a question.
    device.reopen(&["t"]);
    let batch = upload::prepare(&mut device.store, WIDE).expect("prepares");
    assert_eq!(batch.expect("hydrated").sent, sent);
}
