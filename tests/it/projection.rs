//! Rows in business tables: written in the upload's own transaction, scoped to
//! their user, and never a reason for an upload to fail.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::on_both_stores;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server};
use serde_json::{Value, json};

on_both_stores!(
    rows_are_written_and_removed,
    absent_columns_are_left_alone_and_unknown_ones_ignored,
    an_unknown_column_is_named_once_in_the_log,
    one_user_cannot_take_another_users_row,
    a_row_nobody_synchronised_is_not_for_taking,
    a_failure_is_recorded_and_can_be_retried,
    a_bad_row_fails_alone,
    a_later_success_clears_the_failures,
    a_parent_may_stand_in_the_business_table_alone,
    values_keep_their_digits,
    a_value_freed_in_the_same_upload_is_free,
    keys_are_found_in_the_usual_spellings,
);

/// Business tables: `notes` belongs to users by a column, `tags` by what the
/// server remembers.
fn schema(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA shop;
             CREATE TABLE shop.notes (
                 id uuid PRIMARY KEY, owner text NOT NULL, title text NOT NULL CHECK (title <> 'bad'),
                 pages bigint, price numeric, ratio double precision, done boolean, seen timestamptz,
                 extra jsonb, picture bytea, slug text UNIQUE, words int GENERATED ALWAYS AS (length(title)) STORED);
             CREATE TABLE shop.tags (
                 id uuid PRIMARY KEY, name text, note_id uuid REFERENCES shop.notes (id) DEFERRABLE INITIALLY DEFERRED);"
        }
        Backend::Embedded => {
            "CREATE TABLE notes (
                 id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT NOT NULL CHECK (title <> 'bad'),
                 pages INTEGER, price TEXT, ratio REAL, done INTEGER, seen TEXT,
                 extra TEXT, picture BLOB, slug TEXT UNIQUE, words INTEGER GENERATED ALWAYS AS (length(title)));
             CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT, note_id TEXT REFERENCES notes (id));"
        }
    }
}

struct Shop {
    // Dropped in this order.
    server: Server,
    database: Database,
}

impl Shop {
    async fn open(backend: Backend) -> Self {
        let database = backend.database().await;
        database.execute(schema(backend)).await;
        let tables: toml::Table = toml::from_str(
            "tables = [{ schema = 'shop', table = 'notes', owner_column = 'owner' }, { schema = 'shop', table = 'tags' }]",
        )
        .expect("TOML");
        let config = Config::default()
            .set("tables", tables["tables"].clone())
            .set("strict_tables", true);
        let server = Server::start(&database, config).await;
        Self { database, server }
    }

    fn device(&self) -> HttpDevice {
        self.server.target().one_device()
    }

    /// What a query on the business tables gives, as text.
    async fn ask(&self, sql: &str) -> Option<String> {
        let sql = match self.database.backend() {
            Backend::Postgres => sql.to_owned(),
            Backend::Embedded => sql.replace("shop.", ""),
        };
        self.database.ask(&sql).await
    }
}

async fn retry(device: &HttpDevice, id: &Value) -> Value {
    let request = device.request(reqwest::Method::POST, "/admin/materialize-failures/retry");
    HttpDevice::send(request.json(&json!({ "id": id })))
        .await
        .ok()
}

/// A default of a business table is worked out by the connection that writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_set_as_the_statements_need_it() {
    let shop = Shop::open(Backend::Postgres).await;
    for name in ["jit", "plan_cache_mode", "synchronous_commit", "TimeZone"] {
        let sql =
            format!("ALTER TABLE shop.tags ADD {name} text DEFAULT current_setting('{name}')");
        shop.database.execute(&sql).await;
    }
    let tag = insert(1, "shop.tags", &fresh_key(), json!({"name": "new"}));
    shop.device().applied(&[tag]).await;
    let found =
        "SELECT concat_ws(' ', jit, plan_cache_mode, synchronous_commit, timezone) FROM shop.tags";
    assert_eq!(
        shop.ask(found).await.as_deref(),
        Some("off force_generic_plan on UTC")
    );
}

