//! Two edits of one row, on real files: through a page and through an upload's
//! answer, with every policy's way into the table.

use super::words::conflict;
use super::{Device, entry, uuid};
use crate::config::Config;
use crate::conflicts::{self, ConflictRecord};
use crate::error::{Error, SetupError};
use crate::field_merge::{DeletePolicy, FieldMerge};
use crate::resolver::{Conflict, NewestBy, Resolution, Resolver};
use oversync_shared::merge::{ColumnChoice, ColumnPolicy};
use oversync_shared::wire::Op;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const TABLE: &str = "CREATE TABLE t (
    id TEXT PRIMARY KEY, title TEXT, body TEXT, views INTEGER, price REAL, at TEXT)";

fn payload(title: &str, body: &str, views: i64) -> String {
    let id = uuid(1);
    format!(
        r#"{{"id":"{id}","title":"{title}","body":"{body}","views":{views},"price":1.5,"at":null}}"#
    )
}

/// A device that has one row in common with the server, at version 1.
fn in_step(tune: impl FnOnce(Config) -> Config) -> Device {
    let mut device = Device::with(TABLE, |config| tune(config.table("t"))).expect("opens");
    let first = payload("a", "a", 10);
    device.apply(vec![entry("t", &uuid(1), 1, Some(&first))]);
    device
}

fn list(device: &mut Device) -> Vec<ConflictRecord> {
    device.write(|txn| conflicts::list(txn.conn))
}

fn look(device: &Device) -> String {
    device
        .text("SELECT title || ' ' || body || ' ' || views FROM t")
        .unwrap_or_default()
}

#[test]
fn edits_of_different_columns_are_both_kept() {
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET title = 'mine'");
    device.apply(vec![entry(
        "t",
        &uuid(1),
        2,
        Some(&payload("a", "theirs", 10)),
    )]);
    assert_eq!(look(&device), "mine theirs 10");
    let sent = device.freeze();
    assert_eq!((sent[0].version.get(), sent.len()), (2, 1));
    assert_eq!(
        sent[0].payload.as_deref(),
        Some(&*payload("mine", "theirs", 10))
    );
    assert_eq!(sent[0].base.as_deref(), Some(&*payload("a", "theirs", 10)));
    assert!(list(&mut device).is_empty());
    assert_eq!(
        device.write(|txn| crate::status::read(txn.conn)).conflicts,
        0
    );
}

#[test]
fn the_same_through_an_answer_takes_a_new_number() {
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET title = 'mine'");
    let first = device.freeze();
    // An edit made in flight goes along.
    device.run("UPDATE t SET views = 11");
    let theirs = payload("a", "theirs", 10);
    device.settle(&first, vec![conflict(&uuid(1), 2, Some(&theirs))]);
    let second = device.freeze();
    assert!(second[0].id > first[0].id, "every rebase takes a new id");
    assert_eq!(
        second[0].payload.as_deref(),
        Some(&*payload("mine", "theirs", 11))
    );
    // And once more: the base moved on with the rebase.
    let theirs = payload("a", "theirs again", 10);
    device.settle(&second, vec![conflict(&uuid(1), 3, Some(&theirs))]);
    let third = device.freeze();
    assert_eq!(
        third[0].payload.as_deref(),
        Some(&*payload("mine", "theirs again", 11))
    );
    assert!(list(&mut device).is_empty());
}

