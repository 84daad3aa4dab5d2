//! References that are not to keys, rule by rule, and the modes.

use super::model::{Model, letters};
use super::written::{LinkTo, Name, Sent, catalog, catalog_with, checked, ix, key, row_at, sent};
use crate::catalog::{Compared, ForeignKeys, Reference, RefersTo, TableSpec};
use crate::names::TableName;
use crate::upload::{Fault, RawChange, Verdict, View, check, decide};
use crate::wire::Op::{Delete, Insert, Update};
use crate::{Catalog, RowKey};
use std::collections::HashSet;

/// A user without history, with the business rows of the model.
fn in_mode(mode: ForeignKeys, upload: &[Sent]) -> String {
    let catalog = catalog_with(mode);
    let changes = checked(&catalog, upload);
    let view = Model::default().view(&catalog, 0, &changes);
    letters(&decide(&catalog, &view, &changes).verdicts)
}

fn aware(upload: &[Sent]) -> String {
    in_mode(ForeignKeys::RefColumnAware, upload)
}

fn badge(id: i64, name: u8) -> Sent {
    sent(id, "badges", Insert, id as u8, 0).to(name)
}

fn person(id: i64, name: u8) -> Sent {
    sent(id, "people", Insert, id as u8, 0).named(name)
}

#[test]
fn a_business_row_counts_in_every_mode_that_checks() {
    for mode in [ForeignKeys::Enabled, ForeignKeys::RefColumnAware] {
        assert_eq!(in_mode(mode, &[badge(1, 1), badge(3, 9)]), "am", "{mode:?}");
        // Another column, another table: the same text is not the same value.
        assert_eq!(in_mode(mode, &[badge(1, 2)]), "m", "{mode:?}");
    }
}

