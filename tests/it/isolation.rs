//! USER-ISOLATION: everything one user can observe is the same whether another
//! user exists or not.
//!
//! A random story of user Bob is told twice: on a server of his own, and on one
//! where Ann is busy all the time with the very same keys, change ids and device
//! names. What Bob sees is compared byte for byte; only what must differ between
//! two databases is masked. The seed is printed.

use oversync_tests::device::{change, delete, insert, update};
use oversync_tests::seed::cases;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Reply, Seed, Server, Socket, on_both_stores, server,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

on_both_stores!(
    rows_that_are_only_synchronised,
    rows_in_business_tables,
    a_key_shared_by_all_users_fails_a_projection_and_nothing_else,
    a_row_never_stands_on_another_users,
);

const NOTES: &str = "shop.notes";
const TAGS: &str = "shop.tags";
const LOOSE: &str = "shop.loose";

/// The text of a failure that would hold another user's business row.
const STANDS: &str = "the business row refers to a business row that belongs to somebody else";

/// What Bob does, or somebody in his place.
#[derive(Debug, Clone)]
enum Step {
    Upload(usize, Vec<Value>),
    Get(usize, String),
    /// Every failure in the list, again.
    Retries,
}

/// Keys that stories draw from: both users know all of them.
struct Keys {
    shared: Vec<String>,
    /// Only Ann writes these; Bob refers to them and tries to change them.
    anns: Vec<String>,
}

/// In which tables the two users write the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlap {
    Everywhere,
    OnlySynchronised,
}

fn key(rng: &mut StdRng) -> String {
    uuid::Builder::from_random_bytes(rng.random())
        .into_uuid()
        .to_string()
}

impl Keys {
    fn new(rng: &mut StdRng) -> Self {
        let mut some = |n| (0..n).map(|_| key(rng)).collect();
        Self {
            shared: some(8),
            anns: some(6),
        }
    }

    fn any(&self, rng: &mut StdRng) -> String {
        let all: Vec<&String> = self.shared.iter().chain(&self.anns).collect();
        (*all.choose(rng).expect("keys")).clone()
    }
}

/// A change somebody might make: versions are guesses, ids sometimes used twice.
fn any_change(rng: &mut StdRng, who: &str, keys: &Keys, overlap: Overlap, next: &mut i64) -> Value {
    let table = *[NOTES, TAGS, LOOSE].choose(rng).expect("tables");
    let is_projected = table != LOOSE;
    let is_ann = who == "ann";
    let own = match (overlap, is_ann && is_projected) {
        (Overlap::OnlySynchronised, true) => &keys.anns,
        _ => &keys.shared,
    };
    let mut pk = own.choose(rng).expect("keys").clone();
    let mut version = rng.random_range(0..4);
    let mut op = *["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE"]
        .choose(rng)
        .expect("operations");
    // Ann's own rows cannot be changed, whatever version is guessed.
    if !is_ann && rng.random_bool(0.15) {
        pk = keys.anns.choose(rng).expect("keys").clone();
        if overlap == Overlap::OnlySynchronised && is_projected {
            (op, version) = ("UPDATE", version + 1);
        }
    }
    *next += i64::from(rng.random_bool(0.9));
    let title = if rng.random_bool(0.1) {
        "bad".to_owned()
    } else {
        format!("{who} {}", rng.random_range(0..100))
    };
    let mut payload = json!({"title": title, "pages": rng.random_range(0..1_000)});
    if table == NOTES && overlap == Overlap::Everywhere {
        // Ann's labels are those that Bob's neighbouring notes want.
        let place = own.iter().position(|key| *key == pk);
        let label = place.map(|at| &own[(at + usize::from(is_ann)) % own.len()]);
        payload["label"] = label.unwrap_or(&pk).clone().into();
    }
    if table != NOTES {
        // Always there: what a payload leaves out, a business row keeps.
        let parent = rng.random_bool(0.6).then(|| keys.any(rng));
        payload["note_id"] = parent.into();
    }
    let payload = if op == "DELETE" { Value::Null } else { payload };
    change(*next, table, op, &pk, version, payload)
}

