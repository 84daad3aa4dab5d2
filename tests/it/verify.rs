//! `oversync verify`: finds nothing beside busy servers, and finds and names
//! every kind of damage that is planted.

use oversync_tests::device::{change, delete, insert, update};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Database, HttpDevice, Port, Seed, Server, on_both_stores};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

on_both_stores!(
    nothing_is_found_beside_busy_servers,
    every_kind_of_value_compares_equal,
    what_cannot_run_says_so,
    no_server_need_run,
    logs_longer_than_a_chunk,
    all_differences_are_reported_when_asked_for,
    a_missing_entry,
    a_missing_last_entry,
    a_renumbered_entry,
    a_doubled_entry,
    a_wrong_version_in_the_log,
    a_wrong_version_of_a_row,
    a_wrong_deleted_mark,
    a_wrong_pointer,
    a_missing_row_state,
    an_extra_row_state,
    a_wrong_fingerprint,
    a_changed_payload,
    a_damaged_payload,
    an_impossible_time,
    a_device_that_does_not_exist,
    a_table_that_does_not_exist,
    a_watermark_too_low,
    a_head_too_high,
    a_head_too_low,
    a_user_that_does_not_exist,
    a_business_row_changed,
    a_business_row_missing,
    a_business_row_given_away,
    a_business_row_that_should_be_gone,
    an_owner_record_missing,
    an_owner_record_of_nobody,
    a_failure_forgotten,
    a_failure_forgotten_that_cannot_be_projected,
);

/// `notes` belongs to users by a column, `tags` by what the server remembers,
/// `plain` has no business table.
fn schema(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA shop;
             CREATE TABLE shop.notes (
                 id uuid PRIMARY KEY, owner text NOT NULL, title varchar(40) NOT NULL CHECK (title <> 'bad'),
                 pages bigint, price numeric, ratio double precision, done boolean, seen timestamptz(0), day date,
                 fee numeric(6, 2), code char(5),
                 extra jsonb, raw json, picture bytea, slug text UNIQUE, words int GENERATED ALWAYS AS (length(title)) STORED);
             CREATE TABLE shop.tags (
                 id text PRIMARY KEY, name text, note_id uuid REFERENCES shop.notes (id) DEFERRABLE INITIALLY DEFERRED);"
        }
        Backend::Embedded => {
            "CREATE TABLE notes (
                 id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT NOT NULL COLLATE NOCASE CHECK (title <> 'bad'),
                 pages INTEGER, price TEXT, ratio REAL, done INTEGER, seen TEXT, day DATE,
                 fee NUMERIC, code CHAR(5),
                 extra TEXT, raw JSON, picture BLOB, slug TEXT UNIQUE, words INTEGER GENERATED ALWAYS AS (length(title)));
             CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT, note_id TEXT REFERENCES notes (id));"
        }
    }
}

fn config() -> Config {
    let tables: toml::Table = toml::from_str(
        "tables = [{ schema = 'shop', table = 'notes', owner_column = 'owner' }, \
                   { schema = 'shop', table = 'tags' }, { schema = 'shop', table = 'plain' }]",
    )
    .expect("TOML");
    // Entries are counted, as they were written; `fold_verified` has folded ones.
    Config::default()
        .unfolded()
        .set("tables", tables["tables"].clone())
}

/// Runs `oversync verify` with a server's settings.
async fn run(server: &Server, args: &[&str]) -> Output {
    server.run(&[&["verify"], args].concat()).await
}

