//! Section 5: rows that cannot be written into their business table, listed and
//! tried again.
//!
//! A label is unique in the business table: a book with a taken one fails, and
//! succeeds when the other book has let go of it. All over HTTP.

use super::case_list;
use super::statuses::{applied, kinds};
use crate::device::{HttpDevice, Reply, delete, insert, update};
use crate::target::{Target, fresh_key};
use reqwest::Method;
use serde_json::{Value, json};

case_list![Projection:
    a_failed_projection_does_not_change_the_status,
    the_business_write_alone_is_rolled_back,
    a_failure_has_exactly_its_fields,
    a_deletes_failure_has_no_payload,
    failures_are_unique_per_row_and_version,
    the_list_is_a_bare_array_and_may_be_empty,
    the_list_filters_by_schema_and_table,
    the_lists_limit_is_100_unless_it_can_be_taken,
    the_newest_failure_comes_first,
    everybody_lists_their_own_only,
    parents_are_projected_before_their_children,
    a_retry_names_its_failure_in_query_or_body,
    a_retry_without_a_good_id_is_400,
    a_retry_of_an_unknown_or_foreign_failure_is_404,
    a_retry_that_fails_says_so_and_is_counted,
    a_retry_that_succeeds_removes_the_record,
    a_retry_replays_the_rows_current_state,
    a_later_success_clears_older_failures,
    a_successful_delete_clears_older_failures;
];

const BOOKS: &str = "shelf.books";
const CHAPTERS: &str = "shelf.chapters";
const LIST: &str = "/admin/materialize-failures";
const RETRY: &str = "/admin/materialize-failures/retry";

/// An empty title is never taken by the business table.
fn bad(id: i64, key: &str) -> Value {
    insert(id, BOOKS, key, json!({"title": ""}))
}

async fn list(device: &HttpDevice, query: &str) -> Vec<Value> {
    let list = device.get(&format!("{LIST}{query}")).await.ok();
    list.as_array().expect("a bare array").clone()
}

