//! Rows that can never succeed among a thousand that can, one of every kind, to
//! the server and from it: the thousand arrive, and each of the others is in the
//! list that is for it, with its reason.

use oversqlite::{Client, DeviceId, UserId};
use oversync_tests::device::insert;
use oversync_tests::target::fresh_user;
use oversync_tests::{Backend, Config, HttpDevice, Server, Target, on_both_stores};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

on_both_stores!(
    outgoing_rows_that_cannot_be_taken_delay_no_other,
    incoming_rows_that_cannot_be_written_delay_no_other,
);

const ROWS: i64 = 1_000;

/// Reasons, by the number of the row's key.
type Reasons = BTreeMap<i64, String>;

fn key(n: i64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// What [`key`] was made of; 0 for any other.
fn number(key: &str) -> i64 {
    let digits = key.strip_prefix("00000000-0000-4000-8000-");
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn reasons(expected: &[(i64, &str)]) -> Reasons {
    let expected = expected.iter().map(|(n, why)| (*n, (*why).to_owned()));
    expected.collect()
}

async fn client(target: &Target, user: &str, file: &Path, tables: &[&str]) -> Client {
    let token = target.token(user, "phone", Duration::from_secs(3_600));
    let config = oversqlite::Config::new(
        file,
        target.base(),
        UserId::new(user).expect("a user"),
        move || {
            let token = token.clone();
            async move { Ok(token) }
        },
    )
    .device(DeviceId::new("phone").expect("a device"))
    .schema("business");
    let config = tables
        .iter()
        .fold(config, |config, table| config.table(*table));
    Client::open(config).await.expect("the client opens")
}

async fn log(device: &HttpDevice) -> Vec<Value> {
    device.download_all(0, 1_000, "").await.0
}

async fn outgoing_rows_that_cannot_be_taken_delay_no_other(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default()
        .set("limits.max_payload_bytes", 2_000)
        .set("limits.max_body_bytes", 60_000);
    let server = Server::start(&database, config).await;
    let (target, user, folder) = (server.target(), fresh_user(), TempDir::new());
    let folder = folder.expect("a folder");
    let file = folder.path().join("app.db");
    let mut writer = Connection::open(&file).expect("opens");
    writer
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT, email TEXT, photo BLOB);
             CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, title TEXT,
                 author_id TEXT REFERENCES users (id));
             CREATE TABLE drafts (id TEXT PRIMARY KEY NOT NULL, title TEXT);",
        )
        .expect("made");
    let client = client(&target, &user, &file, &["users", "posts", "drafts"]).await;
    client.hydrate().await.expect("nothing there");
    let tx = writer.transaction().expect("begins");
    for n in 1..=ROWS {
        tx.execute("INSERT INTO users (id, name) VALUES (?1, 'any')", [key(n)])
            .expect("a row");
        if n == ROWS / 2 {
            let poison = "
                INSERT INTO users (id, email) VALUES ({2001}, printf('%.3000c', 'x'));
                INSERT INTO users (id, email) VALUES ({2002}, printf('%.70000c', 'x'));
                INSERT INTO users (id, name) VALUES ({2003}, CAST(x'ff' AS TEXT));
                INSERT INTO users (id, name) VALUES ({2004}, CAST(x'eda080' AS TEXT));
                INSERT INTO users (id, name) VALUES ({2005}, x'00');
                INSERT INTO users (id, photo) VALUES ({2006}, 'text');
                INSERT INTO users (id) VALUES ('no uuid');
                INSERT INTO posts (id, author_id) VALUES ({2007}, {3000});
                INSERT INTO posts (id, author_id) VALUES ({2008}, 'no uuid either');
                INSERT INTO drafts (id) VALUES ({2009});
                INSERT INTO posts (id, author_id) VALUES ({2010}, {2001});";
            let poison = (2_001..=3_000).fold(poison.to_owned(), |sql, n| {
                sql.replace(&format!("{{{n}}}"), &format!("'{}'", key(n)))
            });
            tx.execute_batch(&poison).expect("poison");
        }
    }
    tx.commit().expect("commits");

    let done = client.sync().await.expect("synchronised");
    assert!(done.complete, "{done:?}");
    assert_eq!(done.uploaded.applied as i64, ROWS);
    let listed = client.rejected().await.expect("a list");
    let found: Reasons = listed
        .iter()
        .map(|entry| (number(&entry.key), entry.reason.clone()))
        .collect();
    let expected = reasons(&[
        (0, "bad_key"),
        (2_001, "bad_payload"),
        (2_002, "request_too_large"),
        (2_003, "uncarriable_value"),
        (2_004, "uncarriable_value"),
        (2_005, "uncarriable_value"),
        (2_006, "uncarriable_value"),
        (2_007, "fk_missing"),
        (2_008, "bad_payload"),
        (2_009, "unregistered_table"),
    ]);
    assert_eq!((found, listed.len()), (expected, 10));
    assert!(listed.iter().all(|entry| !entry.detail.is_empty()));
    // The child of a rejected row waits with it.
    assert_eq!(client.status().await.expect("a status").unsent, 1);
    assert_eq!(log(&target.device(&user, "other")).await.len() as i64, ROWS);
    client.stop().await;
    server.verified().await;
}

