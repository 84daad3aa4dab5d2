//! `oversqlite doctor`: faults are planted one by one, and it alone has to find
//! each, name it and say what to do; a healthy file is healthy.

use crate::programs::{Watch, add, dev_server, init, oversqlite, run};
use oversync_tests::app::BLOG;
use oversync_tests::device::insert;
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::server::SECRET;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Database, Port, Server, Target, eventually};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::with_prefix("oversync-app.").expect("a temporary folder")
}

/// What the doctor says: exit code and JSON.
fn doctor(file: &Path, more: &[&str]) -> (i32, Value) {
    doctor_with(file, more, None)
}

fn doctor_with(file: &Path, more: &[&str], token: Option<&str>) -> (i32, Value) {
    let mut command = oversqlite(file);
    command.args(["--json", "doctor"]).args(more);
    if let Some(token) = token {
        command.env("TOKEN", token);
    }
    let output = command.output().expect("it runs");
    oversync_tests::canary::look_through(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    let value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
    (output.status.code().expect("an exit code"), value)
}

fn finding<'a>(found: &'a Value, symptom: &str) -> Option<&'a Value> {
    let all = found["findings"].as_array().expect("findings");
    all.iter().find(|finding| finding["symptom"] == symptom)
}

/// Checks that something is found, with words in it, and how bad it is.
#[track_caller]
fn has(found: &Value, symptom: &str, gravity: &str, words: &[&str]) {
    let finding =
        finding(found, symptom).unwrap_or_else(|| panic!("{symptom} is not found: {found:#}"));
    assert_eq!(finding["gravity"], gravity, "{finding}");
    let (what, advice) = (&finding["what"], &finding["advice"]);
    let text = what.as_str().expect("words");
    for word in words {
        assert!(text.contains(word), "{word:?} in {text:?}");
    }
    assert!(advice.as_str().is_some_and(|text| !text.is_empty()));
}

fn write(file: &Path, sql: &str) {
    let connection = Connection::open(file).expect("the file opens");
    connection
        .busy_timeout(Duration::from_secs(10))
        .expect("set");
    connection.execute_batch(sql).expect("the SQL runs");
}

fn sync(file: &Path) -> Option<i32> {
    let output = oversqlite(file).arg("sync").output().expect("it runs");
    output.status.code()
}

/// A file at a server, everything exchanged.
async fn healthy(backend: Backend) -> (Server, Database, TempDir, PathBuf) {
    let (server, database) = dev_server(backend).await;
    let folder = folder();
    let file = init(&folder, "a.db", &server);
    add(&file, &fresh_key());
    assert_eq!(sync(&file), Some(0));
    (server, database, folder, file)
}

/// What one user may have is told before anything is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_nearly_used_up_is_told() {
    let (server, database, _folder, file) = healthy(Backend::Embedded).await;
    let quotas = |rows: i64| {
        Config::default()
            .set("dev", true)
            .set("quotas.user_rows", rows)
            .set("quotas.user_devices", 3)
    };
    let device = server.target().device("user-ann", "observer");
    let told = async |rows: i64| {
        server.reload(&database, quotas(rows));
        let expected = json!({"user_rows": rows, "user_devices": 3});
        eventually("it is in force", || async {
            let served = device.get("/sync/capabilities").await.ok();
            (served["quotas"] == expected).then_some(())
        })
        .await;
        doctor(&file, &[]).1
    };
    let none = device.get("/sync/capabilities").await.ok();
    assert_eq!(none.get("quotas"), None, "nothing is limited");
    let found = told(20).await;
    assert_eq!(found["server"]["quotas"]["user_rows"], 20, "{found:#}");
    assert!(finding(&found, "quota_near").is_none(), "{found:#}");
    for _ in 0..17 {
        add(&file, &fresh_key());
    }
    assert_eq!(sync(&file), Some(0));
    let found = told(20).await;
    has(&found, "quota_near", "note", &["18 rows", "nearly", "(20)"]);
    let found = told(18).await;
    has(
        &found,
        "quota_near",
        "note",
        &["18 rows are here, as many as"],
    );
    let output = run(oversqlite(&file).arg("doctor"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("at most 18 rows, at most 3 devices"),
        "{text}"
    );
    // As it said.
    add(&file, &fresh_key());
    sync(&file);
    has(
        &doctor(&file, &[]).1,
        "rejected",
        "trouble",
        &["quota exceeded"],
    );
}

