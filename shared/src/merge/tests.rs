//! The merge against its table, and its laws against random rows.

use super::*;
use proptest::prelude::*;

fn with(policy: ColumnPolicy) -> Policies {
    let mut policies = Policies::default();
    policies.set("v", policy);
    policies
}

fn merged(base: Option<&str>, mine: &str, theirs: &str, policies: &Policies) -> Merged {
    merge(base, mine, theirs, policies).expect("three rows")
}

fn columns(found: &Merged) -> Vec<(&str, Side, &str)> {
    found
        .lost
        .iter()
        .map(|lost| (&*lost.column, lost.side, &*lost.value))
        .collect()
}

#[test]
fn columns_changed_on_one_side_are_kept() {
    let base = r#"{"id":"k","a":1,"b":1,"c":1}"#;
    let found = merged(
        Some(base),
        r#"{"id":"k","a":2,"b":1,"c":7}"#,
        r#"{"id":"k","a":1,"b":3,"c":7}"#,
        &Policies::default(),
    );
    assert_eq!(found.row, r#"{"a":2,"b":3,"c":7,"id":"k"}"#);
    assert_eq!((found.stands, found.lost), (Stands::Mixed, vec![]));
}

#[test]
fn whose_row_it_is() {
    let base = r#"{"a":1,"b":1}"#;
    let stands =
        |mine: &str, theirs: &str| merged(Some(base), mine, theirs, &Policies::default()).stands;
    let (first, second) = (r#"{"a":2,"b":1}"#, r#"{"a":1,"b":2}"#);
    assert_eq!(stands(first, second), Stands::Mixed);
    // Their row says what mine says, or was made on.
    assert_eq!(stands(first, r#"{"b":1,"a":2}"#), Stands::Theirs);
    assert_eq!(stands(first, base), Stands::Mine);
    // A column that they do not carry says nothing; only an edit of it is sent.
    assert_eq!(stands(r#"{"a":2,"b":1}"#, r#"{"a":2}"#), Stands::Theirs);
    assert_eq!(stands(r#"{"a":2,"b":5}"#, r#"{"a":2}"#), Stands::Mine);
}

#[test]
fn values_are_compared_digit_for_digit() {
    let base = r#"{"v":9007199254740992}"#;
    let found = merged(
        Some(base),
        base,
        r#"{"v":9007199254740993}"#,
        &Policies::default(),
    );
    assert_eq!(found.row, r#"{"v":9007199254740993}"#);
    // An escape, white space and the order of keys are no change.
    let found = merged(
        Some(r#"{"v":{"x":1,"y":"é"}}"#),
        r#"{"v":{"x":1,"y":"é"},"w":2}"#,
        r#"{"v":{ "y":"\u00e9", "x":1 },"w":3}"#,
        &Policies::default(),
    );
    assert_eq!(columns(&found), [("w", Side::Client, "2")]);
}

#[test]
fn unknown_columns_take_part() {
    let found = merged(
        Some(r#"{"v":1,"w":1,"x":1}"#),
        r#"{"v":2,"w":1}"#,
        r#"{"V":1,"new":[1.50],"x":2}"#,
        &Policies::default(),
    );
    assert_eq!(found.row, r#"{"new":[1.50],"v":2,"w":1,"x":2}"#);
    assert!(found.lost.is_empty());
}

#[test]
fn every_policy_has_its_answer() {
    let base = Some(r#"{"v":10,"t":1}"#);
    let row = |v: &str, t: i64| format!(r#"{{"v":{v},"t":{t}}}"#);
    let newest = || ColumnPolicy::Newest("T".into());
    let doubled = || {
        ColumnPolicy::custom(|conflict| {
            assert_eq!((conflict.column, conflict.base), ("v", Some("10")));
            match (conflict.mine, conflict.theirs) {
                ("1", _) => ColumnChoice::Client,
                ("2", _) => ColumnChoice::Value("no JSON".into()),
                (mine, theirs) => ColumnChoice::Value(format!("[{mine},{theirs}]")),
            }
        })
    };
    let table: Vec<(ColumnPolicy, &str, i64, &str, i64, &str)> = vec![
        (ColumnPolicy::Server, "12", 9, "15", 1, "15"),
        (ColumnPolicy::Client, "12", 1, "15", 9, "12"),
        (newest(), "12", 9, "15", 2, "12"),
        (newest(), "12", 2, "15", 9, "15"),
        (newest(), "12", 9, "15", 9, "15"),
        (ColumnPolicy::Max, "12", 1, "15", 1, "15"),
        (ColumnPolicy::Max, "16", 1, "15", 1, "16"),
        (ColumnPolicy::Max, "null", 1, "15", 1, "15"),
        (ColumnPolicy::Max, "15.0", 1, "15", 1, "15"),
        (ColumnPolicy::Min, "12", 1, "15", 1, "12"),
        (ColumnPolicy::Min, "16", 1, "15", 1, "15"),
        (ColumnPolicy::Min, r#""12""#, 1, "15", 1, "15"),
        (ColumnPolicy::Add, "12", 1, "15", 1, "17"),
        (ColumnPolicy::Add, "9", 1, "4", 1, "3"),
        (ColumnPolicy::Add, "12", 1, "12", 1, "14"),
        (ColumnPolicy::Add, "9223372036854775807", 1, "15", 1, "15"),
        (ColumnPolicy::Add, "12.5", 1, "15", 1, "17.5"),
        (ColumnPolicy::Add, "null", 1, "15", 1, "15"),
        (doubled(), "1", 1, "15", 1, "1"),
        (doubled(), "2", 1, "15", 1, "15"),
        (doubled(), "3", 1, "15", 1, "[3,15]"),
    ];
    for (policy, mine, at, theirs, then, expected) in table {
        let name = format!("{policy:?} {mine} {theirs}");
        let found = merged(base, &row(mine, at), &row(theirs, then), &with(policy));
        let v = expected;
        let row = found.row.split(r#""v":"#).nth(1).expect("the column");
        assert_eq!(row.trim_end_matches('}'), v, "{name}");
        let lost: Vec<_> = columns(&found)
            .into_iter()
            .filter(|(column, ..)| *column == "v")
            .collect();
        let expected = if v == mine {
            vec![("v", Side::Server, theirs)]
        } else if v == theirs {
            vec![("v", Side::Client, mine)]
        } else {
            vec![]
        };
        assert_eq!(lost, expected, "{name}");
    }
}

#[test]
fn the_stamp_goes_with_the_newest() {
    let mut policies = Policies::default();
    policies.set_otherwise(ColumnPolicy::Newest("at".into()));
    let base = r#"{"a":0,"b":0,"at":"2026-01-01"}"#;
    let mine = r#"{"a":1,"b":0,"at":"2026-01-03"}"#;
    let theirs = r#"{"a":2,"b":2,"at":"2026-01-02"}"#;
    let found = merged(Some(base), mine, theirs, &policies);
    // Their own edit of b stands: only one side has changed it.
    assert_eq!(found.row, r#"{"a":1,"at":"2026-01-03","b":2}"#);
    // The other way round on the other device: the same row.
    let found = merged(Some(base), theirs, mine, &policies);
    assert_eq!(found.row, r#"{"a":1,"at":"2026-01-03","b":2}"#);
    // A stamp beats none.
    let found = merged(None, r#"{"a":1,"at":1}"#, r#"{"a":2,"at":null}"#, &policies);
    assert!(found.row.starts_with(r#"{"a":1"#), "{found:?}");
}

#[test]
fn without_a_base_every_difference_is_a_conflict() {
    let found = merged(
        None,
        r#"{"v":1,"mine":1,"same":1}"#,
        r#"{"v":2,"theirs":1,"same":1}"#,
        &with(ColumnPolicy::Add),
    );
    assert_eq!(found.row, r#"{"mine":1,"same":1,"theirs":1,"v":2}"#);
    assert_eq!(columns(&found), [("v", Side::Client, "1")]);
    assert_eq!(found.stands, Stands::Mixed);
}

#[test]
fn what_is_no_row_is_no_merge() {
    for bad in ["[]", "{", r#"{"a":1,"a":2}"#, "null"] {
        assert!(
            merge(None, "{}", bad, &Policies::default()).is_err(),
            "{bad}"
        );
        assert!(
            merge(None, bad, "{}", &Policies::default()).is_err(),
            "{bad}"
        );
    }
    let nothing = merged(None, "{}", "{}", &Policies::default());
    assert_eq!((&*nothing.row, nothing.stands), ("{}", Stands::Theirs));
}

#[test]
fn what_a_whole_row_loses() {
    let base = Some(r#"{"a":1,"b":1,"c":1}"#);
    let (mine, theirs) = (r#"{"a":2,"b":1,"c":5}"#, r#"{"a":1,"b":2,"c":6}"#);
    let of = |outcome: &str| {
        let found = lost(base, mine, theirs, outcome).expect("rows");
        let found: Vec<String> = found
            .iter()
            .map(|lost| format!("{}{:?}{}", lost.column, lost.side, lost.value))
            .collect();
        found.join(" ")
    };
    assert_eq!(of(theirs), "aClient2 cClient5");
    assert_eq!(of(mine), "bServer2 cServer6");
    assert_eq!(of(r#"{"a":2,"b":2,"c":5}"#), "cServer6");
    assert_eq!(of(r#"{"a":2,"b":2,"c":9}"#), "cClient5");
}

/// Few names and few values, so that the sides meet.
fn row() -> impl Strategy<Value = BTreeMap<String, i64>> {
    prop::collection::btree_map("[a-e]", 0..3_i64, 0..5)
}

/// Every column, each with a value.
fn full() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(0..3_i64, 5)
}

fn text(row: &BTreeMap<String, i64>) -> String {
    serde_json::to_string(row).expect("serialises")
}

fn named(values: &[i64]) -> BTreeMap<String, i64> {
    let names = ["a", "b", "c", "d", "e"];
    names
        .iter()
        .map(|name| (*name).to_owned())
        .zip(values.iter().copied())
        .collect()
}

fn parsed(row: &str) -> BTreeMap<String, i64> {
    serde_json::from_str(row).expect("a row")
}

fn any_policy() -> impl Strategy<Value = ColumnPolicy> {
    prop_oneof![
        Just(ColumnPolicy::Server),
        Just(ColumnPolicy::Client),
        Just(ColumnPolicy::Newest("a".into())),
        Just(ColumnPolicy::Max),
        Just(ColumnPolicy::Min),
        Just(ColumnPolicy::Add),
    ]
}

proptest! {
    #![proptest_config(crate::properties::cases(256, 1))]

    #[test]
    fn disjoint_edits_end_the_same_on_both_devices(
        base in full(), edits in prop::collection::vec((0..5_usize, 3..9_i64, any::<bool>()), 0..5),
    ) {
        let (mut mine, mut theirs) = (base.clone(), base.clone());
        let mut both = base.clone();
        let mut owner = [None; 5];
        for (column, value, first) in edits {
            if *owner[column].get_or_insert(first) == first {
                let side = if first { &mut mine } else { &mut theirs };
                side[column] = value;
                both[column] = value;
            }
        }
        let texts = [&base, &mine, &theirs].map(|values| text(&named(values)));
        let [base, mine, theirs] = texts.each_ref().map(String::as_str);
        let here = merged(Some(base), mine, theirs, &Policies::default());
        let there = merged(Some(base), theirs, mine, &Policies::default());
        prop_assert_eq!(&here.row, &there.row);
        prop_assert_eq!(parsed(&here.row), named(&both));
        prop_assert!(here.lost.is_empty() && there.lost.is_empty());
    }

    #[test]
    fn a_merge_is_final_and_invents_nothing(
        base in prop::option::of(row()), mine in row(), theirs in row(), policy in any_policy(),
    ) {
        let mut policies = Policies::default();
        policies.set_otherwise(policy.clone());
        let base_text = base.as_ref().map(text);
        let base_text = base_text.as_deref();
        let found = merged(base_text, &text(&mine), &text(&theirs), &policies);
        let result = parsed(&found.row);
        let expected: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        prop_assert_eq!(result.keys().collect::<BTreeSet<_>>(), expected);
        for (column, value) in &result {
            let sides = [mine.get(column), theirs.get(column)];
            let sum = match (base.as_ref().and_then(|base| base.get(column)), sides) {
                (Some(base), [Some(mine), Some(theirs)]) => Some(theirs + mine - base),
                _ => None,
            };
            let added = matches!(policy, ColumnPolicy::Add) && sum == Some(*value);
            prop_assert!(added || sides.contains(&Some(value)), "{column}: {value}");
        }
        // What is lost is in a row, and not in the result.
        for lost in &found.lost {
            let row = if lost.side == Side::Client { &mine } else { &theirs };
            prop_assert_eq!(row[&lost.column].to_string(), lost.value.clone());
            prop_assert_ne!(result[&lost.column].to_string(), lost.value.clone());
        }
        // On top of the server's row the result is an edit that meets nothing.
        let theirs_text = text(&theirs);
        let again = merged(Some(&theirs_text), &found.row, &theirs_text, &policies);
        prop_assert_eq!(&again.row, &found.row);
        prop_assert!(again.lost.is_empty());
        // Adopted means that the server's row, written over mine, is the result.
        if found.stands == Stands::Theirs {
            let mut over = mine.clone();
            over.extend(theirs.clone());
            prop_assert_eq!(over, result);
        } else if found.stands == Stands::Mine {
            prop_assert_eq!(mine, result);
        }
    }

    #[test]
    fn a_row_met_by_itself_stays(base in prop::option::of(row()), row in row()) {
        let base = base.as_ref().map(text);
        let row_text = text(&row);
        let found = merged(base.as_deref(), &row_text, &row_text, &Policies::default());
        prop_assert_eq!((found.stands, found.lost.len()), (Stands::Theirs, 0));
        prop_assert_eq!(parsed(&found.row), row);
    }
}
