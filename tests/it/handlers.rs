//! Handlers of a host's own, in its own process: the example, and one that
//! behaves as badly as it is asked to.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::on_both_stores;
use oversync_tests::server::{SECRET, binary, command};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Database, HttpDevice, Target, eventually};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use uuid::Uuid;

on_both_stores!(
    the_example_keeps_its_ledger,
    a_handler_comes_after_parents_and_before_children,
    what_fails_in_a_handler_fails_alone,
    a_failed_row_is_handed_to_the_handler_again,
    users_do_not_meet_in_a_handled_table,
    references_may_be_named_in_the_hosts_own_way,
    verify_leaves_handled_tables_out_and_says_so,
    folding_asks_for_no_handler,
    folding_refuses_rings_that_only_the_host_reads,
);

/// A host application. It ends with this.
struct Host {
    child: Child,
    target: Target,
    // Kept open, so that the process can go on talking.
    _output: BufReader<ChildStdout>,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Host {
    fn start(program: &str, database: &Database, secret: &str) -> Self {
        let mut child = Command::new(binary(program))
            .env("DATABASE_URL", database.url())
            .env("LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            // Only the panics that it is asked for.
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ");
        let url = url.expect("it says where it listens").to_owned();
        Self {
            child,
            target: Target::new(url, secret),
            _output: output,
        }
    }
}

fn schema(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA app;
             CREATE TABLE app.groups (id uuid PRIMARY KEY, owner text NOT NULL);
             CREATE TABLE app.parts (id uuid PRIMARY KEY, owner text NOT NULL, thing_id uuid);
             CREATE TABLE app.calls (seq bigint GENERATED ALWAYS AS IDENTITY, owner text, id uuid, what text, \"groups\" int, parts int);
             CREATE TABLE app.allowed (yes int);
             CREATE SEQUENCE app.naps;
             CREATE TABLE app.chain (id int PRIMARY KEY, after int CONSTRAINT one_after_another REFERENCES app.chain DEFERRABLE INITIALLY DEFERRED)"
        }
        Backend::Embedded => {
            "CREATE TABLE \"groups\" (id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL);
             CREATE TABLE parts (id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, thing_id TEXT);
             CREATE TABLE calls (seq INTEGER PRIMARY KEY, owner TEXT, id TEXT, what TEXT, \"groups\" INT, parts INT);
             CREATE TABLE allowed (yes INT)"
        }
    }
}

pub(crate) struct Shop {
    // Dropped in this order.
    host: Host,
    pub(crate) database: Database,
}

impl Shop {
    pub(crate) async fn open(backend: Backend) -> Self {
        let database = backend.database().await;
        database.execute(schema(backend)).await;
        let host = Host::start("host", &database, SECRET);
        Self { host, database }
    }

    pub(crate) fn device(&self) -> HttpDevice {
        self.host.target.one_device()
    }

    fn in_store(&self, sql: &str) -> String {
        match self.database.backend() {
            Backend::Postgres => sql.to_owned(),
            Backend::Embedded => sql.replace("app.", ""),
        }
    }

    /// What the handler was asked and did, without what was taken back.
    pub(crate) async fn calls(&self, columns: &str) -> String {
        let joined = match self.database.backend() {
            Backend::Postgres => "string_agg(c, ', ' ORDER BY seq)",
            Backend::Embedded => "group_concat(c, ', ' ORDER BY seq)",
        };
        let sql = format!("SELECT {joined} FROM (SELECT seq, {columns} AS c FROM app.calls) x");
        let calls = self.database.ask(&self.in_store(&sql)).await;
        calls.unwrap_or_default()
    }
}

pub(crate) fn thing(id: i64, key: &str, what: &str) -> Value {
    insert(id, "app.things", key, json!({ "do": what }))
}

async fn the_example_keeps_its_ledger(backend: Backend) {
    let database = backend.database().await;
    let secret = "a secret of the example, not for anybody else";
    let host = Host::start("examples/handlers", &database, secret);
    let (ada, eve) = (host.target.one_device(), host.target.one_device());
    let ask = |sql: &str| {
        let sql = match backend {
            Backend::Postgres => sql.to_owned(),
            Backend::Embedded => sql.replace("app.", ""),
        };
        let database = &database;
        async move { database.ask(&sql).await }
    };
    let (account, entry) = (Uuid::from_u128(7).to_string(), fresh_key());
    let upload = [
        insert(
            1,
            "app.entries",
            &entry,
            json!({"account": "no-7", "amount": "12.34"}),
        ),
        insert(2, "app.accounts", &account, json!({"name": "cash"})),
        insert(
            3,
            "app.entries",
            &fresh_key(),
            json!({"account": "no-8", "amount": "1.00"}),
        ),
    ];
    let statuses = ada.statuses(&upload).await;
    assert_eq!(statuses[0]["status"], "applied", "{statuses:?}");
    assert_eq!(statuses[1]["status"], "applied", "{statuses:?}");
    assert_eq!(
        statuses[2]["invalid"]["details"]["missing"],
        json!(["app.accounts:no-8"])
    );
    let joined = "SELECT l.cents FROM app.ledger l JOIN app.accounts a ON a.id = l.account_id";
    assert_eq!(ask(joined).await.as_deref(), Some("1234"));

    // The same key is another row for another user.
    eve.applied(&[insert(1, "app.entries", &entry, json!({"amount": "0.05"}))])
        .await;
    ada.applied(&[update(
        4,
        "app.entries",
        &entry,
        1,
        json!({"amount": "1.00"}),
    )])
    .await;
    assert_eq!(
        ask("SELECT sum(cents) FROM app.ledger").await.as_deref(),
        Some("105")
    );
    ada.applied(&[update(
        5,
        "app.entries",
        &entry,
        2,
        json!({"amount": "lots"}),
    )])
    .await;
    assert_eq!(ada.failures("").await[0]["error"], "lots is no amount");
    ada.applied(&[delete(6, "app.entries", &entry, 3)]).await;
    assert!(ada.failures("").await.is_empty());
    assert_eq!(
        ask("SELECT sum(cents) FROM app.ledger").await.as_deref(),
        Some("5")
    );
}

async fn a_handler_comes_after_parents_and_before_children(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let (group, one, part) = (fresh_key(), fresh_key(), fresh_key());
    let upload = [
        insert(1, "app.parts", &part, json!({"thing_id": one})),
        insert(2, "app.things", &one, json!({"group_id": group})),
        insert(3, "app.groups", &group, json!({})),
    ];
    device.applied(&upload).await;
    assert!(device.failures("").await.is_empty());
    let gone = [
        delete(4, "app.groups", &group, 1),
        delete(5, "app.things", &one, 1),
        delete(6, "app.parts", &part, 1),
    ];
    device.applied(&gone).await;
    let calls = shop
        .calls("what || ' ' || \"groups\" || ' ' || parts")
        .await;
    // Groups and parts that were there at each call.
    assert_eq!(calls, "upsert 1 NeverSeen 1 0, delete 2 1 0");
    let parts = shop.in_store("SELECT count(*) FROM app.parts");
    assert_eq!(shop.database.ask(&parts).await.as_deref(), Some("0"));
    device
        .applied(&[update(7, "app.things", &one, 2, json!({}))])
        .await;
    assert!(shop.calls("what").await.ends_with("upsert 3 Seen"));
}

async fn what_fails_in_a_handler_fails_alone(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let (refused, shown) = ("refuse", "no, never  xxx");
    let mut bad = vec![(refused, shown), ("panic", "the handler panicked")];
    match backend {
        Backend::Postgres => bad.extend([
            ("break", "division by zero"),
            ("swallow", "current transaction is aborted"),
            ("defer", "one_after_another"),
            ("wait", "took more than"),
        ]),
        Backend::Embedded => bad.extend([
            ("break", "no such table: nowhere"),
            ("roll back", "rolled back"),
        ]),
    }
    let group = fresh_key();
    let mut upload = vec![
        insert(1, "app.groups", &group, json!({})),
        thing(2, &fresh_key(), "write"),
    ];
    for (id, (what, _)) in (10..).zip(&bad) {
        upload.push(thing(id, &fresh_key(), what));
    }
    upload.push(thing(3, &fresh_key(), "write"));
    upload.push(insert(4, "app.parts", &fresh_key(), json!({})));
    device.applied(&upload).await;
    // Of all calls only the good ones left something.
    assert_eq!(
        shop.calls("what").await,
        "upsert 1 NeverSeen, upsert 1 NeverSeen"
    );
    let failed = device.failures("").await;
    assert_eq!(failed.len(), bad.len(), "{failed:?}");
    for (what, expected) in bad {
        let row = failed.iter().find(|row| row["payload"]["do"] == what);
        let text = row.expect("recorded")["error"].as_str().expect("a text");
        assert!(text.contains(expected), "{what}: {text}");
        assert!(
            text.chars().count() <= 501 && !text.contains(char::is_control),
            "{text}"
        );
    }
    for table in ["groups", "parts"] {
        let sql = shop.in_store(&format!("SELECT count(*) FROM app.{table}"));
        let sql = sql.replace("FROM groups", "FROM \"groups\"");
        assert_eq!(
            shop.database.ask(&sql).await.as_deref(),
            Some("1"),
            "{table}"
        );
    }
    // It goes on.
    device.applied(&[thing(99, &fresh_key(), "write")]).await;
}

/// On SQLite a handler can end the transaction, which it must not: what was
/// committed counts, the rest is decided again, and nobody is told anything wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_commits_on_sqlite_loses_no_upload() {
    let shop = Shop::open(Backend::Embedded).await;
    let device = shop.device();
    let upload = [
        thing(1, &fresh_key(), "commit"),
        thing(2, &fresh_key(), "write"),
    ];
    device.applied(&upload).await;
    let (changes, _) = shop
        .host
        .target
        .device(device.user(), "bob")
        .download_all(0, 100, "")
        .await;
    assert_eq!(changes.len(), 2);
    device.applied(&upload).await;
}

async fn a_failed_row_is_handed_to_the_handler_again(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let key = fresh_key();
    device.applied(&[thing(1, &key, "refuse")]).await;
    let failed = device.failures("").await;
    let retry = || async {
        let request = device.request(reqwest::Method::POST, "/admin/materialize-failures/retry");
        HttpDevice::send(request.json(&json!({ "id": failed[0]["id"] })))
            .await
            .ok()
    };
    let again = retry().await;
    assert_eq!(again["status"], "materialize_error", "{again}");
    shop.database
        .execute(&shop.in_store("INSERT INTO app.allowed VALUES (1)"))
        .await;
    assert_eq!(retry().await["new_server_version"], 1);
    assert!(device.failures("").await.is_empty());
    assert_eq!(shop.calls("what").await, "upsert 1 Unknown");
}

async fn users_do_not_meet_in_a_handled_table(backend: Backend) {
    let shop = Shop::open(backend).await;
    let (ada, eve) = (shop.device(), shop.device());
    let key = fresh_key();
    ada.applied(&[thing(1, &key, "write")]).await;
    eve.applied(&[thing(1, &key, "write")]).await;
    assert!(eve.failures("").await.is_empty());
    let expected = format!(
        "{} upsert 1 NeverSeen, {} upsert 1 NeverSeen",
        ada.user(),
        eve.user()
    );
    assert_eq!(shop.calls("owner || ' ' || what").await, expected);
    // Nor does a part of Eve's find Ada's thing.
    let (hers, part) = (fresh_key(), fresh_key());
    ada.applied(&[thing(2, &hers, "write")]).await;
    let status = eve
        .upload_one(insert(2, "app.parts", &part, json!({"thing_id": hers})))
        .await;
    assert_eq!(status["invalid"]["reason"], "fk_missing", "{status}");
}

async fn references_may_be_named_in_the_hosts_own_way(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let group = Uuid::from_u128(12).to_string();
    device
        .applied(&[insert(1, "app.groups", &group, json!({}))])
        .await;
    let named = |id, sent: &str| insert(id, "app.things", &fresh_key(), json!({"group_id": sent}));
    let statuses = device
        .statuses(&[
            named(2, "#12"),
            named(3, &group),
            named(4, "#13"),
            named(5, "13"),
            named(6, "panic"),
            named(7, ""),
        ])
        .await;
    let kinds: Vec<&str> = statuses
        .iter()
        .map(|status| match status["invalid"]["reason"].as_str() {
            Some(reason) => reason,
            None => status["status"].as_str().expect("a text"),
        })
        .collect();
    let expected = [
        "applied",
        "applied",
        "fk_missing",
        "bad_payload",
        "bad_payload",
        "applied",
    ];
    assert_eq!(kinds, expected, "{statuses:?}");
    assert_eq!(
        statuses[2]["invalid"]["details"]["missing"],
        json!(["app.groups:#13"])
    );
}

async fn verify_leaves_handled_tables_out_and_says_so(backend: Backend) {
    let shop = Shop::open(backend).await;
    let device = shop.device();
    let upload = [
        thing(1, &fresh_key(), "write"),
        insert(2, "app.groups", &fresh_key(), json!({})),
    ];
    device.applied(&upload).await;
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("oversync.toml");
    let settings = |handled: bool| {
        format!(
            "database_url = '{}'\njwt_secret = '{SECRET}'\nstrict_tables = true\n
             [[tables]]\nschema = 'app'\ntable = 'groups'\nowner_column = 'owner'\n
             [[tables]]\nschema = 'app'\ntable = 'things'\nhandled = {handled}\n",
            shop.database.url()
        )
    };
    std::fs::write(&file, settings(true)).expect("written");
    let run = |what: &str| {
        let flags = if what == "serve" {
            &["--listen", "127.0.0.1:0"][..]
        } else {
            &[]
        };
        let mut program = command();
        program.arg(what).args(flags).arg("--config").arg(&file);
        program.output().expect("it runs")
    };
    let output = run("verify");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("1 business rows"), "{said}");
    assert!(
        said.contains("the business rows of 1 handled table"),
        "{said}"
    );
    // The plain server has no such handler, and does not project in its place.
    drop(shop.host);
    let output = run("serve");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("app.things has handled = true"), "{said}");
}