fn story(rng: &mut StdRng, keys: &Keys, overlap: Overlap) -> Vec<Step> {
    let mut next = [0, 0];
    // Rows to begin with, under keys that Ann has too where she may.
    let first = keys.shared.iter().map(|key| {
        next[0] += 1;
        let table = if next[0] % 2 == 0 { NOTES } else { TAGS };
        insert(
            next[0],
            table,
            key,
            json!({"title": "bob", "pages": 0, "note_id": null}),
        )
    });
    let mut steps = vec![Step::Upload(0, first.collect())];
    for _ in 0..30 {
        let who = rng.random_range(0..2);
        steps.push(match rng.random_range(0..10) {
            0..6 => {
                let count = *[1, 2, 7, 25].choose(rng).expect("sizes");
                let change = |_| any_change(rng, "bob", keys, overlap, &mut next[who]);
                Step::Upload(who, (0..count).map(change).collect())
            }
            6 => Step::Retries,
            _ => {
                let after = rng.random_range(0..40);
                let path = [
                    format!("/sync/download?after={after}"),
                    "/sync/download?include_self=true&limit=1000".into(),
                    format!("/sync/download?limit=3&until={after}&schema=shop"),
                    "/admin/materialize-failures".into(),
                    "/admin/materialize-failures?table=tags&limit=2".into(),
                    "/sync/capabilities".into(),
                ];
                Step::Get(who, path.choose(rng).expect("paths").clone())
            }
        });
    }
    steps.push(Step::Get(
        0,
        "/sync/download?include_self=true&limit=1000".into(),
    ));
    steps.push(Step::Get(
        1,
        "/admin/materialize-failures?limit=1000".into(),
    ));
    steps
}

struct World {
    // Dropped in this order.
    server: Server,
    database: Database,
    is_projected: bool,
}

impl World {
    async fn open(backend: Backend, is_projected: bool) -> Self {
        let database = backend.database().await;
        if is_projected {
            database.execute(business(backend)).await;
        }
        let tables: toml::Table = toml::from_str(
            "tables = [{ schema = 'shop', table = 'notes' },
                       { schema = 'shop', table = 'tags', references = [{ column = 'note_id', table = 'notes' }] },
                       { schema = 'shop', table = 'loose', references = [{ column = 'note_id', table = 'notes' }] }]",
        )
        .expect("TOML");
        let mut tables = tables["tables"].clone();
        if is_projected {
            let notes = tables.get_mut(0).and_then(toml::Value::as_table_mut);
            let notes = notes.expect("a table");
            notes.insert("owner_column".into(), "owner".into());
        }
        // Pages are compared to the letter, from any cursor: when each of the two folds
        // is a matter of speed.
        let config = Config::default().unfolded().set("tables", tables);
        let server = Server::start(&database, config).await;
        Self {
            server,
            database,
            is_projected,
        }
    }

    /// Bob's business rows of one story by key; what he writes begins with his name.
    async fn rows(&self, user: &str, keys: &Keys) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        if !self.is_projected {
            return found;
        }
        let prefix = match self.database.backend() {
            Backend::Postgres => "shop.",
            Backend::Embedded => "",
        };
        let list = match self.database.backend() {
            Backend::Postgres => "string_agg",
            Backend::Embedded => "group_concat",
        };
        for (table, mine, more) in [
            ("notes", format!("owner = '{user}'"), "coalesce(label, '-')"),
            (
                "tags",
                "title LIKE 'bob%'".to_owned(),
                "coalesce(CAST(note_id AS text), '-')",
            ),
        ] {
            let sql = format!(
                "SELECT {list}(CAST(id AS text) || ' ' || title || ' ' || CAST(pages AS text) || ' ' || {more}, '\n') \
                 FROM {prefix}{table} WHERE {mine}"
            );
            for row in self.database.ask(&sql).await.unwrap_or_default().lines() {
                let (id, row) = row.split_once(' ').expect("an id");
                if keys.shared.iter().chain(&keys.anns).any(|key| key == id) {
                    found.insert(format!("{table} {id}"), row.to_owned());
                }
            }
        }
        found
    }

    /// The whole database, recomputed from its log.
    fn verify(&self) {
        let output = server::command()
            .args(["verify", "--all", "--config"])
            .arg(self.server.config())
            .output()
            .expect("verify runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

/// `notes` belongs to users by a column, `tags` by what the server remembers;
/// `loose` has no business table.
fn business(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA shop;
             CREATE TABLE shop.notes (
                 id uuid PRIMARY KEY, owner text NOT NULL, title text CHECK (title <> 'bad'), pages bigint,
                 label text UNIQUE);
             CREATE TABLE shop.tags (
                 id uuid PRIMARY KEY, title text CHECK (title <> 'bad'), pages bigint, note_id uuid)"
        }
        Backend::Embedded => {
            "CREATE TABLE notes (
                 id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT CHECK (title <> 'bad'), pages INTEGER,
                 label TEXT UNIQUE);
             CREATE TABLE tags (
                 id TEXT PRIMARY KEY NOT NULL, title TEXT CHECK (title <> 'bad'), pages INTEGER, note_id TEXT)"
        }
    }
}

