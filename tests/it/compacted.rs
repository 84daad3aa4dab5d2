//! What folding has freed goes back to the file system when an operator asks for it, and
//! nothing else changes.

use oversync_tests::device::{delete, insert};
use oversync_tests::folding::{count, folded_by_hand, own};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Database, Port, Server, eventually, on_both_stores};
use serde_json::{Value, json};

on_both_stores!(unused_space_is_given_back);

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

async fn unused_space_is_given_back(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, folded_by_hand()).await;
    let ann = server.target().one_device();
    let keys: Vec<String> = (0..ROWS).map(|_| fresh_key()).collect();
    let text = "x".repeat(500);
    let rows: Vec<Value> = (1..)
        .zip(&keys)
        .map(|(id, key)| insert(id, "business.users", key, json!({ "name": text })))
        .collect();
    let gone: Vec<Value> = (1..)
        .zip(&keys)
        .filter(|(id, _)| id % STAYS != 0)
        .map(|(id, key)| delete(ROWS + id, "business.users", key, 1))
        .collect();
    for changes in rows.chunks(500).chain(gone.chunks(500)) {
        ann.upload(changes).await;
    }
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
    let mut left: Vec<String> = (1..)
        .zip(keys)
        .filter(|(id, _): &(i64, _)| id % STAYS == 0)
        .map(|(_, key)| key)
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