/// A file with settings of the plain server for what [`Shop`] synchronises, and more.
fn plain(database: &Database, more: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    let file = folder.path().join("oversync.toml");
    let settings = format!(
        "database_url = '{}'\njwt_secret = '{SECRET}'\nstrict_tables = true\n
         [[tables]]\nschema = 'app'\ntable = 'groups'\nowner_column = 'owner'\n
         [[tables]]\nschema = 'app'\ntable = 'parts'\nowner_column = 'owner'\n
         [[tables]]\nschema = 'app'\ntable = 'things'\nhandled = true\n{more}",
        database.url()
    );
    std::fs::write(&file, settings).expect("written");
    (folder, file)
}

fn ran(file: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let mut program = command();
    program.args(arguments).arg("--config").arg(file);
    let output = program.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("text");
    (output.status.success(), said)
}

/// An application's own tables kept it out of `oversync fold`.
async fn folding_asks_for_no_handler(backend: Backend) {
    let shop = Shop::open(backend).await;
    shop.device()
        .applied(&[thing(1, &fresh_key(), "write")])
        .await;
    drop(shop.host);
    let (_folder, file) = plain(&shop.database, "");
    for arguments in [&["fold", "--dry-run"][..], &["fold"]] {
        let (is_done, said) = ran(&file, arguments);
        assert!(is_done, "{arguments:?}: {said}");
    }
}