#[test]
fn the_same_column_follows_its_policy_and_the_loser_is_kept() {
    let mut device = in_step(|config| {
        config
            .merge_column("T", "Views", ColumnPolicy::Add)
            .merge_column("t", "body", ColumnPolicy::Client)
    });
    device.run("UPDATE t SET title = 'mine', body = 'mine', views = 13");
    let theirs = payload("theirs", "theirs", 20);
    device.apply(vec![entry("t", &uuid(1), 2, Some(&theirs))]);
    assert_eq!(look(&device), "theirs mine 23");
    let kept = list(&mut device);
    assert_eq!(kept.len(), 1);
    assert_eq!(
        kept[0].lost.as_deref(),
        Some(r#"{"body":"theirs","title":"mine"}"#)
    );
    assert_eq!(
        (&*kept[0].outcome, &*kept[0].columns),
        ("merged", &["body".to_owned(), "title".to_owned()][..])
    );
    assert_eq!(device.freeze().len(), 1);
}

#[test]
fn two_devices_that_add_the_same_have_both_added_it() {
    let mut device = in_step(|config| config.merge_column("t", "views", ColumnPolicy::Add));
    device.run("UPDATE t SET views = views + 5");
    let theirs = payload("a", "a", 15);
    device.apply(vec![entry("t", &uuid(1), 2, Some(&theirs))]);
    assert_eq!(look(&device), "a a 20");
    assert_eq!(device.freeze().len(), 1);
    // Without a counter it is one edit, and settled.
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET views = views + 5");
    device.apply(vec![entry("t", &uuid(1), 2, Some(&theirs))]);
    assert_eq!(look(&device), "a a 15");
    assert!(device.freeze().is_empty());
}

#[test]
fn a_merge_that_adds_nothing_is_not_sent() {
    let mut device = in_step(|config| config);
    // One column the same, the other one the server's by policy.
    device.run("UPDATE t SET title = 'both', body = 'mine'");
    let theirs = payload("both", "theirs", 10);
    device.apply(vec![entry("t", &uuid(1), 2, Some(&theirs))]);
    assert_eq!(look(&device), "both theirs 10");
    assert!(device.freeze().is_empty());
    assert_eq!(
        list(&mut device)[0].lost.as_deref(),
        Some(r#"{"body":"mine"}"#)
    );
}

#[test]
fn other_writers_spell_numbers_and_columns_their_own_way() {
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET price = 2.5, title = 'mine', views = 11");
    let id = uuid(1).to_uppercase();
    // Not an edit of price, views or the key: 1.50 is 1.5, 10.0 is 10.
    let theirs = format!(
        r#"{{"ID":"{id}","title":"a","Body":"theirs","views":10.0,"price":1.50,"at":null,"new":7}}"#
    );
    device.apply(vec![entry("t", &id, 2, Some(&theirs))]);
    assert_eq!(look(&device), "mine theirs 11");
    assert_eq!(
        device.text("SELECT CAST(price AS TEXT) FROM t").as_deref(),
        Some("2.5")
    );
    assert!(list(&mut device).is_empty());
    let sent = device.freeze();
    let text = sent[0].payload.clone().expect("a payload");
    assert!(text.contains(r#""new":7"#), "their unknown column: {text}");
    // Another edit of the unknown column, and one of ours: both stay.
    device.settle_applied(&sent);
    device.run("UPDATE t SET title = 'again'");
    let theirs = text.replace(r#""new":7"#, r#""new":8"#);
    device.apply(vec![entry("t", &id, 4, Some(&theirs))]);
    let text = device.freeze()[0].payload.clone().expect("a payload");
    assert!(
        text.contains(r#""new":8"#) && text.contains("again"),
        "{text}"
    );
}

#[test]
fn a_delete_against_an_edit_follows_its_policy_in_either_order() {
    for (policy, here) in [(DeletePolicy::DeleteWins, 0), (DeletePolicy::EditWins, 1)] {
        let tune = |config: Config| config.merge_deletes("t", policy);
        // They deleted, this device edited.
        let mut device = in_step(tune);
        device.run("UPDATE t SET title = 'mine'");
        device.apply(vec![entry("t", &uuid(1), 2, None)]);
        assert_eq!(device.count("SELECT count(*) FROM t"), here, "{policy:?}");
        let sent = device.freeze();
        let ops: Vec<Op> = sent.iter().map(|change| change.op).collect();
        let kept = list(&mut device);
        assert_eq!(kept.len(), 1);
        match policy {
            DeletePolicy::DeleteWins => {
                assert!(ops.is_empty());
                assert_eq!(kept[0].lost, kept[0].mine);
            }
            DeletePolicy::EditWins => {
                assert_eq!((ops, sent[0].version.get()), (vec![Op::Insert], 2));
                assert_eq!(kept[0].lost, None);
            }
        }
        // This device deleted, they edited.
        let mut device = in_step(tune);
        device.run("DELETE FROM t");
        let theirs = payload("theirs", "a", 10);
        device.apply(vec![entry("t", &uuid(1), 2, Some(&theirs))]);
        assert_eq!(device.count("SELECT count(*) FROM t"), here, "{policy:?}");
        let ops: Vec<Op> = device.freeze().iter().map(|change| change.op).collect();
        let kept = list(&mut device);
        assert_eq!(kept.len(), 1);
        match policy {
            DeletePolicy::DeleteWins => {
                assert_eq!(ops, [Op::Delete]);
                assert_eq!(kept[0].lost.as_deref(), Some(&*theirs));
            }
            DeletePolicy::EditWins => {
                assert!(ops.is_empty());
                assert_eq!(kept[0].lost, None);
            }
        }
    }
}

#[test]
fn two_inserts_of_one_key_have_no_base() {
    let mut device = Device::with(TABLE, |config| config.table("t")).expect("opens");
    device.run(&format!(
        "INSERT INTO t VALUES ('{}', 'mine', 'same', 1, 1.5, NULL)",
        uuid(1)
    ));
    let sent = device.freeze();
    let theirs = payload("theirs", "same", 1);
    device.settle(&sent, vec![conflict(&uuid(1), 1, Some(&theirs))]);
    assert_eq!(look(&device), "theirs same 1");
    assert!(device.freeze().is_empty());
    let kept = list(&mut device);
    assert_eq!(
        (kept[0].base.as_deref(), kept[0].lost.as_deref()),
        (None, Some(r#"{"title":"mine"}"#))
    );
}

#[test]
fn a_merged_row_that_the_file_refuses_gives_way_to_the_servers() {
    let table =
        "CREATE TABLE t (id TEXT PRIMARY KEY, low INTEGER, high INTEGER, CHECK (low <= high))";
    let mut device = Device::with(table, |config| config.table("t")).expect("opens");
    let id = uuid(1);
    let row = |low: i64, high: i64| format!(r#"{{"id":"{id}","low":{low},"high":{high}}}"#);
    device.apply(vec![entry("t", &id, 1, Some(&row(1, 9)))]);
    device.run("UPDATE t SET low = 7");
    device.apply(vec![entry("t", &id, 2, Some(&row(1, 5)))]);
    assert_eq!(
        device.text("SELECT low || ' ' || high FROM t").as_deref(),
        Some("1 5")
    );
    assert!(device.freeze().is_empty());
    // Nothing of the edit goes without a trace.
    let kept = list(&mut device);
    assert_eq!(
        (&*kept[0].outcome, kept[0].lost.as_deref()),
        ("theirs", Some(r#"{"low":7}"#))
    );
}

#[test]
fn a_refused_edit_is_merged_and_tried_again() {
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET title = 'mine'");
    let sent = device.freeze();
    device.settle(&sent, vec![super::words::refused()]);
    assert_eq!(device.write(|txn| crate::rejected::list(txn.conn)).len(), 1);
    device.apply(vec![entry(
        "t",
        &uuid(1),
        2,
        Some(&payload("a", "theirs", 10)),
    )]);
    assert_eq!(look(&device), "mine theirs 10");
    assert_eq!(device.freeze().len(), 1);
    assert!(
        device
            .write(|txn| crate::rejected::list(txn.conn))
            .is_empty()
    );
}

#[test]
fn whole_row_resolvers_are_asked_and_may_pass_on() {
    let asked = Arc::new(AtomicUsize::new(0));
    let merge = FieldMerge::new().column("t", "views", ColumnPolicy::Max);
    let count = Arc::clone(&asked);
    let mut device = in_step(|config| {
        config.resolver(move |conflict: &Conflict<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
            merge.resolve(conflict)
        })
    });
    device.run("UPDATE t SET title = 'mine', views = 50");
    device.apply(vec![entry(
        "t",
        &uuid(1),
        2,
        Some(&payload("a", "theirs", 20)),
    )]);
    assert_eq!(look(&device), "mine theirs 50");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Edits that say the same, or meet an unchanged row, are nobody's business.
    let sent = device.freeze();
    device.settle_applied(&sent);
    device.run("UPDATE t SET title = 'same'");
    device.apply(vec![entry(
        "t",
        &uuid(1),
        4,
        Some(&payload("same", "theirs", 50)),
    )]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_custom_column_policy_is_asked_for_its_column_only() {
    let mut device = in_step(|config| {
        let joined = ColumnPolicy::custom(|conflict| match (conflict.mine, conflict.theirs) {
            (mine, theirs) if mine.starts_with('"') && theirs.starts_with('"') => {
                let (mine, theirs) = (mine.trim_matches('"'), theirs.trim_matches('"'));
                ColumnChoice::Value(format!(r#""{theirs}+{mine}""#))
            }
            _ => ColumnChoice::Server,
        });
        config.merge_column("t", "title", joined)
    });
    device.run("UPDATE t SET title = 'm', body = 'm'");
    device.apply(vec![entry("t", &uuid(1), 2, Some(&payload("t", "t", 10)))]);
    assert_eq!(look(&device), "t+m t 10");
    assert_eq!(
        list(&mut device)[0].lost.as_deref(),
        Some(r#"{"body":"m"}"#)
    );
}

#[test]
fn the_newest_row_stands_as_a_whole() {
    let resolve = |mine: Option<&str>, theirs: Option<&str>| {
        NewestBy::new("At").resolve(&Conflict {
            table: "t",
            key: oversync_shared::RowKey::parse(&uuid(1)).expect("a key"),
            base: None,
            mine,
            theirs,
            theirs_version: oversync_shared::RowVersion::new(2),
        })
    };
    let (old, new, none) = (r#"{"at":9}"#, r#"{"at":10}"#, r#"{"at":null}"#);
    assert_eq!(resolve(Some(new), Some(old)), Resolution::Mine);
    assert_eq!(resolve(Some(old), Some(new)), Resolution::Theirs);
    assert_eq!(resolve(Some(old), Some(old)), Resolution::Theirs);
    assert_eq!(resolve(Some(old), Some(none)), Resolution::Mine);
    assert_eq!(resolve(Some(none), Some("{}")), Resolution::Theirs);
    assert_eq!(resolve(Some(new), None), Resolution::Theirs);
    assert_eq!(resolve(None, Some(new)), Resolution::Mine);
}

#[test]
fn a_policy_for_what_is_not_there_is_refused() {
    for (table, column) in [("other", "title"), ("t", "tittle")] {
        let opened = Device::with(TABLE, |config| {
            config
                .table("t")
                .merge_column(table, column, ColumnPolicy::Max)
        });
        assert!(
            matches!(opened, Err(Error::Setup(SetupError::MergePolicy { .. }))),
            "{table}.{column}"
        );
    }
}

#[test]
fn a_row_with_a_value_that_cannot_be_carried_stands_until_it_is_mended() {
    let mut device = in_step(|config| config);
    device.run("UPDATE t SET title = x'00ff', views = 11");
    device.apply(vec![entry(
        "t",
        &uuid(1),
        2,
        Some(&payload("a", "theirs", 10)),
    )]);
    assert!(device.freeze().is_empty());
    assert_eq!(
        device.text("SELECT hex(title) FROM t").as_deref(),
        Some("00FF")
    );
    let rejected = device.write(|txn| crate::rejected::list(txn.conn));
    assert_eq!(rejected[0].reason, "uncarriable_value");
    // Mended: their edit has been waiting for this.
    device.run("UPDATE t SET title = 'mended'");
    let sent = device.freeze();
    assert_eq!(look(&device), "mended theirs 11");
    assert_eq!((sent.len(), sent[0].version.get()), (1, 2));
    assert!(list(&mut device).is_empty());
}

#[test]
fn a_merged_row_waits_for_a_parent_that_the_next_page_may_bring() {
    let mut device = Device::new(super::words::FAMILY, &["c", "p", "s", "x"]);
    let (old, new, child) = (uuid(1), uuid(2), uuid(3));
    let parent = |id: &str| format!(r#"{{"id":"{id}","v":1}}"#);
    let row = |of: &str| format!(r#"{{"id":"{child}","p_id":"{of}","v":1}}"#);
    let apply = |device: &mut Device| {
        device.apply(vec![
            entry("p", &old, 1, Some(&parent(&old))),
            entry("c", &child, 1, Some(&row(&old))),
        ]);
        device.run("UPDATE c SET v = 5");
        // Moved to a parent that is not here yet.
        device.apply_page(vec![entry("c", &child, 2, Some(&row(&new)))], true);
        assert!(device.freeze().is_empty(), "it could only conflict");
        assert!(!device.write(|txn| crate::capture::has_work(txn.conn)));
        assert_eq!(device.write(|txn| crate::status::read(txn.conn)).unsent, 1);
    };
    apply(&mut device);
    device.apply(vec![entry("p", &new, 1, Some(&parent(&new)))]);
    assert_eq!(
        device.text("SELECT p_id || v FROM c"),
        Some(format!("{new}5"))
    );
    assert_eq!(device.freeze().len(), 1);
    assert!(list(&mut device).is_empty());
    // It does not come: the server's row stands in line, the edit is kept.
    let mut device = Device::new(super::words::FAMILY, &["c", "p", "s", "x"]);
    apply(&mut device);
    device.apply(vec![]);
    assert!(device.freeze().is_empty());
    assert_eq!(list(&mut device)[0].lost.as_deref(), Some(r#"{"v":5}"#));
    assert_eq!(device.write(|txn| crate::status::read(txn.conn)).parked, 1);
}

#[test]
fn an_edit_that_outlives_a_delete_keeps_the_columns_others_know() {
    let mut device = Device::with(TABLE, |config| {
        config.table("t").merge_deletes("t", DeletePolicy::EditWins)
    })
    .expect("opens");
    let first = payload("a", "a", 10).replace("}", r#","new":7}"#);
    device.apply(vec![entry("t", &uuid(1), 1, Some(&first))]);
    device.run("UPDATE t SET title = 'mine'");
    device.apply(vec![entry("t", &uuid(1), 2, None)]);
    let sent = device.freeze();
    let text = sent[0].payload.clone().expect("a payload");
    assert!(text.contains(r#""new":7"#), "{text}");
}
