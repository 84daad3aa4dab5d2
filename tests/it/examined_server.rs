//! `oversync doctor`: planted faults, each found by it alone, and a healthy system in
//! which none is reported. The device's doctor has its own (`doctor.rs`).

use oversync_tests::conformance::business_tables;
use oversync_tests::device::{delete, insert};
use oversync_tests::folding::long_written;
use oversync_tests::server::{SECRET, output, program};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    ADMIN_TOKEN, Authority, Backend, Config, Database, HttpDevice, Port, Server, eventually,
    on_both_stores,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

const USERS: &str = "business.users";
const BOOKS: &str = "shelf.books";

on_both_stores!(
    nothing_is_found_in_a_healthy_system,
    nothing_is_found_where_no_server_runs,
    another_secret_than_the_running_server_has,
    another_operators_token_than_the_running_server_has,
    another_database_than_the_running_server_has,
    a_column_that_went_and_one_of_another_type,
    a_table_that_went,
    a_table_that_cannot_be_projected,
    a_schema_of_another_version,
    rows_that_could_not_be_written,
    a_device_that_stayed_behind,
    a_device_that_holds_the_log,
    places_that_a_restore_has_left_out,
    two_tables_that_are_one,
    of_very_many_devices_the_first_are_looked_at,
    a_row_that_never_came,
    a_row_that_was_deleted,
    a_business_row_that_another_program_deleted,
    a_column_that_only_devices_have,
);

/// Without `--server`, no server is asked: another test's could be met.
fn settings() -> Config {
    Config::default()
        .operators()
        .set("listen", "127.0.0.1:0")
        .set("retention.enabled", false)
}

struct Ward {
    database: Database,
    server: Server,
}

impl Ward {
    async fn open(backend: Backend, tune: impl FnOnce(Config) -> Config) -> Self {
        let database = backend.database().await;
        database.execute(business_tables(backend)).await;
        let config = tune(settings());
        let server = Server::answering(&database, config).await;
        Self { database, server }
    }

    fn device(&self) -> HttpDevice {
        self.server.target().one_device()
    }

    /// Examines with the server's own settings.
    async fn examine(&self, args: &[&str]) -> Value {
        self.examine_with(self.server.config().to_owned(), args)
            .await
    }

    /// Examines with other ones.
    async fn examine_as(&self, tune: impl FnOnce(Config) -> Config, args: &[&str]) -> Value {
        let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
        let config = settings().set("database_url", self.database.url());
        let file = folder.path().join("other.toml");
        std::fs::write(&file, tune(config).to_toml()).expect("the settings are written");
        self.examine_with(file, args).await
    }

    async fn examine_with(&self, config: PathBuf, args: &[&str]) -> Value {
        let server = format!("http://{}", self.server.address());
        let operators = self.server.admin().base().to_owned();
        let mut all = vec!["--server", &server, "--operators", &operators];
        all.extend_from_slice(args);
        doctor(config, &all).await
    }
}

/// Runs `oversync doctor`; its report, having checked that the exit code fits it.
async fn doctor(config: PathBuf, args: &[&str]) -> Value {
    let output = run(config, &[&["--json"], args].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let expected = match (
        troubles(&report).is_empty(),
        report["not_looked_at"] == json!([]),
    ) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 0,
    };
    assert_eq!(output.status.code(), Some(expected), "{report:#}");
    assert!(
        !text.contains(SECRET) && !text.contains(ADMIN_TOKEN),
        "no secret is told"
    );
    report
}

async fn run(config: PathBuf, args: &[&str]) -> Output {
    output(program(&config, &[&["doctor"], args].concat())).await
}

fn troubles(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let grave = findings.filter(|finding| finding["gravity"] == "trouble");
    grave
        .map(|finding| {
            let said = |name: &'static str| finding[name].as_str().expect("a text");
            (said("about"), said("what"))
        })
        .collect()
}

/// The one thing that is wrong.
#[track_caller]
fn one(report: &Value, about: &str, words: &[&str]) {
    let found = troubles(report);
    let [(said, what)] = found[..] else {
        panic!("one thing is wrong, not {found:#?}")
    };
    assert_eq!(said, about, "{what}");
    for word in words {
        assert!(what.contains(word), "{word} in: {what}");
    }
    assert_eq!(
        report["verdict"],
        "one thing is wrong; see above what to do"
    );
}

