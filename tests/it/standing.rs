//! A business row stands on none of another user's, by whatever columns it refers
//! to it and whatever is checked of an upload; and whose a row is, a column of UUIDs
//! or with a collation of its own says exactly.

use oversync_tests::device::{delete, insert};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server, on_both_stores, server};
use reqwest::Method;
use serde_json::{Value, json};

on_both_stores!(
    no_column_lets_a_row_stand_on_another_users,
    a_uuid_owns_in_one_spelling,
);

const STANDS: &str = "the business row refers to a business row that belongs to somebody else";
const TAKEN: &str = "a unique column of the business table has this value already";

struct Shop {
    // Dropped in this order.
    server: Server,
    database: Database,
}

impl Shop {
    async fn open(backend: Backend, sql: &str, tables: &str, mode: &str) -> Self {
        let database = backend.database().await;
        database.execute(&in_store(backend, sql)).await;
        let tables: toml::Table = toml::from_str(tables).expect("TOML");
        let config = Config::default()
            .set("tables", tables["tables"].clone())
            .set("foreign_keys", mode);
        let server = Server::start(&database, config).await;
        Self { server, database }
    }

    async fn ask(&self, sql: &str) -> Option<String> {
        let sql = in_store(self.database.backend(), sql);
        self.database.ask(&sql).await
    }

