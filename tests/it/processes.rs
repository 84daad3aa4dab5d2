//! Two processes on one PostgreSQL database. Trap 16: an answer given without
//! looking, from a cache that the other process has overtaken, would be wrong.

use futures_util::future::join_all;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, HttpDevice, Seed, Server, on_both_stores};
use rand::Rng as _;
use serde_json::{Value, json};
use std::collections::HashMap;

const USERS: &str = "business.users";
const POSTS: &str = "business.posts";

/// A device of one user at each of two processes.
struct Pair {
    _servers: [Server; 2],
    here: HttpDevice,
    there: HttpDevice,
}

async fn pair() -> (oversync_tests::Database, Pair) {
    let database = Backend::Postgres.database().await;
    let servers = [
        Server::start(&database, Config::default()).await,
        Server::start(&database, Config::default()).await,
    ];
    let user = fresh_user();
    let pair = Pair {
        here: servers[0].target().device(&user, "here"),
        there: servers[1].target().device(&user, "there"),
        _servers: servers,
    };
    (database, pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_shows_what_the_other_process_wrote() {
    let (_database, Pair { here, there, .. }) = &pair().await;
    let key = fresh_key();
    here.upload(&[insert(1, USERS, &key, json!({"n": 1}))])
        .await;
    for version in 1..20 {
        let status = there
            .upload_one(update(
                version,
                USERS,
                &key,
                version,
                json!({"n": version + 1}),
            ))
            .await;
        assert_eq!(status["new_server_version"], version + 1);
        // Here the row is still remembered at the version before.
        let status = here
            .upload_one(update(
                100 + version,
                USERS,
                &key,
                version,
                json!({"stale": true}),
            ))
            .await;
        assert_eq!(status["status"], "conflict", "{status}");
        assert_eq!(status["server_row"]["server_version"], version + 1);
        assert_eq!(status["server_row"]["payload"], json!({"n": version + 1}));
    }
    // What was taken for stale here is in truth the newest version.
    let status = here
        .upload_one(update(200, USERS, &key, 20, json!({"n": "last"})))
        .await;
    assert_eq!(status["new_server_version"], 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_the_other_process_wrote_or_deleted_is_seen() {
    let (_database, Pair { here, there, .. }) = &pair().await;
    let author = fresh_key();
    let post = |id: i64| insert(id, POSTS, &fresh_key(), json!({"author_id": author}));
    for turn in 0..10 {
        let status = here.upload_one(post(10 * turn + 1)).await;
        assert_eq!(status["invalid"]["reason"], "fk_missing", "{status}");
        let version = 2 * turn;
        there
            .upload(&[update(10 * turn + 1, USERS, &author, version, json!({}))])
            .await;
        let status = here.upload_one(post(10 * turn + 2)).await;
        assert_eq!(status["status"], "applied", "{status}");
        there
            .upload(&[delete(10 * turn + 2, USERS, &author, version + 1)])
            .await;
    }
    let status = here.upload_one(post(1_000)).await;
    assert_eq!(status["invalid"]["reason"], "fk_missing", "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_at_the_other_process_is_recognised() {
    let (_database, pair) = &pair().await;
    let here = &pair.here;
    // The same device, roaming between processes.
    let there = here.at(pair.there.target());
    // Both know the device before any of its later ids are used.
    there.upload(&[]).await;
    here.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    there
        .upload(&[insert(2, USERS, &fresh_key(), json!({}))])
        .await;
    for id in 3..30 {
        let change = insert(id, USERS, &fresh_key(), json!({"id": id}));
        let (first, second) = if id % 2 == 0 {
            (here, &there)
        } else {
            (&there, here)
        };
        let answer = first.upload_one(change.clone()).await;
        assert_eq!(answer["new_server_version"], 1);
        assert_eq!(second.upload_one(change.clone()).await, answer);
        let other = insert(id, USERS, &fresh_key(), json!({}));
        let status = second.upload_one(other).await;
        assert_eq!(status["invalid"]["reason"], "bad_payload", "{status}");
    }
    let ids = pair.there.server_ids("").await;
    assert_eq!(ids, (1..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_taken_for_new_here_was_made_there() {
    let (_database, Pair { here, there, .. }) = &pair().await;
    // A warm cache that has never heard of the row.
    here.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let key = fresh_key();
    there
        .upload(&[insert(1, USERS, &key, json!({"by": "there"}))])
        .await;
    let statuses = here
        .statuses(&[
            insert(2, USERS, &key, json!({"by": "here"})),
            insert(3, USERS, &fresh_key(), json!({})),
        ])
        .await;
    assert_eq!(statuses[0]["server_row"]["payload"], json!({"by": "there"}));
    assert_eq!(statuses[1]["status"], "applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_is_never_behind() {
    let (_database, Pair { here, there, .. }) = &pair().await;
    for n in 1..20 {
        let (writer, reader) = if n % 2 == 0 {
            (here, there)
        } else {
            (there, here)
        };
        writer
            .upload(&[insert(n, USERS, &fresh_key(), json!({}))])
            .await;
        assert_eq!(reader.upload(&[]).await["highest_server_seq"], n);
        assert_eq!(reader.download("").await["head"], n);
    }
}

on_both_stores!(a_shared_row_counts_without_losing_an_edit);

/// Devices increment one counter as hard as they can, taking each conflict's row
/// for their next attempt: every acknowledged edit is in the chain exactly once.
async fn a_shared_row_counts_without_losing_an_edit(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    // Every edit of the one row is looked for in the log.
    let config = Config::default().unfolded();
    let mut servers = vec![Server::start(&database, config.clone()).await];
    if backend == Backend::Postgres {
        servers.push(Server::start(&database, config).await);
    }
    let user = fresh_user();
    let key = fresh_key();
    let first = servers[0].target().device(&user, "first");
    first
        .upload(&[insert(1, USERS, &key, json!({"count": 0}))])
        .await;
    let devices = (0..4).map(|n: usize| {
        let device = servers[n % servers.len()]
            .target()
            .device(&user, &format!("device-{n}"));
        let (key, mut rng) = (key.clone(), seed.rng(n as u64));
        async move {
            let (mut version, mut count, mut done) = (1, 0, 0);
            for id in 1.. {
                let change = update(
                    id,
                    USERS,
                    &key,
                    version,
                    json!({"count": count + 1, "by": n}),
                );
                let reply = device.upload_patiently(std::slice::from_ref(&change)).await;
                let status = &reply["statuses"][0];
                if rng.random_bool(0.2) {
                    // A retry whose first answer was lost.
                    let again = device.upload_patiently(&[change]).await;
                    if status["status"] == "applied" {
                        assert_eq!(again["statuses"][0], *status);
                    }
                }
                if status["status"] == "applied" {
                    (version, count) = (version + 1, count + 1);
                    assert_eq!(status["new_server_version"], version);
                    done += 1;
                    if done == 15 {
                        break;
                    }
                } else {
                    let row = &status["server_row"];
                    let newer = row["server_version"].as_i64().expect("a conflict");
                    assert!(newer > version, "a conflict is justified by a newer entry");
                    version = newer;
                    count = row["payload"]["count"].as_i64().expect("a count");
                }
            }
        }
    });
    join_all(devices).await;
    let (changes, _) = first.download_all(0, 1_000, "&include_self=true").await;
    let mut by: HashMap<String, i64> = HashMap::new();
    for (index, change) in changes.iter().enumerate() {
        let n = index as i64;
        let position: [&Value; 3] = [
            &change["server_id"],
            &change["server_version"],
            &change["payload"]["count"],
        ];
        assert!(
            position
                .into_iter()
                .eq([&json!(n + 1), &json!(n + 1), &json!(n)]),
            "{change}"
        );
        *by.entry(change["source_id"].to_string()).or_default() += 1;
    }
    assert_eq!(changes.len(), 1 + 4 * 15, "{by:?}");
}
