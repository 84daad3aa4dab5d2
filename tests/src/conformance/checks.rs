//! Section 3: the checks of one change, in their order, with their exact words.

use super::case_list;
use super::statuses::{applied, invalid, invalid_with};
use crate::device::{change, delete, insert};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![V1:
    a_bad_schema_name_comes_first,
    a_bad_table_name_comes_second,
    an_unregistered_table_comes_third,
    an_unknown_operation_comes_fourth,
    a_bad_key_comes_fifth,
    a_missing_payload_comes_sixth,
    a_payload_that_is_no_object,
    a_delete_with_a_payload,
    a_delete_with_a_null_payload_is_fine,
    names_are_trimmed_and_folded,
    an_empty_schema_is_public,
    keys_are_taken_in_every_spelling,
    a_payload_may_be_empty_or_use_any_key,
    a_payload_with_a_duplicate_key,
    a_payload_with_a_lone_surrogate,
    nul_in_a_payload_is_harmless,
    a_bad_change_harms_no_neighbour,
    an_unregistered_table_makes_the_batch_unaccepted,
    a_refused_change_id_is_not_used_up,
    change_ids_and_versions_at_the_edge_of_64_bits,
];

const USERS: &str = "business.users";

/// Sends a change and checks the answer to it.
async fn refused(target: &Target, change: Value, reason: &str, message: &str) {
    let status = target.one_device().upload_one(change.clone()).await;
    assert_eq!(status["message"], message, "{change}");
    invalid(
        &status,
        change["source_change_id"].as_i64().expect("an id"),
        reason,
        message,
    );
}

fn with(mut change: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        change[name] = value.clone();
    }
    change
}

fn good() -> Value {
    insert(7, USERS, &fresh_key(), json!({"name": "Ann"}))
}

async fn a_bad_schema_name_comes_first(target: Target) {
    for (schema, shown) in [
        ("a-b", "a-b"),
        (" Bad Name ", "bad name"),
        ("é", "é"),
        ("a.b", "a.b"),
        ("a\u{0}", "a\u{0}"),
        ("x';--", "x';--"),
    ] {
        let bad =
            json!({"schema": schema, "table": "no table", "op": "?", "pk": "?", "payload": 7});
        let message = format!("bad_payload: invalid schema name \"{shown}\"");
        refused(&target, with(good(), bad), "bad_payload", &message).await;
    }
}

async fn a_bad_table_name_comes_second(target: Target) {
    for (table, shown) in [
        ("", ""),
        ("  ", ""),
        ("Us ers", "us ers"),
        ("a\"b", "a\"b"),
        ("ü", "ü"),
    ] {
        let bad = json!({"table": table, "op": "?", "pk": "?", "payload": 7});
        let message = format!("bad_payload: invalid table name \"{shown}\"");
        refused(&target, with(good(), bad), "bad_payload", &message).await;
    }
}

async fn an_unregistered_table_comes_third(target: Target) {
    for (schema, table) in [
        ("business", "nothing"),
        ("public", "users"),
        ("oversync", "log"),
        ("pg_catalog", "pg_class"),
    ] {
        let bad = json!({"schema": schema, "table": table, "op": "?", "pk": "?", "payload": 7});
        let status = target.one_device().upload_one(with(good(), bad)).await;
        let message = format!("table not registered {schema}.{table}");
        let details = json!({"schema": schema, "table": table});
        invalid_with(&status, 7, "unregistered_table", &message, details);
    }
}

async fn an_unknown_operation_comes_fourth(target: Target) {
    for (op, shown) in [
        ("", ""),
        (" upsert ", "UPSERT"),
        ("INSERT;", "INSERT;"),
        ("REPLACE", "REPLACE"),
        ("ınsert", "INSERT_"),
    ] {
        // The dotless i is no i; what is shown for it is the upper case of it.
        let shown = if shown == "INSERT_" {
            "ınsert".to_uppercase()
        } else {
            shown.to_owned()
        };
        let bad = json!({"op": op, "pk": "?", "payload": 7});
        refused(
            &target,
            with(good(), bad),
            "bad_payload",
            &format!("invalid operation: {shown}"),
        )
        .await;
    }
}

