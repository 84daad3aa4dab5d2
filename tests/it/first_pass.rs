//! The first pass over an account with many rows: it says how far it is, and a
//! killed one goes on behind the last page that was committed.

use oversqlite::{Client, ConnectionState, Progress, inspect};
use oversync_tests::device::insert;
use oversync_tests::server::binary;
use oversync_tests::story::acts::FRESH;
use oversync_tests::story::ending::folder;
use oversync_tests::story::play::{config, connect};
use oversync_tests::story::{DEVICE, TABLES, Which, settings};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Database, Server, Target, on_both_stores};
use serde_json::json;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use tempfile::TempDir;

on_both_stores!(
    a_killed_pass_goes_on_behind_its_last_page,
    a_pass_says_how_far_it_is,
    the_application_reads_and_writes_meanwhile
);

/// Rows, in pages of four.
const ROWS: i64 = 40;

struct World {
    // Dropped in this order.
    _server: Server,
    _database: Database,
    target: Target,
    user: String,
    folder: TempDir,
}

impl World {
    /// An account with rows, and an empty file.
    async fn new(backend: Backend) -> Self {
        let database = backend.database().await;
        let server = Server::start(&database, settings(Which::First)).await;
        let (target, user, folder) = (server.target(), fresh_user(), folder());
        let writer = target.device(&user, "writer");
        let rows: Vec<_> = (1..=ROWS)
            .map(|n| insert(n, "story.people", &fresh_key(), json!({"name": "any"})))
            .collect();
        writer.statuses(&rows).await;
        let world = Self {
            _server: server,
            _database: database,
            target,
            user,
            folder,
        };
        let made = connect(&world.file()).execute_batch(TABLES);
        made.expect("the tables are made");
        world
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("app.db")
    }

    fn count(&self) -> i64 {
        let count = "SELECT count(*) FROM people";
        let count = connect(&self.file()).query_row(count, [], |row| row.get(0));
        count.expect("a number")
    }

    async fn process(&self, file: &Path, kill: Option<&str>) -> std::process::Output {
        let base = self.target.base();
        let mut phone = tokio::process::Command::new(binary("phone"));
        phone
            .arg("--file")
            .arg(file)
            .args(["--user", &self.user, "--story", FRESH.name])
            .args(["--servers", base, base, base])
            .args(kill.map(|kill| format!("--kill={kill}")))
            .kill_on_drop(true);
        phone.output().await.expect("the device runs")
    }
}

async fn a_killed_pass_goes_on_behind_its_last_page(backend: Backend) {
    let world = World::new(backend).await;
    let file = world.file();
    let killed = world.process(&file, Some("page_committed:4")).await;
    assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
    assert_eq!(world.count(), 16);
    let status = inspect(&file).and_then(|file| file.status());
    let status = status.expect("a status");
    assert!(!status.hydrated);
    let expected = Progress {
        done: 16,
        total: ROWS,
        rows: 0,
        eta_seconds: None,
    };
    assert_eq!(status.progress, Some(expected), "whoever looks can tell");

    let done = world.process(&file, None).await;
    assert!(done.status.success(), "{done:?}");
    let passed = String::from_utf8(done.stdout).expect("text");
    let passed: Vec<&str> = passed.lines().collect();
    for expected in ["row_applied 24", "pass_completed 1"] {
        assert!(passed.contains(&expected), "{expected}: {passed:?}");
    }
    assert_eq!(world.count(), ROWS);
}

async fn a_pass_says_how_far_it_is(backend: Backend) {
    let world = World::new(backend).await;
    let config = config(&world.file(), &world.target, &world.user, DEVICE);
    let client = Client::open(config).await.expect("the client opens");
    assert_eq!(client.status().await.expect("a status").progress, None);
    // A page at a time, so that nothing is missed.
    let mut stream = client.status_stream();
    let mut seen = Vec::new();
    for page in 1..=9 {
        let done = client.download_once(1_000).await.expect("a page");
        assert!(done.has_more);
        let status = stream.borrow_and_update().clone();
        let progress = status.progress.expect("in the middle");
        assert_eq!(progress.rows, 4 * page);
        assert_eq!(status.behind_by, None, "places may be left out");
        seen.push((progress.done, progress.total, progress.percent()));
    }
    let expected: Vec<_> = (1..=9_u8)
        .map(|page| (i64::from(page) * 4, ROWS, page * 10))
        .collect();
    assert_eq!(seen, expected);
    assert!(!client.download_once(1_000).await.expect("a page").has_more);
    let status = client.status().await.expect("a status");
    assert_eq!(
        (status.progress, status.hydrated, status.behind_by),
        (None, true, Some(0))
    );
    assert_eq!(
        status.connection,
        ConnectionState::Stopped,
        "no engine runs"
    );
    client.stop().await;
}

/// A read that lasts neither waits for the pass nor holds it up, and what the
/// application writes in the middle of it is sent.
async fn the_application_reads_and_writes_meanwhile(backend: Backend) {
    let world = World::new(backend).await;
    let config = config(&world.file(), &world.target, &world.user, DEVICE);
    let client = Client::open(config).await.expect("the client opens");
    for _ in 0..3 {
        assert!(client.download_once(1_000).await.expect("a page").has_more);
    }
    let reader = connect(&world.file());
    let count = || -> i64 {
        let count = reader.query_row("SELECT count(*) FROM people", [], |row| row.get(0));
        count.expect("a number")
    };
    reader.execute_batch("BEGIN").expect("a long read begins");
    assert_eq!(count(), 12, "what has come so far can be read");

    let own = fresh_key();
    let writer = connect(&world.file());
    let insert = "INSERT INTO people (id, name) VALUES (?1, 'written meanwhile')";
    writer.execute(insert, [&own]).expect("it can write");
    let update = "UPDATE people SET name = 'changed meanwhile' WHERE id <> ?1";
    assert_eq!(writer.execute(update, [&own]).expect("it can write"), 12);
    while client.download_once(1_000).await.expect("a page").has_more {}
    assert_eq!(count(), 12, "the long read sees one moment");
    reader.execute_batch("COMMIT").expect("the long read ends");
    assert_eq!(count(), ROWS + 1);

    let done = client.sync().await.expect("a round");
    assert_eq!(done.uploaded.applied, 13, "{done:?}");
    let observer = world.target.device(&world.user, "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    let name = |change: &serde_json::Value| change["payload"]["name"].as_str().map(str::to_owned);
    let named = |wanted: &str| {
        let named = changes
            .iter()
            .filter(|change| name(change).as_deref() == Some(wanted));
        named.count()
    };
    let meanwhile = (named("written meanwhile"), named("changed meanwhile"));
    assert_eq!(meanwhile, (1, 12));
}
