//! Whose fault it is: what goes wrong with one row's business row, in a trigger or in
//! a host's handler, is that row's failure, whatever the database calls it; other
//! users' uploads do not suffer.

use crate::handlers::{Shop, thing};
use oversync_tests::device::{delete, insert};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Server, eventually, on_both_stores, server,
};
use serde_json::{Value, json};

on_both_stores!(what_a_handler_does_elsewhere_is_its_rows_failure);

/// A second connection of the host's breaks, is refused, or is in the way.
async fn what_a_handler_does_elsewhere_is_its_rows_failure(backend: Backend) {
    let shop = Shop::open(backend).await;
    let (ada, eve) = (shop.device(), shop.device());
    let bad = match backend {
        Backend::Postgres => vec![
            ("connect elsewhere", "refused"),
            ("conflict elsewhere", "could not serialize, ever"),
            // Of the upload's own transaction, and never passing.
            ("conflict", "could not serialize, ever"),
        ],
        Backend::Embedded => vec![("write elsewhere", "locked")],
    };
    for (id, (what, expected)) in (1..).zip(&bad) {
        let (bad, good) = (
            thing(id, &fresh_key(), what),
            thing(id, &fresh_key(), "write"),
        );
        // Together, so that they may share a commit.
        let upload = [bad];
        let good = [good];
        tokio::join!(ada.applied(&upload), eve.applied(&good));
        let failed = ada.failures("").await;
        let text = failed[0]["error"].as_str().expect("a text");
        assert!(text.contains(expected), "{what}: {text}");
        assert_eq!(failed.len() as i64, id, "{failed:?}");
    }
    assert!(eve.failures("").await.is_empty());
    let calls = vec!["upsert 1 NeverSeen"; bad.len()].join(", ");
    assert_eq!(shop.calls("what").await, calls, "only Eve's are there");
}

/// Its deadline lets go of a handler, but not of a statement that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handlers_statement_ends_with_its_time() {
    let shop = Shop::open(Backend::Postgres).await;
    let device = shop.device();
    // Ten minutes: the test's own client would have given up.
    device.applied(&[thing(1, &fresh_key(), "sleep")]).await;
    // Once: it is the row's failure, and no reason to try all of the commit again.
    let naps = "SELECT last_value FROM app.naps";
    assert_eq!(shop.database.ask(naps).await.as_deref(), Some("1"));
    let failed = device.failures("").await;
    let text = failed[0]["error"].as_str().expect("a text");
    assert!(text.contains("took more than"), "{text}");
    // Only the handler's own statements have so little time.
    shop.database
        .execute(
            "CREATE FUNCTION app.say() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     INSERT INTO app.calls (what) VALUES ('statement_timeout ' || current_setting('statement_timeout'));
                     RETURN NEW;
                 END $$;
             CREATE TRIGGER say BEFORE INSERT ON app.parts FOR EACH ROW EXECUTE FUNCTION app.say();",
        )
        .await;
    let limit = "SELECT count(*) FROM app.calls WHERE what = 'statement_timeout 0'";
    device
        .applied(&[
            thing(2, &fresh_key(), "write"),
            insert(3, "app.parts", &fresh_key(), json!({})),
        ])
        .await;
    assert_eq!(shop.database.ask(limit).await.as_deref(), Some("1"));
}

/// Retries hold a connection each for as long as a handler takes: two at a time,
/// whatever is asked for, and everybody else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_retries_run_at_a_time() {
    let shop = Shop::open(Backend::Postgres).await;
    let mut retries = Vec::new();
    for _ in 0..6 {
        let device = shop.device();
        device.applied(&[thing(1, &fresh_key(), "hold")]).await;
        let id = device.failures("").await[0]["id"].clone();
        let path = format!("/admin/materialize-failures/retry?id={id}");
        retries.push(device.request(reqwest::Method::POST, &path));
    }
    // All at once: from here on a handler has ten seconds.
    let retries: Vec<_> = retries
        .into_iter()
        .map(|request| tokio::spawn(async { HttpDevice::send(request).await.ok() }))
        .collect();
    let held = || async {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND state = 'active' AND query LIKE 'DO %app.allowed%'";
        shop.database.ask(sql).await
    };
    eventually("two handlers are held", || async {
        (held().await.as_deref() == Some("2")).then_some(())
    })
    .await;
    let busy = shop.device();
    for id in 1..=3 {
        busy.applied(&[thing(id, &fresh_key(), "write")]).await;
        assert_eq!(held().await.as_deref(), Some("2"));
    }
    shop.database
        .execute("INSERT INTO app.allowed VALUES (1)")
        .await;
    for retry in retries {
        let reply = retry.await.expect("no panic");
        assert_eq!(reply["status"], "applied", "{reply}");
    }
}

async fn shop(sql: &str, config: Config) -> (Server, Database) {
    let database = Backend::Postgres.database().await;
    database.execute(sql).await;
    let tables: toml::Table = toml::from_str(
        "tables = [{ schema = 'shop', table = 'notes' }, { schema = 'shop', table = 'others' }]",
    )
    .expect("TOML");
    let config = config.set("tables", tables["tables"].clone());
    (Server::answering(&database, config).await, database)
}