async fn nothing_is_found_in_a_healthy_system(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (ada, bob) = ward.server.target().two_devices();
    let key = fresh_key();
    ada.upload(&[
        insert(1, BOOKS, &key, json!({"title": "a", "pages": 3})),
        insert(2, USERS, &fresh_key(), json!({})),
    ])
    .await;
    bob.download("").await;
    let row = format!("shelf.books/{key}");
    let report = ward.examine(&["--user", ada.user(), "--row", &row]).await;
    assert_eq!(troubles(&report), []);
    assert_eq!(
        report["verdict"],
        "all is well, as far as can be seen from here"
    );
    let looked = report["looked_at"].to_string();
    for word in [
        "a token minted with them is taken",
        "reaches its database",
        "as the running server found them",
        "version 1 at place 2, by device ada (change 1)",
        "the server's clock agrees",
    ] {
        assert!(looked.contains(word), "{word} in {looked}");
    }
    assert_eq!(
        looked.contains("database's clock"),
        backend == Backend::Postgres
    );
    // In words, too.
    let output = run(ward.server.config().to_owned(), &[]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("\nverdict      all is well"),
        "{text}"
    );
}

async fn nothing_is_found_where_no_server_runs(backend: Backend) {
    let mut ward = Ward::open(backend, |config| config).await;
    let device = ward.device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    ward.server.terminate().await;
    let report = doctor(ward.server.config().to_owned(), &["--user", device.user()]).await;
    assert_eq!(troubles(&report), []);
    // Whoever says where it is, expects it.
    let report = ward.examine(&[]).await;
    one(
        &report,
        "server",
        &["no server answers at http://127.0.0.1"],
    );
}

async fn another_secret_than_the_running_server_has(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let other =
        |config: Config| config.set("jwt_secret", "another secret of forty and some bytes ...");
    let report = ward.examine_as(other, &[]).await;
    one(&report, "keys", &["refuses a token", "another secret"]);
}

/// With public keys the doctor has no token to show, and said nothing of it.
#[tokio::test]
async fn tokens_of_somebody_else_cannot_be_tried() {
    let ward = Ward::open(Backend::Embedded, |config| config).await;
    let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    let file = folder.path().join("public.pem");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key pair");
    std::fs::write(&file, pair.public_key_pem()).expect("written");
    let public = |config: Config| {
        config
            .unset("jwt_secret")
            .set("auth.algorithm", "EdDSA")
            .set("auth.public_key_file", file.display().to_string())
    };
    let report = ward.examine_as(public, &[]).await;
    assert_eq!(troubles(&report), []);
    let findings = report["findings"].as_array().expect("findings").iter();
    let said: Vec<&str> = findings
        .filter(|finding| finding["gravity"] == "note")
        .filter_map(|finding| finding["what"].as_str())
        .collect();
    assert!(
        said.iter()
            .any(|what| what.contains("signed by somebody else, so none was shown")),
        "{said:?}"
    );
}

async fn another_operators_token_than_the_running_server_has(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let other =
        |config: Config| config.set("admin_token", "another-token-of-operators-of-some-length");
    let report = ward.examine_as(other, &[]).await;
    one(&report, "keys", &["does not take the operators' token"]);
}

async fn another_database_than_the_running_server_has(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let other = Ward::open(backend, |config| config).await;
    let url = other.database.url().to_owned();
    let report = ward
        .examine_as(|config| config.set("database_url", url), &[])
        .await;
    one(&report, "server", &["another database"]);
}

async fn a_column_that_went_and_one_of_another_type(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let sql = match backend {
        Backend::Postgres => {
            "ALTER TABLE shelf.books DROP COLUMN pages; ALTER TABLE shelf.chapters ALTER COLUMN title TYPE varchar(40)"
        }
        Backend::Embedded => {
            "ALTER TABLE books DROP COLUMN pages; ALTER TABLE chapters RENAME TO old; \
             CREATE TABLE chapters (id TEXT PRIMARY KEY NOT NULL, book_id TEXT REFERENCES books (id), title VARCHAR(40) NOT NULL)"
        }
    };
    ward.database.execute(sql).await;
    let report = ward.examine(&[]).await;
    let found = troubles(&report);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].1.contains("shelf.books has lost the column pages"),
        "{found:#?}"
    );
    assert!(
        found[1].1.contains("shelf.chapters.title was of type"),
        "{found:#?}"
    );
    assert_eq!(
        report["verdict"],
        "2 things are wrong; the first may explain the others"
    );
}

async fn a_table_that_went(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let sql = match backend {
        Backend::Postgres => "DROP TABLE shelf.chapters",
        Backend::Embedded => "DROP TABLE chapters",
    };
    ward.database.execute(sql).await;
    one(
        &ward.examine(&[]).await,
        "tables",
        &["shelf.chapters is gone since the server started"],
    );
}