/// Rows that only the host can read might be folded with a child before its parent.
async fn folding_refuses_rings_that_only_the_host_reads(backend: Backend) {
    let shop = Shop::open(backend).await;
    let things: Vec<Value> = (1..9).map(|id| thing(id, &fresh_key(), "write")).collect();
    shop.device().applied(&things).await;
    drop(shop.host);
    let log = match backend {
        Backend::Embedded => "SELECT sum(floor) FROM _oversync_users",
        Backend::Postgres => "SELECT sum(floor) FROM oversync.users",
    };
    let rules = "[retention]\nkeep_seconds = 0.02\npause_ms = 10\nmin_entries = 1\n";
    let ring = "references = [{ column = 'parent', table = 'things' }]\n";
    let (_folder, file) = plain(&shop.database, &format!("{ring}{rules}"));
    let (is_done, said) = ran(&file, &["fold"]);
    assert!(!is_done, "{said}");
    for word in [
        "app.things has handled = true",
        "let the host's server fold",
    ] {
        assert!(said.contains(word), "{word} in: {said}");
    }
    assert_eq!(shop.database.ask(log).await.as_deref(), Some("0"));
    let (is_done, said) = ran(&file, &["fold", "--dry-run"]);
    assert!(is_done, "looking harms nobody: {said}");

    // It is the ring, and nothing else.
    let (_folder, file) = plain(&shop.database, rules);
    eventually("they are folded", || async {
        let (is_done, said) = ran(&file, &["fold"]);
        assert!(is_done, "{said}");
        (shop.database.ask(log).await? == "8").then_some(())
    })
    .await;
}