#[test]
fn what_is_missing_is_named_as_sent() {
    let catalog = catalog();
    let raw = |payload| RawChange {
        source_change_id: 1,
        schema: "s",
        table: "badges",
        op: "INSERT",
        pk: "0f8fad5bd9cb469fa16570867728950e",
        server_version: 0,
        payload: Some(payload),
    };
    for (payload, named) in [
        (r#"{"wearer":"a\u0062"}"#, Some("s.people:ab")),
        (r#"{"wearer": 1.50 }"#, Some("s.people:1.50")),
        (r#"{"wearer":true}"#, Some("s.people:true")),
        (r#"{"wearer":{"a":[ ]}}"#, Some("s.people:{\"a\":[ ]}")),
        (r#"{"wearer":"\u0000"}"#, Some("s.people:\0")),
        (r#"{"wearer":""}"#, None),
        (r#"{"wearer":null}"#, None),
        ("{}", None),
    ] {
        let change = check(&raw(payload), &catalog, 100, &mut Vec::new());
        let verdicts = decide(&catalog, &View::default(), &[change]).verdicts;
        match named {
            None => assert_eq!(letters(&verdicts), "a", "{payload}"),
            Some(named) => {
                let fault = Fault::ForeignKeyMissing(vec![named.to_owned()]);
                assert_eq!(verdicts, [Verdict::Invalid(fault)]);
            }
        }
    }
}

#[test]
fn a_row_of_the_upload_counts_only_where_columns_are_looked_at() {
    let upload = [badge(1, 7), person(3, 7)];
    assert_eq!(in_mode(ForeignKeys::Enabled, &upload), "ma");
    assert_eq!(aware(&upload), "aa");
    // One that is not applied does not.
    let failed = sent(3, "people", Update, 3, 4).named(7);
    assert_eq!(aware(&[badge(1, 7), failed]), "mi");
    // Nor does a name that the upload itself takes away again.
    let renamed = sent(4, "people", Update, 3, 1).named(8);
    assert_eq!(aware(&[badge(1, 7), person(3, 7), renamed]), "maa");
    let silent = sent(4, "people", Update, 3, 1);
    assert_eq!(aware(&[badge(1, 7), person(3, 7), silent]), "aaa");
}

#[test]
fn the_child_comes_after_its_parent() {
    let catalog = catalog();
    let upload = [badge(1, 7), person(3, 7)];
    let decision = decide(&catalog, &View::default(), &checked(&catalog, &upload));
    let order: Vec<usize> = decision.plan.log.iter().map(|e| e.position).collect();
    assert_eq!(order, [1, 0]);
    // Inside one table, by the rows' own references.
    let upload = [
        sent(1, "terms", Insert, 1, 0).named(5).to(6),
        sent(2, "terms", Insert, 2, 0).named(6).to(7),
        sent(3, "terms", Insert, 3, 0).named(7),
    ];
    let decision = decide(&catalog, &View::default(), &checked(&catalog, &upload));
    let order: Vec<usize> = decision.plan.log.iter().map(|e| e.position).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn a_parent_that_the_upload_deletes_does_not_count() {
    for mode in [ForeignKeys::Enabled, ForeignKeys::RefColumnAware] {
        // The business row with the name 1 is the person 2; nobody synchronised
        // it, so its delete has nothing to do, and says all the same that it goes.
        let upload = [badge(1, 1), sent(3, "people", Delete, 2, 0)];
        assert_eq!(in_mode(mode, &upload), "ma", "{mode:?}");
        let other = [badge(1, 1), sent(3, "people", Delete, 4, 0)];
        assert_eq!(in_mode(mode, &other), "aa", "{mode:?}");
    }
    let upload = [badge(1, 7), person(3, 7), sent(4, "people", Delete, 3, 1)];
    assert_eq!(aware(&upload), "maa");
    // A row that no upload can delete stays.
    let upload = [
        sent(1, "terms", Insert, 1, 0).to(2),
        sent(2, "terms", Delete, 2, 0),
    ];
    assert_eq!(aware(&upload), "aa");
}

#[test]
fn a_row_may_name_itself_and_a_ring_stands_or_falls_together() {
    let term =
        |id: i64, base, name, to| sent(id, "terms", Insert, id as u8, base).named(name).to(to);
    assert_eq!(aware(&[term(1, 0, 5, 5)]), "a");
    assert_eq!(aware(&[term(1, 0, 5, 6), term(2, 0, 6, 5)]), "aa");
    assert_eq!(aware(&[term(1, 0, 5, 6), term(2, 3, 6, 5)]), "mi");
    // A ring through a key and a column.
    let cock = |base| sent(1, "cocks", Insert, 1, base).to(6);
    let hen = |name| sent(2, "hens", Insert, 2, 0).named(name).to(1);
    assert_eq!(aware(&[cock(0), hen(6)]), "aa");
    assert_eq!(aware(&[cock(2), hen(6)]), "im");
    assert_eq!(aware(&[cock(0), hen(7)]), "mm");
    // The name that the ring needs is taken away inside it.
    let renamed = sent(3, "hens", Update, 2, 1).named(7).to(1);
    assert_eq!(aware(&[cock(0), hen(6), renamed]), "mmi");
}

/// Also where rows of the upload do not count by their columns.
#[test]
fn a_row_may_name_itself_in_every_mode() {
    let term = |id: i64, base| sent(id, "terms", Update, id as u8, base);
    for mode in [
        ForeignKeys::Enabled,
        ForeignKeys::RefColumnAware,
        ForeignKeys::Disabled,
    ] {
        let is_checked = mode != ForeignKeys::Disabled;
        for (upload, expected) in [
            (vec![term(1, 0).named(5).to(5)], "a"),
            (vec![term(1, 0).named(5).to(6)], "m"),
            // What the payload does not say is not looked at.
            (vec![term(1, 0).to(5)], "m"),
            (
                vec![Sent {
                    name: Name::Null,
                    ..term(1, 0).to(5)
                }],
                "m",
            ),
            // The version still counts; a later name does not.
            (vec![term(1, 3).named(5).to(5)], "i"),
            (vec![term(1, 0).named(5).to(6), term(2, 0).named(7)], "ma"),
            (
                vec![
                    term(1, 0).named(5).to(5),
                    Sent {
                        key: 1,
                        ..term(2, 1).named(8).to(8)
                    },
                ],
                "aa",
            ),
            // Only a table's own column: the badge 1 has no name of a person.
            (vec![badge(1, 7).named(7)], "m"),
        ] {
            let expected = if is_checked {
                expected.to_owned()
            } else {
                expected.replace('m', "a")
            };
            assert_eq!(in_mode(mode, &upload), expected, "{mode:?} {upload:?}");
        }
    }
}

#[test]
fn uuids_are_the_same_in_any_spelling() {
    let name = |table: &str| TableName::parse("s", table).expect("valid");
    let spec = |table: &str, references| TableSpec {
        name: name(table),
        references,
        after: Vec::new(),
    };
    let reference = Reference {
        column: "device".to_owned(),
        parent: name("devices"),
        to: RefersTo::Column {
            name: "Serial".to_owned(),
            compared: Compared::AsKey,
        },
    };
    let specs = vec![spec("logs", vec![reference]), spec("devices", vec![])];
    let catalog = Catalog::new(specs, ForeignKeys::RefColumnAware).expect("valid");
    let change = |id, table, payload| {
        let raw = RawChange {
            source_change_id: id,
            schema: "s",
            table,
            op: "INSERT",
            pk: "0f8fad5bd9cb469fa16570867728950e",
            server_version: 0,
            payload: Some(payload),
        };
        check(&raw, &catalog, 100, &mut Vec::new())
    };
    let upload = [
        change(
            1,
            "logs",
            r#"{"device":"0F8FAD5BD9CB469FA16570867728950E"}"#,
        ),
        change(
            2,
            "devices",
            r#"{"serial":"0f8fad5b-d9cb-469f-a165-70867728950e"}"#,
        ),
        change(3, "logs", r#"{"device":"not a key"}"#),
    ];
    let decision = decide(&catalog, &View::default(), &upload);
    assert_eq!(letters(&decision.verdicts), "aam");
}

#[test]
fn disabled_checks_nothing_and_still_orders() {
    let nobody = sent(1, "posts", Insert, 1, 0).to(9);
    let mut no_key = sent(2, "posts", Insert, 2, 0);
    no_key.link = LinkTo::NoKey;
    let upload = [nobody, no_key, badge(3, 9), sent(4, "users", Insert, 9, 0)];
    assert_eq!(in_mode(ForeignKeys::Disabled, &upload), "aaaa");
    let catalog = catalog_with(ForeignKeys::Disabled);
    let decision = decide(&catalog, &View::default(), &checked(&catalog, &upload));
    assert_eq!(decision.plan.log[0].position, 3, "the user comes first");
    let nodes = [
        sent(1, "nodes", Insert, 1, 0).to(2),
        sent(2, "nodes", Insert, 2, 0),
    ];
    let decision = decide(&catalog, &View::default(), &checked(&catalog, &nodes));
    assert_eq!(decision.plan.log[0].position, 1, "row by row, too");
}

/// Names the row 1 as 100, the row 2 as "two", in one column only.
struct Numbers;

impl crate::catalog::ConvertReference for Numbers {
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey> {
        match (column, sent) {
            ("author_id", "100") => Some(key(1)),
            ("author_id", "two") => Some(key(2)),
            _ => None,
        }
    }
}

#[test]
fn a_host_may_name_parents_in_its_own_way() {
    let mut catalog = catalog();
    let posts = ix(&catalog, "posts");
    let own = crate::catalog::Conversion(std::sync::Arc::new(Numbers));
    catalog.convert(posts, own);
    let view = View {
        in_business: HashSet::from([row_at(&catalog, ("users", 1))]),
        ..View::default()
    };
    let usual = format!("{{\"author_id\":\"{}\"}}", key(1));
    for (payload, expected) in [
        (r#"{"author_id":100}"#, "a"),
        (r#"{"author_id":"100"}"#, "a"),
        (r#"{"author_id":"two"}"#, "m"),
        (r#"{"author_id":101}"#, "i"),
        (r#"{"author_id":""}"#, "a"),
        (&usual, "a"),
    ] {
        let raw = RawChange {
            source_change_id: 1,
            schema: "s",
            table: "posts",
            op: "INSERT",
            pk: "0f8fad5bd9cb469fa16570867728950e",
            server_version: 0,
            payload: Some(payload),
        };
        let change = check(&raw, &catalog, 100, &mut Vec::new());
        let verdicts = decide(&catalog, &view, &[change]).verdicts;
        assert_eq!(letters(&verdicts), expected, "{payload}: {verdicts:?}");
        if expected == "m" {
            let named = Fault::ForeignKeyMissing(vec!["s.users:two".to_owned()]);
            assert_eq!(verdicts, [Verdict::Invalid(named)]);
        }
    }
}
