//! `oversync migrate`: a server moves from the embedded store to PostgreSQL, and its
//! devices notice nothing.

use crate::history::{history, keeping};
use oversync_tests::conformance::business_tables;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{count, folded_by_hand, folded_up_to, long_written};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Database, HttpDevice, Port, Server, within};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Tables that rows of theirs refer to, beside the suite's; not in the file.
const NODES: &str = "CREATE SCHEMA tree;
    CREATE TABLE tree.nodes (id uuid PRIMARY KEY, parent_id uuid REFERENCES tree.nodes (id))";

/// Two databases and a server on the first.
struct Pair {
    file: Database,
    target: Database,
    server: Server,
}

impl Pair {
    async fn set() -> Self {
        Self::set_to(config()).await
    }

    /// The server has ended, and a device has written one row before: what it reads then.
    async fn stopped_with_a_row() -> (Self, HttpDevice, Value) {
        let mut pair = Self::set().await;
        let device = pair.server.target().one_device();
        device.upload(&[row(1)]).await;
        let before = everything(&device).await;
        pair.server.terminate().await;
        (pair, device, before)
    }

    async fn set_to(config: Config) -> Self {
        let file = Backend::Embedded.database().await;
        file.execute(business_tables(Backend::Embedded)).await;
        let target = Backend::Postgres.database().await;
        target.execute(business_tables(Backend::Postgres)).await;
        target.execute(NODES).await;
        let server = Server::answering(&file, config).await;
        Self {
            file,
            target,
            server,
        }
    }

    fn command(&self) -> [&str; 6] {
        let (from, to) = (self.file.url(), self.target.url());
        ["migrate", "--json", "--from", from, "--to", to]
    }

    fn undo(&self) -> [&str; 7] {
        let (from, to) = (self.file.url(), self.target.url());
        ["migrate", "--undo", "--json", "--from", from, "--to", to]
    }

