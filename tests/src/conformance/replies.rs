//! Sections 1, 3 and 4: the outside of every answer: exactly these fields, as
//! JSON, and true of what the next request will see.

use super::case_list;
use super::statuses::{applied, kinds};
use crate::device::{HttpDevice, insert};
use crate::target::{Target, fresh_key};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

case_list![V1:
    every_answer_is_json,
    an_error_has_exactly_code_and_message,
    an_upload_reply_has_exactly_its_fields,
    a_page_has_exactly_its_fields,
    what_a_reply_calls_applied_others_see_at_once,
    a_rejected_batch_says_the_head_too,
    what_a_device_says_it_has_seen_is_ignored,
    an_empty_change_is_one_bad_change,
    statuses_match_by_position,
    a_method_that_an_endpoint_lacks_is_405;
Extension:
    a_foreign_origin_opens_no_socket,
    wrongly_typed_extensions_are_400,
    null_extensions_count_as_absent,
];

const USERS: &str = "business.users";

/// The names of an object's fields, without those that section 7 adds.
fn fields(object: &Value) -> BTreeSet<&str> {
    const OURS: [&str; 3] = ["epoch", "head", "highest_source_change_id"];
    object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .filter(|name| !OURS.contains(name))
        .collect()
}

async fn every_answer_is_json(target: Target) {
    let device = target.one_device();
    let nobody = HttpDevice::new(target, "-", "-", "nonsense".into());
    for reply in [
        device.upload_raw("{}").await,
        device.upload_raw("").await,
        device.download_raw("").await,
        device.download_raw("after=x").await,
        device.get("/sync/schema-version").await,
        device.get("/sync/upload").await,
        device.get("/nothing").await,
        device.get("/admin/materialize-failures").await,
        nobody.download_raw("").await,
    ] {
        let kind = reply.headers["content-type"].to_str().expect("text");
        let is_json = kind == "application/json" || kind == "application/json; charset=utf-8";
        assert!(is_json, "{kind}");
        reply.json();
    }
}

async fn an_error_has_exactly_code_and_message(target: Target) {
    let device = target.one_device();
    let nobody = HttpDevice::new(target, "-", "-", "nonsense".into());
    for (reply, status) in [
        (nobody.download_raw("").await, 401),
        (device.upload_raw("").await, 400),
        (device.download_raw("limit=0").await, 400),
        (device.get("/sync/upload").await, 405),
        (device.get("/nothing").await, 404),
    ] {
        assert_eq!(reply.status, status);
        let body = reply.json();
        assert_eq!(fields(&body), ["error", "message"].into(), "{body}");
    }
}

async fn an_upload_reply_has_exactly_its_fields(target: Target) {
    let device = target.one_device();
    for changes in [
        vec![],
        vec![insert(1, USERS, &fresh_key(), json!({}))],
        vec![insert(2, "business.nothing", &fresh_key(), json!({}))],
    ] {
        let reply = device.upload(&changes).await;
        assert_eq!(
            fields(&reply),
            ["accepted", "highest_server_seq", "statuses"].into(),
            "{reply}"
        );
    }
}

async fn a_page_has_exactly_its_fields(target: Target) {
    let device = target.one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    for query in ["", "include_self=true", "after=7&until=9"] {
        let page = device.download(query).await;
        assert_eq!(
            fields(&page),
            ["changes", "has_more", "next_after", "window_until"].into(),
            "{page}"
        );
    }
}

async fn what_a_reply_calls_applied_others_see_at_once(target: Target) {
    let (ada, bob) = target.two_devices();
    for turn in 0..10 {
        let changes: Vec<Value> = (1..=3)
            .map(|n| insert(3 * turn + n, USERS, &fresh_key(), json!({"n": n})))
            .collect();
        let head = ada.upload(&changes).await["highest_server_seq"].clone();
        assert_eq!(head, 3 * (turn + 1));
        let page = bob.download(&format!("after={}", 3 * turn)).await;
        assert_eq!(page["window_until"], head);
        assert_eq!(page["changes"].as_array().map(Vec::len), Some(3));
    }
}