    fn verify(&self) {
        let output = server::command()
            .args(["verify", "--all", "--config"])
            .arg(self.server.config())
            .output()
            .expect("verify runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

/// The embedded store has no schemas, and no types but its own.
fn in_store(backend: Backend, sql: &str) -> String {
    match backend {
        Backend::Postgres => sql.to_owned(),
        Backend::Embedded => sql.replace("CREATE SCHEMA shop;", "").replace("shop.", ""),
    }
}

/// Table and text of each failure, oldest first.
async fn failures(device: &HttpDevice) -> Vec<(String, String)> {
    let list = device.failures("").await;
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = list.iter().rev();
    rows.map(|row| (text(row, "table"), text(row, "error")))
        .collect()
}

/// People with an address and shelves with two numbers, whose they are by a column
/// or by record; what refers to them by an address, by both numbers, by the column
/// of the owner, by a column that the database computes.
fn schema(is_owned: bool) -> String {
    let owner = if is_owned { ", owner text" } else { "" };
    format!(
        "CREATE SCHEMA shop;
         CREATE TABLE shop.people (id uuid PRIMARY KEY NOT NULL, email text UNIQUE{owner});
         CREATE TABLE shop.letters (id uuid PRIMARY KEY NOT NULL, receiver text REFERENCES shop.people (email));
         CREATE TABLE shop.shelves (id uuid PRIMARY KEY NOT NULL, zone text, place integer{owner}, UNIQUE (zone, place));
         CREATE TABLE shop.parcels (
             id uuid PRIMARY KEY NOT NULL, zone text, place integer,
             FOREIGN KEY (zone, place) REFERENCES shop.shelves (zone, place));
         CREATE TABLE shop.notes (id uuid PRIMARY KEY NOT NULL, writer text REFERENCES shop.people (email));
         CREATE TABLE shop.marks (
             id uuid PRIMARY KEY NOT NULL, code text,
             name text GENERATED ALWAYS AS (lower(code)) STORED REFERENCES shop.people (email));"
    )
}

fn tables(is_owned: bool) -> String {
    let owner = if is_owned {
        ", owner_column = 'owner'"
    } else {
        ""
    };
    format!(
        "tables = [
             {{ schema = 'shop', table = 'letters' }},
             {{ schema = 'shop', table = 'parcels' }},
             {{ schema = 'shop', table = 'notes', owner_column = 'writer' }},
             {{ schema = 'shop', table = 'marks' }},
             {{ schema = 'shop', table = 'people'{owner} }},
             {{ schema = 'shop', table = 'shelves'{owner} }},
         ]"
    )
}

/// What Bob writes would hold rows of Ann's: their owner could not delete them, and
/// would learn of him by that.
async fn no_column_lets_a_row_stand_on_another_users(backend: Backend) {
    for (mode, is_owned) in [
        ("enabled", true),
        ("ref_column_aware", false),
        ("ref_column_aware", true),
        ("disabled", false),
    ] {
        let shop = Shop::open(backend, &schema(is_owned), &tables(is_owned), mode).await;
        let target = shop.server.target();
        let (ann, bob) = (target.one_device(), target.one_device());
        let (x, bobs, shelf) = (fresh_key(), fresh_key(), fresh_key());
        let person =
            |id, key: &str, email: &str| insert(id, "shop.people", key, json!({ "email": email }));
        let on_shelf = json!({"zone": "a", "place": 1});
        ann.applied(&[
            person(1, &x, "x"),
            person(2, &bobs, bob.user()),
            insert(3, "shop.shelves", &shelf, on_shelf.clone()),
        ])
        .await;

        let letter = |id| insert(id, "shop.letters", &fresh_key(), json!({"receiver": "x"}));
        let mut expected = Vec::new();
        match mode {
            // Nothing of Bob's is called so: it is said at once.
            "enabled" => {
                let status = bob.upload_one(letter(1)).await;
                assert_eq!(status["invalid"]["reason"], "fk_missing", "{status}");
            }
            // A person of his own is called so, whose business row has no place.
            "ref_column_aware" => {
                bob.applied(&[letter(1), person(2, &fresh_key(), "x")])
                    .await;
                expected.extend([("people", TAKEN), ("letters", STANDS)]);
            }
            _ => {
                bob.applied(&[letter(1)]).await;
                expected.push(("letters", STANDS));
            }
        }
        bob.applied(&[insert(3, "shop.parcels", &fresh_key(), on_shelf)])
            .await;
        bob.applied(&[insert(4, "shop.notes", &fresh_key(), json!({}))])
            .await;
        bob.applied(&[insert(5, "shop.marks", &fresh_key(), json!({"code": "X"}))])
            .await;
        expected.extend([("parcels", STANDS), ("notes", STANDS), ("marks", STANDS)]);
        let expected: Vec<(String, String)> = expected
            .into_iter()
            .map(|(table, text)| (table.to_owned(), text.to_owned()))
            .collect();
        assert_eq!(
            failures(&bob).await,
            expected,
            "{mode}, is_owned {is_owned}"
        );

        // Her rows go as if he were not there.
        let gone = [
            delete(4, "shop.people", &x, 1),
            delete(5, "shop.people", &bobs, 1),
            delete(6, "shop.shelves", &shelf, 1),
        ];
        ann.applied(&gone).await;
        assert_eq!(failures(&ann).await, [], "{mode}, is_owned {is_owned}");
        for table in ["people", "shelves", "letters", "parcels", "notes", "marks"] {
            let count = format!("SELECT count(*) FROM shop.{table}");
            assert_eq!(
                shop.ask(&count).await.as_deref(),
                Some("0"),
                "{mode}: {table}"
            );
        }
        shop.verify();

        // With rows of his own below them his are written.
        bob.applied(&[
            person(11, &fresh_key(), bob.user()),
            insert(
                12,
                "shop.shelves",
                &fresh_key(),
                json!({"zone": "a", "place": 1}),
            ),
        ])
        .await;
        if mode != "ref_column_aware" {
            bob.applied(&[person(13, &fresh_key(), "x")]).await;
        }
        let list = bob.get("/admin/materialize-failures").await.ok();
        for failure in list.as_array().expect("a bare array").iter().rev() {
            let path = format!("/admin/materialize-failures/retry?id={}", failure["id"]);
            let reply = HttpDevice::send(bob.request(Method::POST, &path))
                .await
                .ok();
            assert_eq!(reply["status"], "applied", "{reply} {failure}");
        }
        shop.verify();
    }
}

/// Two users whose names are one UUID in two spellings are two users: a column of
/// UUIDs could not tell them apart, so only the spelling that it prints owns there.
async fn a_uuid_owns_in_one_spelling(backend: Backend) {
    let shop = Shop::open(
        backend,
        "CREATE SCHEMA shop; CREATE TABLE shop.items (id uuid PRIMARY KEY NOT NULL, title text, owner uuid)",
        "tables = [{ schema = 'shop', table = 'items', owner_column = 'owner' }]",
        "enabled",
    )
    .await;
    let target = shop.server.target();
    let name = fresh_key();
    let item =
        |id, key: &str, title: &str| insert(id, "shop.items", key, json!({ "title": title }));
    let (one, key) = (target.device(&name, "d"), fresh_key());
    one.applied(&[item(1, &key, "hers")]).await;
    assert_eq!(failures(&one).await, []);

    let others = [
        name.to_uppercase(),
        name.replace('-', ""),
        format!("{{{name}}}"),
        "no uuid at all".to_owned(),
    ];
    for (place, other) in others.iter().enumerate() {
        let other = target.device(other, "d");
        // The very row, and one of their own.
        other.applied(&[item(1, &key, "theirs")]).await;
        other.applied(&[item(2, &fresh_key(), "theirs too")]).await;
        let reason = "the owner column is of type uuid, and the user's name is not a UUID \
                      in lower case with dashes";
        let expected = match backend {
            Backend::Postgres => vec![reason, reason],
            // There a name is kept as it is.
            Backend::Embedded => vec!["the business row belongs to somebody else"],
        };
        let found = failures(&other).await;
        let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, expected);
        other.applied(&[delete(3, "shop.items", &key, 1)]).await;
        let hers = format!("SELECT title FROM shop.items WHERE id = '{key}'");
        assert_eq!(shop.ask(&hers).await.as_deref(), Some("hers"));
        let all = match backend {
            Backend::Postgres => 1,
            Backend::Embedded => 2 + place,
        };
        let count = shop.ask("SELECT count(*) FROM shop.items").await;
        assert_eq!(count, Some(all.to_string()));
    }
    shop.verify();
}

/// Names that a collation takes for one are two users all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_told_byte_by_byte_on_postgres() {
    let shop = Shop::open(
        Backend::Postgres,
        "CREATE SCHEMA shop;
         CREATE COLLATION shop.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE shop.lists (id uuid PRIMARY KEY, title text, owner text COLLATE shop.ci);
         CREATE TABLE shop.items (
             id uuid PRIMARY KEY, owner text COLLATE shop.ci, list_id uuid REFERENCES shop.lists ON DELETE CASCADE)",
        "tables = [{ schema = 'shop', table = 'lists', owner_column = 'owner' },
                   { schema = 'shop', table = 'items', owner_column = 'owner' }]",
        "disabled",
    )
    .await;
    let target = shop.server.target();
    let name = oversync_tests::target::fresh_user();
    let (small, capital) = (
        target.device(&name, "d"),
        target.device(&name.to_uppercase(), "d"),
    );
    let (list, item) = (fresh_key(), fresh_key());
    let title = |title: &str| json!({ "title": title });
    let below = json!({ "list_id": list });
    small
        .applied(&[insert(1, "shop.lists", &list, title("small"))])
        .await;
    small
        .applied(&[insert(2, "shop.items", &item, below.clone())])
        .await;
    capital
        .applied(&[insert(1, "shop.lists", &list, title("capital"))])
        .await;
    capital
        .applied(&[insert(2, "shop.items", &fresh_key(), below)])
        .await;
    capital.applied(&[delete(3, "shop.lists", &list, 1)]).await;
    let texts: Vec<String> = failures(&capital)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts, [STANDS]);
    assert_eq!(
        shop.ask("SELECT string_agg(title, ' ') FROM shop.lists")
            .await
            .as_deref(),
        Some("small")
    );
    // What goes with her list is recorded under her own name.
    small.applied(&[delete(3, "shop.lists", &list, 1)]).await;
    let found = failures(&small).await;
    assert!(
        found.len() == 1 && found[0].1.contains("CASCADE"),
        "{found:?}"
    );
    assert_eq!(failures(&capital).await.len(), 1);
    shop.verify();
}