const NOTES: &str = "CREATE SCHEMA shop;
    CREATE TABLE shop.notes (id uuid PRIMARY KEY, title text CHECK (title <> 'bad'));
    CREATE TABLE shop.others (id uuid PRIMARY KEY);
    CREATE SEQUENCE shop.tries;
    CREATE FUNCTION shop.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('shop.tries');
            IF NEW.title = 'conflict' THEN RAISE EXCEPTION 'never' USING ERRCODE = '40001'; END IF;
            IF NEW.title = 'memory' THEN RAISE EXCEPTION 'never' USING ERRCODE = '53200'; END IF;
            RETURN NEW;
        END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON shop.notes FOR EACH ROW EXECUTE FUNCTION shop.refuse();";

fn note(id: i64, title: &str) -> Value {
    insert(id, "shop.notes", &fresh_key(), json!({ "title": title }))
}

/// What the database calls passing and is not: a few tries, then it is the row's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_never_passes_fails_its_row_alone() {
    let (server, database) = shop(NOTES, Config::default()).await;
    let (ada, eve) = (server.target().one_device(), server.target().one_device());
    for (id, what) in [(1, "conflict"), (11, "memory")] {
        let upload = [note(id, "good"), note(id + 1, what), note(id + 2, "good")];
        let (hers, other) = ([note(id, "good")], &upload);
        tokio::join!(ada.applied(other), eve.applied(&hers));
        let failed = ada.failures("").await;
        assert_eq!(failed[0]["payload"]["title"], what, "{failed:?}");
        assert_eq!(failed[0]["error"], "never");
    }
    assert_eq!(ada.failures("").await.len(), 2);
    assert!(eve.failures("").await.is_empty());
    let count = "SELECT count(*) FROM shop.notes";
    assert_eq!(database.ask(count).await.as_deref(), Some("6"));
    let tries: i64 = database
        .ask("SELECT last_value FROM shop.tries")
        .await
        .and_then(|tries| tries.parse().ok())
        .expect("a number");
    assert!(tries < 100, "tried {tries} times");
}

/// A commit that is taken back has not failed to project anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_counted_once_however_often_its_commit_is_tried() {
    let (server, database) = shop(NOTES, Config::default().operators()).await;
    // The first record of a failure is taken back, with everything.
    database
        .execute(
            "CREATE SEQUENCE shop.records;
             CREATE FUNCTION shop.first() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     IF nextval('shop.records') = 1 THEN
                         RAISE EXCEPTION 'once' USING ERRCODE = '40001';
                     END IF;
                     RETURN NEW;
                 END $$;
             CREATE TRIGGER first BEFORE INSERT ON oversync.failures FOR EACH ROW EXECUTE FUNCTION shop.first();",
        )
        .await;
    let device = server.target().one_device();
    device.applied(&[note(1, "bad"), note(2, "good")]).await;
    assert_eq!(device.failures("").await.len(), 1);
    let counted = server
        .admin()
        .metric("oversync_projection_failures_total")
        .await;
    assert_eq!(counted, 1.0);
    assert_eq!(
        database
            .ask("SELECT last_value FROM shop.records")
            .await
            .as_deref(),
        Some("2")
    );
}

/// Names sort by their bytes in the server and by a language in such a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_may_have_a_collation_of_its_own() {
    let database = Backend::postgres_with(
        "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'",
    )
    .await;
    database
        .execute(
            "CREATE SCHEMA shop;
             CREATE TABLE shop.notes (id uuid PRIMARY KEY, owner text COLLATE \"und-x-icu\", title text);
             CREATE TABLE shop.others (
                 id uuid PRIMARY KEY, owner text COLLATE \"und-x-icu\", note uuid REFERENCES shop.notes ON DELETE CASCADE)",
        )
        .await;
    let tables: toml::Table = toml::from_str(
        "tables = [{ schema = 'shop', table = 'notes', owner_column = 'owner' },
                   { schema = 'shop', table = 'others', owner_column = 'owner' }]",
    )
    .expect("TOML");
    let config = Config::default().set("tables", tables["tables"].clone());
    let server = Server::start(&database, config).await;
    let name = oversync_tests::target::fresh_user();
    let devices: Vec<HttpDevice> = ["a", "B", "c", "\u{e4}"]
        .iter()
        .map(|first| server.target().device(&format!("{first}{name}"), "d"))
        .collect();
    let keys: Vec<String> = devices.iter().map(|_| fresh_key()).collect();
    for (device, key) in devices.iter().zip(&keys) {
        let below = insert(2, "shop.others", &fresh_key(), json!({ "note": key }));
        device
            .applied(&[insert(1, "shop.notes", key, json!({"title": "t"})), below])
            .await;
        assert!(device.failures("").await.is_empty());
    }
    for (device, key) in devices.iter().zip(&keys) {
        device.applied(&[delete(3, "shop.notes", key, 1)]).await;
        let failed = device.failures("").await;
        let text = failed[0]["error"].as_str().expect("a text");
        assert!(failed.len() == 1 && text.contains("CASCADE"), "{failed:?}");
    }
    let verified = server::command()
        .args(["verify", "--all", "--config"])
        .arg(server.config())
        .output()
        .expect("verify runs");
    assert!(verified.status.success(), "{verified:?}");
}
