//! The wake on a local commit comes after the commit is visible.

use crate::{store, wake};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::Notify;

#[test]
fn a_commit_is_visible_when_it_wakes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime");
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let writer = store::connect(&path).expect("opens");
    let reader = store::connect(&path).expect("opens");
    writer
        .execute_batch("CREATE TABLE t (n INTEGER)")
        .expect("runs");
    let rung = Arc::new(Notify::new());
    wake::watch(&writer, Arc::clone(&rung)).expect("watches");
    let (told, heard) = mpsc::channel();
    runtime.spawn(async move {
        loop {
            rung.notified().await;
            let count = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
            let count: i64 = count.expect("a count");
            if told.send(count).is_err() {
                break;
            }
        }
    });
    for n in 1..=200 {
        writer
            .execute("INSERT INTO t VALUES (?1)", [n])
            .expect("writes");
        // One commit, one wake: a reader that looks too early never sees it.
        while heard
            .recv_timeout(Duration::from_secs(10))
            .expect("the wake of this commit")
            < n
        {}
    }
}

#[test]
fn a_large_log_is_still_checkpointed() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let writer = store::connect(&path).expect("opens");
    wake::watch(&writer, Arc::new(Notify::new())).expect("watches");
    writer
        .execute_batch("CREATE TABLE t (b BLOB)")
        .expect("runs");
    for _ in 0..100 {
        writer
            .execute("INSERT INTO t VALUES (zeroblob(200000))", [])
            .expect("writes");
    }
    let log = folder.path().join("app.db-wal");
    let size = std::fs::metadata(log).expect("a log").len();
    assert!(size < 10_000_000, "{size}");
}