async fn rows_are_written_and_removed(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let (note, tag) = (fresh_key(), fresh_key());
    device
        .applied(&[
            insert(
                1,
                "shop.tags",
                &tag,
                json!({"id": tag, "name": "red", "note_id": note}),
            ),
            insert(
                2,
                "shop.notes",
                &note,
                json!({"id": note, "title": "first", "owner": "somebody else"}),
            ),
        ])
        .await;
    let owner = shop
        .ask(&format!("SELECT owner FROM shop.notes WHERE id = '{note}'"))
        .await;
    assert_eq!(
        owner.as_deref(),
        Some(device.user()),
        "the owner is the caller, whatever the payload says"
    );
    let joined = "SELECT n.title FROM shop.tags t JOIN shop.notes n ON n.id = t.note_id";
    assert_eq!(shop.ask(joined).await.as_deref(), Some("first"));

    device
        .applied(&[update(
            3,
            "shop.notes",
            &note,
            1,
            json!({"title": "second"}),
        )])
        .await;
    assert_eq!(shop.ask(joined).await.as_deref(), Some("second"));

    device
        .applied(&[
            delete(4, "shop.notes", &note, 2),
            delete(5, "shop.tags", &tag, 1),
        ])
        .await;
    assert_eq!(
        shop.ask("SELECT count(*) FROM shop.notes").await.as_deref(),
        Some("0")
    );
    assert_eq!(
        shop.ask("SELECT count(*) FROM shop.tags").await.as_deref(),
        Some("0")
    );
    assert_eq!(device.failures("").await, Vec::<Value>::new());
}

async fn absent_columns_are_left_alone_and_unknown_ones_ignored(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let note = fresh_key();
    device
        .applied(&[insert(
            1,
            "shop.notes",
            &note,
            json!({"title": "t", "pages": 7, "colour": "blue", "words": 9}),
        )])
        .await;
    device
        .applied(&[update(2, "shop.notes", &note, 1, json!({"title": "u"}))])
        .await;
    assert_eq!(
        shop.ask("SELECT pages FROM shop.notes").await.as_deref(),
        Some("7")
    );
    assert_eq!(
        shop.ask("SELECT words FROM shop.notes").await.as_deref(),
        Some("1")
    );
    device
        .applied(&[update(
            3,
            "shop.notes",
            &note,
            2,
            json!({"title": "u", "pages": null}),
        )])
        .await;
    assert_eq!(shop.ask("SELECT pages FROM shop.notes").await, None);
}

async fn an_unknown_column_is_named_once_in_the_log(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let note = |id| {
        let payload = json!({"title": "t", "colour": "blue", "words": 1, "owner": "x", "id": "y"});
        insert(id, "shop.notes", &fresh_key(), payload)
    };
    device.applied(&[note(1), note(2)]).await;
    device.applied(&[note(3)]).await;
    let log = shop.server.log();
    let named: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("it is ignored there"))
        .collect();
    assert_eq!(named.len(), 1, "{log}");
    assert!(
        named[0].contains("colour") && named[0].contains("shop.notes"),
        "{}",
        named[0]
    );
}

async fn one_user_cannot_take_another_users_row(backend: Backend) {
    let shop = Shop::open(backend).await;
    let (ada, eve) = (shop.device(), shop.device());
    for table in ["notes", "tags"] {
        let key = fresh_key();
        let column = if table == "notes" { "title" } else { "name" };
        ada.applied(&[insert(
            1_000 + table.len() as i64,
            &format!("shop.{table}"),
            &key,
            json!({column: "hers"}),
        )])
        .await;
        // To the stream, the key is as free as any; the business row is not.
        let id = 2_000 + 10 * table.len() as i64;
        eve.applied(&[insert(
            id,
            &format!("shop.{table}"),
            &key,
            json!({column: "mine"}),
        )])
        .await;
        let seen = shop
            .ask(&format!(
                "SELECT {column} FROM shop.{table} WHERE id = '{key}'"
            ))
            .await;
        assert_eq!(seen.as_deref(), Some("hers"));
        eve.applied(&[delete(id + 1, &format!("shop.{table}"), &key, 1)])
            .await;
        let seen = shop
            .ask(&format!(
                "SELECT {column} FROM shop.{table} WHERE id = '{key}'"
            ))
            .await;
        assert_eq!(seen.as_deref(), Some("hers"), "{table}");
    }
    assert!(ada.failures("").await.is_empty());
}