/// … and out of `oversync migrate`, which said so when everything was copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_leaves_handled_tables_to_the_host() {
    let shop = Shop::open(Backend::Embedded).await;
    let device = shop.device();
    let upload = [
        thing(1, &fresh_key(), "write"),
        thing(2, &fresh_key(), "refuse"),
        insert(3, "app.groups", &fresh_key(), json!({})),
    ];
    device.applied(&upload).await;
    let before = device.failures("").await;
    assert_eq!(before.len(), 1, "{before:?}");
    drop(shop.host);

    let target = Backend::Postgres.database().await;
    let arguments = ["migrate", "--from", shop.database.url()];
    // What no server starts with is said before anything is written.
    let (_folder, file) = plain(&target, "");
    let (is_done, said) = ran(&file, &arguments);
    assert!(
        !is_done && said.contains("app.groups does not exist in the database"),
        "{said}"
    );
    let schema = "SELECT count(*) FROM pg_namespace WHERE nspname = 'oversync'";
    assert_eq!(target.ask(schema).await.as_deref(), Some("0"));

    target.execute(self::schema(Backend::Postgres)).await;
    // Failures are gone through again when there are new ones.
    target
        .execute("ALTER TABLE app.groups ADD CHECK (owner = '')")
        .await;
    let (is_done, said) = ran(&file, &arguments);
    assert!(is_done && said.contains("verified"), "{said}");
    let calls = target.ask("SELECT count(*) FROM app.calls").await;
    assert_eq!(calls.as_deref(), Some("0"), "they are the host's to carry");
    let host = Host::start("host", &target, SECRET);
    let device = host.target.device(device.user(), device.name());
    let after = device.failures("").await;
    let of = |table: &str| -> Vec<&Value> {
        let is_of = |failure: &&Value| failure["table"] == table;
        after.iter().filter(is_of).collect()
    };
    assert_eq!(of("things"), before.iter().collect::<Vec<_>>(), "{after:?}");
    assert_eq!(of("groups").len(), 1, "{after:?}");
}
