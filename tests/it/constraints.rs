//! Foreign keys of PostgreSQL's own: between synchronised tables they are made
//! deferrable at start, and what they refuse is refused inside the savepoint.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Server};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

const SCHEMA: &str = "CREATE SCHEMA shop;
    CREATE TABLE shop.lists (id uuid PRIMARY KEY, title text CHECK (title <> 'bad'));
    CREATE TABLE shop.\"Colours\" (name text PRIMARY KEY);
    INSERT INTO shop.\"Colours\" VALUES ('red');
    CREATE TABLE shop.items (
        id uuid PRIMARY KEY, title text,
        list_id uuid CONSTRAINT \"In List\" REFERENCES shop.lists,
        above uuid REFERENCES shop.items DEFERRABLE INITIALLY IMMEDIATE,
        colour text REFERENCES shop.\"Colours\");
    CREATE TABLE shop.cocks (id uuid PRIMARY KEY, hen uuid NOT NULL);
    CREATE TABLE shop.hens (id uuid PRIMARY KEY, cock uuid NOT NULL REFERENCES shop.cocks);
    ALTER TABLE shop.cocks ADD FOREIGN KEY (hen) REFERENCES shop.hens";

const TABLES: &str =
    "tables = [{ schema = 'shop', table = 'items' }, { schema = 'shop', table = 'lists' },
    { schema = 'shop', table = 'hens' }, { schema = 'shop', table = 'cocks' }]";

/// How many of the foreign keys wait for the end.
const DEFERRED: &str = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f' AND condeferrable AND condeferred";

const ALL: &str = "In List cocks_hen_fkey hens_cock_fkey items_above_fkey";

async fn shop() -> Database {
    let database = Backend::Postgres.database().await;
    database.execute(SCHEMA).await;
    database
}

fn config() -> Config {
    let tables: toml::Table = toml::from_str(TABLES).expect("TOML");
    Config::default().set("tables", tables["tables"].clone())
}

