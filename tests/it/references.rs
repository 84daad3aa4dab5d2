//! References beyond keys: to lookup tables that nobody synchronises, to other
//! columns of synchronised tables, and the modes of checking.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oversync_shared::upload::MAX_VALUE_BYTES;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::on_both_stores;
use oversync_tests::server::command;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server};
use serde_json::{Value, json};
use uuid::Uuid;

on_both_stores!(
    a_lookup_table_counts_by_its_own_type,
    what_a_type_cannot_hold_is_not_there,
    a_long_value_is_nowhere,
    uuids_of_a_lookup_table_are_found_in_any_spelling,
    a_configured_reference_needs_no_declared_one,
    another_column_of_a_synchronised_table_counts,
    rows_of_the_upload_count_where_columns_are_looked_at,
    a_row_may_refer_to_itself_by_any_column,
    another_users_row_is_not_there,
    a_parent_deleted_in_the_upload_does_not_count,
    a_parent_that_is_missed_only_later_is_looked_for_too,
    nothing_is_checked_when_disabled,
    what_the_server_fills_in_is_not_checked,
    what_cannot_work_is_refused_at_start,
);

/// Lookup tables, people with a name, what refers to them.
fn schema(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA shop;
             CREATE TABLE shop.countries (code text PRIMARY KEY);
             CREATE TABLE shop.sizes (n integer PRIMARY KEY);
             CREATE TABLE shop.kinds (id uuid PRIMARY KEY);
             CREATE TABLE shop.rates (rate numeric UNIQUE);
             CREATE DOMAIN shop.grade AS text CHECK (VALUE ~ '^[A-F]$');
             CREATE TABLE shop.grades (grade shop.grade PRIMARY KEY);
             CREATE TABLE shop.accounts (name text PRIMARY KEY);
             INSERT INTO shop.countries VALUES ('DE'), ('5');
             INSERT INTO shop.sizes VALUES (5), (-7);
             INSERT INTO shop.kinds VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e');
             INSERT INTO shop.rates VALUES (1.50);
             INSERT INTO shop.grades VALUES ('A');
             CREATE TABLE shop.items (
                 id uuid PRIMARY KEY, country text REFERENCES shop.countries, size integer REFERENCES shop.sizes,
                 kind uuid REFERENCES shop.kinds, rate numeric REFERENCES shop.rates (rate),
                 grade text REFERENCES shop.grades);
             CREATE TABLE shop.people (id uuid PRIMARY KEY, owner text REFERENCES shop.accounts, email text UNIQUE, nick text UNIQUE);
             CREATE TABLE shop.letters (
                 id uuid PRIMARY KEY, receiver text REFERENCES shop.people (email) DEFERRABLE INITIALLY DEFERRED);
             CREATE TABLE shop.lists (id uuid PRIMARY KEY);
             CREATE TABLE shop.entries (id uuid PRIMARY KEY, list uuid REFERENCES shop.lists, above uuid REFERENCES shop.entries);
             CREATE TABLE shop.tags (id uuid PRIMARY KEY, name text UNIQUE);
             CREATE TABLE shop.uses (
                 id uuid PRIMARY KEY, tag text REFERENCES shop.tags (name) DEFERRABLE INITIALLY DEFERRED, item uuid)"
        }
        Backend::Embedded => {
            "CREATE TABLE countries (code TEXT PRIMARY KEY);
             CREATE TABLE sizes (n INTEGER PRIMARY KEY);
             CREATE TABLE kinds (id UUID PRIMARY KEY);
             CREATE TABLE rates (rate NUMERIC UNIQUE);
             CREATE TABLE grades (grade TEXT PRIMARY KEY);
             CREATE TABLE accounts (name TEXT PRIMARY KEY);
             INSERT INTO countries VALUES ('DE'), ('5');
             INSERT INTO sizes VALUES (5), (-7);
             INSERT INTO kinds VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e');
             INSERT INTO rates VALUES (1.50);
             INSERT INTO grades VALUES ('A');
             CREATE TABLE items (
                 id TEXT PRIMARY KEY NOT NULL, country TEXT REFERENCES countries, size INTEGER REFERENCES sizes,
                 kind TEXT REFERENCES kinds, rate NUMERIC REFERENCES rates (rate), grade TEXT REFERENCES grades);
             CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, owner TEXT REFERENCES accounts, email TEXT UNIQUE, nick TEXT UNIQUE);
             CREATE TABLE letters (id TEXT PRIMARY KEY NOT NULL, receiver TEXT REFERENCES people (email));
             CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL);
             CREATE TABLE entries (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists, above TEXT REFERENCES entries);
             CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT UNIQUE);
             CREATE TABLE uses (id TEXT PRIMARY KEY NOT NULL, tag TEXT REFERENCES tags (name), item TEXT)"
        }
    }
}

