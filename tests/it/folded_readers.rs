//! Readers of a log that is folded all the time: each is told a history that it can
//! apply, rows after what they refer to, and in the end they have what was written; also
//! where the server is killed while it folds.

use oversync_tests::device::{delete, update};
use oversync_tests::folding::{eager, folds, name_of};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, HttpDevice, Port, Seed, Server, Target, eventually, on_both_stores};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

on_both_stores!(
    readers_of_every_kind_get_valid_histories,
    a_server_killed_while_it_folds_goes_on,
);

/// A reader's tables: what it has been told, checked as it is told.
#[derive(Default)]
struct Model {
    rows: HashMap<String, (i64, Value)>,
    versions: HashMap<String, i64>,
    place: i64,
}

impl Model {
    /// Places and versions ascend, and nothing comes before what it refers to.
    fn take(&mut self, change: &Value) {
        let place = change["server_id"].as_i64().expect("a place");
        assert!(place > self.place, "{change} after {}", self.place);
        self.place = place;
        let key = change["pk"].as_str().expect("a key").to_owned();
        let version = change["server_version"].as_i64().expect("a version");
        let before = self.versions.insert(key.clone(), version).unwrap_or(0);
        assert!(version > before, "{change} after version {before}");
        if change["deleted"] == true {
            self.rows.remove(&key);
            return;
        }
        let payload = change["payload"].clone();
        for column in ["author_id", "parent_id"] {
            if let Some(parent) = payload[column].as_str() {
                assert!(self.rows.contains_key(parent), "{change} before its parent");
            }
        }
        self.rows.insert(key, (version, payload));
    }
}

/// Reads on until it is at the head and told to stop; begins again where it is told
/// that its place means nothing any more. How often that was.
async fn read_on(device: HttpDevice, mut rng: StdRng, stop: Arc<AtomicBool>, fresh: bool) -> Model {
    let mut model = Model::default();
    let mut until = None;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let (after, limit) = (model.place, rng.random_range(1..12));
        let window = until.map_or(String::new(), |until: i64| format!("&until={until}"));
        let reply = device
            .download_raw(&format!("after={after}&limit={limit}{window}"))
            .await;
        if reply.status == 410 {
            assert!(after > 0, "who begins is always answered");
            (model, until) = (Model::default(), None);
            continue;
        }
        let page = reply.ok();
        for change in page["changes"].as_array().expect("changes") {
            model.take(change);
        }
        let has_more = page["has_more"] == true;
        let at_head = !has_more && page["window_until"] == page["head"];
        until =
            (has_more && rng.random_bool(0.7)).then(|| page["window_until"].as_i64().expect("it"));
        if at_head && stopping {
            return model;
        }
        if at_head && fresh && rng.random_bool(0.5) {
            model = Model::default();
        }
    }
}

/// Writes rows that refer to each other, up and down two tables; what it has
/// written in the end.
async fn write_on(
    device: HttpDevice,
    mut rng: StdRng,
    uploads: i64,
) -> HashMap<String, (i64, Value)> {
    let mut rows: HashMap<String, (i64, Value)> = HashMap::new();
    let mut kinds: [Vec<String>; 3] = Default::default();
    let tables = ["business.users", "business.posts", "tree.nodes"];
    for id in 1..=uploads {
        let kind = rng.random_range(0..3);
        // Notes are few and change often: their tree is turned over.
        let is_new = kinds[kind].len() < [6, 12, 8][kind] && rng.random_bool(0.5);
        let parents = if kind == 1 { &kinds[0] } else { &kinds[2] };
        let mut payload = json!({ "n": id });
        let key = if is_new || kinds[kind].is_empty() {
            fresh_key()
        } else {
            kinds[kind][rng.random_range(0..kinds[kind].len())].clone()
        };
        if kind > 0 && !parents.is_empty() {
            let parent = parents[rng.random_range(0..parents.len())].clone();
            let column = if kind == 1 { "author_id" } else { "parent_id" };
            // Up the tree there is no way back to the row itself.
            if kind == 1 || !reaches(&rows, &parent, &key) {
                payload[column] = parent.into();
            }
        }
        let known = rows.get(&key).map(|row| row.0);
        let is_leaf = !rows.values().any(|(_, other)| {
            other["author_id"] == key.as_str() || other["parent_id"] == key.as_str()
        });
        let version = known.unwrap_or(0);
        let change = if known.is_some() && is_leaf && rng.random_bool(0.15) {
            rows.remove(&key);
            kinds[kind].retain(|other| *other != key);
            delete(id, tables[kind], &key, version)
        } else {
            if known.is_none() {
                kinds[kind].push(key.clone());
            }
            rows.insert(key.clone(), (version + 1, payload.clone()));
            update(id, tables[kind], &key, version, payload)
        };
        let reply = device.upload_patiently(&[change]).await;
        assert_eq!(reply["statuses"][0]["status"], "applied", "{reply}");
    }
    rows
}