/// The result as JSON, having checked that the exit code fits it.
async fn verify(server: &Server, args: &[&str]) -> Value {
    let output = run(server, &[&["--json"], args].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let differs = report["differences"] != json!([]);
    assert_eq!(output.status.code(), Some(i32::from(differs)), "{report}");
    report
}

async fn verify_clean(server: &Server) -> Value {
    let report = verify(server, &["--all"]).await;
    assert_eq!(report["differences"], json!([]), "{report:#}");
    report["checked"].clone()
}

// ------------------------------------------------------------------ busy servers

/// One device that writes whatever comes to its mind, and is often wrong.
struct Writer {
    device: HttpDevice,
    rng: StdRng,
    next_id: i64,
    /// Keys of notes, tags and plain rows, with the version last heard of.
    rows: Vec<(&'static str, String, i64)>,
}

impl Writer {
    fn new(device: HttpDevice, rng: StdRng) -> Self {
        Self {
            device,
            rng,
            next_id: 1,
            rows: Vec::new(),
        }
    }

    async fn turn(&mut self) {
        let changes: Vec<Value> = (0..self.rng.random_range(1..12))
            .map(|_| self.change())
            .collect();
        let reply = self.device.upload_patiently(&changes).await;
        let statuses = reply["statuses"].as_array().expect("statuses");
        for (change, status) in changes.iter().zip(statuses) {
            let version = status["new_server_version"].as_i64();
            let version = version.or(status["server_row"]["server_version"].as_i64());
            let row = self
                .rows
                .iter_mut()
                .find(|(_, key, _)| *key == change["pk"]);
            if let (Some(row), Some(version)) = (row, version) {
                row.2 = version;
            }
        }
    }

    fn change(&mut self) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let is_new = self.rows.is_empty() || self.rng.random_bool(0.4);
        if is_new {
            let table = ["shop.notes", "shop.tags", "shop.plain"][self.rng.random_range(0..3)];
            self.rows.push((table, fresh_key(), 0));
        }
        let index = match is_new {
            true => self.rows.len() - 1,
            false => self.rng.random_range(0..self.rows.len()),
        };
        let (table, key, version) = self.rows[index].clone();
        let version = match self.rng.random_bool(0.1) {
            true => version + 1,
            false => version,
        };
        if !is_new && self.rng.random_bool(0.25) {
            return delete(id, table, &key, version);
        }
        let title = ["bad", "good", "Better"][self.rng.random_range(0..3)];
        let payload = match table {
            "shop.notes" => json!({
                "id": key, "title": title,
                "pages": self.rng.random::<i64>(), "slug": format!("slug {}", self.rng.random_range(0..30)),
            }),
            "shop.tags" => {
                let mut notes = self.rows.iter().filter(|row| row.0 == "shop.notes");
                let note = notes.next_back().map(|row| row.1.clone());
                json!({"id": key, "name": "a tag", "note_id": note})
            }
            _ => json!({"n": id}),
        };
        change(id, table, "UPDATE", &key, version, payload)
    }
}

async fn nothing_is_found_beside_busy_servers(backend: Backend) {
    let database = backend.database().await;
    database.execute(schema(backend)).await;
    // A schema that is half made is no database to verify.
    let first = Server::answering(&database, config()).await;
    let second = match backend {
        Backend::Postgres => Some(Server::answering(&database, config()).await),
        Backend::Embedded => None,
    };
    let servers = [&first, second.as_ref().unwrap_or(&first)];
    let seed = Seed::from_env();
    let stop = Arc::new(AtomicBool::new(false));
    let users = [fresh_user(), fresh_user()];
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..4_usize {
        let target = servers[number % 2].target();
        let device = target.device(&users[number / 2], &format!("device {number}"));
        let mut writer = Writer::new(device, seed.rng(number as u64));
        let stop = stop.clone();
        writers.spawn(async move {
            let mut turns = 0;
            while turns < 15 || !stop.load(Ordering::Relaxed) {
                writer.turn().await;
                turns += 1;
            }
        });
    }
    for _ in 0..4 {
        verify_clean(&first).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer ends well");
    }
    let checked = verify_clean(&first).await;
    assert_eq!(checked["users"], 2);
    for what in ["entries", "rows", "business_rows"] {
        assert!(checked[what].as_i64() > Some(10), "{checked}");
    }
    let failures = match backend {
        Backend::Postgres => "SELECT count(*) FROM oversync.failures",
        Backend::Embedded => "SELECT count(*) FROM _oversync_failures",
    };
    let failures = database.ask(failures).await;
    assert_ne!(failures.as_deref(), Some("0"), "the run had failures");
}

async fn every_kind_of_value_compares_equal(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = &shop.device;
    let note = fresh_key();
    let payload = |numbers: &str| -> Value {
        // Digits matter: not through serde_json's numbers.
        serde_json::from_str(&format!(
            r#"{{"title": "É\n\"'", "unknown": 1, {numbers}}}"#
        ))
        .expect("JSON")
    };
    let values = [
        r#""pages": 9007199254740993, "ratio": 9007199254740993, "price": 12345678.90, "done": true"#,
        r#""pages": -9223372036854775808, "ratio": 0.1, "price": "1.50", "done": 1, "seen": "2024-02-29 12:00:00""#,
        r#""pages": null, "ratio": 5e-324, "price": null, "done": false, "seen": 1700000000.25, "day": "2024-02-29""#,
        r#""extra": {"b": [1, 2.50], "a": "x"}, "raw": [1, {"z": null}], "picture": "AAEC/w==", "slug": "S""#,
        r#""extra": null, "raw": "{\"z\": [1]}", "picture": "", "seen": null, "slug": "", "fee": 1.239, "code": "ab ""#,
    ];
    for (version, values) in values.iter().enumerate() {
        let change = update(
            100 + version as i64,
            "shop.notes",
            &note,
            version as i64,
            payload(values),
        );
        let status = device.upload_one(change).await;
        assert_eq!(status["status"], "applied", "{status}");
        verify_clean(&shop.server).await;
    }
    let failures = device.get("/admin/materialize-failures").await.ok();
    assert_eq!(
        failures.as_array().map(|list| list
            .iter()
            .filter(|failure| failure["pk"] == note.as_str())
            .count()),
        Some(0),
        "{failures}"
    );
    // A text key in another spelling, and a reference to it.
    let tag = fresh_key();
    let payload = json!({"id": tag.to_uppercase(), "note_id": note.replace('-', "")});
    let status = device
        .upload_one(insert(200, "shop.tags", &tag, payload))
        .await;
    assert_eq!(status["status"], "applied", "{status}");
    verify_clean(&shop.server).await;
}

async fn what_cannot_run_says_so(backend: Backend) {
    let shop = Shop::open(backend).await;
    let user = shop.device.user();
    let output = run(&shop.server, &["--user", user]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .starts_with("all is right; checked 1 users, 7 entries"),
        "{output:?}"
    );
    let output = run(&shop.server, &["--user", "nobody"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody"));
    let nowhere = match backend {
        Backend::Embedded => "sqlite://no/such/file.db",
        Backend::Postgres => "postgres://localhost:1/nothing",
    };
    let output = run(&shop.server, &["--database-url", nowhere]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // Nothing is made where nothing was.
    let empty = backend.database().await;
    let output = run(&shop.server, &["--database-url", empty.url()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

async fn no_server_need_run(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    shop.server.kill();
    let checked = verify_clean(&shop.server).await;
    assert_eq!(checked["entries"], 7);
    shop.server.restart(Port::Free).await;
    // Once it answers it also knows what SIGTERM means.
    shop.device.at(&shop.server.target()).upload(&[]).await;
    shop.server.terminate().await;
    assert_eq!(verify_clean(&shop.server).await, checked);
}

async fn logs_longer_than_a_chunk(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.server.target().device("many", "device");
    let mut last = String::new();
    for batch in 0..3 {
        let changes: Vec<Value> = (1..=900)
            .map(|number| {
                // In the order of their keys, so that the last is compared last.
                last = format!("00000000-0000-0000-{batch:04}-{number:012}");
                let id = batch * 900 + number;
                insert(id, "shop.tags", &last, json!({"name": format!("tag {id}")}))
            })
            .collect();
        for status in device.statuses(&changes).await {
            assert_eq!(status["status"], "applied", "{status}");
        }
    }
    let report = verify(&shop.server, &["--user", "many"]).await;
    let checked = json!({"users": 1, "entries": 2_700, "rows": 2_700, "business_rows": 2_700});
    assert_eq!(report["checked"], checked);
    assert_eq!(report["differences"], json!([]));
    shop.damage(&format!(
        "UPDATE shop.tags SET name = 'forged' WHERE id = '{last}'"
    ))
    .await;
    let report = verify(&shop.server, &["--user", "many"]).await;
    assert_eq!(report["differences"][0]["key"], last.as_str(), "{report:#}");
    let report = verify(&shop.server, &["--user", shop.device.user()]).await;
    assert_eq!(report["differences"], json!([]), "the other user is right");
}

// --------------------------------------------------------------- planted damage

/// One user with seven entries:
/// 1 note, 2 its update, 3 tag, 4 another note, 5 its delete, 6 plain row, and
/// 7 a note that cannot be projected.
struct Shop {
    // Dropped in this order.
    server: Server,
    database: Database,
    device: HttpDevice,
    keys: [String; 5],
}

const NOTE: usize = 0;
const TAG: usize = 1;
const GONE: usize = 2;
const PLAIN: usize = 3;
const FAILED: usize = 4;

impl Shop {
    async fn open(backend: Backend) -> Self {
        let database = backend.database().await;
        database.execute(schema(backend)).await;
        let server = Server::start(&database, config()).await;
        let device = server.target().one_device();
        let keys = [(); 5].map(|()| fresh_key());
        let [note, tag, gone, plain, failed] = &keys;
        let changes = [
            insert(1, "shop.notes", note, json!({"title": "first"})),
            update(2, "shop.notes", note, 1, json!({"title": "second"})),
            insert(3, "shop.tags", tag, json!({"name": "red", "note_id": note})),
            insert(4, "shop.notes", gone, json!({"title": "third"})),
            delete(5, "shop.notes", gone, 1),
            insert(6, "shop.plain", plain, json!({"n": 1})),
            insert(7, "shop.notes", failed, json!({"title": "bad"})),
        ];
        for change in changes {
            let status = device.upload_one(change).await;
            assert_eq!(status["status"], "applied", "{status}");
        }
        verify_clean(&server).await;
        Self {
            server,
            database,
            device,
            keys,
        }
    }

    /// Runs SQL in PostgreSQL's words; the embedded store's tables have other
    /// names, and other words for some values.
    async fn damage(&self, sql: &str) {
        let sql = match self.database.backend() {
            Backend::Postgres => sql.to_owned(),
            Backend::Embedded => sql
                .replace("oversync.", "_oversync_")
                .replace("shop.", "")
                .replace("gen_random_uuid()", "randomblob(16)")
                .replace("'infinity'", "9000000000000000000"),
        };
        self.database.execute(&sql).await;
    }
}

/// Plants damage and has it found first, in this table, at this key, in words
/// that say both what is and what should be.
async fn found(backend: Backend, sql: &str, finding: &str, row: Option<(&str, usize)>) {
    let shop = Shop::open(backend).await;
    let sql = shop
        .keys
        .iter()
        .enumerate()
        .fold(sql.to_owned(), |sql, (index, key)| {
            sql.replace(&format!("key{index}"), key)
        })
        .replace("user0", shop.device.user());
    shop.damage(&sql).await;
    let report = verify(&shop.server, &[]).await;
    let differences = report["differences"].as_array().expect("a list");
    assert_eq!(differences.len(), 1, "{report:#}");
    let first = &differences[0];
    assert_eq!(first["finding"], finding, "{first:#}");
    if let Some((table, key)) = row {
        assert_eq!(first["user"], shop.device.user(), "{first:#}");
        assert_eq!(first["table"], table, "{first:#}");
        assert_eq!(first["key"], shop.keys[key].as_str(), "{first:#}");
    }
    assert_ne!(first["recorded"], first["recomputed"], "{first:#}");
    let words = run(&shop.server, &[]).await;
    assert_eq!(words.status.code(), Some(1));
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    for part in ["user", "recorded", "recomputed"] {
        let part = first[part].as_str().expect("text");
        assert!(words.contains(part), "{part} is not in: {words}");
    }
    assert!(words.contains("1 difference; checked "), "{words}");
}

async fn all_differences_are_reported_when_asked_for(backend: Backend) {
    let shop = Shop::open(backend).await;
    shop.damage(
        "UPDATE oversync.rows SET version = 9 WHERE server_id = 2;
         UPDATE oversync.log SET version = 9 WHERE server_id = 5;
         DELETE FROM shop.tags;
         DELETE FROM oversync.owners;",
    )
    .await;
    let report = verify(&shop.server, &["--all"]).await;
    let findings: Vec<&str> = report["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|difference| difference["finding"].as_str().expect("text"))
        .collect();
    assert_eq!(
        {
            let mut sorted = findings.clone();
            sorted.sort_unstable();
            sorted
        },
        ["business_missing", "row_version", "row_version", "version"],
        "{report:#}"
    );
    assert_eq!(findings[0], "version", "the log comes first");
}

macro_rules! damage {
    ($($name:ident: $sql:expr, $finding:expr, $row:expr;)+) => {$(
        async fn $name(backend: Backend) {
            found(backend, $sql, $finding, $row).await;
        }
    )+};
}

damage! {
    a_missing_entry: "DELETE FROM oversync.log WHERE server_id = 2", "missing_entry", Some(("shop.tags", TAG));
    a_missing_last_entry: "DELETE FROM oversync.log WHERE server_id = 7", "head", None;
    a_renumbered_entry: "UPDATE oversync.log SET server_id = 30 WHERE server_id = 6",
        "missing_entry", Some(("shop.notes", FAILED));
    a_doubled_entry: "DROP INDEX oversync.log_change;
        INSERT INTO oversync.log (user_key, server_id, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload)
            SELECT user_key, 8, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload
            FROM oversync.log WHERE server_id = 6;
        UPDATE oversync.users SET head = 8", "change_twice", Some(("shop.plain", PLAIN));
    a_wrong_version_in_the_log: "UPDATE oversync.log SET version = 5 WHERE server_id = 2",
        "version", Some(("shop.notes", NOTE));
    a_wrong_version_of_a_row: "UPDATE oversync.rows SET version = 7 WHERE server_id = 2",
        "row_version", Some(("shop.notes", NOTE));
    a_wrong_deleted_mark: "UPDATE oversync.rows SET deleted = NOT deleted WHERE server_id = 5",
        "row_deleted", Some(("shop.notes", GONE));
    a_wrong_pointer: "UPDATE oversync.rows SET server_id = 1 WHERE server_id = 2",
        "row_pointer", Some(("shop.notes", NOTE));
    a_missing_row_state: "DELETE FROM oversync.rows WHERE server_id = 6", "row_missing", Some(("shop.plain", PLAIN));
    an_extra_row_state: "INSERT INTO oversync.rows (user_key, table_key, pk, version, server_id, deleted)
            SELECT user_key, table_key, gen_random_uuid(), version, server_id, deleted
            FROM oversync.rows WHERE server_id = 6", "row_extra", None;
    a_wrong_fingerprint: "UPDATE oversync.log SET fingerprint =
            (SELECT fingerprint FROM oversync.log WHERE server_id = 1) WHERE server_id = 3",
        "fingerprint", Some(("shop.tags", TAG));
    a_changed_payload: r#"UPDATE oversync.log SET payload = '{"title":"forged"}' WHERE server_id = 2"#,
        "fingerprint", Some(("shop.notes", NOTE));
    a_damaged_payload: r#"UPDATE oversync.log SET payload = '{"title":' WHERE server_id = 2"#,
        "payload", Some(("shop.notes", NOTE));
    an_impossible_time: "UPDATE oversync.log SET ts = 'infinity' WHERE server_id = 2",
        "time", Some(("shop.notes", NOTE));
    a_device_that_does_not_exist: "DELETE FROM oversync.devices", "unknown_device", Some(("shop.notes", NOTE));
    a_table_that_does_not_exist: "DELETE FROM oversync.tables WHERE table_name = 'plain'", "unknown_table", None;
    a_watermark_too_low: "UPDATE oversync.devices SET highest_change_id = 6", "watermark", None;
    a_head_too_high: "UPDATE oversync.users SET head = 9", "head", None;
    a_head_too_low: "UPDATE oversync.users SET head = 6", "head", None;
    a_user_that_does_not_exist: "DELETE FROM oversync.devices; DELETE FROM oversync.users", "stray", None;
    a_business_row_changed: "UPDATE shop.notes SET title = 'SECOND'", "business_value", Some(("shop.notes", NOTE));
    a_business_row_missing: "DELETE FROM shop.tags", "business_missing", Some(("shop.tags", TAG));
    a_business_row_given_away: "UPDATE shop.notes SET owner = 'somebody'", "business_owner", Some(("shop.notes", NOTE));
    a_business_row_that_should_be_gone: "INSERT INTO shop.notes (id, owner, title) VALUES ('key2', 'user0', 'third')",
        "business_extra", Some(("shop.notes", GONE));
    an_owner_record_missing: "DELETE FROM oversync.owners", "business_owner", Some(("shop.tags", TAG));
    an_owner_record_of_nobody: "INSERT INTO oversync.owners (table_key, pk, user_key)
            SELECT table_key, gen_random_uuid(), user_key FROM oversync.owners", "stray", None;
    a_failure_forgotten: "DELETE FROM oversync.failures", "business_missing", Some(("shop.notes", FAILED));
}

async fn a_failure_forgotten_that_cannot_be_projected(backend: Backend) {
    let shop = Shop::open(backend).await;
    let payload = json!({"title": "second", "picture": "not base64!"});
    let change = update(8, "shop.notes", &shop.keys[NOTE], 2, payload);
    let status = shop.device.upload_one(change).await;
    assert_eq!(status["status"], "applied", "{status}");
    verify_clean(&shop.server).await;
    shop.damage("DELETE FROM oversync.failures WHERE attempted_version = 3")
        .await;
    let report = verify(&shop.server, &[]).await;
    let first = &report["differences"][0];
    assert_eq!(first["finding"], "business_failure", "{first:#}");
    assert_eq!(first["key"], shop.keys[NOTE].as_str());
}