async fn a_table_that_cannot_be_projected(backend: Backend) {
    let mut ward = Ward::open(backend, |config| config).await;
    ward.server.terminate().await;
    let sql = match backend {
        Backend::Postgres => {
            "CREATE SCHEMA business; CREATE TABLE business.users (a int, b int, PRIMARY KEY (a, b))"
        }
        Backend::Embedded => "CREATE TABLE users (a INTEGER, b INTEGER, PRIMARY KEY (a, b))",
    };
    ward.database.execute(sql).await;
    let report = doctor(ward.server.config().to_owned(), &[]).await;
    one(
        &report,
        "tables",
        &["business.users has a composite primary key"],
    );
}

/// The server looked for this, and the doctor did not.
async fn two_tables_that_are_one(backend: Backend) {
    let mut ward = Ward::open(backend, |config| config).await;
    ward.server.terminate().await;
    let tables: toml::Table = toml::from_str(
        "tables = [{ schema = 'shelf', table = 'books' }, { schema = 'attic', table = 'books' }]",
    )
    .expect("TOML");
    let config = settings()
        .set("database_url", ward.database.url())
        .set("tables", tables["tables"].clone());
    std::fs::write(ward.server.config(), config.to_toml()).expect("written");
    let report = doctor(ward.server.config().to_owned(), &[]).await;
    match backend {
        Backend::Embedded => one(
            &report,
            "tables",
            &["shelf.books and attic.books would be the same table"],
        ),
        Backend::Postgres => assert_eq!(troubles(&report), []),
    }
}

async fn a_schema_of_another_version(backend: Backend) {
    let mut ward = Ward::open(backend, |config| config).await;
    ward.server.terminate().await;
    let sql = match backend {
        Backend::Postgres => {
            "DELETE FROM oversync._migrations WHERE version = (SELECT max(version) FROM oversync._migrations)"
        }
        Backend::Embedded => {
            "DELETE FROM _oversync_migrations WHERE step = (SELECT max(step) FROM _oversync_migrations)"
        }
    };
    ward.database.execute(sql).await;
    let report = doctor(ward.server.config().to_owned(), &[]).await;
    one(&report, "database", &["schema steps"]);
}

async fn rows_that_could_not_be_written(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (device, other, key) = (ward.device(), ward.device(), fresh_key());
    device
        .upload(&[insert(1, BOOKS, &key, json!({"title": ""}))])
        .await;
    other
        .upload(&[insert(1, BOOKS, &fresh_key(), json!({"title": "good"}))])
        .await;
    one(
        &ward.examine(&[]).await,
        "failures",
        &[&key, device.user(), "could not be written at version 1"],
    );
    // Another user is well.
    assert_eq!(troubles(&ward.examine(&["--user", other.user()]).await), []);
    // Of the row, both are said: the failure, and that it is not there.
    let row = format!("books/{key}");
    let report = ward
        .examine(&["--user", device.user(), "--row", &row])
        .await;
    let found = troubles(&report);
    assert_eq!(
        found.iter().map(|(about, _)| *about).collect::<Vec<_>>(),
        ["failures", "row"]
    );
    assert!(
        found[1].1.contains("because it could not be written"),
        "{found:#?}"
    );
}

/// Moves what is written down of a device into the past.
async fn long_ago(ward: &Ward, device: &str, days: i64) {
    let sql = match ward.database.backend() {
        Backend::Postgres => format!(
            "UPDATE oversync.readers SET read_at = now() - interval '{days} days', seen_at = now() - interval '{days} days' WHERE device_id = '{device}'"
        ),
        Backend::Embedded => format!(
            "UPDATE _oversync_readers SET read_at = read_at - {0}, seen_at = seen_at - {0} WHERE device_id = '{device}'",
            days * 86_400 * 1_000_000
        ),
    };
    ward.database.execute(&sql).await;
}

/// Waits until the server has written down how far a device has read.
async fn written_down(ward: &Ward, device: &str) {
    let table = match ward.database.backend() {
        Backend::Postgres => "oversync.readers",
        Backend::Embedded => "_oversync_readers",
    };
    let sql = format!("SELECT cursor FROM {table} WHERE device_id = '{device}'");
    eventually("what was heard is written down", || ward.database.ask(&sql)).await;
}