const TABLES: &str = "tables = [
    { schema = 'shop', table = 'letters' },
    { schema = 'shop', table = 'items' },
    { schema = 'shop', table = 'people', owner_column = 'owner' },
    { schema = 'shop', table = 'uses' },
    { schema = 'shop', table = 'tags' },
]";

struct Shop {
    // Dropped in this order.
    server: Server,
    database: Database,
}

impl Shop {
    async fn open(backend: Backend, mode: Option<&str>) -> Self {
        Self::with_tables(backend, mode, TABLES).await
    }

    async fn with_tables(backend: Backend, mode: Option<&str>, tables: &str) -> Self {
        let database = backend.database().await;
        database.execute(schema(backend)).await;
        let mut config = Config::default().set("tables", tables_of(tables));
        if let Some(mode) = mode {
            config = config.set("foreign_keys", mode);
        }
        let server = Server::start(&database, config).await;
        Self { database, server }
    }

    /// A device of a new user, who has an account.
    async fn device(&self) -> HttpDevice {
        let device = self.server.target().one_device();
        let account = format!("INSERT INTO shop.accounts VALUES ('{}')", device.user());
        self.execute(&account).await;
        device
    }

    /// SQL on the business tables.
    async fn execute(&self, sql: &str) {
        self.database.execute(&self.in_store(sql)).await;
    }

    async fn ask(&self, sql: &str) -> Option<String> {
        self.database.ask(&self.in_store(sql)).await
    }

    fn in_store(&self, sql: &str) -> String {
        match self.database.backend() {
            Backend::Postgres => sql.to_owned(),
            Backend::Embedded => sql.replace("shop.", ""),
        }
    }
}

fn tables_of(text: &str) -> toml::Value {
    let mut table: toml::Table = toml::from_str(text).expect("TOML");
    table.remove("tables").expect("tables")
}

/// `applied`, or what is missing, for each change.
async fn verdicts(device: &HttpDevice, changes: &[Value]) -> Vec<String> {
    let verdict = |status: &Value| match status["status"].as_str() {
        Some("invalid") if status["invalid"]["reason"] == "fk_missing" => {
            let missing = &status["invalid"]["details"]["missing"];
            let missing: Vec<String> = serde_json::from_value(missing.clone()).expect("a list");
            missing.join(" ")
        }
        Some("applied") => "applied".to_owned(),
        _ => status.to_string(),
    };
    device.statuses(changes).await.iter().map(verdict).collect()
}

async fn no_failures(device: &HttpDevice) {
    let failures = device.get("/admin/materialize-failures").await.ok();
    assert_eq!(failures, json!([]));
}

fn items(first: i64, column: &str, values: &[Value]) -> Vec<Value> {
    (first..)
        .zip(values)
        .map(|(id, value)| insert(id, "shop.items", &fresh_key(), json!({ column: value })))
        .collect()
}

