//! What cannot be synchronised is refused at start, by name; what can be is not.

use oversync_tests::device::insert;
use oversync_tests::server::command;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, Server, on_both_stores};
use serde_json::json;

on_both_stores!(
    tables_that_cannot_work_are_named,
    tables_of_one_name_may_be_synchronised,
);

const SQL: &str = "CREATE SCHEMA shop; CREATE SCHEMA farm;
    CREATE TABLE shop.good (id text PRIMARY KEY NOT NULL, owner text, code text, weight real);
    CREATE TABLE shop.numbered (id integer PRIMARY KEY, uid text);
    CREATE TABLE shop.pairs (a text NOT NULL, b text NOT NULL, uid text UNIQUE, PRIMARY KEY (a, b));
    CREATE TABLE shop.keyless (a text);";

async fn database(backend: Backend) -> Database {
    let database = backend.database().await;
    let sql = match backend {
        Backend::Postgres => SQL.to_owned(),
        Backend::Embedded => SQL
            .replace("CREATE SCHEMA shop; CREATE SCHEMA farm;", "")
            .replace("shop.", ""),
    };
    database.execute(&sql).await;
    database
}

fn config(tables: &str) -> Config {
    let tables: toml::Table = toml::from_str(&format!("tables = [{tables}]")).expect("TOML");
    Config::default().set("tables", tables["tables"].clone())
}

fn refusal(database: &Database, config: Config) -> String {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("oversync.toml");
    let config = config.set("database_url", database.url());
    std::fs::write(&file, config.to_toml()).expect("written");
    let output = command()
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "{}", config.to_toml());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn tables_that_cannot_work_are_named(backend: Backend) {
    let database = database(backend).await;
    for (tables, named) in [
        (
            "{ schema = 'shop', table = 'good' }, { schema = 'Shop', table = 'GOOD' }",
            "table shop.good is registered twice",
        ),
        (
            "{ schema = 'shop', table = 'numbered' }",
            "shop.numbered.id is of type",
        ),
        (
            "{ schema = 'shop', table = 'numbered', key_column = 'uid' }",
            "shop.numbered.uid is neither the primary key nor UNIQUE",
        ),
        (
            "{ schema = 'shop', table = 'pairs' }",
            "shop.pairs has a composite primary key (a, b)",
        ),
        (
            "{ schema = 'shop', table = 'keyless' }",
            "shop.keyless has no single-column primary key",
        ),
        (
            "{ schema = 'shop', table = 'good', key_column = 'nothing' }",
            "shop.good has no column nothing, which key_column names",
        ),
        (
            "{ schema = 'shop', table = 'good', owner_column = 'nobody' }",
            "shop.good has no column nobody, which owner_column names",
        ),
        (
            "{ schema = 'shop', table = 'good', owner_column = 'weight' }",
            "shop.good.weight is of type",
        ),
    ] {
        let said = refusal(&database, config(tables));
        assert!(said.contains(named), "{tables}: {said}");
    }
    let missing = "{ schema = 'shop', table = 'good' }, { schema = 'shop', table = 'nowhere' }";
    let said = refusal(&database, config(missing).set("strict_tables", true));
    assert!(
        said.contains("shop.nowhere does not exist in the database"),
        "{said}"
    );
    // A key of several columns beside a UUID is no obstacle.
    let pairs = "{ schema = 'shop', table = 'pairs', key_column = 'uid' }";
    let server = Server::answering(&database, config(&format!("{missing}, {pairs}"))).await;
    let row = insert(1, "shop.pairs", &fresh_key(), json!({"a": "1", "b": "2"}));
    let device = server.target().one_device();
    assert_eq!(device.upload_one(row).await["status"], "applied");
    let failures = device.get("/admin/materialize-failures").await.ok();
    assert_eq!(failures, json!([]));
}

/// The embedded store has one name space: what is projected must be one table, what
/// is only synchronised need not be.
async fn tables_of_one_name_may_be_synchronised(backend: Backend) {
    let database = database(backend).await;
    let good = "{ schema = 'shop', table = 'good' }, { schema = 'farm', table = 'good' }";
    if backend == Backend::Embedded {
        let said = refusal(&database, config(good));
        let named = "shop.good and farm.good would be the same table of the embedded store";
        assert!(said.contains(named), "{said}");
    } else {
        drop(Server::answering(&database, config(good)).await);
    }
    let loose = "{ schema = 'shop', table = 'loose' }, { schema = 'farm', table = 'loose' }";
    let server = Server::answering(&database, config(loose)).await;
    let device = server.target().one_device();
    let key = fresh_key();
    for (id, table) in [(1, "shop.loose"), (2, "farm.loose")] {
        let status = device.upload_one(insert(id, table, &key, json!({}))).await;
        assert_eq!(status["new_server_version"], 1, "{status}");
    }
}

/// An array has no form on the wire; a row that has one says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_are_refused_clearly_on_postgres() {
    let database = database(Backend::Postgres).await;
    database
        .execute("CREATE TABLE shop.lists (id uuid PRIMARY KEY, tags text[])")
        .await;
    let tables = "{ schema = 'shop', table = 'lists' }";
    let server = Server::answering(&database, config(tables)).await;
    let device = server.target().one_device();
    for (id, tags) in [(1, json!(null)), (2, json!(["a"]))] {
        let row = insert(id, "shop.lists", &fresh_key(), json!({ "tags": tags }));
        assert_eq!(device.upload_one(row).await["status"], "applied");
    }
    let failures = device.get("/admin/materialize-failures").await.ok();
    let failures = failures.as_array().expect("a bare array");
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(
        failures[0]["error"],
        "column tags: arrays cannot be synchronised"
    );
}
