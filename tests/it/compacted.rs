//! What folding has freed goes back to the file system when an operator asks for it, and
//! nothing else changes.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{count, eager, folded_by_hand, folded_up_to, own};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Port, Server, eventually, on_both_stores,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::time::{Duration, Instant};

on_both_stores!(unused_space_is_given_back);

/// Rows enough that the log's indexes are worth building anew.
const MANY: i64 = 8_000;

const PATIENCE: Duration = Duration::from_secs(60);

const ROWS: i64 = 2_000;

/// One row in so many stays: hardly a page is left empty.
const STAYS: i64 = 25;

/// The file, or on PostgreSQL the indexes of the log: their pages are only given back whole.
async fn size(database: &Database) -> u64 {
    match database.backend() {
        Backend::Embedded => {
            let file = database.url().strip_prefix("sqlite://").expect("a file");
            std::fs::metadata(file).expect("it is there").len()
        }
        Backend::Postgres => {
            let sql = "SELECT pg_indexes_size('oversync.log')";
            let bytes = database.ask(sql).await.expect("a size");
            bytes.parse().expect("a number")
        }
    }
}

/// Inserts rows and deletes most of them; those that live.
async fn fill_and_thin_out(device: &HttpDevice, rows: i64) -> Vec<String> {
    let keys: Vec<String> = (0..rows).map(|_| fresh_key()).collect();
    let text = "x".repeat(500);
    let inserts: Vec<Value> = (1..)
        .zip(&keys)
        .map(|(id, key)| insert(id, "business.users", key, json!({ "name": text })))
        .collect();
    let (left, gone): (Vec<_>, Vec<_>) = (1..)
        .zip(keys)
        .partition(|(id, _): &(i64, String)| id % STAYS == 0);
    let deletes: Vec<Value> = gone
        .iter()
        .map(|(id, key)| delete(rows + id, "business.users", key, 1))
        .collect();
    for changes in inserts.chunks(500).chain(deletes.chunks(500)) {
        device.upload(changes).await;
    }
    left.into_iter().map(|(_, key)| key).collect()
}

async fn unused_space_is_given_back(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, folded_by_hand()).await;
    let ann = server.target().one_device();
    let mut left = fill_and_thin_out(&ann, ROWS).await;
    if backend == Backend::Embedded {
        // The file is the server's alone.
        server.terminate().await;
    }
    eventually("all of it is old enough to be folded", || async {
        let output = server.run(&["fold"]).await;
        assert!(output.status.success(), "{output:?}");
        let users = own(&database, "users");
        let sql = format!("SELECT count(*) FROM {users} WHERE floor = head AND head > 0");
        (database.ask(&sql).await? == "1").then_some(())
    })
    .await;
    assert_eq!(count(&database, "log").await, ROWS / STAYS);
    let before = size(&database).await;

    let output = server.run(&["fold", "--compact"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(said.contains("users folded: 0"), "{said}");
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("bytes on disk: "));
    let numbers: Vec<u64> = line
        .expect(&said)
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(numbers.len() == 2 && numbers[1] < numbers[0], "{said}");
    let after = size(&database).await;
    assert!(after * 2 < before, "{before} bytes before, {after} after");

    if backend == Backend::Embedded {
        server.restart(Port::Same).await;
    }
    let (seen, _) = ann.sibling("fresh").download_all(0, 100, "").await;
    let mut seen: Vec<String> = seen
        .iter()
        .map(|row| row["pk"].as_str().expect("a key").to_owned())
        .collect();
    seen.sort_unstable();
    left.sort_unstable();
    assert_eq!(seen, left);
    ann.applied(&[insert(
        2 * ROWS + 1,
        "business.users",
        &fresh_key(),
        json!({}),
    )])
    .await;
    server.verified().await;
}

/// A page of an index is used again when nothing is left in it: where entries go from the
/// log at random, the server builds them anew by itself, and waits for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loose_indexes_are_built_anew_by_the_server() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, Config::default().unfolded()).await;
    let ann = server.target().one_device();
    let left = fill_and_thin_out(&ann, MANY).await;
    server.reload(&database, eager());
    server.terminate().await;
    let mut head = 2 * MANY - left.len() as i64;
    let mut edits = (2 * MANY + 1..)
        .zip(1..)
        .map(|(id, version)| update(id, "business.users", &left[0], version, json!({ "n": id })));
    let mut folded = async || {
        // As many as a fold of this size is worth.
        let edits: Vec<Value> = edits.by_ref().take(200).collect();
        head += edits.len() as i64;
        ann.applied(&edits).await;
        folded_up_to(&database, head).await;
        size(&database).await
    };

    // Somebody reads for long, a pg_dump perhaps.
    let mut reader = PgConnection::connect(database.url())
        .await
        .expect("connects");
    let reads = "BEGIN; SELECT FROM oversync.log LIMIT 1";
    reader.execute(reads).await.expect("a transaction");
    server.restart(Port::Same).await;
    folded().await;
    // As autovacuum does within minutes.
    database.execute("VACUUM oversync.log").await;
    let before = size(&database).await;
    for _ in 0..3 {
        let now = folded().await;
        assert!(now >= before, "{before} bytes before, {now} now");
    }

    reader.execute("COMMIT").await.expect("it ends");
    let began = Instant::now();
    while folded().await * 2 >= before {
        assert!(began.elapsed() < PATIENCE, "they stay as large as they are");
        // What the server removed was perhaps not counted yet the last time.
        database.execute("VACUUM oversync.log").await;
    }
    let sql = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    eventually("nothing is left over", || async {
        (database.ask(sql).await? == "0").then_some(())
    })
    .await;
    server.verified().await;
}