/// Rows of two tables that cannot be without each other.
async fn a_pair(device: &HttpDevice) -> usize {
    let (cock, hen) = (fresh_key(), fresh_key());
    let pair = [
        insert(1, "shop.cocks", &cock, json!({"hen": hen})),
        insert(2, "shop.hens", &hen, json!({"cock": cock})),
    ];
    device.applied(&pair).await;
    device.failures("").await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_between_synchronised_tables_wait_and_rings_are_written() {
    let database = shop().await;
    assert_eq!(database.ask(DEFERRED).await, None);
    let mut server = Server::answering(&database, config()).await;
    // A reference to a table that is not synchronised is somebody else's.
    assert_eq!(database.ask(DEFERRED).await.as_deref(), Some(ALL));
    assert_eq!(
        server.log().matches("is now DEFERRABLE").count(),
        4,
        "{}",
        server.log()
    );
    assert!(server.log().contains("In List"), "{}", server.log());
    assert_eq!(a_pair(&server.target().one_device()).await, 0);
    let pairs =
        "SELECT count(*) FROM shop.cocks c JOIN shop.hens h ON h.cock = c.id AND h.id = c.hen";
    assert_eq!(database.ask(pairs).await.as_deref(), Some("1"));
    // It really takes effect: the database looks at the end, and still looks.
    let mut connection = PgConnection::connect(database.url())
        .await
        .expect("connects");
    let mut tx = connection.begin().await.expect("begins");
    let lonely = "INSERT INTO shop.cocks VALUES (gen_random_uuid(), gen_random_uuid())";
    tx.execute(lonely).await.expect("not looked at yet");
    let error = tx.commit().await.expect_err("looked at in the end");
    assert!(error.to_string().contains("cocks_hen_fkey"), "{error}");

    server.terminate().await;
    let again = Server::answering(&database, config()).await;
    assert!(!again.log().contains("DEFERRABLE"), "{}", again.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constraints_are_left_alone_when_asked() {
    let database = shop().await;
    let server = Server::answering(&database, config().set("leave_constraints_alone", true)).await;
    assert_eq!(database.ask(DEFERRED).await, None);
    assert!(!server.log().contains("DEFERRABLE"), "{}", server.log());
    // What that costs.
    assert_eq!(a_pair(&server.target().one_device()).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_use_is_a_warning_and_no_reason_not_to_start() {
    let database = shop().await;
    let mut busy = PgConnection::connect(database.url())
        .await
        .expect("connects");
    let mut tx = busy.begin().await.expect("begins");
    tx.execute("INSERT INTO shop.items (id) VALUES (gen_random_uuid())")
        .await
        .expect("a row that nobody sees yet");
    let server = Server::answering(&database, config()).await;
    let log = server.log();
    let warning = log
        .lines()
        .find(|line| line.contains("could not be made DEFERRABLE"));
    let warning = warning.expect("it warns");
    for word in ["shop.items", "In List", "ring", "lock timeout"] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
    assert_eq!(
        database.ask(DEFERRED).await.as_deref(),
        Some("cocks_hen_fkey hens_cock_fkey"),
        "the others are done"
    );
    tx.rollback().await.expect("ends");
    server
        .target()
        .one_device()
        .applied(&[insert(1, "shop.items", &fresh_key(), json!({}))])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_do_not_trip_over_each_other() {
    let database = shop().await;
    // The schema `oversync` is there: this is about the constraints.
    Server::answering(&database, config().set("leave_constraints_alone", true))
        .await
        .terminate()
        .await;
    let start = || Server::answering(&database, config());
    let (a, b, c) = tokio::join!(start(), start(), start());
    for server in [&a, &b, &c] {
        assert!(!server.log().contains("could not"), "{}", server.log());
    }
    assert_eq!(database.ask(DEFERRED).await.as_deref(), Some(ALL));
    assert_eq!(a_pair(&b.target().one_device()).await, 0);
}

/// Trap 17: a deferred foreign key that fails at COMMIT takes the whole upload,
/// and those of other users in the same transaction, with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deferred_reference_refuses_is_refused_inside_the_savepoint() {
    let database = shop().await;
    let server = Server::answering(&database, config()).await;
    let device = server.target().one_device();
    let (bad, good, item) = (fresh_key(), fresh_key(), fresh_key());
    let upload = [
        // Its business row is refused, so that its child's reference is too.
        insert(1, "shop.lists", &bad, json!({"title": "bad"})),
        insert(2, "shop.items", &item, json!({"list_id": bad})),
        insert(3, "shop.lists", &good, json!({"title": "good"})),
        insert(4, "shop.items", &fresh_key(), json!({"list_id": good})),
    ];
    device.applied(&upload).await;
    let failed = device.failures("").await;
    let errors: Vec<&str> = failed
        .iter()
        .filter_map(|row| row["error"].as_str())
        .collect();
    assert_eq!(errors.len(), 2, "{failed:?}");
    assert!(
        errors.iter().any(|error| error.contains("In List")),
        "{errors:?}"
    );
    let there = "SELECT count(*) FROM shop.items i JOIN shop.lists l ON l.id = i.list_id";
    assert_eq!(database.ask(there).await.as_deref(), Some("1"));

    // Many users at once share transactions; each fails alone.
    let users = (0..8).map(|n| {
        let device = server.target().one_device();
        async move {
            let (list, title) = (fresh_key(), if n % 2 == 0 { "bad" } else { "good" });
            let upload = [
                insert(1, "shop.lists", &list, json!({"title": title})),
                insert(2, "shop.items", &fresh_key(), json!({"list_id": list})),
            ];
            device.applied(&upload).await;
            assert_eq!(
                device.failures("").await.len(),
                if n % 2 == 0 { 2 } else { 0 }
            );
        }
    });
    futures_util::future::join_all(users).await;

    // The parent's next state is written, the child's failure can be retried.
    device
        .applied(&[update(5, "shop.lists", &bad, 1, json!({"title": "better"}))])
        .await;
    assert_eq!(device.failures("").await.len(), 1);
}

const TREE: &str = "CREATE SCHEMA shop;
    CREATE TABLE shop.roots (id uuid PRIMARY KEY, owner text, name text UNIQUE);
    CREATE TABLE shop.boughs (id uuid PRIMARY KEY, owner text, root_id uuid REFERENCES shop.roots ON DELETE CASCADE);
    CREATE TABLE shop.leaves (
        id text PRIMARY KEY, bough_id uuid REFERENCES shop.boughs ON DELETE CASCADE, next text REFERENCES shop.leaves ON DELETE CASCADE);
    CREATE TABLE shop.labels (id uuid PRIMARY KEY, root text REFERENCES shop.roots (name) ON DELETE SET NULL)";

/// A delete that reaches rows which are live in the stream: they no longer equal
/// what was synchronised, and stand in the failure list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_with_a_parent_stands_in_the_failure_list() {
    let database = Backend::Postgres.database().await;
    database.execute(TREE).await;
    let tables: toml::Table = toml::from_str(
        "tables = [{ schema = 'shop', table = 'roots', owner_column = 'owner' },
        { schema = 'shop', table = 'boughs', owner_column = 'owner' },
        { schema = 'shop', table = 'leaves' }, { schema = 'shop', table = 'labels' }]",
    )
    .expect("TOML");
    let config = Config::default().set("tables", tables["tables"].clone());
    let server = Server::answering(&database, config).await;
    let (device, other) = (server.target().one_device(), server.target().one_device());
    let keys: Vec<String> = (0..7).map(|_| fresh_key()).collect();
    let [root, bough, leaf, next, label, gone, apart] = &keys[..] else {
        unreachable!("seven keys");
    };
    let grow = [
        insert(1, "shop.roots", root, json!({"name": "oak"})),
        insert(2, "shop.boughs", bough, json!({"root_id": root})),
        insert(3, "shop.leaves", leaf, json!({"bough_id": bough})),
        insert(4, "shop.leaves", next, json!({"next": leaf})),
        insert(6, "shop.boughs", gone, json!({"root_id": root})),
        insert(7, "shop.leaves", apart, json!({})),
    ];
    device.applied(&grow).await;
    device
        .applied(&[insert(8, "shop.labels", label, json!({"root": "oak"}))])
        .await;
    other
        .applied(&[insert(1, "shop.leaves", &fresh_key(), json!({}))])
        .await;
    assert_eq!(device.failures("").await, Vec::<Value>::new());

    // One child is written and one is deleted in the same upload.
    let fell = [
        delete(11, "shop.roots", root, 1),
        delete(12, "shop.boughs", gone, 1),
        update(13, "shop.leaves", leaf, 1, json!({"bough_id": bough})),
    ];
    device.applied(&fell).await;
    assert_eq!(
        database
            .ask("SELECT count(*) FROM shop.leaves")
            .await
            .as_deref(),
        Some("2")
    );
    let failed = device.failures("").await;
    let mut found: Vec<(&str, bool, i64)> = failed
        .iter()
        .map(|row| {
            let error = row["error"].as_str().expect("a text");
            let version = row["attempted_version"].as_i64().expect("a number");
            (
                row["pk"].as_str().expect("a key"),
                error.contains("CASCADE"),
                version,
            )
        })
        .collect();
    found.sort_unstable();
    let mut expected = vec![
        (bough.as_str(), true, 1),
        (leaf.as_str(), true, 2),
        (next.as_str(), true, 1),
        (label.as_str(), false, 1),
    ];
    expected.sort_unstable();
    assert_eq!(found, expected, "{failed:?}");
    assert!(other.failures("").await.is_empty());
    let verified = oversync_tests::server::command()
        .args(["verify", "--config"])
        .arg(server.config())
        .output()
        .expect("it runs");
    assert!(verified.status.success(), "{verified:?}");

    // The parent comes back; the children can be written again, in their order.
    device
        .applied(&[update(21, "shop.roots", root, 2, json!({"name": "oak"}))])
        .await;
    for key in [bough, leaf, next, label] {
        let row = failed.iter().find(|row| row["pk"] == json!(key));
        let id = &row.expect("recorded")["id"];
        let retry = "/admin/materialize-failures/retry";
        let request = device.request(reqwest::Method::POST, retry);
        let again = HttpDevice::send(request.json(&json!({ "id": id })))
            .await
            .ok();
        assert_eq!(again["status"], "applied", "{again}");
    }
    assert!(device.failures("").await.is_empty());
    assert_eq!(
        database
            .ask("SELECT count(*) FROM shop.leaves")
            .await
            .as_deref(),
        Some("4")
    );
    let labelled = "SELECT count(*) FROM shop.labels WHERE root = 'oak'";
    assert_eq!(database.ask(labelled).await.as_deref(), Some("1"));
}
