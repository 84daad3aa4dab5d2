//! The reader, the canonical form and the members, against each other and by hand.

use super::reader::plain;
use super::*;
use proptest::prelude::*;
use std::borrow::Cow;

fn canonical(text: &str) -> Result<Vec<u8>, JsonFault> {
    let mut out = Vec::new();
    canonicalise(text, &mut out).map(|()| out)
}

/// Every byte at every place of a few words, before and behind others that
/// nearly mean something, against the plain definition.
#[test]
fn what_means_something_in_a_string_is_found_where_it_is() {
    let means = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    for around in [
        b' ', b'!', b'#', b'[', b']', b'a', 0x7f, 0x80, 0xa0, 0xa2, 0xdc, 0xff,
    ] {
        for length in 0..=19 {
            assert_eq!(plain(&vec![around; length]), length);
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![around; length];
                    text[place] = byte;
                    // A second one behind it.
                    for second in [around, b'"', b'\\', 0, 0x1f] {
                        text[length - 1] = if place == length - 1 { byte } else { second };
                        let expected = text.iter().position(means).unwrap_or(length);
                        assert_eq!(plain(&text), expected, "{text:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn equal_values_have_one_form() {
    let form = canonical(r#"{"b":[1, 2.50,{"x":null}],"a":"\u00e9\n"}"#);
    assert_eq!(
        form,
        canonical("{ \"a\" : \"é\\u000a\", \"b\": [1,2.50,{ \"x\" :null } ] }")
    );
    assert_ne!(canonical("1.0"), canonical("1"));
    assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
    assert_ne!(canonical(r#"["a","b"]"#), canonical(r#"["a\",\"b"]"#));
}

#[test]
fn faults_are_named() {
    assert_eq!(
        canonical(r#"{"a":1,"b":{"x":1,"x":2}}"#),
        Err(JsonFault::DuplicateKey("x".into()))
    );
    assert_eq!(
        canonical(r#"{"a":1,"\u0061":2}"#),
        Err(JsonFault::DuplicateKey("a".into()))
    );
    assert!(matches!(
        canonical(r#"["\ud800"]"#),
        Err(JsonFault::LoneSurrogate(_))
    ));
    assert!(matches!(
        canonical(r#"["\ud800\u0041"]"#),
        Err(JsonFault::LoneSurrogate(_))
    ));
    assert!(matches!(
        canonical(r#"["\udc00"]"#),
        Err(JsonFault::LoneSurrogate(_))
    ));
    assert!(canonical(r#"["\ud83d\ude00\u0000"]"#).is_ok());
    for bad in [
        "",
        "{",
        "[1,]",
        "{\"a\"}",
        "01",
        "1.",
        "nul",
        "\"\n\"",
        "1 2",
        "{\"a\":1,}",
        "+1",
        "{1:2}",
        "\"\\x\"",
    ] {
        assert!(canonical(bad).is_err(), "{bad}");
        assert!(Reader::new(bad).raw().is_err() || bad == "1 2", "{bad}");
    }
}

#[test]
fn depth_is_limited_where_it_should_be() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(canonical(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(canonical(&nested(MAX_DEPTH + 1)), Err(JsonFault::TooDeep));
    // The slice of a payload can still be found when it is absurd.
    let absurd = nested(1_000_000);
    assert_eq!(Reader::new(&absurd).raw(), Ok(absurd.as_str()));
}

#[test]
fn many_keys_are_checked_in_linear_time() {
    let body: String = (0..200_000).map(|n| format!("\"k{n}\":{n},")).collect();
    assert!(canonical(&format!("{{{body}\"z\":1}}")).is_ok());
    assert!(canonical(&format!("{{{body}\"k7\":1}}")).is_err());
    let mut count = 0;
    let text = format!("{{{body}\"z\":1}}");
    Reader::new(&text)
        .object(|reader, _| {
            count += 1;
            reader.raw().map(drop)
        })
        .expect("valid");
    assert_eq!(count, 200_001);
}

fn in_two_passes(text: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    canonical(text).ok()?;
    members(text).ok()
}

#[test]
fn one_pass_finds_what_two_do() {
    for text in [
        r#" {"a" : [1, 2] ,"b":"x", "\u0063": {"d":{}} , "e":true,"f":-1.5e3,"g":null} "#,
        "{ }",
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":{"x":1,"x":2}}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"\ud800":1}"#,
        r#"{"a":1} 2"#,
        r#"{"a":01}"#,
        r#"{"a":1,}"#,
        "[1]",
        "1",
        "",
    ] {
        assert_eq!(checked_members(text).ok(), in_two_passes(text), "{text}");
    }
    let deep = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(checked_members(&deep(MAX_DEPTH - 1)).is_ok());
    assert_eq!(checked_members(&deep(MAX_DEPTH)), Err(JsonFault::TooDeep));
}

#[test]
fn members_are_slices() {
    let found = members(r#" {"a" : [1, 2] ,"b":"x"} "#).expect("an object");
    assert_eq!(found, vec![("a".into(), "[1, 2]"), ("b".into(), "\"x\"")]);
    assert_eq!(members("{}"), Ok(vec![]));
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::btree_map(".*", inner, 0..8)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(crate::properties::cases(256, 1))]

    #[test]
    fn agrees_with_serde_on_values(a in any_json(), b in any_json()) {
        let text = serde_json::to_string(&a).expect("serialises");
        let pretty = serde_json::to_string_pretty(&a).expect("serialises");
        prop_assert_eq!(canonical(&text), canonical(&pretty));
        prop_assert_eq!(Reader::new(&pretty).raw(), Ok(pretty.as_str()));
        let other = serde_json::to_string(&b).expect("serialises");
        prop_assert_eq!(a == b, canonical(&text) == canonical(&other));
        for text in [&text, &pretty] {
            prop_assert_eq!(checked_members(text).ok(), in_two_passes(text));
        }
    }

    #[test]
    fn agrees_with_serde_on_rejection(bytes in prop::collection::vec(
        prop::sample::select(b"{}[]\",:\\u0d81e.-+ntrfalse \t".to_vec()), 0..24)) {
        let text = String::from_utf8(bytes).expect("ASCII");
        let serde = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => true,
            // serde reads numbers as f64; ours have no range.
            Err(error) => error.to_string().contains("out of range"),
        };
        prop_assert_eq!(checked_members(&text).ok(), in_two_passes(&text), "{:?}", text);
        let inside = format!("{{\"a\":{text},\"b\":[{text}]}}");
        prop_assert_eq!(checked_members(&inside).ok(), in_two_passes(&inside), "{:?}", inside);
        match canonical(&text) {
            Ok(_) => prop_assert!(serde, "accepted {text:?}"),
            Err(JsonFault::DuplicateKey(_)) => {}
            // serde reads numbers as f64 and refuses those out of its range.
            Err(fault) => prop_assert!(!serde, "refused {text:?}: {fault}"),
        }
    }
}
