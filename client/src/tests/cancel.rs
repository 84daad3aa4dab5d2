//! Calls that are dropped in the middle.

use crate::lock::Lease;
use crate::{Client, Error, SignOut};
use std::sync::mpsc;
use std::time::Duration;
use tokio::time::timeout;

async fn client(folder: &tempfile::TempDir) -> Client {
    let config = super::config(folder).table("t");
    rusqlite::Connection::open(folder.path().join("app.db"))
        .and_then(|app| app.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY)"))
        .expect("runs");
    Client::open(config).await.expect("opens")
}

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_turn_that_is_dropped_keeps_the_file_until_its_job_is_done() {
    let folder = super::folder();
    let client = client(&folder).await;
    let core = client.core();
    let other = Lease::new(&folder.path().join("app.db"));
    let (go, may_go) = mpsc::channel::<()>();
    let turn = core.turn().await.expect("its turn");
    let job = core.db.run(move |_| {
        let _ = may_go.recv();
        Ok(())
    });
    timeout(SOON, job).await.expect_err("it waits");
    drop(turn);
    assert!(other.is_taken().expect("told"), "its job still runs");
    let waits = timeout(SOON, core.turn()).await;
    assert!(waits.is_err(), "nobody else's turn");
    go.send(()).expect("it waits");
    drop(core.turn().await.expect("its turn"));
    assert!(!other.is_taken().expect("told"));
    // Nothing was left this time: the file is free at once.
    let turn = core.turn().await.expect("its turn");
    core.db.run(|_| Ok(())).await.expect("done");
    drop(turn);
    assert!(!other.is_taken().expect("told"));
}

#[tokio::test]
async fn a_sign_out_that_nobody_waits_for_is_whole_or_has_not_begun() {
    for wait in [0, 1, 3, 10, 30, 100] {
        let folder = super::folder();
        let client = client(&folder).await;
        client.start().expect("starts");
        let _ = timeout(
            Duration::from_millis(wait),
            client.sign_out(SignOut::Refuse),
        )
        .await;
        let app = rusqlite::Connection::open(folder.path().join("app.db")).expect("opens");
        app.busy_timeout(Duration::from_secs(5)).expect("set");
        // Stops the engine, after whatever is under way.
        client.stop().await;
        assert!(matches!(client.status().await, Err(Error::Stopped)));
        let own: i64 = app
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'",
                [],
                |row| row.get(0),
            )
            .expect("a count");
        assert!(own == 0 || own > 15, "{own} left after {wait} ms");
    }
}