async fn a_lookup_table_counts_by_its_own_type(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let mut changes = items(
        1,
        "country",
        &[json!("DE"), json!(5), json!("5"), json!(null), json!("")],
    );
    changes.extend(items(
        11,
        "size",
        &[json!(5), json!("5"), json!(-7), json!(null)],
    ));
    changes.extend(items(21, "rate", &[json!(1.5), json!("1.50")]));
    changes.extend(items(31, "grade", &[json!("A")]));
    let expected = vec!["applied"; changes.len()];
    assert_eq!(verdicts(&device, &changes).await, expected);

    let absent = [
        items(
            51,
            "country",
            &[
                json!("de"),
                json!("D"),
                json!(50),
                json!({"a": 1}),
                json!({"a": "\u{0}"}),
                json!(["\u{0}"]),
                json!(true),
            ],
        ),
        items(61, "size", &[json!(6), json!("6")]),
        items(71, "rate", &[json!(1.51)]),
        items(81, "grade", &[json!("B")]),
    ];
    let expected = [
        "shop.countries:de",
        "shop.countries:D",
        "shop.countries:50",
        "shop.countries:{\"a\":1}",
        "shop.countries:{\"a\":\"\\u0000\"}",
        "shop.countries:[\"\\u0000\"]",
        "shop.countries:true",
        "shop.sizes:6",
        "shop.sizes:6",
        "shop.rates:1.51",
        "shop.grades:B",
    ];
    assert_eq!(verdicts(&device, &absent.concat()).await, expected);
    // Another program's row counts from the next upload on, and no longer than
    // it is there; several missing ones are all named.
    shop.execute("INSERT INTO shop.countries VALUES ('FR'), ('IT')")
        .await;
    assert_eq!(
        verdicts(&device, &items(91, "country", &[json!("FR")])).await,
        ["applied"]
    );
    shop.execute("DELETE FROM shop.countries WHERE code = 'IT'")
        .await;
    let two = insert(
        92,
        "shop.items",
        &fresh_key(),
        json!({"country": "IT", "size": 9}),
    );
    assert_eq!(
        verdicts(&device, &[two]).await,
        ["shop.countries:IT shop.sizes:9"]
    );
}

async fn what_a_type_cannot_hold_is_not_there(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let huge: Value = serde_json::from_str("99999999999999999999").expect("a number");
    let huge_text = huge.to_string();
    let mut changes = items(
        1,
        "size",
        &[
            json!(5),
            json!("abc"),
            json!(1.5),
            huge,
            json!("99999999999999999999"),
            json!(i64::MAX),
            json!(true),
            json!([5]),
        ],
    );
    changes.extend(items(
        11,
        "kind",
        &[json!("not a uuid"), json!(7), json!("\u{0}")],
    ));
    changes.extend(items(
        21,
        "country",
        &[json!("\u{0}"), json!("DE\u{0}"), json!("DE")],
    ));
    changes.extend(items(31, "rate", &[json!("NaNny"), json!({})]));
    changes.extend(items(
        41,
        "grade",
        &[json!("G"), json!("A\u{0}"), json!("A")],
    ));
    let answers = verdicts(&device, &changes).await;
    let max = format!("shop.sizes:{}", i64::MAX);
    let huge = format!("shop.sizes:{huge_text}");
    let expected = [
        "applied",
        "shop.sizes:abc",
        "shop.sizes:1.5",
        &huge,
        "shop.sizes:99999999999999999999",
        &max,
        "shop.sizes:true",
        "shop.sizes:[5]",
        "shop.kinds:not a uuid",
        "shop.kinds:7",
        "shop.kinds:\u{0}",
        "shop.countries:\u{0}",
        "shop.countries:DE\u{0}",
        "applied",
        "shop.rates:NaNny",
        "shop.rates:{}",
        "shop.grades:G",
        "shop.grades:A\u{0}",
        "applied",
    ];
    assert_eq!(answers, expected);
}