async fn a_bad_key_comes_fifth(target: Target) {
    for pk in [
        "",
        "1",
        "x",
        "0f8fad5b-d9cb-469f-a165-70867728950",
        "0f8fad5b-d9cb-469f-a165-70867728950g",
        " 0f8fad5b-d9cb-469f-a165-70867728950e",
        "0f8fad5b_d9cb_469f_a165_70867728950e",
        "D4+tW9nLRp+hZXCGdyiVDg==",
    ] {
        let message = format!("bad_payload: invalid UUID format: {pk}");
        refused(
            &target,
            with(good(), json!({"pk": pk, "payload": 7})),
            "bad_payload",
            &message,
        )
        .await;
        let without = change(7, USERS, "INSERT", pk, 0, Value::Null);
        refused(&target, without, "bad_payload", &message).await;
    }
}

async fn a_missing_payload_comes_sixth(target: Target) {
    for op in ["INSERT", "UPDATE"] {
        let message = format!("payload required for {op} operation");
        let null = change(7, USERS, op, &fresh_key(), 0, Value::Null);
        refused(&target, null.clone(), "bad_payload", &message).await;
        let mut absent = null;
        absent.as_object_mut().expect("an object").remove("payload");
        refused(&target, absent, "bad_payload", &message).await;
    }
}

async fn a_payload_that_is_no_object(target: Target) {
    for payload in [
        json!([]),
        json!("{}"),
        json!(7),
        json!(true),
        json!([{"a": 1}]),
    ] {
        let bad = with(good(), json!({"payload": payload}));
        refused(&target, bad, "bad_payload", "invalid JSON payload").await;
        // Also where none may stand at all.
        let bad = change(7, USERS, "DELETE", &fresh_key(), 0, payload);
        refused(&target, bad, "bad_payload", "invalid JSON payload").await;
    }
}

async fn a_delete_with_a_payload(target: Target) {
    for payload in [json!({}), json!({"a": 1})] {
        let bad = change(7, USERS, "DELETE", &fresh_key(), 0, payload);
        refused(
            &target,
            bad,
            "bad_payload",
            "DELETE must not include payload",
        )
        .await;
    }
}

async fn a_delete_with_a_null_payload_is_fine(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    device.upload(&[insert(1, USERS, &key, json!({}))]).await;
    let status = device
        .upload_one(change(2, USERS, "DELETE", &key, 1, Value::Null))
        .await;
    applied(&status, 2, 2);
}

async fn names_are_trimmed_and_folded(target: Target) {
    let device = target.one_device();
    let folded = json!({"schema": " BusiNess\t", "table": "\nUSERS ", "op": " insert\n"});
    applied(&device.upload_one(with(good(), folded)).await, 7, 1);
    let page = device.download("include_self=true").await;
    let change = &page["changes"][0];
    assert_eq!(
        (&change["schema"], &change["table"], &change["op"]),
        (&json!("business"), &json!("users"), &json!("INSERT"))
    );
}

async fn an_empty_schema_is_public(target: Target) {
    let device = target.one_device();
    for (id, schema) in [(1, json!("")), (2, json!("  ")), (3, json!("public"))] {
        let change = insert(id, "public.notes", &fresh_key(), json!({}));
        applied(
            &device
                .upload_one(with(change, json!({"schema": schema})))
                .await,
            id,
            1,
        );
    }
    let page = device.download("include_self=true&schema=public").await;
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(3));
}

