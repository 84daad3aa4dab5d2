//! Databases as every earlier version left them, under today's server: their rows,
//! devices, failures and revocations are what they were, and devices sync on.
//!
//! Each schema step is a version: the real files of the first steps are run, rows are
//! written as fits them, and the server does the rest.

use oversync_shared::upload::Fingerprint;
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, TableName};
use oversync_tests::conformance::business_tables;
use oversync_tests::device::{insert, update};
use oversync_tests::{App, Backend, Config, Database, Port, Server, on_both_stores, within};
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

on_both_stores!(every_earlier_schema_is_brought_up_to_date);

const ANN: &str = "00000000-0000-4000-8000-00000000000a";
const GONE: &str = "00000000-0000-4000-8000-00000000000b";
const BOOK: &str = "00000000-0000-4000-8000-00000000000c";
const BAD: &str = "00000000-0000-4000-8000-00000000000d";

/// The files of all steps, oldest first.
fn steps(backend: Backend) -> Vec<PathBuf> {
    let folder = match backend {
        Backend::Embedded => "sqlite",
        Backend::Postgres => "postgres",
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .join("migrations")
        .join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the steps")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    files
}

fn number(file: &Path) -> i64 {
    let name = file.file_name().expect("a name").to_string_lossy();
    name[..4].parse().expect("a step begins with its number")
}

/// A database that has run the first steps and no more.
async fn database_at(backend: Backend, files: &[PathBuf]) -> Database {
    let database = backend.database().await;
    match backend {
        Backend::Embedded => {
            let steps = "CREATE TABLE _oversync_migrations (step INTEGER PRIMARY KEY) STRICT";
            database
                .execute(&format!("PRAGMA journal_mode = wal; {steps}"))
                .await;
            for (index, file) in files.iter().enumerate() {
                let sql = std::fs::read_to_string(file).expect("a step");
                let done = format!("INSERT INTO _oversync_migrations VALUES ({})", index + 1);
                database
                    .execute(&format!("BEGIN; {sql}; {done}; COMMIT"))
                    .await;
            }
        }
        Backend::Postgres => {
            let folder = files[0].parent().expect("a folder");
            let mut all = Migrator::new(folder).await.expect("steps");
            let first: Vec<_> = all.iter().take(files.len()).cloned().collect();
            assert_eq!(
                first.last().map(|step| step.version),
                files.last().map(|file| number(file))
            );
            all.migrations = Cow::Owned(first);
            all.dangerous_set_table_name("oversync._migrations");
            all.create_schemas.to_mut().push("oversync".into());
            let connected = PgConnection::connect(database.url()).await;
            let mut connection = connected.expect("connects");
            all.run(&mut connection).await.expect("the steps run");
        }
    }
    database
}

/// An entry of the log: place, change id, device, table, key, what, version, payload.
type Line = (i64, i64, i64, i64, &'static str, Op, i64, Option<Value>);

/// What an application of that time left behind: a row that was edited, one that was
/// deleted, one that stands in its business table and one that does not.
fn log(has_projection: bool) -> Vec<Line> {
    let mut lines = vec![
        (
            1,
            1,
            1,
            1,
            ANN,
            Op::Insert,
            1,
            Some(json!({"id": ANN, "name": "Ann"})),
        ),
        (
            2,
            1,
            2,
            1,
            GONE,
            Op::Insert,
            1,
            Some(json!({"id": GONE, "name": "Gone"})),
        ),
        (
            3,
            2,
            1,
            1,
            ANN,
            Op::Update,
            2,
            Some(json!({"id": ANN, "name": "Anna"})),
        ),
        (4, 2, 2, 1, GONE, Op::Delete, 2, None),
    ];
    if has_projection {
        lines.extend([
            (
                5,
                3,
                1,
                2,
                BOOK,
                Op::Insert,
                1,
                Some(json!({"id": BOOK, "title": "a book"})),
            ),
            (
                6,
                4,
                1,
                2,
                BAD,
                Op::Insert,
                1,
                Some(json!({"id": BAD, "title": ""})),
            ),
        ]);
    }
    lines
}

/// The rows, as SQL of that time.
fn rows(backend: Backend, step: usize, files: &[PathBuf]) -> String {
    let has = |name: &str| {
        let mut run = files[..step].iter();
        run.any(|file| file.to_string_lossy().contains(name))
    };
    let is_embedded = backend == Backend::Embedded;
    let own = if is_embedded {
        "_oversync_"
    } else {
        "oversync."
    };
    let pk = |key: &str| match is_embedded {
        true => format!("x'{}'", key.replace('-', "")),
        false => format!("'{key}'"),
    };
    let flag = |flag: bool| match (is_embedded, flag) {
        (true, flag) => i64::from(flag).to_string(),
        (false, flag) => flag.to_string(),
    };
    let time = match is_embedded {
        true => "1700000000123456",
        false => "'2023-11-14 22:13:20.123456+00'",
    };
    let lines = log(has("projection"));
    let head = lines.len();
    let mut sql = format!(
        "INSERT INTO {own}meta (epoch{only}) VALUES ('the old history'{row});
         INSERT INTO {own}users (user_id, head, revision) VALUES ('ann', {head}, {head});
         INSERT INTO {own}tables (schema_name, table_name) VALUES ('business', 'users'), ('shelf', 'books');
         INSERT INTO {own}devices (user_key, device_key, device_id, highest_change_id)
             VALUES (1, 1, 'ada', 4), (1, 2, 'bob', 2);",
        only = if is_embedded { ", only_row" } else { "" },
        row = if is_embedded { ", 1" } else { "" },
    );
    for (place, id, device, table, key, op, version, payload) in &lines {
        let name = match table {
            1 => TableName::parse("business", "users"),
            _ => TableName::parse("shelf", "books"),
        };
        let text = payload.as_ref().map(Value::to_string);
        let fingerprint = Fingerprint::of(
            &name.expect("a name"),
            RowKey::parse(key).expect("a key"),
            *op,
            text.as_deref(),
            &mut Vec::new(),
        );
        let hex: String = fingerprint
            .expect("JSON")
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let fingerprint = match is_embedded {
            true => format!("x'{hex}'"),
            false => format!("'\\x{hex}'"),
        };
        let code = match op {
            Op::Insert => 1,
            Op::Update => 2,
            Op::Delete => 3,
        };
        let text = text.map_or("NULL".to_owned(), |text| format!("'{text}'"));
        let pk = pk(key);
        sql += &format!(
            "INSERT INTO {own}log
                 (user_key, server_id, device_key, change_id, table_key, pk, op, version, ts, fingerprint, payload)
             VALUES (1, {place}, {device}, {id}, {table}, {pk}, {code}, {version}, {time}, {fingerprint}, {text});
             DELETE FROM {own}rows WHERE pk = {pk};
             INSERT INTO {own}rows (user_key, table_key, pk, version, server_id, deleted)
             VALUES (1, {table}, {pk}, {version}, {place}, {});",
            flag(*op == Op::Delete)
        );
    }
    if has("projection") {
        let numbered = has("failure_numbers");
        let id = if numbered { "id, " } else { "" };
        let one = if numbered { "1, " } else { "" };
        let books = if is_embedded { "books" } else { "shelf.books" };
        sql += &format!(
            "INSERT INTO {books} (id, title) VALUES ('{BOOK}', 'a book');
             INSERT INTO {own}owners (table_key, pk, user_key) VALUES (2, {}, 1);
             INSERT INTO {own}failures
                 ({id}user_key, table_key, pk, attempted_version, op, payload, error, first_seen)
             VALUES ({one}1, 2, {}, 1, 1, '{}', 'no title', {time});",
            pk(BOOK),
            pk(BAD),
            json!({"id": BAD, "title": ""}),
        );
        if numbered {
            sql += &format!("UPDATE {own}users SET last_failure = 1;");
        }
    }
    if has("revocation") {
        sql += &format!(
            "INSERT INTO {own}revoked (user_id, device_id, revoked_at) VALUES ('ann', 'lost', {time});
             UPDATE {own}meta SET revocations = 1;"
        );
    }
    if has("retention") {
        sql += &format!(
            "INSERT INTO {own}readers (user_key, device_id, cursor, read_at, seen_at)
             VALUES (1, 'ada', {head}, {time}, {time});
             UPDATE {own}devices SET has_moved = {}, settled_below = 2;",
            flag(true)
        );
    }
    sql
}

async fn every_earlier_schema_is_brought_up_to_date(backend: Backend) {
    let files = steps(backend);
    for step in 1..=files.len() {
        eprintln!("up to {}", files[step - 1].display());
        let database = database_at(backend, &files[..step]).await;
        let has_projection = step > 1;
        if has_projection {
            database.execute(business_tables(backend)).await;
        }
        database.execute(&rows(backend, step, &files)).await;
        goes_on(&database, has_projection, step >= 3).await;
    }
}

/// Everything of that time is there, and new things come.
async fn goes_on(database: &Database, has_projection: bool, has_revoked: bool) {
    // The log is held against what was written then, entry by entry.
    let mut server = Server::answering(database, Config::default().unfolded()).await;
    let target = server.target();
    let (ada, bob) = (target.device("ann", "ada"), target.device("ann", "bob"));
    let lines = log(has_projection);
    let head = lines.len() as i64;
    let page = bob.download("after=0&include_self=true").await;
    assert_eq!(
        (&page["epoch"], &page["head"]),
        (&json!("the old history"), &json!(head))
    );
    let changes = page["changes"].as_array().expect("changes");
    assert_eq!(changes.len(), lines.len(), "{page}");
    for (change, (place, id, device, _, key, op, version, payload)) in changes.iter().zip(&lines) {
        assert_eq!(change["server_id"], *place, "{change}");
        assert_eq!(change["source_change_id"], *id, "{change}");
        assert_eq!(
            change["source_id"],
            ["ada", "bob"][*device as usize - 1],
            "{change}"
        );
        assert_eq!(
            (&change["pk"], &change["op"]),
            (&json!(key), &json!(op.as_str()))
        );
        assert_eq!(change["server_version"], *version, "{change}");
        assert_eq!(change.get("payload"), payload.as_ref(), "{change}");
        assert_eq!(change["ts"], "2023-11-14T22:13:20.123456Z");
    }
    // Where a device stood, it goes on.
    let page = ada.download(&format!("after={head}")).await;
    assert_eq!(page["changes"], json!([]), "{page}");
    assert_eq!(page["highest_source_change_id"], 4);
    // Sent again: as the first time. The same number for something else: never.
    let again = update(
        2,
        "business.users",
        ANN,
        1,
        json!({"id": ANN, "name": "Anna"}),
    );
    let status = ada.upload_one(again).await;
    assert_eq!(
        (&status["status"], &status["new_server_version"]),
        (&json!("applied"), &json!(2))
    );
    let other = update(
        2,
        "business.users",
        ANN,
        2,
        json!({"id": ANN, "name": "Other"}),
    );
    assert_eq!(ada.upload_one(other).await["status"], "conflict");
    let next = update(
        5,
        "business.users",
        ANN,
        2,
        json!({"id": ANN, "name": "Annie"}),
    );
    assert_eq!(ada.upload_one(next).await["new_server_version"], 3);
    let back = update(
        3,
        "business.users",
        GONE,
        2,
        json!({"id": GONE, "name": "Back"}),
    );
    assert_eq!(bob.upload_one(back).await["new_server_version"], 3);
    if has_projection {
        let failures = ada.get("/admin/materialize-failures").await.ok();
        assert_eq!(
            (&failures[0]["id"], &failures[0]["pk"]),
            (&json!(1), &json!(BAD))
        );
        let worse = insert(6, "shelf.books", GONE, json!({"id": GONE, "title": ""}));
        assert_eq!(ada.upload_one(worse).await["status"], "applied");
        let failures = ada.get("/admin/materialize-failures").await.ok();
        assert_eq!(failures[0]["id"], 2, "no number is used twice: {failures}");
        let good = update(
            7,
            "shelf.books",
            BOOK,
            1,
            json!({"id": BOOK, "title": "better"}),
        );
        assert_eq!(ada.upload_one(good).await["new_server_version"], 2);
    }
    if has_revoked {
        let lost = target.device("ann", "lost").download_raw("after=0").await;
        lost.refused(401, "authentication_failed");
    }
    // A real client, from nothing.
    let carl = App::start(&target, "ann", "carl").await;
    carl.add("00000000-0000-4000-8000-00000000000e", "Carl");
    within(
        Duration::from_secs(60),
        "the client has what there is",
        || async {
            let names: Vec<String> = carl.people().into_iter().map(|(_, name)| name).collect();
            (names == ["Annie", "Back", "Carl"]).then_some(())
        },
    )
    .await;
    carl.sent().await;
    server.verified().await;
    // Its schema is today's: the second start has nothing to do.
    server.terminate().await;
    server.restart(Port::Same).await;
    let (after, _) = bob.download_all(head, 100, "").await;
    assert!(
        after.iter().any(|change| change["source_id"] == "carl"),
        "{after:?}"
    );
    server.verified().await;
}
