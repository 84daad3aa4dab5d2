//! `wait`: a download that is answered when there is something to answer.

use oversync_tests::device::insert;
use oversync_tests::folding::{eager, own, people, silence};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, HttpDevice, Server, eventually, on_both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

on_both_stores!(
    it_is_answered_at_once_when_there_is_something,
    it_is_answered_promptly_after_an_upload_by_another_device,
    ones_own_uploads_do_not_end_it,
    it_ends_empty_after_its_time,
    it_ends_when_a_floor_has_passed_it,
);

async fn server(backend: Backend) -> (oversync_tests::Database, Server) {
    let database = backend.database().await;
    let server = Server::answering(&database, Config::default()).await;
    (database, server)
}

async fn write(device: &HttpDevice, id: i64, table: &str) {
    device
        .upload(&[insert(id, table, &fresh_key(), json!({}))])
        .await;
}

/// A poll that runs while the test goes on, and how long it took.
fn poll(device: &HttpDevice, query: &str) -> tokio::task::JoinHandle<(Value, Duration)> {
    let (device, query) = (device.clone(), query.to_owned());
    tokio::spawn(async move {
        let start = Instant::now();
        (device.download(&query).await, start.elapsed())
    })
}

fn count(page: &Value) -> usize {
    page["changes"].as_array().expect("changes").len()
}

async fn it_is_answered_at_once_when_there_is_something(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (ada, bob) = server.target().two_devices();
    write(&ada, 1, "business.users").await;
    let (page, took) = poll(&bob, "wait=30").await.expect("answered");
    assert_eq!(count(&page), 1);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

async fn it_is_answered_promptly_after_an_upload_by_another_device(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (ada, bob) = server.target().two_devices();
    let mut polls: Vec<_> = (0..5).map(|_| poll(&bob, "wait=30")).collect();
    // One that starts after the others have begun to wait, whenever that is.
    bob.download("wait=1").await;
    polls.push(poll(&bob.sibling("cid"), "wait=30"));
    write(&ada, 1, "business.users").await;
    for poll in polls {
        let (page, took) = poll.await.expect("answered");
        assert_eq!((count(&page), &page["next_after"]), (1, &json!(1)));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    // From one poll to the next nothing falls between.
    for id in 2..=10 {
        let next = poll(&bob, &format!("after={}&wait=30", id - 1));
        write(&ada, id, "business.users").await;
        let (page, took) = next.await.expect("answered");
        assert_eq!((count(&page), &page["next_after"]), (1, &json!(id)));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

async fn ones_own_uploads_do_not_end_it(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (ada, bob) = server.target().two_devices();
    let own = poll(&bob, "wait=10");
    let other_schema = poll(&bob.sibling("cid"), "wait=10&schema=public");
    // Twice, and well before they end.
    for ids in [1..=5, 6..=10] {
        let changes: Vec<Value> = ids
            .map(|id| insert(id, "business.users", &fresh_key(), json!({})))
            .collect();
        bob.upload(&changes).await;
    }
    for (poll, head) in [(own, 10), (other_schema, 10)] {
        let (page, took) = poll.await.expect("answered");
        assert_eq!((count(&page), &page["head"]), (0, &json!(head)));
        assert!(took >= Duration::from_millis(9_900), "{took:?}");
    }
    // After all of one's own, another device's still ends it.
    let mixed = poll(&bob, "wait=30");
    write(&bob, 11, "business.users").await;
    write(&ada, 1, "business.users").await;
    let (page, took) = mixed.await.expect("answered");
    assert_eq!((count(&page), &page["next_after"]), (1, &json!(12)));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

async fn it_ends_empty_after_its_time(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (page, took) = poll(&server.target().one_device(), "after=7&wait=1")
        .await
        .expect("answered");
    assert_eq!((count(&page), &page["next_after"]), (0, &json!(7)));
    assert_eq!(page["has_more"], false);
    assert!(took >= Duration::from_millis(950), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_hears_of_uploads_at_another_process() {
    let (database, here) = server(Backend::Postgres).await;
    let there = Server::answering(&database, Config::default()).await;
    let (ada, bob) = here.target().two_devices();
    let waiting = poll(&bob.at(&there.target()), "wait=30");
    // Whether it waits already or not: the answer is the same.
    write(&ada, 1, "business.users").await;
    let (page, took) = waiting.await.expect("answered");
    assert_eq!(count(&page), 1);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_does_not_hold_up_the_servers_end() {
    let database = Backend::Embedded.database().await;
    let config = Config::default().set("shutdown_seconds", 5);
    let mut server = Server::start(&database, config).await;
    let bob = server.target().one_device();
    let waiting = poll(&bob, "wait=60");
    bob.download("").await;
    let start = Instant::now();
    server.terminate().await;
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    // Answered, or its connection closed with the server.
    let _ = waiting.await;
}

/// Between the bye and the end of the listener polls may still come: they are not kept
/// until their time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_comes_after_the_bye_does_not_wait() {
    let database = Backend::Embedded.database().await;
    let config = Config::default().set("shutdown_seconds", 30);
    let mut server = Server::start(&database, config).await;
    let bob = server.target().one_device();
    let mut socket = bob.connect().await;
    assert_eq!(socket.hello().await, 0);
    server.tell_to_stop();
    assert_eq!(socket.message().await["type"], "bye");
    let start = Instant::now();
    // As many as fit in before it listens no more, on connections of their own.
    let mut answered = 0;
    loop {
        let request = bob.request(Method::GET, "/sync/download?wait=60");
        match request.send().await {
            Ok(reply) if reply.status() == 200 => answered += 1,
            // Told to come back, cut off, or nobody there any more.
            _ => break,
        }
    }
    server.stopped().await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{answered} in {took:?}");
}

/// It waits for what it does not see, and its cursor comes to mean nothing meanwhile.
async fn it_ends_when_a_floor_has_passed_it(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager().operators()).await;
    let (ada, bob) = server.target().two_devices();
    let keys: Vec<String> = (0..9).map(|_| fresh_key()).collect();
    ada.upload(&people(1, &keys[..2])).await;
    let waits = bob.clone();
    let poll = tokio::spawn(async move {
        let start = Instant::now();
        let reply = waits.download_raw("after=2&schema=public&wait=60").await;
        (reply, start.elapsed())
    });
    eventually("the poll waits", || async {
        let waiting = server.admin().metric("oversync_polls_waiting").await;
        (waiting == 1.0).then_some(())
    })
    .await;
    ada.upload(&people(3, &keys[2..8])).await;
    let floor = format!("SELECT floor FROM {}", own(&database, "users"));
    eventually("the floor has passed it", || async {
        silence(&database, bob.name()).await;
        (database.ask(&floor).await? == "8").then_some(())
    })
    .await;
    ada.upload(&people(9, &keys[8..])).await;
    let (reply, took) = poll.await.expect("answered");
    reply.refused(410, "history_pruned");
    assert!(took < Duration::from_secs(45), "{took:?}");
}
