//! The newest changes from memory: what a device is answered is what a process says
//! that reads the database, to the letter; and what must not be answered from there.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{eager, folded_up_to, people};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Admin, Backend, Config, Database, Port, Seed, Server, on_both_stores};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

on_both_stores!(
    memory_answers_to_the_letter_what_the_database_says,
    an_edit_costs_no_page_however_many_devices_hear_of_it,
    nobody_else_sees_it,
    a_place_in_a_fold_is_not_a_place_in_memory,
);

const FOUND: &str = r#"oversync_newest_downloads_total{found="yes"}"#;
const PAGES: &str = r#"oversync_store_questions_total{verb="page"}"#;
const HEADS: &str = r#"oversync_store_questions_total{verb="heads"}"#;

/// Rows of one user: key, table, and how often it was written.
#[derive(Default)]
struct Rows {
    known: Vec<(String, &'static str, i64)>,
    id: i64,
}

impl Rows {
    /// An upload: new rows, changed ones, deleted ones; now and then a large one.
    fn any(&mut self, random: &mut StdRng) -> Vec<Value> {
        let mut touched = Vec::new();
        let count = random.random_range(1..=4);
        let changes = (0..count).map(|_| {
            self.id += 1;
            let id = self.id;
            let size = if random.random_bool(0.05) {
                90_000
            } else {
                random.random_range(0..400)
            };
            let payload = json!({"name": "é\u{1F600}\n".repeat(size / 8), "n": id});
            let place = random.random_range(0..=self.known.len());
            if place == self.known.len() || touched.contains(&place) {
                let key = fresh_key();
                touched.push(self.known.len());
                let table = ["business.users", "business.posts"][id as usize % 2];
                self.known.push((key.clone(), table, 1));
                return insert(id, table, &key, payload);
            }
            touched.push(place);
            let (key, table, version) = &mut self.known[place];
            *version += 1;
            if random.random_bool(0.3) {
                delete(id, table, key, *version - 1)
            } else {
                update(id, table, key, *version - 1, payload)
            }
        });
        changes.collect()
    }
}

fn any_query(head: i64, random: &mut StdRng) -> String {
    let near = |random: &mut StdRng| (head - random.random_range(-2..30)).max(0);
    let mut query = format!("after={}", near(random));
    if random.random_bool(0.6) {
        query += ["&limit=1", "&limit=3", "&limit=1000"][random.random_range(0..3)];
    }
    if random.random_bool(0.3) {
        query += "&include_self=true";
    }
    if random.random_bool(0.3) {
        query += &format!("&until={}", near(random));
    }
    if random.random_bool(0.2) {
        query += ["&schema=business", "&schema=public"][random.random_range(0..2)];
    }
    if random.random_bool(0.1) {
        query += "&epoch=another";
    }
    query
}

/// Random histories of a user. On the embedded store the database's word is what the
/// same process says after a restart; on PostgreSQL a second process writes, too, and a
/// third that never writes only reads.
async fn memory_answers_to_the_letter_what_the_database_says(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    // One page is read twice, from any cursor: the log must be the same both times.
    let config = Config::default().unfolded().operators();
    let mut first = Server::start(&database, config.clone()).await;
    let others = match backend {
        Backend::Embedded => Vec::new(),
        Backend::Postgres => vec![
            Server::start(&database, config.clone()).await,
            Server::start(&database, config.clone()).await,
        ],
    };
    let (mut asked, mut found) = (0, 0.0);
    for round in 0..4 {
        let random = &mut seed.rng(round);
        let user = fresh_user();
        let mut rows = Rows::default();
        let mut head = 0;
        let mut told: Vec<(String, String, u16, String)> = Vec::new();
        for step in 0..12 {
            // Mostly here: what another process writes begins memory anew.
            let elsewhere = others.first().filter(|_| random.random_bool(0.15));
            let at = elsewhere.unwrap_or(&first).target();
            let writer = at.device(&user, &format!("device-{}", random.random_range(0..3)));
            let reply = writer.upload(&rows.any(random)).await;
            head = reply["head"].as_i64().unwrap_or(head);
            told.clear();
            for _ in 0..5 {
                let name = format!("device-{}", random.random_range(0..5));
                let query = any_query(head, random);
                let here = first
                    .target()
                    .device(&user, &name)
                    .download_raw(&query)
                    .await;
                if let Some(reader) = others.get(1) {
                    let there = reader.target().device(&user, &name);
                    let stored = there.download_raw(&query).await;
                    assert_eq!(
                        (here.status, &here.text),
                        (stored.status, &stored.text),
                        "round {round} step {step}: {name} {query}"
                    );
                }
                told.push((name, query, here.status, here.text));
                asked += 1;
            }
        }
        found += first.admin().metric(FOUND).await;
        if backend == Backend::Embedded {
            // The head has not moved since the last questions.
            first.terminate().await;
            first.restart(Port::Same).await;
            for (name, query, status, text) in &told {
                let stored = first.target().device(&user, name).download_raw(query).await;
                assert_eq!(
                    (*status, text),
                    (stored.status, &stored.text),
                    "{name} {query}"
                );
            }
            assert_eq!(
                first.admin().metric(FOUND).await,
                0.0,
                "it has committed nothing"
            );
        }
    }
    if let Some(reader) = others.get(1) {
        assert_eq!(reader.admin().metric(FOUND).await, 0.0);
        found = first.admin().metric(FOUND).await;
    }
    println!("{found} of {asked} answered from memory");
    assert!(found * 10.0 > f64::from(asked), "{found} of {asked}");
}

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().unfolded().operators()).await;
    (database, server)
}