async fn incoming_rows_that_cannot_be_written_delay_no_other(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (target, user, folder) = (server.target(), fresh_user(), TempDir::new());
    let folder = folder.expect("a folder");
    let peer = target.device(&user, "peer");
    let poison = [
        ("users", json!({"name": null}), "refused"),
        ("users", json!({"email": "no name"}), "refused"),
        ("users", json!({"name": "much too long"}), "refused"),
        ("users", json!({"name": "twin", "email": "7"}), "refused"),
        ("users", json!({"name": "lost", "kind": "none"}), "refused"),
        ("users", json!({"name": "typed", "n": "many"}), "refused"),
        ("users", json!({"name": "stopped"}), "refused"),
        (
            "users",
            json!({"name": "bytes", "photo": "no base64!"}),
            "refused",
        ),
        (
            "users",
            json!({"name": "object", "photo": {"a": [1]}}),
            "refused",
        ),
        ("posts", json!({"author_id": key(2_001)}), "missing_parent"),
        ("comments", json!({"text": "what for?"}), "unknown_table"),
        // Hostile, and harmless: names are looked up, never pasted.
        (
            "users",
            json!({"name": "x", "x\") VALUES (1); DROP TABLE users; --": 1}),
            "",
        ),
    ];
    let mut changes: Vec<Value> = (1..=ROWS)
        .map(|n| {
            insert(
                n,
                "business.users",
                &key(n),
                json!({"name": "any", "email": n.to_string()}),
            )
        })
        .collect();
    for (n, (table, row, _)) in (2_001..).zip(&poison) {
        let change = insert(n, &format!("business.{table}"), &key(n), row.clone());
        // Behind what it refers to.
        changes.insert(500 + n as usize - 2_001, change);
    }
    for batch in changes.chunks(400) {
        for status in peer.statuses(batch).await {
            assert_eq!(status["status"], "applied", "{status}");
        }
    }

    let file = folder.path().join("app.db");
    Connection::open(&file)
        .and_then(|file| {
            file.execute_batch(
                "CREATE TABLE kinds (name TEXT PRIMARY KEY);
                 CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL,
                     name TEXT NOT NULL CHECK (length(name) < 10), email TEXT UNIQUE,
                     kind TEXT REFERENCES kinds (name), photo BLOB, n INTEGER) STRICT;
                 CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, title TEXT,
                     author_id TEXT REFERENCES users (id));
                 CREATE TRIGGER stop BEFORE INSERT ON users WHEN NEW.name = 'stopped'
                     BEGIN SELECT RAISE(ABORT, 'stopped'); END;",
            )
        })
        .expect("made");
    let client = client(&target, &user, &file, &["users", "posts"]).await;
    let applied = client.hydrate().await.expect("a first pass");
    assert_eq!(applied as i64, ROWS + 1);
    let listed = client.parked().await.expect("a list");
    let found: Reasons = listed
        .iter()
        .map(|entry| (number(&entry.key), entry.reason.clone()))
        .collect();
    let expected: Vec<(i64, &str)> = (2_001..)
        .zip(&poison)
        .map(|(n, (_, _, reason))| (n, *reason))
        .filter(|(_, reason)| !reason.is_empty())
        .collect();
    assert_eq!((found, listed.len()), (reasons(&expected), 11));
    let status = client.status().await.expect("a status");
    assert_eq!(
        (
            status.parked,
            status.unsent,
            status.rejected,
            status.behind_by
        ),
        (11, 0, 0, Some(0))
    );
    assert!(status.hydrated);
    // A row that is mended is written, and so is the one that waited for it.
    let mended = json!({"name": "mended"});
    let again = oversync_tests::device::update(5_000, "business.users", &key(2_001), 1, mended);
    assert_eq!(peer.upload_one(again).await["status"], "applied");
    client.sync().await.expect("synchronised");
    assert_eq!(client.parked().await.expect("a list").len(), 9);
    client.stop().await;
    server.verified().await;
}
