//! The doctor as a library: faults of the way, the token and the file that the
//! command line meets less often, planted one by one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oversqlite::{Client, Diagnosis, Gravity, RowVerdict, Symptom, UserId, diagnose};
use oversync_tests::app::BLOG;
use oversync_tests::device::insert;
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Server};
use rusqlite::Connection;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3_600);

/// A file with the example's tables.
fn file() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let path = folder.path().join("app.db");
    write(&path, BLOG);
    (folder, path)
}

fn write(path: &Path, sql: &str) {
    let file = Connection::open(path).expect("the file opens");
    file.busy_timeout(Duration::from_secs(10)).expect("set");
    file.execute_batch(sql).expect("the SQL runs");
}

fn config(path: &Path, base: &str, user: &str, token: &str) -> oversqlite::Config {
    let token = token.to_owned();
    let user = UserId::new(user).expect("a user");
    oversqlite::Config::new(path, base, user, move || {
        let token = token.clone();
        async move { Ok(token) }
    })
    .device(oversqlite::DeviceId::new("phone").expect("a device"))
    .schema("business")
    .table("users")
    .table("posts")
}

async fn examine(config: &oversqlite::Config) -> Diagnosis {
    diagnose(config, None, |_, _| {}).await.expect("examined")
}

#[track_caller]
fn has(found: &Diagnosis, symptom: Symptom, gravity: Gravity) {
    let finding = found
        .findings
        .iter()
        .find(|finding| finding.symptom == symptom);
    let finding = finding.unwrap_or_else(|| panic!("no {symptom:?} in {:#?}", found.findings));
    assert_eq!(finding.gravity, gravity, "{finding:?}");
    assert!(found.gravity >= gravity);
    assert!(!finding.what.is_empty() && !finding.advice.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_the_way_is_named() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (_folder, path) = file();
    let token = server.target().token("user-ann", "phone", HOUR);
    let base = server.target().base().to_owned();

    let fresh = examine(&config(&path, &base, "user-ann", &token)).await;
    has(&fresh, Symptom::NotInitialised, Gravity::Trouble);
    let client = Client::open(config(&path, &base, "user-ann", &token))
        .await
        .expect("opens");
    client.sync().await.expect("synchronised");
    client.stop().await;
    let well = examine(&config(&path, &base, "user-ann", &token)).await;
    assert_eq!((well.gravity, &well.findings[..]), (Gravity::Note, &[][..]));

    let bad = examine(&config(&path, "nowhere", "user-ann", &token)).await;
    has(&bad, Symptom::BadAddress, Gravity::Trouble);
    assert!(bad.is_offline() && bad.server.is_none());
    let foreign = examine(&config(&path, &base, "user-bob", &token)).await;
    has(&foreign, Symptom::ForeignFile, Gravity::Trouble);
    let old = config(&path, &base, "user-ann", &token).schema_version(99);
    has(
        &examine(&old).await,
        Symptom::SchemaVersion,
        Gravity::Trouble,
    );

    let through = async |judge: fn(&str) -> Verdict| {
        let proxy = Proxy::start(server.address(), judge).await;
        examine(&config(&path, &proxy.base(), "user-ann", &token)).await
    };
    let found = through(|line| match line.contains("/sync/ws") {
        true => Verdict::Refuse(403),
        false => Verdict::Pass,
    });
    has(&found.await, Symptom::NoHints, Gravity::Note);
    let found = through(|line| match line.contains("/sync/capabilities") {
        true => Verdict::Busy(1),
        false => Verdict::Pass,
    });
    has(&found.await, Symptom::Overloaded, Gravity::Waiting);
    let found = through(|line| match line.contains("/sync/upload") {
        true => Verdict::Refuse(500),
        false => Verdict::Pass,
    });
    has(&found.await, Symptom::ServerFails, Gravity::Trouble);

    let opaque = examine(&config(&path, &base, "user-ann", "a key of another kind")).await;
    has(&opaque, Symptom::OpaqueToken, Gravity::Note);
    has(&opaque, Symptom::TokenRefused, Gravity::Trouble);
    let claims = json!({"sub": "user-ann", "did": "phone", "exp": 9_999_999_999_i64, "nbf": 9_999_999_000_i64});
    let later = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let later = examine(&config(&path, &base, "user-ann", &later)).await;
    has(&later, Symptom::TokenNotYetValid, Gravity::Trouble);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_file_keeps_is_named() {
    let database = Backend::Embedded.database().await;
    let lax = Config::default().set("foreign_keys", "disabled");
    let server = Server::start(&database, lax).await;
    let (_folder, path) = file();
    let token = server.target().token("user-ann", "phone", HOUR);
    let config = config(&path, server.target().base(), "user-ann", &token);
    // A child arrives whose parent does not.
    let (child, parent) = (fresh_key(), fresh_key());
    let tablet = server.target().device("user-ann", "tablet");
    let row = json!({"id": child, "title": "t", "author_id": parent});
    assert_eq!(
        tablet
            .upload_one(insert(1, "business.posts", &child, row))
            .await["status"],
        "applied"
    );
    let client = Client::open(config.clone()).await.expect("opens");
    client.sync().await.expect("synchronised");
    client.stop().await;
    let found = diagnose(&config, Some(("posts", &child)), |_, _| {})
        .await
        .expect("examined");
    has(&found, Symptom::ParkedForNow, Gravity::Waiting);
    assert_eq!(found.row.expect("a row").verdict, RowVerdict::Parked);

    let key = fresh_key().replace('-', "");
    write(&path, &format!(
        "UPDATE _sync_client SET shares_device = 1;
         INSERT INTO _sync_conflicts (tbl, pk, theirs_version, outcome, at) VALUES (1, x'{key}', 1, 'theirs', 0);
         INSERT INTO _sync_pending (tbl, pk, local_key, seq) VALUES (1, x'{key}', '{key}', 7);
         INSERT INTO _sync_pending (tbl, pk, local_key, seq, waits_tbl, waits_pk)
         VALUES (2, x'{key}', '{key}', 8, 1, x'{key}')"
    ));
    let found = examine(&config).await;
    has(&found, Symptom::SharedDevice, Gravity::Note);
    has(&found, Symptom::ConflictsKept, Gravity::Note);
    has(&found, Symptom::WaitsForRow, Gravity::Waiting);
    has(&found, Symptom::Unsent, Gravity::Waiting);
    let row = diagnose(&config, Some(("posts", &key)), |_, _| {})
        .await
        .expect("examined")
        .row;
    assert_eq!(row.expect("a row").verdict, RowVerdict::WaitsForRow);
}