async fn a_row_nobody_synchronised_is_not_for_taking(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let tag = fresh_key();
    let prefix = if backend == Backend::Postgres {
        "shop."
    } else {
        ""
    };
    shop.database
        .execute(&format!(
            "INSERT INTO {prefix}tags (id, name) VALUES ('{tag}', 'the host''s')"
        ))
        .await;
    device
        .applied(&[insert(1, "shop.tags", &tag, json!({"name": "mine"}))])
        .await;
    assert_eq!(
        shop.ask("SELECT name FROM shop.tags").await.as_deref(),
        Some("the host's")
    );
    let failed = device.failures("").await;
    assert_eq!(failed.len(), 1);
    assert_eq!(
        failed[0]["error"],
        "the business row belongs to somebody else"
    );
}

async fn a_failure_is_recorded_and_can_be_retried(backend: Backend) {
    let shop = Shop::open(backend).await;
    let (device, other) = (shop.device(), shop.device());
    let note = fresh_key();
    device
        .applied(&[insert(
            1,
            "shop.notes",
            &note,
            json!({"title": "bad", "pages": 1}),
        )])
        .await;
    let failed = device.failures("").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    let failure = &failed[0];
    assert_eq!(failure["user_id"], device.user());
    assert_eq!(failure["schema"], "shop");
    assert_eq!(failure["table"], "notes");
    assert_eq!(failure["pk"], json!(note));
    assert_eq!(failure["attempted_version"], 1);
    assert_eq!(failure["op"], "INSERT");
    assert_eq!(failure["payload"], json!({"title": "bad", "pages": 1}));
    assert_eq!(failure["retry_count"], 0);
    assert!(
        failure["first_seen"]
            .as_str()
            .is_some_and(|text| text.ends_with('Z'))
    );

    assert_eq!(device.failures("?schema=shop&table=tags").await.len(), 0);
    assert_eq!(
        device
            .failures("?schema=shop&table=notes&limit=x")
            .await
            .len(),
        1
    );
    assert_eq!(
        other.failures("").await.len(),
        0,
        "everybody sees their own only"
    );
    let request = other.request(reqwest::Method::POST, "/admin/materialize-failures/retry");
    HttpDevice::send(request.json(&json!({ "id": failure["id"] })))
        .await
        .refused(404, "not_found");
    let request = device.request(
        reqwest::Method::POST,
        "/admin/materialize-failures/retry?id=x",
    );
    HttpDevice::send(request)
        .await
        .bad_request("missing or invalid id");

    let again = retry(&device, &failure["id"]).await;
    assert_eq!(again["status"], "materialize_error", "{again}");
    assert_eq!(device.failures("").await[0]["retry_count"], 1);

    // What held it back is gone: the current state is written.
    let allow = match backend {
        Backend::Postgres => "ALTER TABLE shop.notes DROP CONSTRAINT notes_title_check",
        Backend::Embedded => {
            "ALTER TABLE notes RENAME TO old; CREATE TABLE notes AS SELECT * FROM old; DROP TABLE old;"
        }
    };
    shop.database.execute(allow).await;
    let again = retry(&device, &failure["id"]).await;
    assert_eq!(
        again,
        json!({"source_change_id": 0, "status": "applied", "new_server_version": 1})
    );
    assert_eq!(
        shop.ask("SELECT title FROM shop.notes").await.as_deref(),
        Some("bad")
    );
    assert!(device.failures("").await.is_empty());
}

async fn a_bad_row_fails_alone(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let keys: Vec<String> = (0..20).map(|_| fresh_key()).collect();
    let changes: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| {
            let title = if n % 5 == 0 { "bad" } else { "good" };
            insert(n as i64 + 1, "shop.notes", key, json!({"title": title}))
        })
        .collect();
    device.applied(&changes).await;
    assert_eq!(
        shop.ask("SELECT count(*) FROM shop.notes").await.as_deref(),
        Some("16")
    );
    assert_eq!(device.failures("").await.len(), 4);
    // Something that breaks UNIQUE fails with a constant text.
    let (a, b) = (fresh_key(), fresh_key());
    device
        .applied(&[
            insert(101, "shop.notes", &a, json!({"title": "a", "slug": "same"})),
            insert(102, "shop.notes", &b, json!({"title": "b", "slug": "same"})),
        ])
        .await;
    let failed = device.failures("?limit=1").await;
    assert_eq!(
        failed[0]["error"],
        "a unique column of the business table has this value already"
    );
}

