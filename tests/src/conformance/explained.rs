//! Section 3: fifty bad changes among a thousand, each bad in its own way and
//! each explained; their neighbours are as if they had been alone.

use super::case_list;
use super::statuses::{applied, conflict, invalid, invalid_with, missing};
use crate::device::{HttpDevice, change, delete, insert, update};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![Extension:
    fifty_bad_changes_of_a_thousand_are_each_explained,
];

const USERS: &str = "business.users";
const POSTS: &str = "business.posts";
const COMMENTS: &str = "business.comments";
const NODES: &str = "tree.nodes";

/// Changes in the upload, and how many of them are bad.
const ALL: usize = 1_000;
const BAD: usize = 50;

/// What the answer to a bad change must be.
enum Expected {
    BadPayload(String),
    Unregistered(&'static str, &'static str),
    Missing(Vec<String>),
    NoServerRow(&'static str, String),
    Conflict(String, i64, Option<Value>),
}

use Expected::{BadPayload, Conflict, Missing, NoServerRow, Unregistered};

/// A bad change as text (some cannot be written with a JSON library) and what is
/// said of it.
type Bad = (String, Expected);

/// What the server knows before: rows for conflicts, used change ids, a row that
/// the upload deletes.
struct Before {
    live: String,
    tombstone: String,
    doomed: String,
}

/// Change ids that were used before the upload.
const USED_FOR_LIVE: i64 = 5_001;
const USED_FOR_TOMBSTONE: i64 = 5_004;

async fn prepare(device: &HttpDevice) -> Before {
    let before = Before {
        live: fresh_key(),
        tombstone: fresh_key(),
        doomed: fresh_key(),
    };
    let statuses = device
        .statuses(&[
            insert(USED_FOR_LIVE, USERS, &before.live, json!({"n": 1})),
            update(5_002, USERS, &before.live, 1, json!({"n": 2})),
            insert(5_003, USERS, &before.tombstone, json!({})),
            delete(USED_FOR_TOMBSTONE, USERS, &before.tombstone, 1),
            insert(5_005, USERS, &before.doomed, json!({})),
        ])
        .await;
    assert!(statuses.iter().all(|status| status["status"] == "applied"));
    before
}

/// Replaces members of a change; a null removes one.
fn with(mut change: Value, fields: Value) -> String {
    let members = change.as_object_mut().expect("an object");
    for (name, value) in fields.as_object().expect("an object") {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    change.to_string()
}

/// A user's INSERT with a payload given as text.
fn raw(id: i64, payload: &str) -> String {
    with(
        insert(id, USERS, &fresh_key(), json!({})),
        json!({"payload": "@"}),
    )
    .replace("\"@\"", payload)
}

/// Names, table, operation, key: what is wrong before the payload is looked at.
fn bad_heads(id: &mut impl FnMut() -> i64) -> Vec<Bad> {
    let mut good = || insert(id(), USERS, &fresh_key(), json!({}));
    let mut bad = Vec::new();
    for (schema, shown) in [
        ("a-b", "a-b"),
        (" Bad Name ", "bad name"),
        ("é", "é"),
        ("a\u{0}", "a\u{0}"),
        ("x';--", "x';--"),
    ] {
        let text = format!("bad_payload: invalid schema name \"{shown}\"");
        bad.push((with(good(), json!({"schema": schema})), BadPayload(text)));
    }
    for (table, shown) in [
        (json!("  "), ""),
        (json!("Us ers"), "us ers"),
        (json!("a\"b"), "a\"b"),
        (Value::Null, ""),
    ] {
        let text = format!("bad_payload: invalid table name \"{shown}\"");
        bad.push((with(good(), json!({"table": table})), BadPayload(text)));
    }
    for (schema, table) in [
        ("business", "nothing"),
        ("public", "users"),
        ("oversync", "log"),
    ] {
        let change = with(good(), json!({"schema": schema, "table": table}));
        bad.push((change, Unregistered(schema, table)));
    }
    for (op, shown) in [
        (json!(" upsert "), "UPSERT"),
        (json!("INSERT;"), "INSERT;"),
        (Value::Null, ""),
    ] {
        let text = format!("invalid operation: {shown}");
        bad.push((with(good(), json!({"op": op})), BadPayload(text)));
    }
    for pk in [
        "",
        "0f8fad5b-d9cb-469f-a165-70867728950",
        "0f8fad5b-d9cb-469f-a165-70867728950g",
        "0f8fad5b\u{0}",
        "D4+tW9nLRp+hZXCGdyiVDg==",
    ] {
        let text = format!("bad_payload: invalid UUID format: {pk}");
        bad.push((with(good(), json!({"pk": pk})), BadPayload(text)));
    }
    bad
}

/// The payload itself.
fn bad_payloads(id: &mut impl FnMut() -> i64, max_payload: usize) -> Vec<Bad> {
    let said = |text: &str| BadPayload(text.to_owned());
    let no = "invalid JSON payload";
    let key = fresh_key;
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!("{{\"x\":{open}{close}}}")
    };
    let deep = "bad_payload: JSON nested deeper than 64";
    let large = json!({"x": "x".repeat(max_payload - 7)}).to_string();
    let too_large = format!(
        "bad_payload: payload too large: {} > {max_payload}",
        large.len()
    );
    vec![
        (
            change(id(), USERS, "INSERT", &key(), 0, Value::Null).to_string(),
            said("payload required for INSERT operation"),
        ),
        (
            with(
                update(id(), USERS, &key(), 0, json!({})),
                json!({"payload": null}),
            ),
            said("payload required for UPDATE operation"),
        ),
        (raw(id(), &large), said(&too_large)),
        (raw(id(), "[]"), said(no)),
        (raw(id(), "\"{}\""), said(no)),
        (raw(id(), "7e0"), said(no)),
        (
            change(id(), USERS, "DELETE", &key(), 0, json!([])).to_string(),
            said(no),
        ),
        (
            change(id(), USERS, "DELETE", &key(), 0, json!({})).to_string(),
            said("DELETE must not include payload"),
        ),
        (raw(id(), &nested(64)), said(deep)),
        (raw(id(), &nested(50_000)), said(deep)),
        (
            raw(id(), r#"{"a":1,"a":1}"#),
            said("bad_payload: duplicate key \"a\""),
        ),
        (
            raw(id(), r#"{"a\u0000":1,"a\u0000":2}"#),
            said("bad_payload: duplicate key \"a\u{0}\""),
        ),
        (
            raw(id(), r#"{"x":[{"b":1,"c":2,"\u0062":3}]}"#),
            said("bad_payload: duplicate key \"b\""),
        ),
        (
            raw(id(), r#"{"a":"\ud800"}"#),
            said("bad_payload: lone surrogate at byte 6"),
        ),
        (
            raw(id(), r#"{"\udc00":1}"#),
            said("bad_payload: lone surrogate at byte 2"),
        ),
    ]
}

/// References: to nothing, to a tombstone, to what this very upload deletes or
/// fails to make, to what is no key.
fn bad_references(id: &mut impl FnMut() -> i64, before: &Before) -> Vec<Bad> {
    let one = |value: &str| Missing(vec![format!("{USERS}:{value}")]);
    let (nobody, failed, upper) = (fresh_key(), fresh_key(), fresh_key().to_uppercase());
    let (no_key, ring) = (fresh_key(), [fresh_key(), fresh_key()]);
    let mut post = |author: Value, expected: Expected| {
        let change = insert(id(), POSTS, &fresh_key(), json!({"author_id": author}));
        (change.to_string(), expected)
    };
    let mut bad = vec![
        post(json!(nobody), one(&nobody)),
        post(json!(upper), one(&upper)),
        post(json!(before.tombstone), one(&before.tombstone)),
        post(json!(before.doomed), one(&before.doomed)),
        post(json!(failed), one(&failed)),
    ];
    bad.push((
        update(id(), USERS, &failed, 3, json!({})).to_string(),
        NoServerRow(USERS, failed),
    ));
    bad.push((
        insert(id(), POSTS, &no_key, json!({"author_id": 42})).to_string(),
        BadPayload(format!("bad payload for {POSTS} pk={no_key}")),
    ));
    let both = [
        format!("{POSTS}:{nobody}"),
        format!("{USERS}:{}", before.tombstone),
    ];
    bad.push((
        insert(
            id(),
            COMMENTS,
            &fresh_key(),
            json!({"post_id": nobody, "author_id": before.tombstone}),
        )
        .to_string(),
        Missing(both.to_vec()),
    ));
    // Two rows that refer to each other, one of which cannot be applied.
    bad.push((
        insert(id(), NODES, &ring[0], json!({"parent_id": ring[1]})).to_string(),
        Missing(vec![format!("{NODES}:{}", ring[1])]),
    ));
    bad.push((
        update(id(), NODES, &ring[1], 9, json!({"parent_id": ring[0]})).to_string(),
        NoServerRow(NODES, ring[1].clone()),
    ));
    bad
}

/// The version gate, and change ids that mean something else already.
fn bad_versions(id: &mut impl FnMut() -> i64, before: &Before) -> Vec<Bad> {
    let key = fresh_key();
    let live = || Conflict(before.live.clone(), 2, Some(json!({"n": 2})));
    vec![
        (
            delete(id(), USERS, &key, 2).to_string(),
            NoServerRow(USERS, key),
        ),
        (
            update(id(), USERS, &before.live, 1, json!({})).to_string(),
            live(),
        ),
        (
            delete(id(), USERS, &before.tombstone, 1).to_string(),
            Conflict(before.tombstone.clone(), 2, None),
        ),
        (
            insert(USED_FOR_LIVE, USERS, &before.live, json!({"other": 1})).to_string(),
            live(),
        ),
    ]
}

fn check(status: &Value, id: i64, expected: &Expected) {
    match expected {
        BadPayload(message) => invalid(status, id, "bad_payload", message),
        Unregistered(schema, table) => invalid_with(
            status,
            id,
            "unregistered_table",
            &format!("table not registered {schema}.{table}"),
            json!({"schema": schema, "table": table}),
        ),
        Missing(rows) => {
            let mut status = status.clone();
            // In which order a row's own references are named is nobody's business.
            if let Some(named) = status["invalid"]["details"]["missing"].as_array_mut() {
                named.sort_unstable_by_key(ToString::to_string);
            }
            missing(&status, id, rows);
        }
        NoServerRow(table, key) => invalid(
            status,
            id,
            "internal_error",
            &format!("conflict without server_row for {table} pk={key}"),
        ),
        Conflict(key, version, payload) => {
            conflict(status, id, USERS, key, *version, payload.clone())
        }
    }
}

async fn fifty_bad_changes_of_a_thousand_are_each_explained(target: Target) {
    let device = target.one_device();
    let served = device.get("/sync/capabilities").await.ok();
    let limit = |name: &str| served["limits"][name].as_u64().expect("a limit") as usize;
    let all = ALL.min(limit("max_changes"));
    let before = prepare(&device).await;

    let mut next = 10_000;
    let mut id = || {
        next += 1;
        next
    };
    let mut bad = bad_heads(&mut id);
    bad.extend(bad_payloads(&mut id, limit("max_payload_bytes")));
    bad.extend(bad_references(&mut id, &before));
    bad.extend(bad_versions(&mut id, &before));
    // In a batch, a second change under a neighbour's id.
    let twice = insert(0, USERS, &fresh_key(), json!({})).to_string();
    bad.push((
        twice,
        BadPayload("source_change_id 0 was used for another change".into()),
    ));
    assert_eq!(bad.len(), BAD);

    // Good ones: parents after their children, one delete that dooms a reference.
    let (author, first) = (fresh_key(), fresh_key());
    let mut good = vec![
        insert(0, USERS, &first, json!({"n": 0})),
        delete(1, USERS, &before.doomed, 1),
    ];
    good.extend((2..(all - BAD) as i64 - 1).map(|n| match n % 3 {
        0 => insert(n, POSTS, &fresh_key(), json!({"n": n, "author_id": author})),
        1 => insert(n, "public.notes", &fresh_key(), json!({"n": n})),
        _ => insert(n, USERS, &fresh_key(), json!({"n": n})),
    }));
    let last = good.len() as i64;
    good.push(insert(last, USERS, &author, json!({"n": last})));

    // A bad one after every so many good ones.
    let stride = all / BAD - 1;
    let (mut texts, mut expected) = (Vec::new(), Vec::new());
    let mut bad = bad.into_iter();
    for (index, change) in good.iter().enumerate() {
        texts.push(change.to_string());
        expected.push(None);
        if index % stride == stride - 1
            && let Some((text, answer)) = bad.next()
        {
            texts.push(text);
            expected.push(Some(answer));
        }
    }
    assert_eq!((texts.len(), bad.count()), (all, 0));
    let body = format!("{{\"changes\":[{}]}}", texts.join(","));

    let reply = device.upload_raw(body.clone()).await.ok();
    assert_eq!(reply["accepted"], false, "tables were not registered");
    assert_eq!(reply["highest_server_seq"], 5 + all - BAD);
    let statuses = reply["statuses"].as_array().expect("statuses");
    assert_eq!(statuses.len(), all);
    for ((text, status), expected) in texts.iter().zip(statuses).zip(&expected) {
        // Some of them only the server can read.
        let id = text
            .split_once("\"source_change_id\":")
            .and_then(|(_, rest)| rest.split([',', '}']).next())
            .and_then(|id| id.parse().ok())
            .expect("an id");
        match expected {
            Some(expected) => check(status, id, expected),
            None => applied(status, id, if id == 1 { 2 } else { 1 }),
        }
    }

    // The neighbours, and nothing but them, are in the stream as they were sent.
    let (changes, _) = device.download_all(5, 1_000, "&include_self=true").await;
    let mut sent: Vec<(i64, Value, Value)> = good
        .iter()
        .map(|change| {
            let id = change["source_change_id"].as_i64().expect("an id");
            (id, change["pk"].clone(), change["payload"].clone())
        })
        .collect();
    sent.sort_by_key(|(id, ..)| *id);
    let mut found: Vec<(i64, Value, Value)> = changes
        .iter()
        .map(|change| {
            let id = change["source_change_id"].as_i64().expect("an id");
            (id, change["pk"].clone(), change["payload"].clone())
        })
        .collect();
    found.sort_by_key(|(id, ..)| *id);
    assert_eq!(found, sent);

    // The same upload again: the same answers, and nothing happens.
    let again = device.upload_raw(body).await.ok();
    assert_eq!(again["statuses"], reply["statuses"]);
    assert_eq!(again["highest_server_seq"], reply["highest_server_seq"]);
}