fn reaches(rows: &HashMap<String, (i64, Value)>, from: &str, to: &str) -> bool {
    let mut at = Some(from.to_owned());
    while let Some(key) = at {
        if key == to {
            return true;
        }
        at = rows
            .get(&key)
            .and_then(|row| row.1["parent_id"].as_str().map(str::to_owned));
    }
    false
}

async fn everybody_agrees(target: &Target, user: &str, seed: Seed, uploads: i64) {
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let device = target.device(user, &format!("reader-{reader}"));
            let rng = seed.rng(reader + 1);
            tokio::spawn(read_on(device, rng, stop.clone(), reader % 2 == 0))
        })
        .collect();
    let written = write_on(target.device(user, "writer"), seed.rng(0), uploads).await;
    stop.store(true, Ordering::Release);
    for reader in readers {
        let model = reader.await.expect("the reader finds no fault");
        assert_eq!(model.rows, written);
    }
}

async fn readers_of_every_kind_get_valid_histories(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    let mut servers = vec![Server::start(&database, eager()).await];
    if backend == Backend::Postgres {
        // Both of them fold.
        servers.push(Server::start(&database, eager()).await);
    }
    let targets: Vec<_> = servers.iter().map(Server::target).collect();
    let user = fresh_user();
    let target = Target::in_turn(&targets);
    everybody_agrees(&target, &user, seed, 150).await;
    // How often it was folded meanwhile is a matter of speed. Until it was often enough:
    // more of it, with all readers at the head.
    let (more, key) = (target.device(&user, "more"), fresh_key());
    let mut id = 0;
    while folds(&database).await <= 3 {
        let before = folds(&database).await;
        let changes: Vec<Value> = (0..20)
            .map(|_| {
                id += 1;
                update(id, "business.users", &key, id - 1, name_of(id))
            })
            .collect();
        let head = more.upload_patiently(&changes).await["highest_server_seq"].clone();
        eventually("it is folded", || async {
            for reader in 0..4 {
                let reader = target.device(&user, &format!("reader-{reader}"));
                reader.download(&format!("after={head}")).await;
            }
            (folds(&database).await > before).then_some(())
        })
        .await;
    }
    servers[0].verified().await;
}

async fn a_server_killed_while_it_folds_goes_on(backend: Backend) {
    let seed = Seed::from_env();
    let mut rng = seed.rng(0);
    let database = backend.database().await;
    let mut server = Server::start(&database, eager()).await;
    let user = fresh_user();
    let keys: Vec<String> = (0..40).map(|_| fresh_key()).collect();
    for version in 0..4 {
        let id = |n: i64| version * 40 + n + 1;
        let changes: Vec<Value> = (0..)
            .zip(&keys)
            .map(|(n, key)| update(id(n), "business.users", key, version, name_of(version)))
            .collect();
        let ann = server.target().device(&user, "ann");
        let reply = ann.upload_patiently(&changes).await;
        assert_eq!(reply["statuses"][0]["status"], "applied", "{reply}");
        tokio::time::sleep(std::time::Duration::from_millis(rng.random_range(0..40))).await;
        server.kill();
        server.restart(Port::Same).await;
        eventually("it answers", || async {
            let health = format!("{}/ready", server.target().base());
            let reply = server.target().client().get(health).send().await.ok()?;
            reply.status().is_success().then_some(())
        })
        .await;
        let fresh = server.target().device(&user, &format!("fresh-{version}"));
        let mut model = Model::default();
        for change in fresh.download_all(0, 1_000, "").await.0 {
            model.take(&change);
        }
        assert_eq!(model.rows.len(), keys.len());
        assert!(model.rows.values().all(|row| row.0 == version + 1));
        server.verified().await;
    }
}
