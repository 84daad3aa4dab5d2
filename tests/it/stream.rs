//! No gaps, ever: writers of one user, singles and batches, and a reader that
//! polls without rest. Ids taken before the commit would lose changes here.
//!
//! A few rounds by default; `OVERSYNC_STREAM_ROUNDS=100` is what `.ci/run` asks for.

use futures_util::future::join_all;
use oversync_tests::device::insert;
use oversync_tests::seed::{cases, number};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, HttpDevice, Server, Target};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Per round: singles and batches, each by its own device.
const WRITERS: i64 = 6;
const UPLOADS: i64 = 12;
const BATCH: i64 = 25;

/// One round: what the reader has seen when the writers are done and it has
/// caught up must be everything, once, ascending and dense.
async fn round(target: &Target) {
    let user = fresh_user();
    let writers = (0..WRITERS).map(|writer| {
        let device = target.device(&user, &format!("writer-{writer}"));
        async move {
            let size = if writer % 2 == 0 { 1 } else { BATCH };
            for upload in 0..UPLOADS {
                let changes: Vec<Value> = (0..size)
                    .map(|n| {
                        let id = upload * size + n + 1;
                        insert(
                            id,
                            "business.users",
                            &fresh_key(),
                            json!({"writer": writer}),
                        )
                    })
                    .collect();
                let reply = device.upload_patiently(&changes).await;
                for status in reply["statuses"].as_array().expect("statuses") {
                    assert_eq!(status["status"], "applied", "{status}");
                }
            }
            size * UPLOADS
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_on(target.device(&user, "reader"), stop.clone()));
    let written: i64 = join_all(writers).await.into_iter().sum();
    stop.store(true, Ordering::Release);
    let seen = reader.await.expect("the reader finds no fault");
    assert_eq!(seen.len() as i64, written);
    assert!(seen.iter().copied().eq(1..=written), "dense and ascending");
}

/// Polls until told to stop and caught up; returns the server ids in the order
/// they were seen. Page sizes vary; some pages end inside a batch.
async fn read_on(device: HttpDevice, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut cursor = 0;
    let mut seen = Vec::new();
    let mut sources = HashSet::new();
    for turn in 0.. {
        let stopping = stop.load(Ordering::Acquire);
        let limit = [1_000, 7, 100, 1][turn % 4];
        let page = device
            .download(&format!("after={cursor}&limit={limit}"))
            .await;
        let head = page["head"].as_i64().expect("a head");
        for change in page["changes"].as_array().expect("changes") {
            let id = change["server_id"].as_i64().expect("an id");
            assert_eq!(
                id,
                cursor + 1,
                "nothing is missing between {cursor} and {id}"
            );
            cursor = id;
            seen.push(id);
            let source = (
                change["source_id"].to_string(),
                change["source_change_id"].to_string(),
            );
            assert!(sources.insert(source), "seen twice: {change}");
        }
        if stopping && cursor == head {
            break;
        }
    }
    seen
}

async fn rounds(backend: Backend, processes: usize, config: Config) {
    let database = backend.database().await;
    let mut servers = Vec::new();
    for _ in 0..processes {
        servers.push(Server::start(&database, config.clone()).await);
    }
    let targets: Vec<Target> = servers.iter().map(Server::target).collect();
    let target = Target::in_turn(&targets);
    let rounds = number("OVERSYNC_STREAM_ROUNDS").unwrap_or_else(|| cases(3));
    for _ in 0..rounds {
        round(&target).await;
    }
    println!("{rounds} rounds, nothing missed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    rounds(Backend::Embedded, 1, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_without_actors() {
    rounds(Backend::Embedded, 1, Config::default().bypass_actors()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    rounds(Backend::Postgres, 1, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_with_two_processes() {
    rounds(Backend::Postgres, 2, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_with_two_processes_without_actors() {
    rounds(Backend::Postgres, 2, Config::default().bypass_actors()).await;
}