async fn a_device_that_stayed_behind(backend: Backend) {
    let often = |config: Config| {
        config
            .set("retention.enabled", false)
            .set("retention.pause_ms", 100)
    };
    let mut ward = Ward::open(backend, often).await;
    let (ada, bob) = ward.server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    bob.download("after=1").await;
    written_down(&ward, "bob").await;
    ada.upload(&[insert(2, USERS, &fresh_key(), json!({}))])
        .await;
    // Behind, and here just now: that is nothing.
    let report = ward.examine(&["--user", ada.user()]).await;
    assert_eq!(troubles(&report), []);
    // Nobody writes down anything of it any more.
    ward.server.terminate().await;
    long_ago(&ward, "bob", 9).await;
    let report = doctor(ward.server.config().to_owned(), &["--user", ada.user()]).await;
    one(
        &report,
        "device",
        &["device bob is 1 entries behind", "9 days ago"],
    );
}

async fn a_device_that_holds_the_log(backend: Backend) {
    let folding = |config: Config| {
        config
            .set("retention.enabled", true)
            .set("retention.pause_ms", 100)
            .set("retention.keep_seconds", 1)
            .set("retention.min_entries", 2)
    };
    let mut ward = Ward::open(backend, folding).await;
    let (ada, bob) = ward.server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    bob.download("after=1").await;
    written_down(&ward, "bob").await;
    for id in 2..6 {
        ada.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
    }
    eventually("the entries are old enough", || async {
        let report = ward.examine(&["--user", ada.user()]).await;
        (!troubles(&report).is_empty()).then_some(())
    })
    .await;
    ward.server.terminate().await;
    let report = doctor(ward.server.config().to_owned(), &["--user", ada.user()]).await;
    one(
        &report,
        "retention",
        &["wait for device bob", "cursor is 1"],
    );
}

/// And that is said.
async fn of_very_many_devices_the_first_are_looked_at(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let device = ward.device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let user = device.user();
    let path = format!("/admin/user?user={user}");
    let one = ward.server.admin().get(&path).await.ok();
    assert_eq!(one["of_the_first"], Value::Null, "{one}");
    let sql = match backend {
        Backend::Postgres => format!(
            "INSERT INTO oversync.revoked (user_id, device_id, revoked_at) \
             SELECT '{user}', 'device-' || n, now() FROM generate_series(1, 500) n"
        ),
        Backend::Embedded => format!(
            "INSERT INTO _oversync_revoked (user_id, device_id, revoked_at) \
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500) \
             SELECT '{user}', 'device-' || n, 1 FROM n"
        ),
    };
    ward.database.execute(&sql).await;
    let one = ward.server.admin().get(&path).await.ok();
    assert_eq!(one["of_the_first"], 500, "{one}");
    let report = ward.examine(&["--user", user]).await.to_string();
    assert!(report.contains("of the first 500 by name"), "{report}");
}

/// They are no entries: nobody waits for them, and nobody lacks them.
async fn places_that_a_restore_has_left_out(backend: Backend) {
    let waiting = |config: Config| {
        config
            .set("retention.enabled", true)
            .set("retention.pause_ms", 100)
            .set("retention.min_entries", 100)
    };
    let mut ward = Ward::open(backend, waiting).await;
    let (ada, bob) = ward.server.target().two_devices();
    for id in 1..4 {
        ada.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
    }
    bob.download("after=2").await;
    written_down(&ward, "bob").await;
    ward.server.terminate().await;
    ward.server.told(&["restore", "--in-place", "--json"]).await;
    ward.server.restart(Port::Same).await;
    ada.upload(&[insert(4, USERS, &fresh_key(), json!({}))])
        .await;
    ward.server.terminate().await;
    long_written(&ward.database).await;
    let report = doctor(ward.server.config().to_owned(), &["--user", ada.user()]).await;
    assert_eq!(troubles(&report), []);
    long_ago(&ward, "bob", 9).await;
    let report = doctor(ward.server.config().to_owned(), &["--user", ada.user()]).await;
    one(&report, "device", &["device bob is 2 entries behind"]);
}

async fn a_row_that_never_came(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (device, key) = (ward.device(), fresh_key());
    let other = ward.device();
    other.upload(&[insert(1, USERS, &key, json!({}))]).await;
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let row = format!("users/{key}");
    let report = ward
        .examine(&["--user", device.user(), "--row", &row])
        .await;
    one(&report, "row", &["has never taken a change of it", &key]);
    let row = format!("nowhere/{key}");
    let report = ward
        .examine(&["--user", device.user(), "--row", &row])
        .await;
    one(&report, "row", &["no table nowhere is synchronised"]);
    let report = ward.examine(&["--user", "nobody"]).await;
    one(
        &report,
        "user",
        &["never taken anything from a user called nobody"],
    );
}