/// What differs between two databases, whoever uses them: times and the database's
/// own name.
fn masked(epoch: &str, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    // Members written by the server itself; payloads of these stories have none
    // of them.
    const MASKED: [&str; 2] = ["\"ts\":\"", "\"first_seen\":\""];
    loop {
        let found = MASKED
            .iter()
            .filter_map(|name| Some((rest.find(name)? + name.len(), name)))
            .min();
        let Some((start, _)) = found else {
            out.push_str(rest);
            return out.replace(epoch, "EPOCH");
        };
        out.push_str(&rest[..start]);
        out.push('*');
        rest = rest[start..].trim_start_matches(|c: char| c != '"');
    }
}

/// One teller of a story.
struct Teller {
    devices: [HttpDevice; 2],
    socket: Socket,
    epoch: String,
    head: i64,
    seen: Vec<String>,
}

impl Teller {
    async fn new(world: &World, user: &str) -> Self {
        let target = world.server.target();
        let devices = ["one", "two"].map(|name| target.device(user, name));
        let epoch = devices[0].download("").await["epoch"].clone();
        let mut socket = devices[1].connect().await;
        assert_eq!(socket.hello().await, 0);
        Self {
            devices,
            socket,
            epoch: epoch.as_str().expect("an epoch").to_owned(),
            head: 0,
            seen: Vec::new(),
        }
    }

    fn see(&mut self, reply: &Reply) {
        let text = masked(&self.epoch, &reply.text);
        let kind = reply.headers["content-type"].to_str().expect("text");
        self.seen.push(format!("{} {kind} {text}", reply.status));
    }

    async fn tell(&mut self, step: &Step) {
        match step {
            Step::Upload(device, changes) => {
                let body = json!({ "changes": changes }).to_string();
                let reply = self.devices[*device].upload_raw(body).await;
                self.see(&reply);
                let head = reply.ok()["head"].as_i64().expect("a head");
                if head > self.head {
                    let hint = self.socket.message().await;
                    self.seen.push(hint.to_string());
                    self.head = head;
                }
            }
            Step::Get(device, path) => {
                let reply = self.devices[*device].get(path).await;
                self.see(&reply);
            }
            Step::Retries => {
                for failure in self.devices[0].failures("?limit=1000").await {
                    let path = format!("/admin/materialize-failures/retry?id={}", failure["id"]);
                    let request = self.devices[0].request(Method::POST, &path);
                    let reply = HttpDevice::send(request).await;
                    self.see(&reply);
                }
            }
        }
    }
}

/// Ann between two steps of Bob: uploads under the same keys and ids.
async fn be_busy(
    ann: &[HttpDevice],
    rng: &mut StdRng,
    keys: &Keys,
    overlap: Overlap,
    next: &mut i64,
) {
    for device in ann {
        let changes: Vec<Value> = (0..rng.random_range(1..8))
            .map(|_| any_change(rng, "ann", keys, overlap, next))
            .collect();
        device.upload(&changes).await;
        device.download("").await;
        for failure in device.failures("?limit=1000").await.iter().take(1) {
            let path = format!("/admin/materialize-failures/retry?id={}", failure["id"]);
            HttpDevice::send(device.request(Method::POST, &path)).await;
        }
    }
}

