//! What a user may have: limits pass, limit + 1 does not, and nothing else changes.

use super::agree::{any_cyclic, any_sent};
use super::model::{Entry, Model, after, letters, verdicts};
use super::written::{Sent, catalog, checked, row_at, sent};
use crate::Catalog;
use crate::upload::{
    Allowed, Amount, Decision, Exceeded, Fault, Limited, Quota, Room, RowAt, Verdict, decide,
};
use crate::wire::{Op, reason};
use proptest::prelude::*;
use std::collections::HashMap;

/// What lives, and the sizes of rows: what the server measures.
fn measured(model: &Model, catalog: &Catalog) -> (Amount, HashMap<RowAt, u64>) {
    let mut sizes = HashMap::new();
    for entry in &model.log {
        let row = row_at(catalog, (entry.sent.table, entry.sent.key));
        match entry.sent.payload() {
            Some(payload) => sizes.insert(row, payload.len() as u64),
            None => sizes.remove(&row),
        };
    }
    let used = Amount {
        rows: sizes.len() as u64,
        bytes: sizes.values().sum(),
    };
    (used, sizes)
}

/// Decided under limits.
fn within(model: &Model, upload: &[Sent], allowed: Allowed) -> Decision {
    let catalog = catalog();
    let changes = checked(&catalog, upload);
    let mut view = model.view(&catalog, 0, &changes);
    let (used, sizes) = measured(model, &catalog);
    view.room = Room::Limited(Limited {
        allowed,
        used,
        sizes,
    });
    decide(&catalog, &view, &changes)
}

fn rows(limit: u64) -> Allowed {
    Allowed {
        rows: Some(limit),
        bytes: None,
    }
}

fn bytes(limit: u64) -> Allowed {
    Allowed {
        rows: None,
        bytes: Some(limit),
    }
}

/// A user with a payload of 7 or 9 bytes.
fn user(id: i64, op: Op, key: u8, base: i64, content: u8) -> Sent {
    Sent {
        content,
        ..sent(id, "users", op, key, base)
    }
}

fn message(verdict: &Verdict) -> String {
    let Verdict::Invalid(fault) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(fault.reason(), reason::PRECHECK_ERROR);
    let message = fault.message().expect("a text");
    assert_eq!(fault.detail().details["error"], message.as_str());
    message
}

#[test]
fn rows_up_to_the_limit_and_no_more() {
    use Op::{Delete, Insert, Update};
    let model = after(&[user(1, Insert, 1, 0, 0), user(2, Insert, 2, 0, 0)]);
    let upload = [
        user(1, Insert, 3, 0, 0),
        user(2, Insert, 4, 0, 0),
        // Of a row that was refused there is nothing.
        user(3, Update, 4, 1, 0),
        user(4, Update, 1, 1, 200),
        sent(5, "posts", Insert, 1, 0).to(4),
        // Last by the protocol: it makes room for the next upload.
        user(6, Delete, 2, 1, 0),
    ];
    let decision = within(&model, &upload, rows(3));
    assert_eq!(letters(&decision.verdicts), "aiiama");
    assert_eq!(
        message(&decision.verdicts[1]),
        "quota exceeded: user_rows 3, in use 3, this change 1"
    );
    assert_eq!(decision.plan.log.len(), 3);
    // Brought back to life, a row counts again.
    let gone = after(&[user(1, Insert, 1, 0, 0), user(2, Delete, 1, 1, 0)]);
    let back = [user(1, Update, 1, 2, 0), user(2, Insert, 2, 0, 0)];
    assert_eq!(letters(&within(&gone, &back, rows(1)).verdicts), "ai");
}

#[test]
fn bytes_up_to_the_limit_and_no_more() {
    use Op::{Delete, Insert, Update};
    let model = after(&[user(1, Insert, 1, 0, 0), user(2, Insert, 2, 0, 200)]);
    let grow = [user(1, Update, 1, 1, 200)];
    assert_eq!(letters(&within(&model, &grow, bytes(18)).verdicts), "a");
    let refused = within(&model, &grow, bytes(17));
    assert_eq!(
        message(&refused.verdicts[0]),
        "quota exceeded: user_bytes 17, in use 16, this change 2"
    );
    // Far above the limit: what does not grow passes, and what is gone too.
    let upload = [
        user(1, Update, 2, 1, 201),
        user(2, Update, 2, 2, 0),
        user(3, Insert, 3, 0, 0),
        user(4, Delete, 1, 1, 0),
    ];
    assert_eq!(letters(&within(&model, &upload, bytes(5)).verdicts), "aaia");
    // What an update gives back, a later change may take.
    assert_eq!(
        letters(&within(&model, &upload, bytes(21)).verdicts),
        "aaaa"
    );
    assert_eq!(
        letters(&within(&model, &upload, bytes(20)).verdicts),
        "aaia"
    );
}

