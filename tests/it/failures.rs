//! The failure list under load, and retries that meet others: what only a look
//! behind the server can show. The rules themselves are in the conformance suite.

use futures_util::StreamExt as _;
use oversync_tests::conformance::business_tables;
use oversync_tests::device::insert;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server, on_both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

on_both_stores!(
    a_long_list_of_large_rows_is_not_held_in_memory,
    a_failure_whose_row_is_gone_is_stale,
);

const BOOKS: &str = "shelf.books";
const LIST: &str = "/admin/materialize-failures";

/// Rows of nearly a mebibyte; together far more than one piece of a list.
const LARGE: i64 = 64;

/// In KiB. The list was once held as rows and as text, twice its size; what grows
/// now is a piece, and page caches of 16 MiB for each reader of the embedded store.
const MAX_GROWTH: u64 = 60 * 1024;

async fn server(backend: Backend) -> (Server, Database) {
    let database = backend.database().await;
    database.execute(business_tables(backend)).await;
    (Server::start(&database, Config::default()).await, database)
}

/// A line of what the system says about the process, in KiB.
fn memory(server: &Server, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the process is there");
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let number = found.and_then(|text| text.split_whitespace().nth(1));
    number.and_then(|text| text.parse().ok()).expect("a number")
}

async fn a_long_list_of_large_rows_is_not_held_in_memory(backend: Backend) {
    let (server, _database) = server(backend).await;
    let device = server.target().one_device();
    let text = "x".repeat(1_000_000);
    for id in 1..=LARGE {
        let payload = json!({"title": "", "n": id, "text": text});
        let status = device
            .upload_one(insert(id, BOOKS, &fresh_key(), payload))
            .await;
        assert_eq!(status["status"], "applied");
    }

    // From here on the peak counts anew.
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("the peak is reset");
    let before = memory(&server, "VmRSS");
    let request = device.request(Method::GET, &format!("{LIST}?limit=1000"));
    let mut stream = request.send().await.expect("an answer").bytes_stream();
    let mut body = Vec::new();
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.expect("a piece"));
    }
    let grown = memory(&server, "VmHWM").saturating_sub(before);
    assert!(body.len() as i64 > LARGE * 1_000_000);
    assert!(grown < MAX_GROWTH, "{grown} KiB for {} bytes", body.len());

    let list: Vec<Value> = serde_json::from_slice(&body).expect("a bare array");
    let order: Vec<i64> = list
        .iter()
        .map(|failure| failure["payload"]["n"].as_i64().expect("a number"))
        .collect();
    assert_eq!(order, (1..=LARGE).rev().collect::<Vec<_>>());
    // A limit in the middle of a piece, and at its end.
    for limit in [1, 2, 3, 7] {
        let list = device.get(&format!("{LIST}?limit={limit}")).await.ok();
        let numbers = list.as_array().expect("an array").iter();
        let numbers: Vec<&Value> = numbers.map(|failure| &failure["payload"]["n"]).collect();
        let expected: Vec<i64> = (LARGE - limit + 1..=LARGE).rev().collect();
        assert_eq!(numbers, expected, "limit {limit}");
    }
}

async fn retry(device: &HttpDevice, id: &Value) -> oversync_tests::Reply {
    let path = format!("{LIST}/retry?id={id}");
    HttpDevice::send(device.request(Method::POST, &path)).await
}

async fn one_failure(device: &HttpDevice) -> Value {
    device
        .upload(&[insert(1, BOOKS, &fresh_key(), json!({"title": ""}))])
        .await;
    device.get(LIST).await.ok()[0]["id"].clone()
}

async fn a_failure_whose_row_is_gone_is_stale(backend: Backend) {
    let (server, database) = server(backend).await;
    let device = server.target().one_device();
    let id = one_failure(&device).await;
    // Nothing that a client can do makes a row go; retention may.
    let sql = match backend {
        Backend::Postgres => "DELETE FROM oversync.rows",
        Backend::Embedded => "DELETE FROM _oversync_rows",
    };
    database.execute(sql).await;
    let status = retry(&device, &id).await.ok();
    assert_eq!(
        status,
        json!({"source_change_id": 0, "status": "applied", "message": "failure was stale; removed"})
    );
    assert_eq!(device.get(LIST).await.ok(), json!([]));
    retry(&device, &id).await.refused(404, "not_found");
}

/// On PostgreSQL somebody else, perhaps at another process, may be at it; on the
/// embedded store there is one writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_being_retried_is_left_alone() {
    let (server, database) = server(Backend::Postgres).await;
    let device = server.target().one_device();
    let id = one_failure(&device).await;
    let mut other = PgConnection::connect(database.url())
        .await
        .expect("connects");
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock(1870030194, {id})");
    let lock = sqlx::raw_sql(sqlx::AssertSqlSafe(lock));
    other.execute(lock).await.expect("the lock is free");
    retry(&device, &id).await.refused(409, "retry_in_progress");
    other.execute("ROLLBACK").await.expect("the lock is let go");
    assert_eq!(
        retry(&device, &id).await.ok()["status"],
        "materialize_error"
    );
}
