//! Section 3 and BOUNDED: the limit passes, one more gets the documented error.

use super::case_list;
use super::statuses::{applied, invalid};
use crate::device::{HttpDevice, change, insert};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![V1:
    json_of_depth_64_and_65,
    a_page_of_1000_and_1001,
    a_payload_of_depth_64_is_read_back;
Extension:
    as_many_changes_as_the_limit_and_one_more,
    a_payload_as_large_as_the_limit_and_one_byte_more,
    size_is_judged_before_the_kind_of_the_payload,
    a_page_holds_as_much_as_it_may,
    a_body_as_large_as_the_limit_and_one_byte_more,
];

const USERS: &str = "business.users";

async fn limit(device: &HttpDevice, name: &str) -> usize {
    let served = device.get("/sync/capabilities").await.ok();
    served["limits"][name].as_u64().expect("a limit") as usize
}

async fn json_of_depth_64_and_65(target: Target) {
    let device = target.one_device();
    for (id, depth) in [(1, 64), (2, 65), (3, 100_000)] {
        // The payload itself is the first level.
        let inner = depth - 1;
        let body = format!(
            r#"{{"changes":[{{"source_change_id":{id},"schema":"business","table":"users","op":"INSERT","pk":"{}","payload":{{"x":{}{}}}}}]}}"#,
            fresh_key(),
            "[".repeat(inner),
            "]".repeat(inner)
        );
        let status = device.upload_raw(body).await.ok()["statuses"][0].clone();
        if depth <= 64 {
            applied(&status, id, 1);
        } else {
            assert_eq!(status["invalid"]["reason"], "bad_payload", "depth {depth}");
        }
    }
}

async fn a_payload_of_depth_64_is_read_back(target: Target) {
    let (ada, bob) = target.two_devices();
    let payload = format!("{{\"x\":{}{}}}", "[".repeat(63), "]".repeat(63));
    let body = format!(
        r#"{{"changes":[{{"source_change_id":1,"schema":"business","table":"users","op":"INSERT","pk":"{}","payload":{payload}}}]}}"#,
        fresh_key()
    );
    ada.upload_raw(body).await.ok();
    assert!(bob.download_raw("").await.text.contains(&payload));
}

async fn size_is_judged_before_the_kind_of_the_payload(target: Target) {
    let device = target.one_device();
    let limit = limit(&device, "max_payload_bytes").await;
    let text = json!("x".repeat(limit - 1));
    let message = format!("bad_payload: payload too large: {} > {limit}", limit + 1);
    for op in ["INSERT", "DELETE"] {
        let change = change(1, USERS, op, &fresh_key(), 0, text.clone());
        let status = device.upload_one(change).await;
        invalid(&status, 1, "bad_payload", &message);
    }
}

async fn a_page_holds_as_much_as_it_may(target: Target) {
    let (ada, bob) = target.two_devices();
    let most = limit(&bob, "max_page").await;
    let changes: Vec<Value> = (0..=most as i64)
        .map(|id| insert(id, USERS, &fresh_key(), json!({})))
        .collect();
    for batch in changes.chunks(500) {
        ada.upload(batch).await;
    }
    let page = bob.download("limit=1000").await;
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(most));
    assert_eq!(
        (&page["has_more"], &page["next_after"]),
        (&json!(true), &json!(most))
    );
}

async fn a_page_of_1000_and_1001(target: Target) {
    let device = target.one_device();
    device.download("limit=1000").await;
    device.download("limit=1").await;
    device
        .download_raw("limit=1001")
        .await
        .bad_request("limit must be between 1 and 1000");
}

async fn as_many_changes_as_the_limit_and_one_more(target: Target) {
    let device = target.one_device();
    let limit = limit(&device, "max_changes").await;
    let mut changes: Vec<Value> = (0..=limit as i64)
        .map(|id| insert(id, USERS, &fresh_key(), json!({})))
        .collect();
    // Checked before anything else: not even the bad change has another answer.
    changes[3]["table"] = "?".into();
    let reply = device.upload(&changes).await;
    assert_eq!(
        (&reply["accepted"], &reply["highest_server_seq"]),
        (&json!(false), &json!(0))
    );
    let statuses = reply["statuses"].as_array().expect("statuses");
    assert_eq!(statuses.len(), limit + 1);
    let message = format!("batch too large: changes={} limit={limit}", limit + 1);
    for (id, status) in statuses.iter().enumerate() {
        invalid(status, id as i64, "batch_too_large", &message);
    }
    changes[3]["table"] = "users".into();
    changes.truncate(limit);
    let reply = device.upload(&changes).await;
    assert_eq!(reply["accepted"], true);
    assert_eq!(reply["highest_server_seq"], limit);
}

async fn a_payload_as_large_as_the_limit_and_one_byte_more(target: Target) {
    let device = target.one_device();
    let limit = limit(&device, "max_payload_bytes").await;
    let frame = json!({"text": ""}).to_string().len();
    for (id, bytes) in [(1, limit), (2, limit + 1)] {
        let payload = json!({"text": "x".repeat(bytes - frame)});
        let status = device
            .upload_one(insert(id, USERS, &fresh_key(), payload))
            .await;
        if bytes <= limit {
            applied(&status, id, 1);
        } else {
            let message = format!("bad_payload: payload too large: {bytes} > {limit}");
            invalid(&status, id, "bad_payload", &message);
        }
    }
}

async fn a_body_as_large_as_the_limit_and_one_byte_more(target: Target) {
    let device = target.one_device();
    let limit = limit(&device, "max_body_bytes").await;
    let padded = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    device.upload_raw(padded(limit)).await.ok();
    let reply = device.upload_raw(padded(limit + 1)).await;
    assert_eq!(
        reply.refused(413, "request_too_large")["limit_bytes"],
        limit
    );
    // Without a length in front: found out while reading.
    for (bytes, status) in [(limit, 200), (limit + 1, 413)] {
        let body = padded(bytes).into_bytes();
        let chunks: Vec<Result<Vec<u8>, std::io::Error>> = body
            .chunks(64 * 1024)
            .map(|chunk| Ok(chunk.to_vec()))
            .collect();
        let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        assert_eq!(
            device.upload_raw(stream).await.status,
            status,
            "{bytes} bytes in chunks"
        );
    }
}