/// Pages and heads that the database was asked for, so far.
async fn questions(admin: &Admin) -> [f64; 2] {
    [admin.metric(PAGES).await, admin.metric(HEADS).await]
}

async fn an_edit_costs_no_page_however_many_devices_hear_of_it(backend: Backend) {
    const DEVICES: usize = 5;
    const EDITS: i64 = 10;
    let (_database, server) = server(backend).await;
    let writer = server.target().one_device();
    let mut id = 1;
    writer.upload(&people(id, &[fresh_key()])).await;
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        let device = writer.sibling(&format!("device-{n}"));
        let mut socket = device.connect().await;
        assert_eq!(socket.hello().await, 1);
        devices.push((device, socket, 1));
    }
    let before = questions(&server.admin()).await;
    for _ in 0..EDITS {
        id += 1;
        writer.upload(&people(id, &[fresh_key()])).await;
        for (device, socket, told) in &mut devices {
            socket.told_of(id, told).await;
            let page = device.download(&format!("after={}", id - 1)).await;
            assert_eq!(
                (&page["next_after"], &page["head"]),
                (&json!(id), &json!(id))
            );
            assert_eq!(page["changes"].as_array().expect("changes").len(), 1);
        }
    }
    let after = questions(&server.admin()).await;
    assert_eq!(after[0], before[0], "no page was read");
    if backend == Backend::Embedded {
        assert_eq!(after[1], before[1], "the database was asked nothing");
    }
    let found = server.admin().metric(FOUND).await;
    assert_eq!(found, (DEVICES as i64 * EDITS) as f64);
    assert!(server.admin().metric("oversync_newest_bytes").await > 0.0);
}

/// A device that has everything, as far as this process knows, asked for the head
/// twice: once for that, and once for the newest changes.
#[tokio::test]
async fn a_head_that_moved_elsewhere_is_asked_for_once() {
    let (database, server) = server(Backend::Postgres).await;
    let (writer, reader) = server.target().two_devices();
    reader.download("after=0").await;
    writer.upload(&people(1, &[fresh_key()])).await;
    for after in [0, 1] {
        let page = reader.download(&format!("after={after}")).await;
        assert_eq!(page["head"], 1, "{page}");
    }
    // What another process does, and has not said yet.
    database
        .execute("UPDATE oversync.users SET head = head + 1")
        .await;
    let before = questions(&server.admin()).await;
    reader.download("after=1").await;
    let after = questions(&server.admin()).await;
    assert_eq!((after[0] - before[0], after[1] - before[1]), (1.0, 1.0));
}

async fn nobody_else_sees_it(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (ann, bob) = server.target().two_devices();
    // Another user with devices of the same names, at the same places.
    let eve = server.target().device(&fresh_user(), bob.name());
    for user in [&ann, &eve] {
        user.upload(&people(1, &[fresh_key()])).await;
        user.download("after=1").await;
        user.upload(&people(2, &[fresh_key()])).await;
    }
    for (reader, writer) in [(&bob, &ann), (&eve.sibling("ada"), &eve)] {
        // The second time, it is known who asks.
        for _ in 0..2 {
            let page = reader.download("after=1").await;
            let changes = page["changes"].as_array().expect("changes");
            assert_eq!(changes.len(), 1, "{page}");
            assert_eq!(changes[0]["source_id"], writer.name());
        }
    }
    assert!(server.admin().metric(FOUND).await >= 2.0);
    let stranger = server.target().device(&fresh_user(), bob.name());
    assert_eq!(stranger.download("after=1").await["changes"], json!([]));
}