/// Limits come last: who repeats a change is answered as the first time, and a row
/// that has moved on is a conflict.
#[test]
fn what_needs_no_room_is_answered_as_ever() {
    use Op::{Insert, Update};
    let mut model = after(&[user(1, Insert, 1, 0, 0)]);
    let first = [user(7, Insert, 2, 0, 0)];
    model.upload(&catalog(), 0, &first);
    let upload = [
        first[0].clone(),
        user(8, Update, 1, 0, 200),
        sent(9, "posts", Insert, 1, 0).to(9),
        user(10, Update, 3, 4, 0),
    ];
    let limited = within(&model, &upload, bytes(0)).verdicts;
    assert_eq!(limited, verdicts(&model, &upload));
    assert_eq!(letters(&limited), "acmi");
}

#[test]
fn a_ring_has_room_as_a_whole_or_none() {
    let node = |n: u8, parent: u8| sent(n.into(), "nodes", Op::Insert, n, 0).to(parent);
    let ring = [node(1, 2), node(2, 3), node(3, 1), node(4, 4), node(5, 1)];
    let none = Model::default();
    assert_eq!(letters(&within(&none, &ring, rows(5)).verdicts), "aaaaa");
    assert_eq!(letters(&within(&none, &ring, rows(3)).verdicts), "aaaii");
    let refused = within(&none, &ring, rows(2));
    assert_eq!(letters(&refused.verdicts), "iiiam");
    assert_eq!(refused.plan.log.len(), 1);
    assert_eq!(
        message(&refused.verdicts[2]),
        "quota exceeded: user_rows 2, in use 0, this change 3"
    );
}

#[test]
fn one_device_too_many_changes_nothing() {
    use Op::{Delete, Insert};
    let model = after(&[user(1, Insert, 1, 0, 0)]);
    let catalog = catalog();
    let upload = [
        user(1, Insert, 2, 0, 0),
        user(2, Delete, 1, 1, 0),
        user(3, Insert, 1, 9, 0),
    ];
    let mut changes = checked(&catalog, &upload);
    changes.push(Err(Fault::DeleteWithPayload));
    let mut view = model.view(&catalog, 0, &changes);
    view.room = Room::Closed(Exceeded {
        quota: Quota::Devices,
        limit: 2,
        used: 2,
        adds: 1,
    });
    let decision = decide(&catalog, &view, &changes);
    for verdict in &decision.verdicts[..3] {
        assert_eq!(
            message(verdict),
            "quota exceeded: user_devices 2, in use 2, this one is new"
        );
    }
    assert_eq!(
        decision.verdicts[3],
        Verdict::Invalid(Fault::DeleteWithPayload)
    );
    assert!(decision.plan.log.is_empty() && decision.plan.rows.is_empty());
    assert_eq!(decision.plan.head, view.head);
}

proptest! {
    #![proptest_config(crate::properties::cases(1_000, 7))]

    /// Whatever is sent, in rings or not: nobody grows beyond a limit; where there is
    /// room for all, limits change nothing; and only who grows is refused.
    #[test]
    fn nobody_grows_beyond_a_limit(
        earlier in prop::collection::vec(any_sent(), 0..12),
        upload in prop::collection::vec(prop_oneof![any_sent(), any_cyclic()], 1..10),
        limit_rows in 0..8_u64,
        limit_bytes in 0..300_u64,
    ) {
        let catalog = catalog();
        let mut model = Model::default();
        model.upload(&catalog, 1, &earlier);
        let (before, _) = measured(&model, &catalog);
        let allowed = Allowed { rows: Some(limit_rows), bytes: Some(limit_bytes) };
        let decision = within(&model, &upload, allowed);
        let mut later = model.clone();
        for entry in &decision.plan.log {
            let sent = upload[entry.position].clone();
            later.log.push(Entry { device: 0, sent, version: entry.version.get() });
            let (now, _) = measured(&later, &catalog);
            prop_assert!(now.rows <= limit_rows.max(before.rows), "{now:?}");
        }
        let (end, _) = measured(&later, &catalog);
        prop_assert!(end.bytes <= limit_bytes.max(before.bytes), "{end:?}");
        for verdict in &decision.verdicts {
            if let Verdict::Invalid(Fault::QuotaExceeded(exceeded)) = verdict {
                prop_assert!(exceeded.adds > 0);
                prop_assert!(exceeded.used + exceeded.adds > exceeded.limit);
            }
        }
        let all = Allowed { rows: Some(1_000), bytes: Some(100_000) };
        let (free, unlimited) = (within(&model, &upload, all), {
            let changes = checked(&catalog, &upload);
            decide(&catalog, &model.view(&catalog, 0, &changes), &changes)
        });
        prop_assert_eq!((free.verdicts, free.plan), (unlimited.verdicts, unlimited.plan));
    }
}
