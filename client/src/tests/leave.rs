//! Holding back, waiting, and signing out: what the file says and what is left
//! of it.

use super::words::{FAMILY, invalid, refused};
use super::{Device, config, uuid};
use crate::client::Client;
use crate::error::{Error, NetworkError, SetupError};
use crate::pause::{self, Direction, Paused};
use crate::sign_out::SignOut;
use crate::status::{self, ConnectionState, Live, Stalled, Status};
use oversync_shared::wire::reason;
use rusqlite::Connection;
use serde_json::json;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NOTES: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v)";

fn read(device: &mut Device) -> Status {
    device.write(|txn| status::read(txn.conn))
}

#[test]
fn a_pause_stands_in_the_file_until_it_is_taken_back() {
    let mut device = Device::new(NOTES, &["t"]);
    let mut set = |which, on| {
        device.write(|txn| {
            pause::set(txn.conn, which, on)?;
            pause::read(txn.conn)
        })
    };
    let paused = |uploads, downloads| Paused { uploads, downloads };
    assert_eq!(set(Direction::Uploads, true), paused(true, false));
    assert_eq!(set(Direction::Downloads, true), paused(true, true));
    assert_eq!(set(Direction::Uploads, false), paused(false, true));
    assert_eq!(set(Direction::Both, true), paused(true, true));
    assert_eq!(set(Direction::Both, false), paused(false, false));
}

#[test]
fn the_status_says_what_waits_and_why() {
    let mut device = Device::new(FAMILY, &["c", "p", "s", "x"]);
    let (parent, child) = (uuid(1), uuid(2));
    assert_eq!(read(&mut device).oldest_unsent_age, None);
    device.run(&format!(
        "INSERT INTO p VALUES ('{parent}', 1); INSERT INTO c VALUES ('{child}', '{parent}', 1)"
    ));
    let found = read(&mut device);
    assert_eq!(found.unsent, 2);
    // It counts seconds of the clock, and one may begin in between.
    assert!(found.oldest_unsent_age.is_some_and(|age| age < 100));
    device.freeze();
    // An edit keeps its age on its way out and back.
    device.run("UPDATE _sync_outbox SET at = at - 1000");
    let sent = device.freeze();
    let age = |device: &mut Device| read(device).oldest_unsent_age.expect("an age");
    assert!((1000..1100).contains(&age(&mut device)));
    let missing = json!({"missing": [format!("public.p:{parent}")]});
    device.run("UPDATE c SET v = 2");
    device.settle(&sent, vec![refused(), invalid(reason::FK_MISSING, missing)]);
    assert!((1000..1100).contains(&age(&mut device)));
    // Nothing but a child of a rejected row is left.
    let held_up = read(&mut device).stalled_reason.expect("a reason");
    assert!(held_up.contains("rejected"), "{held_up}");
    device.write(|txn| pause::set(txn.conn, Direction::Uploads, true));
    assert_eq!(
        read(&mut device).stalled_reason.as_deref(),
        Some("uploads are paused")
    );
}

#[test]
fn it_never_says_connected_while_nothing_moves() {
    let all = [
        ConnectionState::Stopped,
        ConnectionState::Standby,
        ConnectionState::Offline,
        ConnectionState::Online,
        ConnectionState::LongPoll,
        ConnectionState::Polling,
    ];
    for connection in all {
        for error in [
            None,
            Some(NetworkError::Unauthorised),
            Some(NetworkError::Unreachable(String::new())),
        ] {
            for paused in [(false, false), (true, false), (false, true), (true, true)] {
                let live = Live {
                    connection,
                    stalled: error.clone().map(|error| Stalled::by(&error.into())),
                    ..Live::default()
                };
                let file = Status {
                    paused: Paused {
                        uploads: paused.0,
                        downloads: paused.1,
                    },
                    ..Status::default()
                };
                let shown = live.complete(file).connection;
                let stuck = error.is_some() || paused == (true, true);
                let connected = matches!(
                    connection,
                    ConnectionState::Online | ConnectionState::LongPoll | ConnectionState::Polling
                );
                let expected = match (&error, connected && stuck) {
                    (Some(NetworkError::Unreachable(_)), true) => ConnectionState::Offline,
                    (_, true) => ConnectionState::Stalled,
                    _ => connection,
                };
                assert_eq!(shown, expected, "{connection:?} {error:?} {paused:?}");
            }
        }
    }
}

/// A file with a family that refers to itself and to others, and a table that
/// is not synchronised.
const HOUSEHOLD: &str = "
CREATE TABLE folder (id TEXT PRIMARY KEY, name, up TEXT REFERENCES folder (id) ON DELETE RESTRICT);
CREATE TABLE note (id TEXT PRIMARY KEY, text, folder TEXT REFERENCES folder (id) ON DELETE RESTRICT);
CREATE TABLE audit (what);
CREATE TABLE draft (note TEXT REFERENCES note (id) ON DELETE CASCADE, text);
CREATE TRIGGER gone AFTER DELETE ON note BEGIN INSERT INTO audit VALUES (OLD.text); END;
";

struct Household {
    client: Client,
    app: Connection,
    folder: TempDir,
}

async fn household() -> Household {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let app = Connection::open(&path).expect("opens");
    app.execute_batch("PRAGMA journal_mode = wal; PRAGMA foreign_keys = on;")
        .expect("runs");
    app.execute_batch(HOUSEHOLD).expect("runs");
    let tables = config(&folder).table("note").table("folder");
    let client = Client::open(tables).await.expect("opens");
    let [top, inner, leaf, note] = [1, 2, 3, 4].map(uuid);
    app.execute_batch(&format!(
        "INSERT INTO folder VALUES ('{top}', 'private name', NULL), ('{inner}', 'b', '{top}'),
             ('{leaf}', 'c', '{inner}');
         INSERT INTO note VALUES ('{note}', 'private words', '{leaf}');
         INSERT INTO draft VALUES ('{note}', 'draft'), (NULL, 'kept');"
    ))
    .expect("runs");
    Household {
        client,
        app,
        folder,
    }
}