async fn a_later_success_clears_the_failures(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let note = fresh_key();
    device
        .applied(&[insert(1, "shop.notes", &note, json!({"title": "bad"}))])
        .await;
    device
        .applied(&[update(2, "shop.notes", &note, 1, json!({"title": "bad"}))])
        .await;
    assert_eq!(
        device.failures("").await.len(),
        2,
        "one per row and version"
    );
    device
        .applied(&[update(3, "shop.notes", &note, 2, json!({"title": "good"}))])
        .await;
    assert!(device.failures("").await.is_empty());
    assert_eq!(
        shop.ask("SELECT title FROM shop.notes").await.as_deref(),
        Some("good")
    );
}

async fn a_parent_may_stand_in_the_business_table_alone(backend: Backend) {
    let shop = Shop::open(backend).await;
    let (ada, eve) = (shop.device(), shop.device());
    let (note, mine, hers) = (fresh_key(), fresh_key(), fresh_key());
    let prefix = if backend == Backend::Postgres {
        "shop."
    } else {
        ""
    };
    let user = ada.user();
    let sql = format!(
        "INSERT INTO {prefix}notes (id, owner, title) VALUES ('{note}', '{user}', 'made by the host')"
    );
    shop.database.execute(&sql).await;
    ada.applied(&[insert(1, "shop.tags", &mine, json!({"note_id": note}))])
        .await;
    // It is Ada's: to Eve it does not exist.
    let status = eve
        .upload_one(insert(1, "shop.tags", &hers, json!({"note_id": note})))
        .await;
    assert_eq!(status["invalid"]["reason"], "fk_missing", "{status}");
}

async fn values_keep_their_digits(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let note = fresh_key();
    let payload: Value = serde_json::from_str(
        r#"{"title":"é\n","pages":9007199254740993,"ratio":5e-324,"done":1,"seen":"2026-01-02 03:04:05",
            "extra":"{\"a\":[1,2]}","picture":"AAEC/w=="}"#,
    )
    .expect("JSON");
    device
        .applied(&[insert(1, "shop.notes", &note, payload)])
        .await;
    assert!(
        device.failures("").await.is_empty(),
        "{:?}",
        device.failures("").await
    );
    assert_eq!(
        shop.ask("SELECT pages FROM shop.notes").await.as_deref(),
        Some("9007199254740993")
    );
    let picture = match backend {
        Backend::Postgres => "SELECT encode(picture, 'hex') FROM shop.notes",
        Backend::Embedded => "SELECT lower(hex(picture)) FROM shop.notes",
    };
    assert_eq!(shop.ask(picture).await.as_deref(), Some("000102ff"));
    if backend == Backend::Postgres {
        assert_eq!(
            shop.ask("SELECT done FROM shop.notes").await.as_deref(),
            Some("true")
        );
        let seen =
            "SELECT seen = '2026-01-02T03:04:05Z' AND extra = '{\"a\": [1, 2]}' FROM shop.notes";
        assert_eq!(shop.ask(seen).await.as_deref(), Some("true"));
        assert_eq!(
            shop.ask("SELECT ratio FROM shop.notes").await.as_deref(),
            Some("5e-324")
        );
    }
}

/// Upserts come before deletes; the second try finds the value free.
async fn a_value_freed_in_the_same_upload_is_free(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let (old, new) = (fresh_key(), fresh_key());
    device
        .applied(&[insert(
            1,
            "shop.notes",
            &old,
            json!({"title": "a", "slug": "same"}),
        )])
        .await;
    device
        .applied(&[
            delete(2, "shop.notes", &old, 1),
            insert(3, "shop.notes", &new, json!({"title": "b", "slug": "same"})),
        ])
        .await;
    assert!(device.failures("").await.is_empty());
    assert_eq!(
        shop.ask("SELECT title FROM shop.notes").await.as_deref(),
        Some("b")
    );
}

async fn keys_are_found_in_the_usual_spellings(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let key = fresh_key();
    let plain = key.replace('-', "");
    let spellings = [
        key.clone(),
        key.to_uppercase(),
        plain.clone(),
        plain.to_uppercase(),
        format!("{{{key}}}"),
    ];
    for (n, spelling) in (0..).zip(&spellings) {
        let note = |title: &str| json!({"id": spelling, "title": title});
        device
            .applied(
                &[insert(10 * n + 1, "shop.notes", spelling, note("a"))].map(|mut change| {
                    change["server_version"] = json!(3 * n);
                    change
                }),
            )
            .await;
        device
            .applied(&[update(10 * n + 2, "shop.notes", &key, 3 * n + 1, note("b"))])
            .await;
        assert_eq!(
            shop.ask("SELECT title FROM shop.notes").await.as_deref(),
            Some("b"),
            "{spelling}"
        );
        device
            .applied(&[delete(10 * n + 3, "shop.notes", &key, 3 * n + 2)])
            .await;
        assert_eq!(
            shop.ask("SELECT count(*) FROM shop.notes").await.as_deref(),
            Some("0"),
            "{spelling}"
        );
    }
    assert!(device.failures("").await.is_empty());
}