/// Texts that rows are named by are beside the memory that a body was promised, so
/// their length has a limit; beyond, even what is there is not looked for.
async fn a_long_value_is_nowhere(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let text = |bytes: usize| "x".repeat(bytes);
    // As JSON text: with its quotes.
    let limit = MAX_VALUE_BYTES - 2;
    for bytes in [limit, limit + 1] {
        shop.execute(&format!(
            "INSERT INTO shop.countries VALUES ('{}')",
            text(bytes)
        ))
        .await;
    }
    let values = [limit, limit + 1, 1_000_000].map(|bytes| json!(text(bytes)));
    let changes = items(1, "country", &values);
    let shown = |bytes: usize| format!("shop.countries:{}", text(bytes));
    assert_eq!(
        verdicts(&device, &changes).await,
        ["applied".to_owned(), shown(limit + 1), shown(1_000_000)]
    );
}

async fn uuids_of_a_lookup_table_are_found_in_any_spelling(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let kind = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let uuid = Uuid::parse_str(kind).expect("a UUID");
    let spellings = [
        kind.to_owned(),
        kind.to_uppercase(),
        kind.replace('-', ""),
        format!("{{{kind}}}"),
        format!("urn:uuid:{kind}"),
        STANDARD.encode(uuid.as_bytes()),
    ];
    let values: Vec<Value> = spellings.iter().map(|spelling| json!(spelling)).collect();
    assert_eq!(
        verdicts(&device, &items(1, "kind", &values)).await,
        ["applied"; 6]
    );
    let nobody = fresh_key();
    let answers = verdicts(
        &device,
        &items(11, "kind", &[json!(nobody.replace('-', ""))]),
    )
    .await;
    assert_eq!(answers, [format!("shop.kinds:{}", nobody.replace('-', ""))]);
}

async fn a_configured_reference_needs_no_declared_one(backend: Backend) {
    let tables = "tables = [{ schema = 'shop', table = 'uses', references = [
        { column = 'Item', table = 'countries' }] }, { schema = 'shop', table = 'tags' },
        { schema = 'bare', table = 'notes', references = [{ column = 'size', table = 'shop.sizes', ref_column = 'N' }] }]";
    let shop = Shop::with_tables(backend, None, tables).await;
    let device = shop.device().await;
    let changes = [
        insert(1, "shop.uses", &fresh_key(), json!({"item": "FR"})),
        insert(2, "bare.notes", &fresh_key(), json!({"size": 5})),
        insert(3, "bare.notes", &fresh_key(), json!({"size": 6})),
    ];
    let expected = ["shop.countries:FR", "applied", "shop.sizes:6"];
    assert_eq!(verdicts(&device, &changes).await, expected);
}

async fn another_column_of_a_synchronised_table_counts(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let (ann, red) = (fresh_key(), fresh_key());
    let letter = |id, to: &str| insert(id, "shop.letters", &fresh_key(), json!({"receiver": to}));
    let usage = |id, tag: &str| insert(id, "shop.uses", &fresh_key(), json!({"tag": tag}));
    // In the same upload only the business table counts.
    let first = [
        insert(1, "shop.people", &ann, json!({"email": "ann@x"})),
        letter(2, "ann@x"),
        insert(3, "shop.tags", &red, json!({"name": "red"})),
        usage(4, "red"),
    ];
    let expected = ["applied", "shop.people:ann@x", "applied", "shop.tags:red"];
    assert_eq!(verdicts(&device, &first).await, expected);
    assert_eq!(
        verdicts(
            &device,
            &[letter(2, "ann@x"), usage(4, "red"), letter(5, "bob@x")]
        )
        .await,
        ["applied", "applied", "shop.people:bob@x"]
    );
    // Nobody's row is everybody's: of a table without an owner column.
    shop.execute("INSERT INTO shop.tags (id, name) VALUES ('1f8fad5b-d9cb-469f-a165-70867728950e', 'the host''s')").await;
    assert_eq!(
        verdicts(&shop.device().await, &[usage(1, "the host's")]).await,
        ["applied"]
    );
    // A key that is no UUID is nobody's row too, on the store that has such keys.
    if backend == Backend::Embedded {
        shop.execute("INSERT INTO tags (id, name) VALUES ('old', 'legacy')")
            .await;
        assert_eq!(verdicts(&device, &[usage(6, "legacy")]).await, ["applied"]);
    }
    no_failures(&device).await;
}