/// A file whose token is read from the variable TOKEN.
fn init_with_token(folder: &TempDir, url: &str, token: &str) -> PathBuf {
    let file = folder.path().join("t.db");
    let schema = folder.path().join("blog.sql");
    std::fs::write(&schema, BLOG).expect("written");
    run(oversqlite(&file)
        .env("TOKEN", token)
        .args(["init", "--server", url, "--token-env", "TOKEN"])
        .args(["--schema", "business", "--table", "users", "--schema-sql"])
        .arg(&schema));
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_file_is_healthy_on_both_stores() {
    for backend in [Backend::Embedded, Backend::Postgres] {
        let (_server, _database, _folder, file) = healthy(backend).await;
        let (code, found) = doctor(&file, &[]);
        assert_eq!((code, &found["gravity"]), (0, &json!("note")), "{found:#}");
        assert_eq!(found["findings"], json!([]));
        assert_eq!(found["server"]["hints"], true);
        let text = run(oversqlite(&file).arg("doctor"));
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains("All is well"), "{text}");
        // It has written nothing: another device sees one row, the server no other.
        let before = std::fs::read(&file).expect("the file");
        doctor(&file, &[]);
        assert_eq!(std::fs::read(&file).expect("the file"), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_it_speaks_from_the_file() {
    let (mut server, _database, _folder, file) = healthy(Backend::Embedded).await;
    server.terminate().await;
    let key = fresh_key();
    add(&file, &key);
    let (code, found) = doctor(&file, &["--row", &format!("users/{key}")]);
    assert_eq!(code, 3, "{found:#}");
    has(&found, "unreachable", "waiting", &["127.0.0.1"]);
    has(&found, "unsent", "waiting", &["1 rows"]);
    has(&found, "nobody_synchronises", "waiting", &[]);
    assert!(
        found["verdict"]
            .as_str()
            .expect("words")
            .contains("cannot be reached")
    );
    assert_eq!(found["row"]["verdict"], "unsent");
    assert!(
        found["row"]["what"]
            .as_str()
            .expect("words")
            .contains("unreachable")
    );
    assert_eq!(
        (&found["server"], &found["row"]["there"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_token_is_named() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let target = server.target();
    let folder = folder();
    let hour = Duration::from_secs(3_600);
    let good = target.token("user-ann", "phone", hour);
    let file = init_with_token(&folder, target.base(), &good);
    let check = |token: &str| doctor_with(&file, &[], Some(token));

    let (code, found) = check(&good);
    assert_eq!(
        found["gravity"], "waiting",
        "the first pass is to come: {found:#}"
    );
    assert_eq!(code, 8);
    has(&found, "first_pass_incomplete", "waiting", &["first pass"]);

    // One that ended, as the server's clock has it.
    let ended = target.token("user-ann", "phone", Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (code, found) = check(&ended);
    assert_eq!(code, 9);
    has(&found, "token_expired", "trouble", &["ended"]);
    let (_, found) = check(&target.token("user-bob", "phone", hour));
    has(
        &found,
        "token_of_another_user",
        "trouble",
        &["user-bob", "user-ann"],
    );
    let (_, found) = check(&target.token("user-ann", "tablet", hour));
    has(
        &found,
        "token_of_another_device",
        "trouble",
        &["tablet", "phone"],
    );
    let foreign = Target::new(target.base(), "another secret, also forty-two bytes long.");
    let (_, found) = check(&foreign.token("user-ann", "phone", hour));
    has(&found, "token_refused", "trouble", &["refused"]);
    let output = oversqlite(&file)
        .args(["--json", "doctor"])
        .env_remove("TOKEN")
        .output();
    let found: Value = serde_json::from_slice(&output.expect("runs").stdout).expect("JSON");
    has(&found, "no_token", "trouble", &["TOKEN is not set"]);
    assert_eq!(SECRET.len(), 42, "tokens are signed with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_an_hour_apart_are_found() {
    let (server, _database, folder, _) = healthy(Backend::Embedded).await;
    // A date long ago is as good as an hour: any answer that is far off.
    let proxy = Proxy::start(server.address(), |line| match line.contains("/health") {
        true => Verdict::Date("Mon, 23 Nov 2020 03:00:00 GMT"),
        false => Verdict::Pass,
    })
    .await;
    let token = server
        .target()
        .token("user-ann", "phone", Duration::from_secs(3_600));
    let file = init_with_token(&folder, &proxy.base(), &token);
    let (code, found) = doctor_with(&file, &[], Some(&token));
    assert_eq!(code, 9);
    has(&found, "clock_skew", "trouble", &["ahead of the server's"]);
    // An hour behind is far enough, and half a minute is not.
    for (off, is_found) in [(3_600, true), (-3_600, true), (30, false)] {
        let date = http_date(off);
        let proxy = Proxy::start(server.address(), move |line| {
            match line.contains("/health") {
                true => Verdict::Date(date),
                false => Verdict::Pass,
            }
        })
        .await;
        let folder = self::folder();
        let file = init_with_token(&folder, &proxy.base(), &token);
        let (_, found) = doctor_with(&file, &[], Some(&token));
        assert_eq!(
            finding(&found, "clock_skew").is_some(),
            is_found,
            "{off}: {found:#}"
        );
    }
}

/// Now and so many seconds, as HTTP writes it.
fn http_date(off: i64) -> &'static str {
    let now = oversync::Clock::system().now().unix_timestamp();
    let output = std::process::Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{}", now + off),
            "+%a, %d %b %Y %H:%M:%S GMT",
        ])
        .env("LC_ALL", "C")
        .output()
        .expect("date runs");
    String::leak(String::from_utf8(output.stdout).expect("text")).trim()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_do_not_fit_are_found_on_either_side() {
    let (server, _database, folder, file) = healthy(Backend::Embedded).await;
    // Not registered at the server.
    let other = folder.path().join("other.db");
    write(
        &other,
        "CREATE TABLE memos (id TEXT PRIMARY KEY NOT NULL, text)",
    );
    let url = format!("http://{}", server.address());
    run(oversqlite(&other).args([
        "init", "--server", &url, "--signin", "ann", "--table", "memos",
    ]));
    let (code, found) = doctor(&other, &[]);
    assert_eq!(code, 9);
    has(&found, "table_unregistered", "trouble", &["public.memos"]);

    // Altered here since the client last looked.
    write(&file, "ALTER TABLE users ADD COLUMN phone TEXT");
    let (code, found) = doctor(&file, &[]);
    assert_eq!(code, 8);
    has(&found, "schema_changed", "waiting", &["\"users\""]);
    assert_eq!(sync(&file), Some(0));
    assert_eq!(doctor(&file, &[]).0, 0, "the next synchronisation mends it");

    // Rebuilt without triggers, and a row written behind their back.
    write(
        &file,
        "DROP TRIGGER _sync_1_after_insert; DROP TRIGGER _sync_1_after_update",
    );
    let key = fresh_key();
    add(&file, &key);
    let (_, found) = doctor(&file, &["--row", &format!("users/{key}")]);
    has(&found, "triggers_missing", "waiting", &["\"users\""]);
    assert_eq!(found["row"]["verdict"], "not_captured", "{found:#}");
    assert_eq!(sync(&file), Some(0));
    let (_, found) = doctor(&file, &["--row", &format!("users/{key}")]);
    assert_eq!(found["row"]["verdict"], "same", "{found:#}");

    write(&file, "UPDATE _sync_guard SET applying = 1");
    has(
        &doctor(&file, &[]).1,
        "capture_silenced",
        "trouble",
        &["applying"],
    );
    write(
        &file,
        "UPDATE _sync_guard SET applying = 0; PRAGMA foreign_keys = off; DROP TABLE posts",
    );
    let (code, found) = doctor(&file, &[]);
    assert_eq!(code, 9);
    has(
        &found,
        "table_unfit",
        "trouble",
        &["\"posts\" does not exist"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_the_file_is_found() {
    let database = Backend::Embedded.database().await;
    let small = Config::default()
        .set("dev", true)
        .set("limits.max_payload_bytes", 500);
    let server = Server::start(&database, small).await;
    let folder = folder();
    let file = init(&folder, "a.db", &server);
    let (big, child, fine) = (fresh_key(), fresh_key(), fresh_key());
    write(
        &file,
        &format!(
            "INSERT INTO users (id, name) VALUES ('{big}', printf('%.600c', 'x'));
             INSERT INTO posts (id, title, author_id) VALUES ('{child}', 'hers', '{big}');
             INSERT INTO users (id, name) VALUES ('{fine}', 'fine'), ('no uuid', 'x')"
        ),
    );
    assert_eq!(sync(&file), Some(5));
    let row = |key: &str, table: &str| {
        let (_, found) = doctor(&file, &["--row", &format!("{table}/{key}")]);
        found["row"].clone()
    };
    let (code, found) = doctor(&file, &[]);
    assert_eq!(code, 9);
    has(
        &found,
        "rejected",
        "trouble",
        &["2 edits", &big, "payload too large", "bad_key"],
    );
    has(&found, "waits_for_rejected", "trouble", &["1 edits", &big]);
    let refused = row(&big, "users");
    assert_eq!(refused["verdict"], "rejected");
    assert!(
        refused["what"]
            .as_str()
            .expect("words")
            .contains("too large"),
        "{refused}"
    );
    assert!(
        refused["advice"]
            .as_str()
            .expect("words")
            .contains("rejected retry")
    );
    assert_eq!(refused["there"]["last"], Value::Null);
    let waits = row(&child, "posts");
    assert_eq!(waits["verdict"], "waits_for_row", "{waits}");
    assert!(
        waits["what"].as_str().expect("words").contains(&big),
        "{waits}"
    );
    assert_eq!(row("no uuid", "users")["verdict"], "key_is_no_uuid");
    assert_eq!(row(&fine, "users")["verdict"], "same");
    assert_eq!(row(&fine.to_uppercase(), "USERS")["verdict"], "same");
    assert_eq!(row(&fresh_key(), "users")["verdict"], "nowhere");
    assert_eq!(row(&fine, "comments")["verdict"], "table_not_synchronised");

    run(oversqlite(&file).args(["pause", "uploads"]));
    write(
        &file,
        &format!("UPDATE users SET email = 'a@b' WHERE id = '{fine}'"),
    );
    let (_, found) = doctor(&file, &["--row", &format!("users/{fine}")]);
    has(&found, "uploads_paused", "trouble", &["unsent"]);
    assert_eq!(found["row"]["verdict"], "unsent");
    assert!(
        found["row"]["what"]
            .as_str()
            .expect("words")
            .contains("uploads are paused")
    );
    run(oversqlite(&file).arg("resume"));
    assert!(finding(&doctor(&file, &[]).1, "uploads_paused").is_none());
    assert_eq!(
        oversqlite(&file)
            .args(["doctor", "--row", "x"])
            .output()
            .expect("runs")
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_come_is_found() {
    let (server, _database, folder, a) = healthy(Backend::Embedded).await;
    let b = init(&folder, "b.db", &server);
    assert_eq!(sync(&b), Some(0));
    let key = fresh_key();
    add(&a, &key);
    assert_eq!(sync(&a), Some(0));
    let asked = format!("users/{key}");
    let (code, found) = doctor(&b, &["--row", &asked]);
    assert_eq!(code, 8);
    has(&found, "behind", "waiting", &["behind by 1", "1 of 2"]);
    assert_eq!(found["row"]["verdict"], "not_downloaded", "{found:#}");
    let device = doctor(&a, &[]).1["status"]["device"].clone();
    assert_eq!(
        found["row"]["there"]["last"]["device"], device,
        "who wrote it"
    );
    run(oversqlite(&b).args(["pause", "downloads"]));
    let (_, found) = doctor(&b, &["--row", &asked]);
    has(&found, "downloads_paused", "trouble", &[]);
    assert!(
        found["row"]["what"]
            .as_str()
            .expect("words")
            .contains("paused"),
        "{found:#}"
    );
    run(oversqlite(&b).args(["resume", "downloads"]));

    // It comes, and a constraint of this file refuses it.
    write(
        &b,
        "CREATE UNIQUE INDEX one_name ON users (name); DELETE FROM users",
    );
    write(
        &b,
        "INSERT INTO users (id, name) VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e', 'Ann')",
    );
    let ann = fresh_key();
    write(
        &a,
        &format!("INSERT INTO users (id, name) VALUES ('{ann}', 'Ann')"),
    );
    assert_eq!(sync(&a), Some(0));
    assert_eq!(sync(&b), Some(0));
    let (code, found) = doctor(&b, &["--row", &format!("users/{ann}")]);
    assert_eq!(code, 9);
    has(&found, "parked_for_good", "trouble", &["UNIQUE"]);
    assert_eq!(found["row"]["verdict"], "parked", "{found:#}");
    // Deleted by one, and the other knows.
    write(&a, &format!("DELETE FROM users WHERE id = '{ann}'"));
    assert_eq!(sync(&a), Some(0));
    let (_, found) = doctor(&a, &["--row", &format!("users/{ann}")]);
    assert_eq!(found["row"]["verdict"], "deleted", "{found:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_else_has_the_file_and_what_became_of_the_server_is_found() {
    let (mut server, _database, folder, file) = healthy(Backend::Embedded).await;
    let watch = Watch::start(&file);
    eventually("another process has the file", || async {
        let (_, found) = doctor(&file, &[]);
        finding(&found, "lease_held").is_some().then_some(())
    })
    .await;
    assert_eq!(doctor(&file, &[]).0, 0, "which is as it should be");
    watch.kill();

    // A copy of the file goes on under its name.
    let copy = folder.path().join("copy.db");
    Connection::open(&file)
        .and_then(|file| file.execute("VACUUM INTO ?1", [copy.to_str()]).map(drop))
        .expect("copied");
    add(&file, &fresh_key());
    assert_eq!(sync(&file), Some(0));
    has(&doctor(&copy, &[]).1, "copied_file", "waiting", &["copy"]);

    // The server forgets its newest changes, and then everything.
    write(&file, "UPDATE _sync_client SET cursor = 99");
    has(
        &doctor(&file, &[]).1,
        "server_behind",
        "waiting",
        &["ends at 2", "up to 99"],
    );
    let (other, _elsewhere) = dev_server(Backend::Embedded).await;
    let moved = format!("http://{}", other.address());
    write(
        &file,
        &format!("UPDATE _sync_setting SET value = json_set(value, '$.server', '{moved}')"),
    );
    has(
        &doctor(&file, &[]).1,
        "history_replaced",
        "waiting",
        &["another history"],
    );

    // Something else answers there.
    let nonsense = Proxy::start(other.address(), |_| Verdict::Refuse(404)).await;
    let base = nonsense.base();
    write(
        &file,
        &format!(
            "UPDATE _sync_setting SET value = json_set(value, '$.server', '{base}', '$.token.from', 'env', '$.token.value', 'TOKEN')"
        ),
    );
    let token = server
        .target()
        .token("user-ann", &device(&file), Duration::from_secs(600));
    let (_, found) = doctor_with(&file, &[], Some(&token));
    has(&found, "not_the_server", "trouble", &["404"]);
    server.terminate().await;
    server.restart(Port::Same).await;
}

fn device(file: &Path) -> String {
    let connection = Connection::open(file).expect("opens");
    let sql = "SELECT device_id FROM _sync_client";
    connection
        .query_row(sql, [], |row| row.get(0))
        .expect("one")
}

/// A long history is read from its end, and not without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_looked_for_from_the_end_and_not_for_ever() {
    let database = Backend::Embedded.database().await;
    // Places of the log are asked for by hand, from its end.
    let config = Config::default().unfolded().set("limits.max_page", 4);
    let server = Server::start(&database, config).await;
    let user = fresh_user();
    let peer = server.target().device(&user, "peer");
    let keys: Vec<String> = (0..600).map(|_| fresh_key()).collect();
    for (part, keys) in (0..).zip(keys.chunks(200)) {
        let rows: Vec<Value> = (1..)
            .zip(keys)
            .map(|(n, key)| insert(part * 200 + n, "business.users", key, json!({"name": "x"})))
            .collect();
        peer.upload(&rows).await;
    }
    let proxy = Proxy::start(server.address(), |_| Verdict::Pass).await;
    let token = server
        .target()
        .token(&user, "bob", Duration::from_secs(3_600));
    let folder = folder();
    let file = init_with_token(&folder, &proxy.base(), &token);
    let mut asked = 0;
    let mut look = |key: &str| {
        let (_, found) = doctor_with(&file, &["--row", &format!("users/{key}")], Some(&token));
        let all = proxy.seen("/sync/download").len();
        let requests = all - std::mem::replace(&mut asked, all);
        (found["row"].clone(), requests)
    };
    // A few of its requests look at other things.
    for (number, most) in [(599, 10), (590, 10), (400, 60), (300, 90)] {
        let (row, requests) = look(&keys[number]);
        assert_eq!(row["there"]["last"]["server_id"], number + 1, "{row:#}");
        assert_eq!(row["there"]["not_read_below"], 0);
        assert_eq!(row["verdict"], "not_downloaded", "{row:#}");
        assert!(requests <= most, "{number}: {requests} requests");
    }
    for key in [&keys[50], &fresh_key()] {
        let (row, requests) = look(key);
        assert_eq!(row["there"]["last"], Value::Null, "{row:#}");
        let below = row["there"]["not_read_below"].as_i64().expect("a position");
        assert!((150..300).contains(&below), "{row:#}");
        assert_eq!(row["verdict"], "server_not_asked", "{row:#}");
        let advice = row["advice"].as_str().expect("words");
        assert!(advice.contains(&below.to_string()), "{advice}");
        assert!(requests <= 110, "{requests} requests");
    }
    let mut command = oversqlite(&file);
    let asked = format!("users/{}", keys[50]);
    command
        .args(["doctor", "--row", &asked])
        .env("TOKEN", &token);
    let said = command.output().expect("it runs").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("older ones were not read"), "{said}");
}
