//! What is asked for often costs the same on a long log as on a short one.

use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Port, Server, eventually, on_both_stores,
};
use serde_json::json;

on_both_stores!(a_page_names_the_device_of_every_entry_of_very_many,);

const ROWS: i64 = 10_000;

/// The one row of the log again and again under other keys, beside those of many
/// users who have hardly any: to the planner, everybody is the average user.
const LONGER: &str = "INSERT INTO oversync.log (user_key, server_id, change_id, version, ts, \
        device_key, table_key, op, pk, fingerprint, payload) \
    SELECT user_key + k, n, n, version, ts, device_key, table_key, op, gen_random_uuid(), fingerprint, payload \
    FROM oversync.log, ( \
        SELECT n, 0 AS k FROM generate_series(2, 10000) AS n \
        UNION ALL SELECT n, k FROM generate_series(2, 6) AS n, generate_series(1, 5000) AS k \
    ) AS more ORDER BY n, k; \
    UPDATE oversync.users SET head = 10000; ANALYZE oversync.log";

/// The rows that belong to it.
const STATE: &str = "INSERT INTO oversync.rows (user_key, table_key, pk, version, server_id, deleted) \
    SELECT user_key, table_key, pk, 1, server_id, false FROM oversync.log WHERE server_id > 1; \
    ANALYZE oversync.rows";

/// Rows of a table that statements have looked at, by PostgreSQL's own count. Its
/// sessions add theirs when they end.
pub(crate) async fn rows_touched(database: &Database, table: &str) -> i64 {
    const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    eventually("no session is left", || async {
        (database.ask(OTHERS).await? == "0").then_some(())
    })
    .await;
    let touched = format!(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables \
         WHERE schemaname = 'oversync' AND relname = '{table}'"
    );
    let touched = database.ask(&touched).await.expect("the table is there");
    touched.parse().expect("a number")
}

/// A server that has stopped, on a database in which a device has a long log.
async fn long_log(config: Config) -> (Database, Server, HttpDevice) {
    let database = Backend::Postgres.database().await;
    // What is touched of the log is counted: folding touches it, too.
    let mut server = Server::start(&database, config.unfolded()).await;
    let (ann, eve) = server.target().two_devices();
    ann.upload(&[insert(1, "business.users", &fresh_key(), json!({}))])
        .await;
    database.execute(LONGER).await;
    database.execute(STATE).await;
    server.terminate().await;
    (database, server, eve)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_touches_as_much_of_the_log_as_it_is_long() {
    const LIMIT: i64 = 10;
    let (database, mut server, eve) = long_log(Config::default()).await;
    let before = rows_touched(&database, "log").await;
    server.restart(Port::Same).await;
    let mut pages = 0;
    for after in (0..ROWS).step_by(500) {
        for more in ["", "&schema=business", "&include_self=true", "&until=9999"] {
            let path = format!("/sync/download?after={after}&limit={LIMIT}{more}");
            let entries = eve.get(&path).await.ok()["changes"]
                .as_array()
                .map(Vec::len);
            assert_eq!(entries, Some(LIMIT as usize), "after {after} {more}");
            pages += 1;
        }
    }
    server.terminate().await;
    let touched = rows_touched(&database, "log").await - before;
    // One more tells whether there are more; a start may look at a few.
    let most = pages * (LIMIT + 1) + 100;
    assert!(
        (pages * LIMIT..=most).contains(&touched),
        "{touched} rows for {pages} pages"
    );
}

/// Without actors nothing is remembered: each upload loads what it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_touches_as_many_rows_as_it_has_changes() {
    const UPLOADS: i64 = 20;
    let (database, mut server, eve) = long_log(Config::default().bypass_actors()).await;
    let rows_before = rows_touched(&database, "rows").await;
    let log_before = rows_touched(&database, "log").await;
    server.restart(Port::Same).await;
    let page = eve.get("/sync/download?limit=100").await.ok();
    let keys = page["changes"].as_array().expect("a list").iter();
    let keys: Vec<_> = keys
        .map(|change| change["pk"].as_str().expect("a key").to_owned())
        .collect();
    for upload in 0..UPLOADS {
        let (known, id) = (&keys[upload as usize], upload * 2 + 1);
        let changes = [
            update(id, "business.users", known, 1, json!({"name": upload})),
            insert(id + 1, "business.users", &fresh_key(), json!({})),
        ];
        // Twice: the second time it is answered from the record.
        for _ in 0..2 {
            for status in eve.statuses(&changes).await {
                assert_eq!(status["status"], "applied", "{status}");
            }
        }
    }
    server.terminate().await;
    let rows = rows_touched(&database, "rows").await - rows_before;
    let log = rows_touched(&database, "log").await - log_before - 101;
    assert!((UPLOADS..UPLOADS * 20).contains(&rows), "{rows} rows");
    assert!((UPLOADS..UPLOADS * 20).contains(&log), "{log} entries");
}

/// More than the statement that reads a page brings names of.
async fn a_page_names_the_device_of_every_entry_of_very_many(backend: Backend) {
    let database = backend.database().await;
    // Of what is folded, a place means something only to who was given it.
    let server = Server::start(&database, Config::default().unfolded()).await;
    let first = server.target().one_device();
    let names: Vec<_> = (0..70).map(|number| format!("device-{number}")).collect();
    for name in &names {
        let row = insert(1, "business.users", &fresh_key(), json!({}));
        first.sibling(name).upload(&[row]).await;
    }
    for (after, schema) in [(0, ""), (40, ""), (65, "&schema=business")] {
        let page = first
            .get(&format!("/sync/download?after={after}&limit=100{schema}"))
            .await
            .ok();
        let sources: Vec<_> = page["changes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|change| change["source_id"].as_str().expect("a name").to_owned())
            .collect();
        assert_eq!(sources, names[after..]);
    }
}