async fn keys_are_taken_in_every_spelling(target: Target) {
    let device = target.one_device();
    let dashed = fresh_key();
    let plain = dashed.replace('-', "");
    let spellings = [
        dashed.to_uppercase(),
        plain.clone(),
        plain.to_uppercase(),
        format!("{{{dashed}}}"),
        format!("urn:uuid:{dashed}"),
        dashed.clone(),
    ];
    for (index, pk) in spellings.iter().enumerate() {
        let version = index as i64;
        let status = device
            .upload_one(change(
                version,
                USERS,
                "UPDATE",
                pk,
                version,
                json!({"n": index}),
            ))
            .await;
        applied(&status, version, version + 1);
    }
    let page = device.download("include_self=true").await;
    for change in page["changes"].as_array().expect("changes") {
        assert_eq!(change["pk"], dashed);
    }
    // Nil and any version are UUIDs too.
    for (id, pk) in [
        (100, "00000000-0000-0000-0000-000000000000"),
        (101, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ] {
        applied(
            &device.upload_one(insert(id, USERS, pk, json!({}))).await,
            id,
            1,
        );
    }
}

async fn a_payload_may_be_empty_or_use_any_key(target: Target) {
    let device = target.one_device();
    for (index, payload) in [
        json!({}),
        json!({"": ""}),
        json!({"server_version": 99, "deleted": true, "id": "x", "op": "DELETE", "payload": {"payload": {}}}),
        json!({"key with \" and \\ and \u{1F600}": [[], {}, null, true, -0.0]}),
        json!({"__proto__": 1, "constructor": 2}),
    ]
    .into_iter()
    .enumerate()
    {
        let id = index as i64 + 1;
        let status = device
            .upload_one(insert(id, USERS, &fresh_key(), payload.clone()))
            .await;
        applied(&status, id, 1);
        let page = device
            .download(&format!("include_self=true&after={index}"))
            .await;
        assert_eq!(page["changes"][0]["payload"], payload);
        assert_eq!(page["changes"][0]["deleted"], false);
        assert_eq!(page["changes"][0]["server_version"], 1);
    }
}

/// A batch in which only the middle payload is given as text.
async fn middle_is_refused(target: &Target, payload: &str) {
    let device = target.one_device();
    let middle = format!(
        r#"{{"source_change_id":2,"schema":"business","table":"users","op":"INSERT","pk":"{}","payload":{payload}}}"#,
        fresh_key()
    );
    let body = format!(
        r#"{{"changes":[{},{middle},{}]}}"#,
        insert(1, USERS, &fresh_key(), json!({})),
        insert(3, USERS, &fresh_key(), json!({}))
    );
    let reply = device.upload_raw(body).await.ok();
    let statuses = &reply["statuses"];
    applied(&statuses[0], 1, 1);
    applied(&statuses[2], 3, 1);
    assert_eq!(statuses[1]["status"], "invalid", "{payload}: {reply}");
    assert_eq!(statuses[1]["invalid"]["reason"], "bad_payload");
    assert_eq!(
        statuses[1]["invalid"]["details"],
        json!({"error": statuses[1]["message"]})
    );
    assert_eq!(reply["highest_server_seq"], 2);
    assert_eq!(reply["accepted"], true);
}

async fn a_payload_with_a_duplicate_key(target: Target) {
    middle_is_refused(&target, r#"{"a":1,"a":1}"#).await;
    middle_is_refused(&target, r#"{"a":1,"\u0061":2}"#).await;
    middle_is_refused(&target, r#"{"x":[{"b":1,"c":2,"b":3}]}"#).await;
}

async fn a_payload_with_a_lone_surrogate(target: Target) {
    middle_is_refused(&target, r#"{"a":"\ud800"}"#).await;
    middle_is_refused(&target, r#"{"a":"\udc00\ud800"}"#).await;
    middle_is_refused(&target, r#"{"\ud800":1}"#).await;
}

async fn nul_in_a_payload_is_harmless(target: Target) {
    let (ada, bob) = target.two_devices();
    let key = fresh_key();
    let payload = json!({"text": "a\u{0}b", "k\u{0}": "\u{1F600}\u{FFFF}"});
    applied(
        &ada.upload_one(insert(1, USERS, &key, payload.clone()))
            .await,
        1,
        1,
    );
    assert_eq!(bob.download("").await["changes"][0]["payload"], payload);
    // On the path of a conflict too.
    let status = bob.upload_one(insert(1, USERS, &key, json!({}))).await;
    assert_eq!(status["server_row"]["payload"], payload);
}

async fn a_bad_change_harms_no_neighbour(target: Target) {
    let device = target.one_device();
    let mut changes = Vec::new();
    for id in 1..=40 {
        let mut change = insert(id, USERS, &fresh_key(), json!({"n": id}));
        match id % 8 {
            1 => change["pk"] = "?".into(),
            3 => change["op"] = "?".into(),
            5 => change["table"] = "?".into(),
            7 => change["server_version"] = 5.into(),
            _ => {}
        }
        changes.push(change);
    }
    let reply = device.upload(&changes).await;
    assert_eq!(reply["highest_server_seq"], 20);
    assert_eq!(reply["accepted"], true);
    for (index, status) in reply["statuses"]
        .as_array()
        .expect("statuses")
        .iter()
        .enumerate()
    {
        let id = index as i64 + 1;
        let expected = if id % 2 == 0 { "applied" } else { "invalid" };
        assert_eq!(
            (&status["source_change_id"], &status["status"]),
            (&json!(id), &json!(expected))
        );
    }
    let ids: Vec<i64> = device
        .download_all(0, 7, "&include_self=true")
        .await
        .0
        .iter()
        .map(|change| change["source_change_id"].as_i64().expect("an id"))
        .collect();
    assert_eq!(ids, (1..=40).filter(|id| id % 2 == 0).collect::<Vec<_>>());
}

async fn an_unregistered_table_makes_the_batch_unaccepted(target: Target) {
    let device = target.one_device();
    let reply = device
        .upload(&[
            insert(1, USERS, &fresh_key(), json!({})),
            insert(2, "business.nothing", &fresh_key(), json!({})),
            insert(3, USERS, &fresh_key(), json!({})),
        ])
        .await;
    assert_eq!(reply["accepted"], false);
    applied(&reply["statuses"][0], 1, 1);
    applied(&reply["statuses"][2], 3, 1);
    assert_eq!(reply["highest_server_seq"], 2);
}

async fn a_refused_change_id_is_not_used_up(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let bad = [
        with(insert(1, USERS, &key, json!({"a": 1})), json!({"op": "?"})),
        insert(1, "business.nothing", &key, json!({"a": 1})),
        change(1, USERS, "INSERT", &key, 9, json!({"a": 1})),
        insert(1, "business.posts", &key, json!({"author_id": fresh_key()})),
        delete(1, USERS, &key, 0),
    ];
    for change in bad {
        let status = device.upload_one(change).await;
        assert!(status["new_server_version"].is_null(), "{status}");
    }
    applied(
        &device
            .upload_one(insert(1, USERS, &key, json!({"a": 2})))
            .await,
        1,
        1,
    );
    assert_eq!(device.server_ids("&include_self=true").await, [1]);
}

async fn change_ids_and_versions_at_the_edge_of_64_bits(target: Target) {
    let device = target.one_device();
    for id in [i64::MIN, -1, 0, i64::MAX] {
        let key = fresh_key();
        applied(
            &device.upload_one(insert(id, USERS, &key, json!({}))).await,
            id,
            1,
        );
        applied(
            &device.upload_one(insert(id, USERS, &key, json!({}))).await,
            id,
            1,
        );
    }
    for version in [i64::MIN, -1, i64::MAX] {
        let key = fresh_key();
        let status = device
            .upload_one(change(50, USERS, "UPDATE", &key, version, json!({})))
            .await;
        let message = format!("conflict without server_row for business.users pk={key}");
        invalid(&status, 50, "internal_error", &message);
    }
}