/// A device in the middle of a fold comes with a number that memory has, too, and that
/// means something else there.
async fn a_place_in_a_fold_is_not_a_place_in_memory(backend: Backend) {
    let database = backend.database().await;
    // On PostgreSQL another process folds, and this one is told nothing of it.
    let (config, _folds) = match backend {
        Backend::Embedded => (eager(), None),
        Backend::Postgres => {
            let config = Config::default().set("retention.pause_ms", 10);
            (config, Some(Server::start(&database, eager()).await))
        }
    };
    let server = Server::start(&database, config).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let keys: Vec<String> = (0..4).map(|_| fresh_key()).collect();
    // Everybody moves on, and holds nothing.
    let mut readers = vec![ann.clone(), eve.clone()];
    let mut id = 0;
    for round in 0..4 {
        for key in &keys {
            id += 1;
            // Whoever asks here holds the floor until it has moved on.
            let page = eve.download(&format!("after={}", id - 1)).await;
            assert_eq!(page["changes"], json!([]), "{page}");
            let change = match round {
                0 => insert(id, "business.users", key, json!({"n": id})),
                _ => update(id, "business.users", key, round, json!({"n": id})),
            };
            ann.upload(&[change]).await;
        }
        for reader in &readers {
            reader.download(&format!("after={id}")).await;
        }
        folded_up_to(&database, id).await;
        // One by one, from the start: places in the fold, as many as there are rows.
        let fresh = ann.sibling(&format!("fresh-{round}"));
        let (seen, cursor) = fresh.download_all(0, 1, "").await;
        readers.push(fresh);
        let rows: Vec<&Value> = seen.iter().map(|change| &change["pk"]).collect();
        assert_eq!((rows.len(), cursor), (keys.len(), id), "{seen:#?}");
        // A cursor in what was folded away means nothing.
        let query = format!("after={}", id - 1);
        let stale = ann.sibling("stale").download_raw(&query).await;
        stale.refused(410, "history_pruned");
    }
    server.verified().await;
}

/// The database is put back, under a server that goes on: memory is of another history.
#[tokio::test]
async fn what_was_held_of_another_history_is_never_answered() {
    let (database, server) = server(Backend::Postgres).await;
    let (ann, bob) = server.target().two_devices();
    ann.upload(&people(1, &[fresh_key()])).await;
    bob.download("after=1").await;
    ann.upload(&people(2, &[fresh_key()])).await;
    ann.upload(&people(3, &[fresh_key()])).await;
    let before = bob.download("after=1").await;
    assert_eq!(before["next_after"], 3);
    assert_eq!(server.admin().metric(FOUND).await, 1.0);
    // A copy from before the third change, under a new epoch.
    for sql in [
        "DELETE FROM oversync.rows WHERE server_id = 3",
        "DELETE FROM oversync.log WHERE server_id = 3",
        "UPDATE oversync.users SET head = 2, revision = revision - 1",
        "UPDATE oversync.devices SET highest_change_id = 2",
        "UPDATE oversync.meta SET epoch = 'put-back'",
    ] {
        database.execute(sql).await;
    }
    let after = bob.download("after=1").await;
    let said = (&after["epoch"], &after["head"], &after["next_after"]);
    assert_eq!(said, (&json!("put-back"), &json!(2), &json!(2)));
    bob.download_raw(&format!(
        "after=1&epoch={}",
        before["epoch"].as_str().expect("text")
    ))
    .await
    .refused(409, "epoch_mismatch");
    // The stream goes on from there, with other changes under the same numbers.
    let body = json!({"changes": people(3, &[fresh_key()]), "epoch": "put-back"});
    let reply = ann.upload_raw(body.to_string()).await.ok();
    assert_eq!(
        (&reply["head"], &reply["statuses"][0]["status"]),
        (&json!(3), &json!("applied"))
    );
    let now = bob.download("after=1").await;
    assert_eq!(now["next_after"], 3);
    assert_ne!(now["changes"], before["changes"]);
    // It is what a process says that has never known anything else.
    let other = Server::start(&database, Config::default()).await;
    assert_eq!(now, bob.at(&other.target()).download("after=1").await);
}
