//! The failure list under load, and retries that meet others: what only a look
//! behind the server can show. The rules themselves are in the conformance suite.

use futures_util::StreamExt as _;
use oversync_tests::conformance::business_tables;
use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server, on_both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

on_both_stores!(
    a_long_list_of_large_rows_is_not_held_in_memory,
    a_failure_whose_row_is_gone_is_stale,
    numbers_are_each_users_own_and_never_used_again,
    failures_of_an_older_schema_keep_their_numbers,
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

async fn numbers(device: &HttpDevice) -> Vec<i64> {
    let list = device.get(LIST).await.ok();
    let list = list.as_array().expect("a bare array").iter();
    list.map(|failure| failure["id"].as_i64().expect("a number"))
        .collect()
}

fn bad(id: i64, key: &str) -> Value {
    insert(id, BOOKS, key, json!({"title": ""}))
}

async fn numbers_are_each_users_own_and_never_used_again(backend: Backend) {
    let (server, _database) = server(backend).await;
    let (ann, bob) = (server.target().one_device(), server.target().one_device());
    let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
    ann.upload(&[bad(1, &keys[0]), bad(2, &keys[1]), bad(3, &keys[2])])
        .await;
    bob.upload(&[bad(1, &fresh_key())]).await;
    ann.upload(&[bad(4, &keys[3])]).await;
    assert_eq!(numbers(&ann).await, [4, 3, 2, 1]);
    assert_eq!(numbers(&bob).await, [1]);
    // In the order of the upload; filters and limits count as ever.
    let list = ann.get(&format!("{LIST}?limit=2")).await.ok();
    assert_eq!(list[0]["pk"], json!(keys[3]));
    assert_eq!(list[1]["pk"], json!(keys[2]));

    // The newest is settled: its number is gone for good.
    let good = update(5, BOOKS, &keys[3], 1, json!({"title": "good"}));
    ann.upload(&[good]).await;
    assert_eq!(numbers(&ann).await, [3, 2, 1]);
    ann.upload(&[bad(6, &keys[4])]).await;
    assert_eq!(numbers(&ann).await, [5, 3, 2, 1]);
    retry(&ann, &json!(4)).await.refused(404, "not_found");
    // A number of hers is none of his, and one that both have is his own.
    retry(&bob, &json!(5)).await.refused(404, "not_found");
    assert_eq!(
        retry(&bob, &json!(1)).await.ok()["status"],
        "materialize_error"
    );
    let counts = |list: Value| list[0]["retry_count"].clone();
    assert_eq!(counts(bob.get(LIST).await.ok()), 1);
    let hers = ann.get(LIST).await.ok();
    let hers = hers.as_array().expect("a bare array").iter();
    assert!(hers.map(|failure| &failure["retry_count"]).all(|n| *n == 0));
    // A failed retry is the same failure.
    assert_eq!(numbers(&bob).await, [1]);
}

/// A database as the schema steps before numbers of users left it.
fn older_schema(backend: Backend) -> String {
    let history = |prefix: &str, blob: &str, time: &str| {
        format!(
            "INSERT INTO {prefix}tables (schema_name, table_name) VALUES ('shelf', 'books');
             INSERT INTO {prefix}users (user_id, head) VALUES ('ann', 2), ('bob', 2), ('eve', 0);
             INSERT INTO {prefix}failures (user_key, table_key, pk, attempted_version, op, error, first_seen)
             SELECT u.user_key, 1, {blob}, v.version, 3, v.error, {time}
             FROM {prefix}users u
             JOIN (SELECT 1 AS n, 'ann' AS whose, 1 AS version, 'one' AS error
                   UNION ALL SELECT 2, 'bob', 1, 'two' UNION ALL SELECT 3, 'ann', 2, 'three'
                   UNION ALL SELECT 4, 'bob', 2, 'gone') v ON v.whose = u.user_id
             ORDER BY v.n;
             DELETE FROM {prefix}failures WHERE error = 'gone';"
        )
    };
    match backend {
        Backend::Postgres => {
            let steps = [
                (1, include_str!("../../migrations/postgres/0001_init.sql")),
                (
                    2,
                    include_str!("../../migrations/postgres/0002_projection.sql"),
                ),
                (
                    3,
                    include_str!("../../migrations/postgres/0003_revocation.sql"),
                ),
                (
                    10,
                    include_str!("../../migrations/postgres/0010_references.sql"),
                ),
            ];
            let done = steps.map(|(version, sql)| {
                format!(
                    "{sql}; INSERT INTO oversync._migrations (version, description, success, checksum, execution_time)
                     VALUES ({version}, '', true, sha384(convert_to($step${sql}$step$, 'UTF8')), 0);"
                )
            });
            format!(
                "CREATE SCHEMA oversync;
                 CREATE TABLE oversync._migrations (
                     version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
                     success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL);
                 {} {}",
                done.concat(),
                history("oversync.", "'0f8fad5b-d9cb-469f-a165-70867728950e'", "now()")
            )
        }
        Backend::Embedded => format!(
            "{}; {}; {};
             CREATE TABLE _oversync_migrations (step INTEGER PRIMARY KEY) STRICT;
             INSERT INTO _oversync_migrations VALUES (1), (2), (3); {}",
            include_str!("../../migrations/sqlite/0001_init.sql"),
            include_str!("../../migrations/sqlite/0002_projection.sql"),
            include_str!("../../migrations/sqlite/0003_revocation.sql"),
            history("_oversync_", "x'0f8fad5bd9cb469fa16570867728950e'", "0")
        ),
    }
}

async fn failures_of_an_older_schema_keep_their_numbers(backend: Backend) {
    let database = backend.database().await;
    database.execute(&older_schema(backend)).await;
    database.execute(business_tables(backend)).await;
    let server = Server::start(&database, Config::default()).await;
    let [ann, bob, eve] = ["ann", "bob", "eve"].map(|user| server.target().device(user, "one"));
    assert_eq!(numbers(&ann).await, [3, 1]);
    assert_eq!(numbers(&bob).await, [2]);
    // What Bob had last is gone, and stays it; who never had any starts at 1.
    bob.upload(&[bad(1, &fresh_key())]).await;
    assert_eq!(numbers(&bob).await, [5, 2]);
    retry(&bob, &json!(4)).await.refused(404, "not_found");
    eve.upload(&[bad(1, &fresh_key())]).await;
    assert_eq!(numbers(&eve).await, [1]);
    // The old ones can be retried: their rows are not there.
    assert_eq!(retry(&ann, &json!(3)).await.ok()["status"], "applied");
    assert_eq!(numbers(&ann).await, [1]);
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
    let lock = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended( \
             format('oversync failure %s of user %s', {id}, user_key), 0)) \
         FROM oversync.users WHERE user_id = '{}'",
        device.user()
    );
    let lock = sqlx::raw_sql(sqlx::AssertSqlSafe(lock));
    other.execute(lock).await.expect("the lock is free");
    retry(&device, &id).await.refused(409, "retry_in_progress");
    other.execute("ROLLBACK").await.expect("the lock is let go");
    assert_eq!(
        retry(&device, &id).await.ok()["status"],
        "materialize_error"
    );
}
