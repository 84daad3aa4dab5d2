//! What one request may cost: answers are bounded as bodies are, in bytes and time.

use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Server, on_both_stores};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_both_stores!(
    an_answer_that_would_show_too_much_is_refused_and_nothing_is_applied,
    a_batch_of_absurd_size_is_refused_whole,
    a_page_of_large_rows_comes_whole,
    a_body_that_trickles_is_refused,
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

/// A body sent in so many pieces of so many bytes, ten in a second: the answer's status,
/// and when it came.
async fn sent_slowly(server: &Server, pieces: usize, piece: usize) -> (String, Duration) {
    let device = server.target().one_device();
    let mut stream = TcpStream::connect(server.address())
        .await
        .expect("connects");
    let start = Instant::now();
    let head = format!(
        "POST /sync/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        device.token(),
        piece * pieces
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut from, mut to) = stream.into_split();
    let sending = tokio::spawn(async move {
        let mut body = b"{}".to_vec();
        body.resize(piece * pieces, b' ');
        for piece in body.chunks(piece) {
            if to.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(60), from.read(&mut answer)).await;
    let read = read.expect("an answer in time").expect("an answer");
    let took = start.elapsed();
    sending.abort();
    let text = String::from_utf8_lossy(&answer[..read]);
    let status = text.lines().next().unwrap_or_default().to_owned();
    if status.contains("408") {
        assert!(text.contains("\"error\":\"request_timeout\""), "{text}");
    }
    (status, took)
}

/// Below 1 KiB a second after three seconds: refused long before the deadline of
/// ten. Above it a slow body is taken.
async fn a_body_that_trickles_is_refused(backend: Backend) {
    let database = backend.database().await;
    let server = Server::answering(&database, Config::default()).await;
    // The second takes four seconds of its ten.
    let (trickle, slow) = tokio::join!(
        sent_slowly(&server, 60, 20),
        sent_slowly(&server, 40, 1_600),
    );
    assert!(trickle.0.starts_with("HTTP/1.1 408"), "{trickle:?}");
    let seconds = trickle.1.as_secs_f64();
    assert!((2.9..8.0).contains(&seconds), "{seconds} s");
    assert!(slow.0.starts_with("HTTP/1.1 200"), "{slow:?}");
}
