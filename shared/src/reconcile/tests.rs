//! Every decision against its table.

use super::*;

const ALL_UNSENT: [Unsent; 4] = [
    Unsent::None,
    Unsent::Pending,
    Unsent::InFlight,
    Unsent::Rejected,
];

fn version(n: i64) -> RowVersion {
    RowVersion::new(n)
}

fn held(n: i64, deleted: bool) -> Held {
    Held {
        version: version(n),
        deleted,
    }
}

#[test]
fn an_entry_is_applied_only_when_it_is_newer_and_meets_no_edit() {
    for unsent in ALL_UNSENT {
        for deleted in [false, true] {
            for seen in 1..=3 {
                let action = entry(version(seen), held(2, deleted), unsent);
                let expected = match (seen > 2, unsent) {
                    (false, _) => EntryAction::Skip,
                    (true, Unsent::None) => EntryAction::Apply,
                    (true, _) => EntryAction::Shadow,
                };
                assert_eq!(action, expected, "{seen} {unsent:?}");
            }
        }
    }
}

#[test]
fn a_shadow_is_never_dropped_while_it_is_news() {
    for unsent in ALL_UNSENT {
        for (meeting, expected) in [
            (Meeting::SameContent, ShadowAction::Adopt),
            (Meeting::UnchangedSinceBase, ShadowAction::Rebase),
            (Meeting::MadeAnew, ShadowAction::Rebase),
            (Meeting::BothChanged, ShadowAction::Resolve),
        ] {
            for seen in 1..=3 {
                let action = shadow(version(seen), held(2, false), unsent, meeting);
                let expected = match (unsent, seen > 2) {
                    (Unsent::InFlight, _) => ShadowAction::Keep,
                    (_, false) => ShadowAction::Drop,
                    (Unsent::None, true) => ShadowAction::Apply,
                    (Unsent::Pending | Unsent::Rejected, true) => expected,
                };
                assert_eq!(action, expected, "{seen} {unsent:?} {meeting:?}");
            }
        }
    }
}

#[test]
fn the_operation_follows_from_the_state() {
    assert_eq!(edit(true, Held::NOTHING), Edit::Send(Op::Insert));
    assert_eq!(edit(true, held(3, false)), Edit::Send(Op::Update));
    assert_eq!(edit(true, held(3, true)), Edit::Send(Op::Insert));
    assert_eq!(edit(false, held(3, false)), Edit::Send(Op::Delete));
    assert_eq!(edit(false, held(3, true)), Edit::Nothing);
    assert_eq!(edit(false, Held::NOTHING), Edit::Nothing);
}

