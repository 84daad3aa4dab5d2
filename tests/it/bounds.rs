//! What one request may cost: answers are bounded too, not only bodies.

use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Server, on_both_stores};
use serde_json::json;

on_both_stores!(
    an_answer_that_would_show_too_much_is_refused_and_nothing_is_applied,
    a_batch_of_absurd_size_is_refused_whole,
    a_page_of_large_rows_comes_whole,
);

/// Many stale edits of one large row would each be answered with the row.
async fn an_answer_that_would_show_too_much_is_refused_and_nothing_is_applied(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    let (large, new) = (fresh_key(), fresh_key());
    let payload = json!({"text": "x".repeat(1_000_000)});
    let statuses = device
        .statuses(&[insert(1, "business.users", &large, payload)])
        .await;
    assert_eq!(statuses[0]["status"], "applied");

    let mut changes = vec![insert(2, "business.users", &new, json!({}))];
    changes.extend((3..50).map(|id| update(id, "business.users", &large, 0, json!({}))));
    let reply = device.try_upload(&changes).await.expect("an answer");
    let refused = reply.refused(413, "request_too_large");
    assert_eq!(refused["limit_bytes"], 8 * 1024 * 1024);
    assert_eq!(
        device.sibling("eve").server_ids("").await.len(),
        1,
        "nothing was applied"
    );

    // Fewer at a time are answered, each with the row.
    let statuses = device.statuses(&changes[..9]).await;
    assert_eq!(statuses[0]["status"], "applied");
    assert!(
        statuses[1..]
            .iter()
            .all(|status| status["server_row"]["payload"]["text"].is_string())
    );
}

async fn a_batch_of_absurd_size_is_refused_whole(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    let body = |count: usize| format!("{{\"changes\":[{}{{}}]}}", "{},".repeat(count - 1));
    let reply = device.upload_raw(body(16_000)).await.ok();
    assert_eq!(reply["accepted"], false);
    assert_eq!(reply["statuses"].as_array().map(Vec::len), Some(16_000));
    device
        .upload_raw(body(16_001))
        .await
        .refused(413, "request_too_large");
    device
        .upload_raw(body(2_000_000))
        .await
        .refused(413, "request_too_large");
}

/// More than is held in memory at a time: the page is written piece by piece,
/// and is one page all the same.
async fn a_page_of_large_rows_comes_whole(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let text = "x".repeat(900_000);
    for id in 1..=20 {
        let status = ada
            .upload_one(insert(
                id,
                "business.users",
                &fresh_key(),
                json!({"n": id, "text": text}),
            ))
            .await;
        assert_eq!(status["status"], "applied");
    }
    let page = bob.download("limit=15").await;
    let ids: Vec<i64> = page["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .filter_map(|c| c["payload"]["n"].as_i64())
        .collect();
    assert_eq!(ids, (1..=15).collect::<Vec<_>>());
    assert_eq!(
        (
            &page["has_more"],
            &page["next_after"],
            &page["window_until"]
        ),
        (&json!(true), &json!(15), &json!(20))
    );
    let page = bob.download("after=15&until=20&limit=1000").await;
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        (&page["has_more"], &page["next_after"], &page["head"]),
        (&json!(false), &json!(20), &json!(20))
    );
}