async fn rows_of_the_upload_count_where_columns_are_looked_at(backend: Backend) {
    let shop = Shop::open(backend, Some("ref_column_aware")).await;
    let device = shop.device().await;
    let ann = fresh_key();
    let letter = |id, to: &str| insert(id, "shop.letters", &fresh_key(), json!({"receiver": to}));
    let upload = [
        letter(1, "ann@x"),
        insert(2, "shop.people", &ann, json!({"email": "ann@x"})),
        letter(3, "bob@x"),
        update(4, "shop.people", &fresh_key(), 3, json!({"email": "bob@x"})),
    ];
    let answers = verdicts(&device, &upload).await;
    assert_eq!(answers[..3], ["applied", "applied", "shop.people:bob@x"]);
    no_failures(&device).await;
    let joined = "SELECT count(*) FROM shop.letters l JOIN shop.people p ON p.email = l.receiver";
    assert_eq!(shop.ask(joined).await.as_deref(), Some("1"));
    // And what the business table has counts as ever.
    assert_eq!(verdicts(&device, &[letter(5, "ann@x")]).await, ["applied"]);
}

async fn a_row_may_refer_to_itself_by_any_column(backend: Backend) {
    let tables = "tables = [{ schema = 'shop', table = 'topics' }]";
    for mode in ["enabled", "ref_column_aware"] {
        let database = backend.database().await;
        let (schema, key) = match backend {
            Backend::Postgres => ("CREATE SCHEMA shop;", "shop.topics (id uuid"),
            Backend::Embedded => ("", "topics (id TEXT"),
        };
        let parent = key.split(' ').next().expect("a name");
        database
            .execute(&format!(
                "{schema} CREATE TABLE {key} PRIMARY KEY NOT NULL, slug text UNIQUE, \
                 parent_slug text REFERENCES {parent} (slug))"
            ))
            .await;
        let config = Config::default()
            .set("tables", tables_of(tables))
            .set("foreign_keys", mode);
        let server = Server::start(&database, config).await;
        let device = server.target().one_device();
        let topic = |id, slug: &str, parent: &str| {
            let payload = json!({"slug": slug, "parent_slug": parent});
            insert(id, "shop.topics", &fresh_key(), payload)
        };
        let upload = [topic(1, "all", "all"), topic(2, "some", "none")];
        let expected = ["applied", "shop.topics:none"];
        assert_eq!(verdicts(&device, &upload).await, expected, "{mode}");
        no_failures(&device).await;
        let itself = format!("SELECT slug FROM {parent} WHERE slug = parent_slug");
        assert_eq!(database.ask(&itself).await.as_deref(), Some("all"));
        // From now on it is there for others, too.
        assert_eq!(
            verdicts(&device, &[topic(3, "one", "all")]).await,
            ["applied"]
        );
        no_failures(&device).await;
    }
}

/// Exactly as if it did not exist, by owner column and by record.
async fn another_users_row_is_not_there(backend: Backend) {
    for mode in ["enabled", "ref_column_aware"] {
        let shop = Shop::open(backend, Some(mode)).await;
        let (ada, eve) = (shop.device().await, shop.device().await);
        let hers = [
            insert(1, "shop.people", &fresh_key(), json!({"email": "ada@x"})),
            insert(2, "shop.tags", &fresh_key(), json!({"name": "secret"})),
        ];
        assert_eq!(verdicts(&ada, &hers).await, ["applied", "applied"]);
        let refer = |email: &str, tag: &str| {
            [
                insert(1, "shop.letters", &fresh_key(), json!({"receiver": email})),
                insert(2, "shop.uses", &fresh_key(), json!({"tag": tag})),
            ]
        };
        let there = eve.upload(&refer("ada@x", "secret")).await.to_string();
        let nowhere = eve.upload(&refer("nob@x", "nothng")).await.to_string();
        let expected = nowhere
            .replace("nob@x", "ada@x")
            .replace("nothng", "secret");
        assert_eq!(there, expected, "{mode}");
        assert!(there.contains("fk_missing"), "{there}");
        assert_eq!(
            verdicts(
                &ada,
                &refer("ada@x", "secret").map(|mut change| {
                    change["source_change_id"] =
                        json!(change["source_change_id"].as_i64().expect("a number") + 10);
                    change
                })
            )
            .await,
            ["applied", "applied"]
        );
    }
}