async fn odd_shop(backend: Backend, sql: &str, tables: &str) -> (Server, Database) {
    let database = backend.database().await;
    database.execute(sql).await;
    let tables: toml::Table = toml::from_str(tables).expect("TOML");
    let server = Server::start(
        &database,
        Config::default().set("tables", tables["tables"].clone()),
    )
    .await;
    (server, database)
}

/// A cast would cut names and titles to their column's length; an assignment
/// refuses them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_to_fit_a_column_on_postgres() {
    let (server, database) = odd_shop(
        Backend::Postgres,
        "CREATE SCHEMA shop; CREATE TABLE shop.notes (id uuid PRIMARY KEY, owner varchar(16), title varchar(5))",
        "tables = [{ schema = 'shop', table = 'notes', owner_column = 'owner' }]",
    )
    .await;
    let short = server.target().device("user-0123456789", "d");
    let (ada, eve) = (
        server.target().device("user-alexander-aa", "d"),
        server.target().device("user-alexander-ab", "d"),
    );
    let key = fresh_key();
    short
        .applied(&[insert(1, "shop.notes", &key, json!({"title": "too long"}))])
        .await;
    assert_eq!(short.failures("").await.len(), 1);
    short
        .applied(&[update(2, "shop.notes", &key, 1, json!({"title": "fits"}))])
        .await;
    assert!(short.failures("").await.is_empty());
    ada.applied(&[insert(1, "shop.notes", &fresh_key(), json!({"title": "a"}))])
        .await;
    assert_eq!(
        ada.failures("").await.len(),
        1,
        "her name does not fit, and is not cut"
    );
    eve.applied(&[insert(1, "shop.notes", &key, json!({"title": "mine"}))])
        .await;
    assert_eq!(
        database
            .ask("SELECT title FROM shop.notes")
            .await
            .as_deref(),
        Some("fits")
    );
}

/// What a business table declares for conflicts must not reach other rows, nor
/// take other uploads with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflict_clauses_and_triggers_of_a_table_harm_nobody_on_sqlite() {
    let (server, database) = odd_shop(
        Backend::Embedded,
        "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, slug TEXT UNIQUE ON CONFLICT REPLACE, title TEXT);
         CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT);
         CREATE TRIGGER no BEFORE INSERT ON tags WHEN new.name = 'no' BEGIN SELECT raise(ROLLBACK, 'no'); END;
         CREATE TABLE docs (id TEXT PRIMARY KEY NOT NULL, body TEXT, x TEXT GENERATED ALWAYS AS (json_extract(body, '$.x')) STORED)",
        "tables = [{ schema = 'shop', table = 'notes' }, { schema = 'shop', table = 'tags' }, { schema = 'shop', table = 'docs' }]",
    )
    .await;
    let (ada, eve) = (server.target().one_device(), server.target().one_device());
    ada.applied(&[insert(
        1,
        "shop.notes",
        &fresh_key(),
        json!({"slug": "x", "title": "hers"}),
    )])
    .await;
    eve.applied(&[insert(
        1,
        "shop.notes",
        &fresh_key(),
        json!({"slug": "x", "title": "mine"}),
    )])
    .await;
    assert_eq!(
        database
            .ask("SELECT group_concat(title) FROM notes")
            .await
            .as_deref(),
        Some("hers")
    );
    eve.applied(&[
        insert(2, "shop.tags", &fresh_key(), json!({"name": "no"})),
        insert(3, "shop.tags", &fresh_key(), json!({"name": "yes"})),
        insert(4, "shop.docs", &fresh_key(), json!({"body": "not json"})),
    ])
    .await;
    assert_eq!(
        database
            .ask("SELECT group_concat(name) FROM tags")
            .await
            .as_deref(),
        Some("yes")
    );
    assert_eq!(eve.failures("").await.len(), 3);
}