#[test]
fn every_answer_has_its_meaning() {
    let known = Sent {
        op: Op::Update,
        base: version(4),
        knew_row: true,
    };
    let fresh = Sent {
        op: Op::Insert,
        base: RowVersion::NEVER_SEEN,
        knew_row: false,
    };
    let delete = Sent {
        op: Op::Delete,
        base: version(4),
        knew_row: true,
    };
    let settle = |sent, answer, parent| super::settle(sent, answer, parent, Numbering::Sound);
    let here = Parent::OnItsWay;
    let away = Parent::NotHere;
    let applied = Answer::Applied(Some(version(5)));
    assert_eq!(
        settle(known, applied.clone(), away),
        Settlement::Done(held(5, false))
    );
    assert_eq!(
        settle(delete, applied, away),
        Settlement::Done(held(5, true))
    );
    assert_eq!(
        settle(delete, Answer::Applied(None), away),
        Settlement::Forgotten
    );
    let conflict = |n| Answer::Conflict(Some(held(n, false)));
    assert_eq!(settle(known, conflict(6), away), Settlement::Conflict);
    assert_eq!(settle(fresh, conflict(6), away), Settlement::Conflict);
    let gone = held(6, true);
    let tombstone = || Answer::Conflict(Some(gone));
    assert_eq!(settle(fresh, tombstone(), away), Settlement::MakeAnew(gone));
    assert_eq!(settle(known, tombstone(), away), Settlement::Conflict);
    assert_eq!(settle(delete, tombstone(), away), Settlement::Conflict);
    let edited = Sent {
        knew_row: true,
        ..fresh
    };
    assert_eq!(settle(edited, tombstone(), away), Settlement::Conflict);
    assert_eq!(settle(known, conflict(4), away), Settlement::Renumber);
    // Asked again, a server that has fallen behind would answer the same for ever.
    let behind = InvalidReason::Other("server_behind".to_owned());
    assert_eq!(settle(known, conflict(3), away), Settlement::Reject(behind));
    assert_eq!(
        settle(known, Answer::Conflict(None), away),
        Settlement::StartOver
    );
    let invalid = |code: &str| Answer::Invalid(InvalidReason::of(code));
    assert_eq!(
        settle(known, invalid(reason::INTERNAL_ERROR), away),
        Settlement::StartOver
    );
    assert_eq!(
        settle(fresh, invalid(reason::INTERNAL_ERROR), away),
        Settlement::Reject(InvalidReason::Internal)
    );
    assert_eq!(
        settle(fresh, invalid(reason::FK_MISSING), here),
        Settlement::WaitForParent
    );
    assert_eq!(
        settle(fresh, invalid(reason::FK_MISSING), away),
        Settlement::Reject(InvalidReason::FkMissing)
    );
    assert_eq!(
        settle(fresh, invalid(reason::BATCH_TOO_LARGE), away),
        Settlement::SmallerBatch
    );
    for code in [
        reason::BAD_PAYLOAD,
        reason::PRECHECK_ERROR,
        reason::UNREGISTERED_TABLE,
        "of_tomorrow",
    ] {
        assert_eq!(
            settle(known, invalid(code), here),
            Settlement::Reject(InvalidReason::of(code))
        );
        assert_eq!(InvalidReason::of(code).as_str(), code);
    }
    let doubtful = |code| super::settle(fresh, invalid(code), away, Numbering::Doubtful);
    assert_eq!(doubtful(reason::BAD_PAYLOAD), Settlement::Renumber);
    assert_eq!(
        doubtful(reason::PRECHECK_ERROR),
        Settlement::Reject(InvalidReason::Precheck)
    );
}

#[test]
fn history_is_replaced_by_another_epoch_or_a_head_behind_the_cursor() {
    let at = ServerId::new;
    assert_eq!(history(None, None, at(5), None), History::Same);
    assert_eq!(history(None, Some("e"), at(0), Some(at(9))), History::First);
    assert_eq!(
        history(Some("e"), Some("e"), at(5), Some(at(5))),
        History::Same
    );
    assert_eq!(
        history(Some("e"), Some("f"), at(5), Some(at(9))),
        History::Replaced
    );
    assert_eq!(
        history(Some("e"), Some("e"), at(5), Some(at(4))),
        History::Replaced
    );
    assert_eq!(history(None, None, at(5), Some(at(4))), History::Replaced);
    assert_eq!(history(Some("e"), None, at(5), None), History::Same);
}

#[test]
fn the_cursor_moves_forward_only() {
    let at = ServerId::new;
    let page = |next_after, has_more, window, head| PageBounds {
        next_after: at(next_after),
        has_more,
        window_until: at(window),
        head,
    };
    let end = page(7, false, 9, Some(at(12)));
    assert_eq!(cursor_after(at(5), end, true), at(9));
    assert_eq!(cursor_after(at(5), end, false), at(7));
    // A head that is behind the window holds the cursor back.
    assert_eq!(
        cursor_after(at(5), page(7, false, 9, Some(at(8))), true),
        at(8)
    );
    assert_eq!(
        cursor_after(at(5), page(7, true, 9, Some(at(9))), true),
        at(7)
    );
    assert_eq!(cursor_after(at(5), page(3, false, 4, None), true), at(5));
}