async fn a_parent_deleted_in_the_upload_does_not_count(backend: Backend) {
    for mode in ["enabled", "ref_column_aware"] {
        let shop = Shop::open(backend, Some(mode)).await;
        let device = shop.device().await;
        let (ann, bob, red) = (fresh_key(), fresh_key(), fresh_key());
        let before = [
            insert(1, "shop.people", &ann, json!({"email": "ann@x"})),
            insert(2, "shop.people", &bob, json!({"email": "bob@x"})),
            insert(3, "shop.tags", &red, json!({"name": "red"})),
        ];
        assert_eq!(verdicts(&device, &before).await, ["applied"; 3]);
        let letter =
            |id, to: &str| insert(id, "shop.letters", &fresh_key(), json!({"receiver": to}));
        let upload = [
            letter(11, "ann@x"),
            letter(12, "bob@x"),
            insert(13, "shop.uses", &fresh_key(), json!({"tag": "red"})),
            delete(14, "shop.people", &ann, 1),
            delete(15, "shop.tags", &red, 1),
        ];
        assert_eq!(
            verdicts(&device, &upload).await,
            [
                "shop.people:ann@x",
                "applied",
                "shop.tags:red",
                "applied",
                "applied"
            ],
            "{mode}"
        );
        no_failures(&device).await;
    }
}

/// Found by the simulator: an entry stands once its list is found in the business
/// table, and takes the change id of a row that another one rests on.
async fn a_parent_that_is_missed_only_later_is_looked_for_too(backend: Backend) {
    let tables =
        "tables = [{ schema = 'shop', table = 'lists' }, { schema = 'shop', table = 'entries' }]";
    let shop = Shop::with_tables(backend, None, tables).await;
    let device = shop.device().await;
    let (list, row) = (fresh_key(), fresh_key());
    shop.execute(&format!(
        "INSERT INTO shop.lists (id) VALUES ('{list}'); INSERT INTO shop.entries (id) VALUES ('{row}')"
    ))
    .await;
    let entry = |id, key: &str, payload| insert(id, "shop.entries", key, payload);
    let upload = [
        entry(7, &fresh_key(), json!({ "list": list })),
        entry(7, &row, json!({})),
        entry(8, &fresh_key(), json!({ "above": row })),
    ];
    let found = verdicts(&device, &upload).await;
    assert_eq!(
        (found[0].as_str(), found[2].as_str()),
        ("applied", "applied"),
        "{found:?}"
    );
    assert!(
        found[1].contains("was used for another change"),
        "{found:?}"
    );
}