/// Names that the owner column's type would turn into somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_cuts_or_counts_names_makes_nobody_somebody_else() {
    for (backend, kind, owner, other, reason) in [
        (
            Backend::Postgres,
            "varchar(8)",
            "exactly8",
            "exactly8 ",
            "the owner column cannot tell a name that ends with a blank from one that does not",
        ),
        (
            Backend::Embedded,
            "uuid",
            "agent-7",
            "007",
            "the owner column is of type uuid, which keeps no name that is a number as it is",
        ),
    ] {
        let shop = Shop::open(
            backend,
            &format!(
                "CREATE SCHEMA shop; \
                 CREATE TABLE shop.items (id uuid PRIMARY KEY NOT NULL, title text, owner {kind})"
            ),
            "tables = [{ schema = 'shop', table = 'items', owner_column = 'owner' }]",
            "enabled",
        )
        .await;
        let target = shop.server.target();
        let (owner, other) = (target.device(owner, "d"), target.device(other, "d"));
        let (key, fresh) = (fresh_key(), fresh_key());
        let item = |id, key: &str| insert(id, "shop.items", key, json!({ "title": "a" }));
        owner.applied(&[item(1, &key)]).await;
        assert_eq!(failures(&owner).await, []);
        other.applied(&[item(1, &key), item(2, &fresh)]).await;
        let failed = ("items".to_owned(), reason.to_owned());
        assert_eq!(failures(&other).await, [failed.clone(), failed]);
        let count = shop.ask("SELECT count(*) FROM shop.items").await;
        assert_eq!(count.as_deref(), Some("1"));
        shop.verify();
    }
}