/// What was seen where Bob is alone, and where Ann is busy.
struct Told {
    alone: Teller,
    beside: Teller,
    rows_alone: BTreeMap<String, String>,
    rows_beside: BTreeMap<String, String>,
}

async fn tell(alone: &World, beside: &World, rng: &mut StdRng, overlap: Overlap) -> Told {
    let keys = Keys::new(rng);
    let mut steps = story(rng, &keys, overlap);
    if overlap == Overlap::Everywhere && alone.is_projected {
        steps.retain(|step| !matches!(step, Step::Retries));
    }
    let (bob, ann) = (format!("bob-{}", key(rng)), format!("ann-{}", key(rng)));
    let target = beside.server.target();
    let ann = ["one", "two"].map(|name| target.device(&ann, name));
    // Ann has every row that Bob could ask for.
    let mut next = 0;
    for table in [NOTES, TAGS, LOOSE] {
        let own = match (overlap, table) {
            (Overlap::OnlySynchronised, NOTES | TAGS) => &keys.anns,
            _ => &keys.shared,
        };
        let rows: Vec<Value> = (0..)
            .zip(own)
            .map(|(n, key)| {
                next += 1;
                insert(next, table, key, json!({"title": "ann", "pages": n}))
            })
            .collect();
        ann[0].upload(&rows).await;
    }
    let mut told = Told {
        alone: Teller::new(alone, &bob).await,
        beside: Teller::new(beside, &bob).await,
        rows_alone: BTreeMap::new(),
        rows_beside: BTreeMap::new(),
    };
    for step in &steps {
        be_busy(&ann, rng, &keys, overlap, &mut next).await;
        told.alone.tell(step).await;
        told.beside.tell(step).await;
    }
    be_busy(&ann, rng, &keys, overlap, &mut next).await;
    told.rows_alone = alone.rows(&bob, &keys).await;
    told.rows_beside = beside.rows(&bob, &keys).await;
    told
}

fn assert_same(alone: &[String], beside: &[String]) {
    for (n, (alone, beside)) in alone.iter().zip(beside).enumerate() {
        assert_eq!(alone, beside, "observation {n}");
    }
    assert_eq!(alone.len(), beside.len());
}

async fn stories(backend: Backend, is_projected: bool, overlap: Overlap) {
    let seed = Seed::from_env();
    let alone = World::open(backend, is_projected).await;
    let beside = World::open(backend, is_projected).await;
    let (mut applied, mut rows) = (0, 0);
    for case in 0..cases(3) {
        let told = tell(&alone, &beside, &mut seed.rng(case as u64), overlap).await;
        assert_same(&told.alone.seen, &told.beside.seen);
        assert_eq!(told.rows_alone, told.rows_beside);
        rows += told.rows_alone.len();
        applied += told.alone.head;
    }
    // Stories in which something happens.
    assert!(applied > 20, "{applied} changes");
    assert_eq!(rows > 5, is_projected, "{rows} business rows");
    beside.verify();
}

async fn rows_that_are_only_synchronised(backend: Backend) {
    stories(backend, false, Overlap::Everywhere).await;
}

async fn rows_in_business_tables(backend: Backend) {
    stories(backend, true, Overlap::OnlySynchronised).await;
}