async fn a_row_that_was_deleted(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (ada, bob) = ward.server.target().two_devices();
    let key = fresh_key();
    ada.upload(&[insert(1, BOOKS, &key, json!({"title": "a"}))])
        .await;
    bob.upload(&[delete(7, BOOKS, &key, 1)]).await;
    let row = format!("shelf.books/{key}");
    let report = ward.examine(&["--user", ada.user(), "--row", &row]).await;
    one(
        &report,
        "row",
        &["deleted at place 2, by device bob (change 7)", "version 2"],
    );
}

async fn a_business_row_that_another_program_deleted(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (device, key) = (ward.device(), fresh_key());
    device
        .upload(&[insert(1, BOOKS, &key, json!({"title": "a"}))])
        .await;
    let sql = match backend {
        Backend::Postgres => "DELETE FROM shelf.books",
        Backend::Embedded => "DELETE FROM books",
    };
    ward.database.execute(sql).await;
    let row = format!("books/{key}");
    let report = ward
        .examine(&["--user", device.user(), "--row", &row])
        .await;
    one(
        &report,
        "row",
        &["not in the business table, and no failure says why"],
    );
}

async fn a_column_that_only_devices_have(backend: Backend) {
    let ward = Ward::open(backend, |config| config).await;
    let (device, key) = (ward.device(), fresh_key());
    device
        .upload(&[insert(
            1,
            BOOKS,
            &key,
            json!({"title": "a", "colour": "red"}),
        )])
        .await;
    let row = format!("books/{key}");
    let report = ward
        .examine(&["--user", device.user(), "--row", &row])
        .await;
    one(&report, "row", &["the device sends colour"]);
    // In words, nothing of it can move a terminal's cursor.
    let key = fresh_key();
    device
        .upload(&[insert(
            2,
            BOOKS,
            &key,
            json!({"title": "a", "\u{1b}[2J": 1}),
        )])
        .await;
    let row = format!("books/{key}");
    let args = ["--user", device.user(), "--row", &row];
    let output = run(ward.server.config().to_owned(), &args).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there() {
    let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    for url in [
        format!("sqlite://{}/missing.db", folder.path().display()),
        "postgres://nobody@127.0.0.1:1/app".to_owned(),
    ] {
        let file = folder.path().join("oversync.toml");
        let config = Config::default()
            .set("database_url", url)
            .set("listen", "127.0.0.1:0");
        std::fs::write(&file, config.to_toml()).expect("the settings are written");
        one(
            &doctor(file, &[]).await,
            "database",
            &["it cannot be opened"],
        );
    }
    assert!(
        !folder.path().join("missing.db").exists(),
        "nothing is made"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_used() {
    let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    let file = folder.path().join("oversync.toml");
    for (config, word) in [
        (Config::default().unset("jwt_secret"), "jwt_secret"),
        (
            Config::default()
                .unset("jwt_secret")
                .set("jwt_secret_file", "missing.secret"),
            "missing.secret",
        ),
        (Config::default().set("lissten", "127.0.0.1:1"), "lissten"),
    ] {
        std::fs::write(&file, config.to_toml()).expect("the settings are written");
        one(&doctor(file.clone(), &[]).await, "settings", &[word]);
    }
    // Arguments that mean nothing are no finding.
    std::fs::write(&file, Config::default().to_toml()).expect("the settings are written");
    for wrong in [
        &["--row", "users/7", "--user", "u"][..],
        &["--row", "users/7"],
        &["--user", ""],
    ] {
        let output = run(file.clone(), wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_or_has_ended() {
    let backend = Backend::Embedded;
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    server
        .target()
        .one_device()
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    server.terminate().await;
    let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    for (days, words) in [
        (-1, Some("ended at")),
        (3, Some("ends in 2 days")),
        (20, None),
        (400, None),
    ] {
        let (certificate, key) = Authority::default().certify_for(days);
        let (pem, secret) = (
            folder.path().join("server.pem"),
            folder.path().join("server.key"),
        );
        std::fs::write(&pem, certificate).expect("written");
        std::fs::write(&secret, key).expect("written");
        let file = folder.path().join("oversync.toml");
        let config = Config::default()
            .set("database_url", database.url())
            .set("listen", "127.0.0.1:0")
            .set("tls.certificate_file", pem.display().to_string())
            .set("tls.key_file", secret.display().to_string());
        std::fs::write(&file, config.to_toml()).expect("the settings are written");
        let report = doctor(file, &[]).await;
        match words {
            Some(words) => one(&report, "certificate", &[words]),
            None => assert_eq!(troubles(&report), [], "{days}"),
        }
        assert_eq!(report.to_string().contains("ends in 19 days"), days == 20);
    }
}