async fn only(device: &HttpDevice) -> Value {
    let mut list = list(device, "").await;
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

async fn retry(device: &HttpDevice, id: &Value) -> Reply {
    let request = device.request(Method::POST, RETRY).json(&json!({"id": id}));
    HttpDevice::send(request).await
}

/// A book that holds a label, and one that wants it and fails: their keys.
async fn two_books(device: &HttpDevice) -> (String, String, String) {
    let (holder, waiting, label) = (fresh_key(), fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            insert(1, BOOKS, &holder, json!({"title": "first", "label": label})),
            insert(
                2,
                BOOKS,
                &waiting,
                json!({"title": "second", "label": label}),
            ),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["applied", "applied"]);
    assert_eq!(only(device).await["pk"], json!(waiting));
    (holder, waiting, label)
}

/// The holder lets go of its label.
async fn let_go(device: &HttpDevice, holder: &str) {
    let change = update(
        3,
        BOOKS,
        holder,
        1,
        json!({"title": "first", "label": null}),
    );
    applied(&device.upload_one(change).await, 3, 2);
}

async fn a_failed_projection_does_not_change_the_status(target: Target) {
    let (ada, bob) = target.two_devices();
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    let reply = ada
        .upload(&[
            insert(1, BOOKS, &keys[0], json!({"title": "a"})),
            bad(2, &keys[1]),
            insert(3, BOOKS, &keys[2], json!({"title": "c"})),
        ])
        .await;
    assert_eq!(reply["accepted"], true);
    for (index, status) in (0..).zip(reply["statuses"].as_array().expect("statuses")) {
        applied(status, index + 1, 1);
    }
    assert_eq!(bob.server_ids("").await, [1, 2, 3], "the stream has it too");
    // The row goes on as any other: its version counts, a repeat is recognised.
    applied(&ada.upload_one(bad(2, &keys[1])).await, 2, 1);
    let next = update(4, BOOKS, &keys[1], 1, json!({"title": ""}));
    applied(&ada.upload_one(next).await, 4, 2);
}

async fn the_business_write_alone_is_rolled_back(target: Target) {
    let device = target.one_device();
    let keys: Vec<String> = (0..9).map(|_| fresh_key()).collect();
    let changes: Vec<Value> = (0..)
        .zip(&keys)
        .map(|(n, key)| {
            let title = if n % 3 == 1 { "" } else { "good" };
            insert(n, BOOKS, key, json!({"title": title}))
        })
        .collect();
    device.upload(&changes).await;
    let mut failed: Vec<Value> = list(&device, "")
        .await
        .iter()
        .map(|failure| failure["pk"].clone())
        .collect();
    failed.sort_unstable_by_key(ToString::to_string);
    let mut expected = [&keys[1], &keys[4], &keys[7]].map(|key| json!(key));
    expected.sort_unstable_by_key(ToString::to_string);
    assert_eq!(failed, expected, "its neighbours were written");
}

async fn a_failure_has_exactly_its_fields(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let body = format!(
        r#"{{"changes":[{{"source_change_id":1,"schema":"shelf","table":"books","op":"UPDATE","pk":"{key}","payload":{{"title": "", "n":1.50 }}}}]}}"#
    );
    device.upload_raw(body).await.ok();
    let listed = device.get(LIST).await;
    assert!(
        listed.text.contains(r#"{"title": "", "n":1.50 }"#),
        "the payload is the text that came: {}",
        listed.text
    );
    let mut failure = only(&device).await;
    let members = failure.as_object_mut().expect("an object");
    assert!(members.remove("id").is_some_and(|id| id.is_i64()));
    let error = members.remove("error").expect("an error");
    assert!(error.as_str().is_some_and(|text| !text.is_empty()));
    let seen = members.remove("first_seen").expect("first_seen");
    let seen = seen.as_str().expect("text");
    assert!(
        seen.ends_with('Z') && seen.as_bytes()[10] == b'T',
        "RFC 3339, UTC: {seen}"
    );
    assert_eq!(
        failure,
        json!({
            "user_id": device.user(), "schema": "shelf", "table": "books", "pk": key,
            "attempted_version": 1, "op": "UPDATE", "payload": {"title": "", "n": 1.5},
            "retry_count": 0,
        })
    );
}

async fn a_deletes_failure_has_no_payload(target: Target) {
    let device = target.one_device();
    let book = fresh_key();
    // The business table does not let go of it.
    device
        .upload(&[insert(1, BOOKS, &book, json!({"title": "kept"}))])
        .await;
    assert_eq!(list(&device, "").await, [0; 0]);
    applied(&device.upload_one(delete(2, BOOKS, &book, 1)).await, 2, 2);
    let failure = only(&device).await;
    assert_eq!(
        (&failure["op"], &failure["attempted_version"]),
        (&json!("DELETE"), &json!(2))
    );
    assert!(failure.get("payload").is_none(), "{failure}");
    let status = retry(&device, &failure["id"]).await.ok();
    assert_eq!(status["status"], "materialize_error", "{status}");
    // Back and renamed, it can go.
    device
        .upload(&[update(3, BOOKS, &book, 2, json!({"title": "free"}))])
        .await;
    assert_eq!(list(&device, "").await, [0; 0]);
    applied(&device.upload_one(delete(4, BOOKS, &book, 3)).await, 4, 4);
    assert_eq!(list(&device, "").await, [0; 0]);
}

async fn failures_are_unique_per_row_and_version(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    for _ in 0..3 {
        device.upload(&[bad(1, &key)]).await;
    }
    assert_eq!(only(&device).await["attempted_version"], 1);
    device
        .upload(&[update(2, BOOKS, &key, 1, json!({"title": ""}))])
        .await;
    let versions: Vec<Value> = list(&device, "")
        .await
        .iter()
        .map(|failure| failure["attempted_version"].clone())
        .collect();
    assert_eq!(versions, [2, 1]);
}

async fn the_list_is_a_bare_array_and_may_be_empty(target: Target) {
    let device = target.one_device();
    for query in ["", "?limit=5", "?schema=shelf&table=books"] {
        let reply = device.get(&format!("{LIST}{query}")).await;
        assert_eq!((reply.status, reply.text.trim()), (200, "[]"), "{query}");
    }
}

async fn the_list_filters_by_schema_and_table(target: Target) {
    let device = target.one_device();
    device
        .upload(&[
            bad(1, &fresh_key()),
            bad(2, &fresh_key()),
            insert(3, CHAPTERS, &fresh_key(), json!({"title": null})),
        ])
        .await;
    for (query, count) in [
        ("", 3),
        ("?schema=shelf", 3),
        ("?table=books", 2),
        ("?table=chapters", 1),
        ("?schema=shelf&table=chapters", 1),
        ("?schema=business&table=books", 0),
        ("?schema=SHELF", 0),
        ("?table=book", 0),
        ("?table=%00", 0),
        ("?schema=no%20name", 0),
        ("?schema=&table=", 3),
        ("?unknown=7", 3),
    ] {
        assert_eq!(list(&device, query).await.len(), count, "{query}");
    }
}

async fn the_lists_limit_is_100_unless_it_can_be_taken(target: Target) {
    let device = target.one_device();
    let changes: Vec<Value> = (1..=103).map(|id| bad(id, &fresh_key())).collect();
    device.upload(&changes).await;
    for (limit, count) in [
        ("", 100),
        ("?limit=1", 1),
        ("?limit=102", 102),
        ("?limit=1000", 103),
        ("?limit=1001", 100),
        ("?limit=0", 100),
        ("?limit=-1", 100),
        ("?limit=x", 100),
        ("?limit=1.5", 100),
        ("?limit=", 100),
        ("?limit=99999999999999999999", 100),
    ] {
        assert_eq!(list(&device, limit).await.len(), count, "{limit}");
    }
}

async fn the_newest_failure_comes_first(target: Target) {
    let device = target.one_device();
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    for (id, key) in (1..).zip(&keys) {
        device.upload(&[bad(id, key)]).await;
    }
    let listed: Vec<Value> = list(&device, "")
        .await
        .iter()
        .map(|failure| failure["pk"].clone())
        .collect();
    assert_eq!(listed, [&keys[2], &keys[1], &keys[0]].map(|key| json!(key)));
    assert_eq!(list(&device, "?limit=1").await[0]["pk"], json!(keys[2]));
}

async fn everybody_lists_their_own_only(target: Target) {
    let (ada, bob) = target.two_devices();
    let other = target.one_device();
    ada.upload(&[bad(1, &fresh_key())]).await;
    assert_eq!(list(&bob, "").await.len(), 1, "of the same user");
    assert_eq!(list(&other, "").await, [0; 0]);
}

async fn parents_are_projected_before_their_children(target: Target) {
    let device = target.one_device();
    let book = fresh_key();
    let chapter = json!({"title": "one", "book_id": book});
    let statuses = device
        .statuses(&[
            insert(1, CHAPTERS, &fresh_key(), chapter),
            insert(2, BOOKS, &book, json!({"title": "a"})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["applied", "applied"]);
    assert_eq!(list(&device, "").await, [0; 0]);
}

async fn a_retry_names_its_failure_in_query_or_body(target: Target) {
    let device = target.one_device();
    device.upload(&[bad(1, &fresh_key())]).await;
    let id = only(&device).await["id"].clone();
    let by_body = retry(&device, &id).await.ok();
    let path = format!("{RETRY}?id={id}");
    let by_query = HttpDevice::send(device.request(Method::POST, &path))
        .await
        .ok();
    assert_eq!(by_body, by_query);
    assert_eq!(only(&device).await["retry_count"], 2);
}

async fn a_retry_without_a_good_id_is_400(target: Target) {
    let device = target.one_device();
    for query in ["?id=x", "?id=1.5", "?id=9223372036854775808", "?id=+"] {
        let path = format!("{RETRY}{query}");
        HttpDevice::send(device.request(Method::POST, &path))
            .await
            .bad_request("missing or invalid id");
    }
    for body in [
        "",
        "{}",
        "null",
        "7",
        "[]",
        "{",
        r#"{"id":null}"#,
        r#"{"id":"7"}"#,
        r#"{"id":1.5}"#,
    ] {
        let request = device.request(Method::POST, RETRY).body(body);
        HttpDevice::send(request)
            .await
            .bad_request("missing or invalid id");
    }
    let packed = device
        .request(Method::POST, RETRY)
        .header("content-encoding", "gzip")
        .body("{\"id\":1}");
    HttpDevice::send(packed)
        .await
        .refused(415, "unsupported_encoding");
}

async fn a_retry_of_an_unknown_or_foreign_failure_is_404(target: Target) {
    let (device, other) = (target.one_device(), target.one_device());
    device.upload(&[bad(1, &fresh_key())]).await;
    let id = only(&device).await["id"].clone();
    let foreign = retry(&other, &id).await;
    foreign.refused(404, "not_found");
    for unknown in [json!(0), json!(-1), json!(i64::MAX)] {
        let reply = retry(&device, &unknown).await;
        reply.refused(404, "not_found");
        assert_eq!(reply.text, foreign.text, "a foreign one is unknown");
    }
    assert_eq!(only(&device).await["retry_count"], 0);
}

async fn a_retry_that_fails_says_so_and_is_counted(target: Target) {
    let device = target.one_device();
    device.upload(&[bad(1, &fresh_key())]).await;
    let failure = only(&device).await;
    let mut status = retry(&device, &failure["id"]).await.ok();
    let message = status.as_object_mut().expect("an object").remove("message");
    assert_eq!(message.as_ref(), Some(&failure["error"]));
    assert_eq!(
        status,
        json!({"source_change_id": 0, "status": "materialize_error"})
    );
    let mut again = only(&device).await;
    assert_eq!(again["retry_count"], 1);
    again["retry_count"] = 0.into();
    assert_eq!(again, failure, "nothing else of the record changes");
}

async fn a_retry_that_succeeds_removes_the_record(target: Target) {
    let device = target.one_device();
    let (holder, ..) = two_books(&device).await;
    let failure = only(&device).await;
    let_go(&device, &holder).await;
    assert_eq!(
        only(&device).await["id"],
        failure["id"],
        "nobody has tried again"
    );
    let status = retry(&device, &failure["id"]).await.ok();
    assert_eq!(
        status,
        json!({"source_change_id": 0, "status": "applied", "new_server_version": 1})
    );
    assert_eq!(list(&device, "").await, [0; 0]);
    retry(&device, &failure["id"])
        .await
        .refused(404, "not_found");
}

async fn a_retry_replays_the_rows_current_state(target: Target) {
    let device = target.one_device();
    let (holder, waiting, label) = two_books(&device).await;
    let first = only(&device).await["id"].clone();
    // The row moves on and fails again.
    let newer = json!({"title": "newer", "label": label});
    device.upload(&[update(4, BOOKS, &waiting, 1, newer)]).await;
    assert_eq!(list(&device, "").await.len(), 2);
    let_go(&device, &holder).await;
    let status = retry(&device, &first).await.ok();
    assert_eq!(status["new_server_version"], 2, "the state of today");
    // Written, the row has no failures left, of whatever version.
    assert_eq!(list(&device, "").await, [0; 0]);
}

async fn a_later_success_clears_older_failures(target: Target) {
    let device = target.one_device();
    let (key, other) = (fresh_key(), fresh_key());
    device.upload(&[bad(1, &key), bad(2, &other)]).await;
    device
        .upload(&[update(3, BOOKS, &key, 1, json!({"title": ""}))])
        .await;
    assert_eq!(list(&device, "").await.len(), 3);
    device
        .upload(&[update(4, BOOKS, &key, 2, json!({"title": "good"}))])
        .await;
    assert_eq!(only(&device).await["pk"], json!(other), "of that row only");
}

async fn a_successful_delete_clears_older_failures(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    device.upload(&[bad(1, &key)]).await;
    assert_eq!(list(&device, "").await.len(), 1);
    device.upload(&[delete(2, BOOKS, &key, 1)]).await;
    assert_eq!(list(&device, "").await, [0; 0]);
}