    async fn refused(&self) -> String {
        let output: Output = self.server.run(&self.command()).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    /// What a program says that does not succeed.
    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.server.run(arguments).await;
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    /// The server starts on what its settings name, has all that was there, and takes more.
    async fn goes_on(&mut self, device: &HttpDevice, before: &Value) {
        self.server.restart(Port::Same).await;
        assert_eq!(everything(device).await, *before);
        device.applied(&[row(2)]).await;
        self.server.verified().await;
    }

    /// Where it listened before, on the new database.
    async fn restart_on_target(&mut self) {
        let settings = config().set("database_url", self.target.url());
        std::fs::write(self.server.config(), settings.to_toml()).expect("written");
        self.server.restart(Port::Same).await;
    }
}

fn row(id: i64) -> Value {
    insert(id, "business.users", &fresh_key(), json!({"n": id}))
}

fn config() -> Config {
    Config::default().operators()
}

async fn everything(device: &HttpDevice) -> Value {
    device
        .download("after=0&limit=1000&include_self=true")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_notice_nothing() {
    let mut pair = Pair::set().await;
    let (target, user) = (pair.server.target(), fresh_user());
    let ada = App::start(&target, &user, "ada").await;
    let bob = App::start(&target, &user, "bob").await;
    for n in 0..30 {
        ada.add(&fresh_key(), &format!("row {n}"));
    }
    within(PATIENCE, "bob has all", || async {
        (bob.people().len() == 30).then_some(())
    })
    .await;
    let cursor = bob.client.status().await.expect("a status").cursor;
    bob.client.stop().await;
    // Another user, with everything that a server keeps: a tombstone, a chain of rows
    // whose children may be carried over first, a failure, a device that is refused,
    // and text of every kind.
    let (lean, reader) = target.two_devices();
    let nodes: Vec<String> = (0..12).map(|_| fresh_key()).collect();
    let mut changes: Vec<Value> = (0..12)
        .map(|n| {
            let parent = (n > 0).then(|| nodes[n - 1].clone());
            let row = json!({"id": nodes[n], "parent_id": parent});
            insert(n as i64 + 1, "tree.nodes", &nodes[n], row)
        })
        .collect();
    let (gone, edited, book, bad) = (fresh_key(), fresh_key(), fresh_key(), fresh_key());
    let odd = "tab\t, line\n, back\\slash, \\N, quote\", nul\u{0}, \u{1F600}";
    changes.extend([
        insert(20, "business.users", &gone, json!({})),
        delete(21, "business.users", &gone, 1),
        insert(
            22,
            "public.notes",
            &edited,
            json!({"text": odd, "n": 9007199254740993_i64}),
        ),
        update(
            23,
            "public.notes",
            &edited,
            1,
            json!({"text": odd, "n": 1.5}),
        ),
        insert(
            24,
            "shelf.books",
            &book,
            json!({"id": book, "title": "a book"}),
        ),
        insert(25, "shelf.books", &bad, json!({"id": bad, "title": ""})),
    ]);
    let statuses = lean.statuses(&changes).await;
    assert!(
        statuses.iter().all(|status| status["status"] == "applied"),
        "{statuses:?}"
    );
    pair.server.admin().revoke(&lean.sibling("lost")).await;
    let failures = lean.get("/admin/materialize-failures").await.ok();
    assert_eq!(failures.as_array().map(Vec::len), Some(1), "{failures}");
    let before = [
        everything(&reader).await,
        everything(&target.device(&user, "reader")).await,
    ];

    assert!(pair.refused().await.contains("in use"));
    pair.server.terminate().await;
    // On both sides, while nobody can send it.
    ada.add(&fresh_key(), "from ada");
    let sql = format!(
        "INSERT INTO users (id, name) VALUES ('{}', 'from bob')",
        fresh_key()
    );
    rusqlite::Connection::open(bob.path())
        .and_then(|file| file.execute_batch(&sql))
        .expect("the row is inserted");
    let moved = pair.server.told(&pair.command()).await;
    assert_eq!(moved["users"], 2, "{moved}");
    assert_eq!(moved["epoch"], before[0]["epoch"], "{moved}");
    assert!(pair.refused().await.contains("was moved to"), "twice");
    pair.restart_on_target().await;

    let after = everything(&reader).await;
    assert_eq!(after, before[0], "not a byte");
    // An upload whose answer was lost, sent again over the move.
    assert_eq!(lean.statuses(&changes).await, statuses);
    let other = insert(24, "shelf.books", &fresh_key(), json!({"title": "another"}));
    assert_ne!(lean.upload_one(other).await["status"], "applied");
    let refused = lean.sibling("lost").download_raw("after=0").await;
    refused.refused(401, "authentication_failed");
    let still = lean.get("/admin/materialize-failures").await.ok();
    assert_eq!(still[0]["id"], failures[0]["id"], "{still}");
    assert_eq!(still.as_array().map(Vec::len), Some(1), "{still}");
    for (table, rows) in [("tree.nodes", "12"), ("shelf.books", "1")] {
        let count = pair
            .target
            .ask(&format!("SELECT count(*) FROM {table}"))
            .await;
        assert_eq!(count.as_deref(), Some(rows), "{table}");
    }

    let bob = bob.reopen(&pair.server.target()).await;
    bob.client.start().expect("the engine starts");
    ada.add(&fresh_key(), "after");
    within(PATIENCE, "both have all", || async {
        (ada.people() == bob.people() && bob.people().len() == 33).then_some(())
    })
    .await;
    for device in [&ada, &bob] {
        device.sent().await;
    }
    // It went on from where it was: nothing was read twice, no history was new.
    let whole = everything(&pair.server.target().device(&user, "reader")).await;
    let head = whole["head"].as_i64().expect("a head");
    assert_eq!(head, before[1]["head"].as_i64().expect("a head") + 3);
    assert!(bob.client.status().await.expect("a status").cursor >= cursor);
    let known = before[1]["changes"].as_array().expect("changes");
    assert_eq!(
        &whole["changes"].as_array().expect("changes")[..known.len()],
        &known[..]
    );
    // New users and devices get numbers of their own.
    let new = pair.server.target().one_device();
    assert_eq!(
        new.upload_one(insert(1, "business.users", &fresh_key(), json!({})))
            .await["status"],
        "applied"
    );
    assert_eq!(
        reader
            .upload_one(insert(1, "business.users", &fresh_key(), json!({})))
            .await["status"],
        "applied"
    );
    pair.server.verified().await;
}

/// What folding has removed from the log, and an audit wants.
#[tokio::test]
async fn history_kept_for_audit_arrives() {
    let mut pair = Pair::set_to(keeping()).await;
    let (writer, other) = pair.server.target().two_devices();
    let (key, tabs) = (
        fresh_key(),
        json!({"text": "tab\t, back\\slash, \u{1F600}"}),
    );
    for version in 0..20 {
        let edit = update(version + 1, "public.notes", &key, version, tabs.clone());
        let device = if version % 2 == 0 { &writer } else { &other };
        assert_eq!(device.upload_one(edit).await["status"], "applied");
    }
    let gone = delete(30, "public.notes", &key, 20);
    assert_eq!(writer.upload_one(gone).await["status"], "applied");
    folded_up_to(&pair.file, 21).await;
    pair.server.terminate().await;
    let before = history(&pair.server, writer.user(), &[]).await;
    assert_eq!(before.len(), 21, "{before:?}");
    let kept = count(&pair.file, "history").await;
    assert!(kept >= 20, "{kept}");

    pair.server.told(&pair.command()).await;
    assert_eq!(count(&pair.target, "history").await, kept);
    let there = ["--database-url", pair.target.url()];
    let after = history(&pair.server, writer.user(), &there).await;
    assert_eq!(after, before, "not a byte");
}

/// HISTORY-IDENTITY: two databases would hand out the same places under one epoch.
#[tokio::test]
async fn a_file_that_has_moved_is_not_served() {
    let (mut pair, device, before) = Pair::stopped_with_a_row().await;
    let not_moved = pair.run(&pair.undo()).await;
    assert!(not_moved.contains("has not been moved"), "{not_moved}");
    pair.server.told(&pair.command()).await;

    let file = pair.file.url().trim_start_matches("sqlite://");
    for beside in ["-wal", "-shm"] {
        assert!(!Path::new(&format!("{file}{beside}")).exists(), "{beside}");
    }
    // As `serve` opens it; and to be moved a second time.
    let again = [
        &pair.command()[..4],
        &["--to", "postgres://nobody@127.0.0.1:1/x"],
    ]
    .concat();
    for arguments in [&["devices", "--user", device.user()][..], &["fold"], &again] {
        let said = pair.run(arguments).await;
        for word in [
            "was moved to the PostgreSQL database",
            "oversync migrate --undo",
            "oversync restore --in-place --database-url sqlite://",
        ] {
            assert!(said.contains(word), "{arguments:?}: {word} in: {said}");
        }
        assert!(!said.contains("oversync@"), "{said}");
    }
    // Who only looks may.
    pair.server.verified().await;

    let back = pair.server.told(&pair.undo()).await;
    assert!(back["moved_at"].is_string(), "{back}");
    let there = ["--database-url", pair.target.url()];
    let devices = ["devices", "--user", device.user()];
    let said = pair.run(&[&devices[..], &there].concat()).await;
    assert!(said.contains("has not been finished"), "{said}");
    let twice = pair.run(&pair.undo()).await;
    assert!(twice.contains("has not been moved"), "{twice}");
    pair.goes_on(&device, &before).await;
}

/// Between its two marks: neither side may be served, and the file's history is whole.
#[tokio::test]
async fn a_file_that_cannot_be_marked_keeps_its_history() {
    let (mut pair, device, before) = Pair::stopped_with_a_row().await;
    // The mark's place is taken.
    pair.file
        .execute("CREATE TABLE _oversync_moved (moved_to TEXT, moved_at TEXT, unfinished TEXT)")
        .await;
    let said = pair.refused().await;
    assert!(said.contains("cannot be marked as moved"), "{said}");
    let epoch = pair.target.ask("SELECT epoch FROM oversync.meta").await;
    let epoch = epoch.expect("an epoch");
    assert!(epoch.starts_with("unfinished move "), "{epoch}");
    pair.goes_on(&device, &before).await;
}

/// A move that ended between its two marks, whichever way, is taken back the same.
#[tokio::test]
async fn an_unfinished_move_is_taken_back() {
    let (mut pair, device, before) = Pair::stopped_with_a_row().await;
    pair.server.told(&pair.command()).await;
    let mark = "SELECT unfinished FROM _oversync_moved";
    let unfinished = pair.file.ask(mark).await.expect("a mark");
    pair.target
        .execute(&format!("UPDATE oversync.meta SET epoch = '{unfinished}'"))
        .await;
    pair.server.told(&pair.undo()).await;
    pair.goes_on(&device, &before).await;
}

/// What was written in the new database is not lost without a word. Another history is
/// the way back then.
#[tokio::test]
async fn a_move_is_not_taken_back_under_what_was_written_since() {
    let mut pair = Pair::set().await;
    let (device, other) = pair.server.target().two_devices();
    device.upload(&[row(1)]).await;
    pair.server.terminate().await;
    pair.server.told(&pair.command()).await;
    let config = std::fs::read(pair.server.config()).expect("the settings");

    pair.restart_on_target().await;
    // It listens before it has a connection.
    everything(&device).await;
    let said = pair.run(&pair.undo()).await;
    assert!(said.contains("running servers"), "{said}");
    device.upload(&[row(2)]).await;
    pair.server.terminate().await;
    let said = pair.run(&pair.undo()).await;
    for word in [
        "was written into the database",
        "oversync restore --in-place",
    ] {
        assert!(said.contains(word), "{word} in: {said}");
    }
    let file = ["fold", "--database-url", pair.file.url()];
    let said = pair.run(&file).await;
    assert!(said.contains("was moved to"), "the mark stays: {said}");
    // It is served there as before.
    pair.server.restart(Port::Same).await;
    assert_eq!(other.server_ids("").await, [1, 2]);
    let epoch = everything(&device).await["epoch"].clone();
    pair.server.terminate().await;

    std::fs::write(pair.server.config(), config).expect("written");
    pair.server.told(&["restore", "--in-place", "--json"]).await;
    pair.server.restart(Port::Same).await;
    assert_eq!(other.server_ids("").await, [1]);
    assert_ne!(everything(&device).await["epoch"], epoch);
    pair.server.verified().await;
}

/// Nor is who was refused let in again.
#[tokio::test]
async fn a_move_is_not_taken_back_under_a_revocation() {
    let (pair, device, _) = Pair::stopped_with_a_row().await;
    pair.server.told(&pair.command()).await;
    let revoke = ["revoke", "--user", device.user(), "--device", "phone"];
    let there = ["--database-url", pair.target.url()];
    let output = pair.server.run(&[&revoke[..], &there].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let said = pair.run(&pair.undo()).await;
    assert!(said.contains("revoked there"), "{said}");
}

/// Nor does an entry come back that was folded away.
#[tokio::test]
async fn a_move_is_not_taken_back_under_a_fold() {
    let mut pair = Pair::set_to(folded_by_hand()).await;
    let device = pair.server.target().one_device();
    let key = fresh_key();
    for version in 0..20 {
        let edit = update(version + 1, "business.users", &key, version, json!({}));
        assert_eq!(device.upload_one(edit).await["status"], "applied");
    }
    pair.server.terminate().await;
    pair.server.told(&pair.command()).await;
    long_written(&pair.target).await;
    let fold = ["fold", "--database-url", pair.target.url()];
    let output = pair.server.run(&fold).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.starts_with("users folded: 1,"), "{output:?}");
    let said = pair.run(&pair.undo()).await;
    assert!(said.contains("folded or revoked there"), "{said}");
}

/// What arrives is looked at before a server may have it.
#[tokio::test]
async fn what_is_damaged_does_not_arrive() {
    let (mut pair, device, _) = Pair::stopped_with_a_row().await;
    pair.file
        .execute("UPDATE _oversync_log SET payload = '{\"n\":2}'")
        .await;
    let said = pair.refused().await;
    assert!(said.contains("not right"), "{said}");
    let arguments = [
        "devices",
        "--user",
        device.user(),
        "--database-url",
        pair.target.url(),
    ];
    let output = pair.server.run(&arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("has not been finished"), "{said}");
    assert!(!said.contains("--in-place"), "{said}");
    // Nor does a new history make it whole.
    let at_target = ["--database-url", pair.target.url()];
    let in_place = [&["restore", "--in-place"], &at_target[..]].concat();
    let output = pair.server.run(&in_place).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("oversync migrate"), "{said}");
    let epoch = pair.target.ask("SELECT epoch FROM oversync.meta").await;
    let epoch = epoch.expect("an epoch");
    assert!(epoch.starts_with("unfinished move "), "{epoch}");
    let to = pair.file.url().replacen("sqlite://", "", 1) + ".backup";
    let backup = [&["backup", "--to", &to], &at_target[..]].concat();
    let output = pair.server.run(&backup).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // The file is as it was.
    pair.file
        .execute("UPDATE _oversync_log SET payload = '{\"n\":1}'")
        .await;
    pair.server.restart(Port::Same).await;
    pair.server.verified().await;
    assert_eq!(
        everything(&device).await["changes"][0]["payload"],
        json!({"n": 1})
    );
}