async fn a_rejected_batch_says_the_head_too(target: Target) {
    let device = target.one_device();
    device
        .upload(&[
            insert(1, USERS, &fresh_key(), json!({})),
            insert(2, USERS, &fresh_key(), json!({})),
        ])
        .await;
    // Far above any limit, yet small.
    let many = format!("{{\"changes\":[{}{{}}]}}", "{},".repeat(12_000));
    let reply = device.upload_raw(many).await.ok();
    assert_eq!(reply["statuses"][0]["invalid"]["reason"], "batch_too_large");
    assert_eq!(reply["highest_server_seq"], 2);
    let reply = device.upload(&[insert(3, "a.b", "?", json!({}))]).await;
    assert_eq!(
        (&reply["accepted"], &reply["highest_server_seq"]),
        (&json!(false), &json!(2))
    );
}

async fn what_a_device_says_it_has_seen_is_ignored(target: Target) {
    let device = target.one_device();
    for (id, seen) in [(1, 0), (2, -5), (3, i64::MAX), (4, i64::MIN), (5, 1)] {
        let change = insert(id, USERS, &fresh_key(), json!({}));
        let body = json!({"last_server_seq_seen": seen, "changes": [change]});
        let reply = device.upload_raw(body.to_string()).await.ok();
        applied(&reply["statuses"][0], id, 1);
        assert_eq!(reply["highest_server_seq"], id);
    }
}

async fn an_empty_change_is_one_bad_change(target: Target) {
    let device = target.one_device();
    let good = insert(0, USERS, &fresh_key(), json!({}));
    let statuses = device.statuses(&[json!({}), good]).await;
    let message = "bad_payload: invalid table name \"\"";
    assert_eq!(
        statuses[0],
        json!({
            "source_change_id": 0, "status": "invalid", "message": message,
            "invalid": {"reason": "bad_payload", "details": {"error": message}},
        })
    );
    applied(&statuses[1], 0, 1);
}

async fn statuses_match_by_position(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    // One id for all, a child before its parent: positions tell them apart.
    let statuses = device
        .statuses(&[
            insert(9, USERS, "?", json!({})),
            insert(9, "business.posts", &fresh_key(), json!({"author_id": key})),
            insert(8, USERS, &key, json!({})),
            insert(9, USERS, &fresh_key(), json!([])),
        ])
        .await;
    let ids: Vec<&Value> = statuses.iter().map(|s| &s["source_change_id"]).collect();
    assert_eq!(ids, [9, 9, 8, 9]);
    assert_eq!(
        kinds(&statuses),
        ["invalid", "applied", "applied", "invalid"]
    );
}

async fn a_method_that_an_endpoint_lacks_is_405(target: Target) {
    let device = target.one_device();
    for (method, path) in [
        (Method::POST, "/ready"),
        (Method::PUT, "/health"),
        (Method::POST, "/admin/materialize-failures"),
        (Method::DELETE, "/admin/materialize-failures"),
        (Method::GET, "/admin/materialize-failures/retry"),
    ] {
        HttpDevice::send(device.request(method, path))
            .await
            .refused(405, "method_not_allowed");
    }
}

async fn a_foreign_origin_opens_no_socket(target: Target) {
    let device = target.one_device();
    for origin in ["https://evil.example", "null"] {
        let refused = device
            .try_connect(&[("origin", origin)])
            .await
            .expect_err("a foreign page");
        assert_eq!(refused.status, 403, "{origin}");
        assert_eq!(refused.body["error"], "origin_not_allowed");
        assert_eq!(fields(&refused.body), ["error", "message"].into());
    }
}

async fn wrongly_typed_extensions_are_400(target: Target) {
    let device = target.one_device();
    for body in [
        r#"{"epoch":7}"#,
        r#"{"epoch":{}}"#,
        r#"{"settled_below":"1"}"#,
        r#"{"settled_below":1.5}"#,
    ] {
        device
            .upload_raw(body)
            .await
            .bad_request("Failed to parse upload request");
    }
}

async fn null_extensions_count_as_absent(target: Target) {
    let device = target.one_device();
    device
        .upload_raw(r#"{"epoch":null,"settled_below":null,"changes":null}"#)
        .await
        .ok();
}