/// The documented exception: the business table's own key, and a UNIQUE column,
/// belong to whoever was first. The other's projection fails with a constant
/// text; the stream, the answers and the hints know nothing of it.
async fn a_key_shared_by_all_users_fails_a_projection_and_nothing_else(backend: Backend) {
    const CONSTANT: [&str; 3] = [
        "the business row belongs to somebody else",
        STANDS,
        "a unique column of the business table has this value already",
    ];
    let seed = Seed::from_env();
    let alone = World::open(backend, true).await;
    let beside = World::open(backend, true).await;
    let mut texts = Vec::new();
    for case in 0..cases(3) {
        let mut rng = seed.rng(1_000 + case as u64);
        let told = tell(&alone, &beside, &mut rng, Overlap::Everywhere).await;
        let stream = |teller: &Teller| -> Vec<String> {
            let is_list = |text: &&String| text.contains(" [");
            teller
                .seen
                .iter()
                .filter(|t| !is_list(t))
                .cloned()
                .collect()
        };
        assert_same(&stream(&told.alone), &stream(&told.beside));

        let record = |failure: &Value| {
            let mut record = failure.clone();
            let members = record.as_object_mut().expect("an object");
            for name in ["id", "first_seen", "error", "retry_count"] {
                members.remove(name);
            }
            (record.to_string(), failure["error"].clone())
        };
        let of = async |teller: &Teller| -> BTreeMap<String, Value> {
            let list = teller.devices[0].failures("?limit=1000").await;
            list.iter().map(record).collect()
        };
        let (fails_alone, fails_beside) = (of(&told.alone).await, of(&told.beside).await);
        let is_constant = |error: &Value| CONSTANT.iter().any(|text| error == text);
        let row = |record: &str| {
            let record: Value = serde_json::from_str(record).expect("JSON");
            (record["table"].clone(), record["pk"].clone())
        };
        for (record, error) in &fails_beside {
            // One of its own that a later success would have cleared stays while
            // that success is held up.
            let held_up = || {
                let mut others = fails_beside.iter();
                others.any(|(other, error)| row(other) == row(record) && is_constant(error))
            };
            assert!(
                is_constant(error) || fails_alone.get(record) == Some(error) || held_up(),
                "{record}: {error}"
            );
            texts.push(error.clone());
        }
        for record in fails_alone.keys() {
            assert!(fails_beside.contains_key(record), "{record}");
        }
        // A row that is not as it would be stands in the list.
        let listed = |row: &str| {
            let (table, pk) = row.split_once(' ').expect("table and key");
            fails_beside
                .keys()
                .any(|record| record.contains(pk) && record.contains(&format!("\"{table}\"")))
        };
        for row in told.rows_alone.keys().chain(told.rows_beside.keys()) {
            let same = told.rows_alone.get(row) == told.rows_beside.get(row);
            assert!(
                same || listed(row),
                "{row}: {:?} alone, {:?} beside Ann",
                told.rows_alone.get(row),
                told.rows_beside.get(row)
            );
        }
    }
    for text in CONSTANT {
        assert!(
            texts.iter().any(|found| found == text),
            "never seen: {text}"
        );
    }
    // Ann's rows are what she wrote.
    beside.verify();
}

const LISTS: &str = "shop.lists";
const ITEMS: &str = "shop.items";

/// Lists and what is in them, by a foreign key of the database's own; whose a list
/// is says a column, or what the server remembers.
async fn lists(backend: Backend, is_owned: bool) -> World {
    let (schema, id, prefix) = match backend {
        Backend::Postgres => ("CREATE SCHEMA shop;", "uuid", "shop."),
        Backend::Embedded => ("", "TEXT", ""),
    };
    let (column, setting) = if is_owned {
        (", owner text NOT NULL", ", owner_column = 'owner'")
    } else {
        ("", "")
    };
    let database = backend.database().await;
    database
        .execute(&format!(
            "{schema} CREATE TABLE {prefix}lists (id {id} PRIMARY KEY NOT NULL, title text{column});
             CREATE TABLE {prefix}items (
                 id {id} PRIMARY KEY NOT NULL, title text, list_id {id} REFERENCES {prefix}lists,
                 above {id} REFERENCES {prefix}items)"
        ))
        .await;
    let tables: toml::Table = toml::from_str(&format!(
        "tables = [{{ schema = 'shop', table = 'items' }}, {{ schema = 'shop', table = 'lists'{setting} }}]"
    ))
    .expect("TOML");
    // Pages are compared, as above.
    let config = Config::default()
        .unfolded()
        .set("tables", tables["tables"].clone());
    let server = Server::start(&database, config).await;
    World {
        server,
        database,
        is_projected: true,
    }
}

/// Text and key of each failure, oldest first.
async fn texts(device: &HttpDevice) -> Vec<(String, String)> {
    let list = device.failures("?limit=1000").await;
    let part = |failure: &Value, name: &str| failure[name].as_str().expect("text").to_owned();
    let texts = list.iter().rev();
    texts
        .map(|failure| (part(failure, "error"), part(failure, "pk")))
        .collect()
}

