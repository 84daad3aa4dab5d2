//! The tables of PROTOCOL.md, case by case.

use super::model::{Model, after, letters, outcome, verdicts};
use super::written::{catalog, checked, row_at, sent};
use crate::RowVersion;
use crate::upload::{Fault, Verdict, View, decide};
use crate::wire::Op;
use std::collections::HashSet;

#[test]
fn the_version_gate_in_full() {
    use Op::{Delete, Insert, Update};
    let live = [
        sent(1, "users", Insert, 1, 0),
        sent(2, "users", Update, 1, 1),
    ];
    let gone = [&live[..], &[sent(3, "users", Delete, 1, 2)]].concat();
    for (before, version) in [(&[][..], 0), (&live, 2), (&gone, 3)] {
        let model = after(before);
        for op in [Insert, Update, Delete] {
            for base in [i64::MIN, -1, 0, 1, 2, 3, 4, i64::MAX] {
                let verdict = verdicts(&model, &[sent(9, "users", op, 1, base)]).remove(0);
                let what = format!("version {version}, {op:?} on {base}");
                match (version, base == version) {
                    (0, true) if op == Delete => {
                        assert_eq!(verdict, Verdict::Applied(None), "{what}")
                    }
                    (_, true) => assert_eq!(
                        verdict,
                        Verdict::Applied(Some(RowVersion::new(version + 1))),
                        "{what}"
                    ),
                    (0, false) => assert!(
                        matches!(verdict, Verdict::Invalid(Fault::NoServerRow { .. })),
                        "{what}"
                    ),
                    (_, false) => {
                        let Verdict::Conflict(current) = verdict else {
                            panic!("{what}: {verdict:?}")
                        };
                        assert_eq!(current.state.version.get(), version, "{what}");
                        assert_eq!(current.state.deleted, version == 3, "{what}");
                        assert_eq!(current.state.at.get(), version, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn several_changes_of_one_row() {
    use Op::{Delete, Insert, Update};
    let upload = [
        sent(1, "users", Insert, 1, 0),
        sent(2, "users", Update, 1, 0),
        sent(3, "users", Update, 1, 1),
        sent(4, "users", Delete, 1, 2),
        sent(5, "users", Delete, 1, 2),
    ];
    assert_eq!(outcome(&Model::default(), &upload), "acaac");
}

#[test]
fn a_change_id_means_one_content() {
    use Op::{Insert, Update};
    let mut model = Model::default();
    model.upload(&catalog(), 0, &[sent(1, "users", Insert, 1, 0)]);
    let mut other = sent(1, "users", Insert, 1, 1);
    assert_eq!(
        outcome(&model, std::slice::from_ref(&other)),
        "a",
        "the base is not content"
    );
    other.content = 1;
    assert_eq!(outcome(&model, &[other]), "c");
    assert_eq!(outcome(&model, &[sent(1, "users", Update, 1, 1)]), "c");
    assert_eq!(outcome(&model, &[sent(1, "users", Insert, 2, 0)]), "i");
    // Inside one upload: only an applied first entry holds the id.
    let upload = [
        sent(2, "users", Insert, 2, 7),
        sent(2, "users", Insert, 2, 0),
        sent(2, "users", Insert, 3, 0),
    ];
    assert_eq!(outcome(&model, &upload), "iai");
}

#[test]
fn parents_and_children_of_one_upload() {
    use Op::{Delete, Insert, Update};
    let child = |id: i64| sent(id, "posts", Insert, 1, 0).to(1);
    let none = Model::default();
    assert_eq!(
        outcome(&none, &[child(1), sent(2, "users", Insert, 1, 0)]),
        "aa"
    );
    assert_eq!(
        outcome(&none, &[child(1), sent(2, "users", Insert, 1, 4)]),
        "mi"
    );
    assert_eq!(
        outcome(&none, &[sent(2, "users", Delete, 1, 0), child(1)]),
        "am"
    );
    let parent = after(&[sent(1, "users", Insert, 1, 0)]);
    assert_eq!(outcome(&parent, &[child(1)]), "a");
    assert_eq!(
        outcome(&parent, &[child(1), sent(2, "users", Delete, 1, 1)]),
        "ma"
    );
    assert_eq!(
        outcome(&parent, &[child(1), sent(2, "users", Delete, 1, 9)]),
        "mc"
    );
    assert_eq!(
        outcome(&parent, &[child(1), sent(2, "users", Update, 1, 9)]),
        "ac"
    );
}

#[test]
fn a_delete_on_record_takes_nothing_away() {
    use Op::{Delete, Insert, Update};
    let mut model = after(&[sent(1, "users", Insert, 1, 0)]);
    let delete = sent(5, "users", Delete, 1, 1);
    model.upload(&catalog(), 0, std::slice::from_ref(&delete));
    model.upload(&catalog(), 1, &[sent(2, "users", Update, 1, 2)]);
    let upload = [delete, sent(6, "posts", Insert, 1, 0).to(1)];
    assert_eq!(outcome(&model, &upload), "aa");
}

#[test]
fn a_business_row_counts_as_a_parent() {
    let catalog = catalog();
    let child = checked(&catalog, &[sent(1, "posts", Op::Insert, 1, 0).to(1)]);
    let mut view = View::default();
    assert_eq!(letters(&decide(&catalog, &view, &child).verdicts), "m");
    view.in_business = HashSet::from([row_at(&catalog, ("users", 1))]);
    assert_eq!(letters(&decide(&catalog, &view, &child).verdicts), "a");
}