async fn nothing_is_checked_when_disabled(backend: Backend) {
    let shop = Shop::open(backend, Some("disabled")).await;
    let device = shop.device().await;
    let ann = fresh_key();
    let upload = [
        insert(1, "shop.items", &fresh_key(), json!({"country": "nowhere"})),
        insert(
            2,
            "shop.letters",
            &fresh_key(),
            json!({"receiver": "ann@x"}),
        ),
        insert(3, "shop.people", &ann, json!({"email": "ann@x"})),
    ];
    assert_eq!(verdicts(&device, &upload).await, ["applied"; 3]);
    // What the database then refuses is a failure, as ever; SQLite's foreign keys
    // are not enforced while projecting.
    let failures = device.get("/admin/materialize-failures").await.ok();
    let expected = if backend == Backend::Postgres { 1 } else { 0 };
    assert_eq!(
        failures.as_array().map(Vec::len),
        Some(expected),
        "{failures}"
    );
    // The order still follows the references: parents first.
    let bob = shop.server.target().device(device.user(), "bob");
    let (changes, _) = bob.download_all(0, 100, "").await;
    let tables: Vec<&str> = changes
        .iter()
        .filter_map(|change| change["table"].as_str())
        .collect();
    let place = |table: &str| tables.iter().position(|there| *there == table);
    assert!(place("people") < place("letters"), "{tables:?}");

    // A reference that is no key is no bad payload either.
    let tables = "tables = [{ schema = 'business', table = 'users' },
        { schema = 'business', table = 'posts', references = [{ column = 'author_id', table = 'users' }] }]";
    let shop = Shop::with_tables(backend, Some("disabled"), tables).await;
    let post = insert(
        1,
        "business.posts",
        &fresh_key(),
        json!({"author_id": "no key"}),
    );
    assert_eq!(verdicts(&shop.device().await, &[post]).await, ["applied"]);
}

/// The owner column refers to a table of accounts: what a payload says there is
/// not written, and must not tell who has an account.
async fn what_the_server_fills_in_is_not_checked(backend: Backend) {
    let shop = Shop::open(backend, None).await;
    let device = shop.device().await;
    let person = insert(
        1,
        "shop.people",
        &fresh_key(),
        json!({"owner": "nobody has that account", "email": "a@x"}),
    );
    assert_eq!(verdicts(&device, &[person]).await, ["applied"]);
    no_failures(&device).await;
}

async fn what_cannot_work_is_refused_at_start(backend: Backend) {
    let database = backend.database().await;
    database.execute(schema(backend)).await;
    let letters = |reference: &str| {
        format!(
            "tables = [{{ schema = 'a', table = 'b' }},
             {{ schema = 'shop', table = 'tags', references = [{{ column = 'name', {reference} }}] }}]"
        )
    };
    let mut cases = vec![
        (
            letters("table = 'a.b', ref_column = 'email'"),
            "enabled",
            Some("shop.tags.name has ref_column = \"email\""),
        ),
        (
            letters("table = 'a.b', ref_column = 'email'"),
            "ref_column_aware",
            None,
        ),
        (letters("table = 'a.b', ref_column = 'id'"), "enabled", None),
        (
            letters("table = 'countries', ref_column = 'name'"),
            "enabled",
            Some("has no such column"),
        ),
        (
            letters("table = 'rates'"),
            "enabled",
            Some("name a column with ref_column"),
        ),
        (
            letters("table = 'nowhere'"),
            "enabled",
            Some("refers to shop.nowhere, which is not registered"),
        ),
        (letters("table = 'nowhere'"), "disabled", None),
    ];
    if backend == Backend::Postgres {
        database
            .execute("CREATE TABLE shop.odd (id int PRIMARY KEY, doc json)")
            .await;
        let odd = letters("table = 'odd', ref_column = 'doc'");
        cases.push((
            odd,
            "enabled",
            Some("references to shop.odd.doc cannot be checked"),
        ));
    }
    for (tables, mode, expected) in cases {
        let config = Config::default()
            .set("tables", tables_of(&tables))
            .set("foreign_keys", mode)
            .set("database_url", database.url());
        match expected {
            None => drop(Server::answering(&database, config).await),
            Some(expected) => {
                let folder = tempfile::TempDir::new().expect("a temporary folder");
                let file = folder.path().join("oversync.toml");
                std::fs::write(&file, config.to_toml()).expect("written");
                let output = command()
                    .args(["serve", "--listen", "127.0.0.1:0", "--config"])
                    .arg(&file)
                    .output()
                    .expect("it runs");
                assert!(!output.status.success(), "{tables}");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains(expected), "{tables}: {said}");
            }
        }
    }
}