/// Bob's list has the key of Ann's; what he puts into it would hold hers. Her whole
/// life, to the delete of the list, is the same with and without him.
async fn a_row_never_stands_on_another_users(backend: Backend) {
    for is_owned in [true, false] {
        let seed = Seed::from_env();
        let mut rng = seed.rng(2_000);
        let (user, list, her_item) = (
            format!("ann-{}", key(&mut rng)),
            key(&mut rng),
            key(&mut rng),
        );
        let item = |list: &str| json!({"title": "item", "list_id": list, "above": null});
        let title = |title: &str| json!({ "title": title });
        let life = [
            Step::Upload(
                0,
                vec![
                    insert(1, LISTS, &list, title("hers")),
                    insert(2, ITEMS, &her_item, item(&list)),
                ],
            ),
            Step::Upload(1, vec![update(1, LISTS, &list, 1, title("still hers"))]),
            Step::Upload(0, vec![delete(3, ITEMS, &her_item, 1)]),
            Step::Upload(0, vec![delete(4, LISTS, &list, 2)]),
            Step::Get(0, "/admin/materialize-failures".to_owned()),
            Step::Get(1, "/sync/download?include_self=true".to_owned()),
        ];
        let (alone, beside) = (
            lists(backend, is_owned).await,
            lists(backend, is_owned).await,
        );
        let (mut told_alone, mut told_beside) = (
            Teller::new(&alone, &user).await,
            Teller::new(&beside, &user).await,
        );
        let bob = beside.server.target().one_device();
        let [own, below, moved, ring, other] = [(); 5].map(|()| key(&mut rng));
        for (place, step) in life.iter().enumerate() {
            told_alone.tell(step).await;
            told_beside.tell(step).await;
            if place == 0 {
                bob.applied(&[insert(1, LISTS, &list, title("his"))]).await;
                // Alone, among others, below another, and moved there.
                bob.applied(&[insert(2, ITEMS, &own, item(&list))]).await;
                bob.applied(&[
                    insert(3, LISTS, &other, title("other")),
                    insert(4, ITEMS, &moved, item(&other)),
                    insert(5, ITEMS, &below, item(&list)),
                    // Rows of the same upload may need each other.
                    insert(
                        6,
                        ITEMS,
                        &ring,
                        json!({"title": "ring", "list_id": other, "above": ring}),
                    ),
                ])
                .await;
                bob.applied(&[update(7, ITEMS, &moved, 1, item(&list))])
                    .await;
            }
        }
        assert_same(&told_alone.seen, &told_beside.seen);
        assert!(
            told_alone.seen[told_alone.seen.len() - 2].ends_with("[]"),
            "{:?}",
            told_alone.seen
        );
        let expected = [
            ("the business row belongs to somebody else", &list),
            (STANDS, &own),
            (STANDS, &below),
            (STANDS, &moved),
        ];
        let expected = expected.map(|(text, key)| (text.to_owned(), key.clone()));
        assert_eq!(texts(&bob).await, expected, "is_owned {is_owned}");
        let prefix = match backend {
            Backend::Postgres => "shop.",
            Backend::Embedded => "",
        };
        let lists = format!("SELECT count(*) FROM {prefix}lists WHERE id = '{list}'");
        let placed = format!("SELECT count(*) FROM {prefix}items WHERE list_id = '{other}'");
        let at_her = format!("SELECT count(*) FROM {prefix}items WHERE list_id = '{list}'");
        for world in [&alone, &beside] {
            assert_eq!(world.database.ask(&lists).await.as_deref(), Some("0"));
            world.verify();
        }
        // What was written before is as it was; the rest can be, now that hers is gone.
        assert_eq!(beside.database.ask(&placed).await.as_deref(), Some("2"));
        for failure in bob.failures("?limit=1000").await.iter().rev() {
            let path = format!("/admin/materialize-failures/retry?id={}", failure["id"]);
            let reply = HttpDevice::send(bob.request(Method::POST, &path)).await;
            assert_eq!(reply.ok()["status"], "applied");
        }
        assert_eq!(beside.database.ask(&at_her).await.as_deref(), Some("3"));
        assert_eq!(beside.database.ask(&lists).await.as_deref(), Some("1"));
        beside.verify();
    }
}