impl Household {
    fn count(&self, sql: &str) -> i64 {
        self.app
            .query_row(sql, [], |row| row.get(0))
            .expect("a number")
    }

    fn own(&self) -> i64 {
        self.count("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'")
    }
}

#[tokio::test]
async fn signing_out_refuses_to_lose_edits() {
    let house = household().await;
    let before = house.own();
    let refused = house.client.sign_out(SignOut::Refuse).await;
    let Err(Error::Setup(SetupError::Unsent { unsent, rejected })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((unsent, rejected), (4, 0));
    // Nothing listens there: an error of the network, and nothing changed.
    let refused = house.client.sign_out(SignOut::SyncFirst).await;
    assert!(matches!(refused, Err(Error::Network(_))), "{refused:?}");
    assert_eq!(house.count("SELECT count(*) FROM folder"), 3);
    assert_eq!(house.own(), before);
    // The client goes on as before: triggers fire on every connection.
    house
        .client
        .connection()
        .and_then(|conn| Ok(conn.execute("UPDATE note SET text = 'x'", [])?))
        .expect("writes");
    assert_eq!(house.client.status().await.expect("a status").unsent, 4);
}

#[tokio::test]
async fn after_signing_out_nothing_of_the_user_is_in_the_file() {
    let house = household().await;
    house
        .client
        .sign_out(SignOut::Discard)
        .await
        .expect("signed out");
    assert_eq!(house.own(), 0);
    for table in ["folder", "note", "audit"] {
        assert_eq!(
            house.count(&format!("SELECT count(*) FROM {table}")),
            0,
            "{table}"
        );
    }
    assert_eq!(
        house.count("SELECT count(*) FROM draft"),
        1,
        "actions run as declared"
    );
    assert_eq!(
        house.count("SELECT count(*) FROM pragma_foreign_key_check"),
        0
    );
    assert_eq!(
        house.count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"),
        1,
        "the application's own stays"
    );
    assert!(matches!(house.client.status().await, Err(Error::Stopped)));
    // Not even as bytes.
    let Household { app, folder, .. } = house;
    drop(app);
    for file in std::fs::read_dir(folder.path()).expect("the folder") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("readable");
        for word in ["private name", "private words", "user-ada"] {
            let found = bytes
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!found, "{word} in {}", path.display());
        }
    }
    // The file is anybody's now.
    let mut other = config(&folder).table("note").table("folder");
    other.user = oversync_shared::UserId::new("user-bob").expect("a name");
    let client = Client::open(other).await.expect("opens");
    assert_eq!(client.user().as_str(), "user-bob");
    assert_eq!(client.status().await.expect("a status").unsent, 0);
    let wrong = Client::open(config(&folder).table("note")).await;
    let message = wrong.expect_err("another user's").to_string();
    assert!(
        message.contains("user-bob") && message.contains("user-ada") && message.contains("sign"),
        "{message}"
    );
}

#[tokio::test]
async fn a_table_that_refuses_keeps_everything_as_it_is() {
    let house = household().await;
    let note = uuid(4);
    house
        .app
        .execute_batch(&format!(
            "CREATE TABLE pin (note TEXT NOT NULL REFERENCES note (id)); INSERT INTO pin VALUES ('{note}')"
        ))
        .expect("runs");
    let refused = house.client.sign_out(SignOut::Discard).await;
    assert!(
        matches!(refused, Err(Error::Setup(SetupError::CannotSignOut { .. }))),
        "{refused:?}"
    );
    assert_eq!(house.count("SELECT count(*) FROM note"), 1);
    assert_eq!(house.client.status().await.expect("a status").unsent, 4);
    house.app.execute_batch("DELETE FROM pin").expect("runs");
    house
        .client
        .sign_out(SignOut::Discard)
        .await
        .expect("signed out");
}

#[tokio::test]
async fn rejected_edits_count_as_edits() {
    let folder = TempDir::new().expect("a folder");
    let app = Connection::open(folder.path().join("app.db")).expect("opens");
    app.execute_batch(NOTES).expect("runs");
    let client = Client::open(config(&folder).table("t"))
        .await
        .expect("opens");
    app.execute_batch("INSERT INTO t VALUES ('no uuid', 1)")
        .expect("runs");
    let refused = client.sign_out(SignOut::Refuse).await;
    assert!(
        matches!(
            refused,
            Err(Error::Setup(SetupError::Unsent {
                unsent: 0,
                rejected: 1
            }))
        ),
        "{refused:?}"
    );
}

/// A row that is written again and again while nothing may be sent: what is noted of
/// it is folded, and the first base image stays.
#[tokio::test]
async fn what_is_noted_while_paused_does_not_fill_the_disk() {
    let house = household().await;
    house.client.pause(Direction::Both).await.expect("pauses");
    house.client.start().expect("starts");
    house
        .app
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
             INSERT INTO note SELECT id, i, folder FROM note, n WHERE true
             ON CONFLICT (id) DO UPDATE SET text = excluded.text",
        )
        .expect("writes");
    let noted = "SELECT count(*) FROM _sync_touched";
    let patience = Instant::now() + Duration::from_secs(60);
    while house.count(noted) > 0 {
        assert!(Instant::now() < patience, "{} lines", house.count(noted));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.count("SELECT count(*) FROM _sync_pending"), 4);
    assert_eq!(house.client.status().await.expect("a status").unsent, 4);
    house.client.stop().await;
}
