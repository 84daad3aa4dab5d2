//! The programs people try first, as processes: `oversqlite` on the command
//! line, killed and started again; the quickstart; the embedding example.

use oversync_tests::app::{BLOG, people};
use oversync_tests::server::binary;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, Server, eventually};
use rusqlite::Connection;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A server in development mode: it signs anybody in.
pub(crate) async fn dev_server(backend: Backend) -> (Server, Database) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().set("dev", true)).await;
    (server, database)
}

pub(crate) fn oversqlite(file: &Path) -> Command {
    let mut command = Command::new(binary("oversqlite"));
    command.arg("--db").arg(file).stdin(Stdio::null());
    command
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    oversync_tests::canary::look_through(&output);
    output
}

/// A device on the command line, as the README makes one.
pub(crate) fn init(folder: &TempDir, name: &str, server: &Server) -> PathBuf {
    let file = folder.path().join(name);
    let schema = folder.path().join("blog.sql");
    std::fs::write(&schema, BLOG).expect("written");
    let url = format!("http://{}", server.address());
    run(oversqlite(&file)
        .args([
            "init", "--server", &url, "--signin", "ann", "--schema", "business",
        ])
        .args(["--table", "users", "--table", "posts", "--schema-sql"])
        .arg(&schema));
    file
}

/// `oversqlite watch`, running.
pub(crate) struct Watch(pub(crate) Child);

impl Watch {
    pub(crate) fn start(file: &Path) -> Self {
        Self(
            oversqlite(file)
                .args(["--json", "watch"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("it runs"),
        )
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn add(file: &Path, key: &str) {
    // A program that knows nothing of us.
    let connection = Connection::open(file).expect("the file opens");
    connection
        .busy_timeout(Duration::from_secs(10))
        .expect("set");
    connection
        .execute("INSERT INTO users (id, name) VALUES (?1, 'x')", [key])
        .expect("the row is inserted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_watching_devices_exchange_what_other_programs_write() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    let (_watch_a, mut watch_b) = (Watch::start(&a), Watch::start(&b));
    let key = fresh_key();
    add(&a, &key);
    eventually("the row crosses", || async {
        (people(&b).len() == 1).then_some(())
    })
    .await;
    add(&b, &fresh_key());
    eventually("and back", || async {
        (people(&a).len() == 2).then_some(())
    })
    .await;
    let lines = BufReader::new(watch_b.0.stdout.take().expect("its output is piped")).lines();
    let line = lines.map_while(Result::ok).find(|line| line.contains(&key));
    assert!(
        line.is_some_and(|line| line.contains("users")),
        "watch prints what lands"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_killed_again_and_again_loses_and_doubles_nothing() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    let _watch_b = Watch::start(&b);
    let mut keys = Vec::new();
    for round in 0..8_u64 {
        let watch = Watch::start(&a);
        for _ in 0..20 {
            let key = fresh_key();
            add(&a, &key);
            keys.push(key);
        }
        // Each round dies at another moment of its life.
        tokio::time::sleep(Duration::from_millis(35 * round)).await;
        watch.kill();
    }
    let _watch = Watch::start(&a);
    keys.sort();
    eventually("the other device has every row", || async {
        let there: Vec<String> = people(&b).into_iter().map(|(id, _)| id).collect();
        (there == keys).then_some(())
    })
    .await;
    let observer = server.target().device("user-ann", "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    assert_eq!(changes.len(), keys.len(), "every row was uploaded once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_and_status_speak_json() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let a = init(&folder, "a.db", &server);
    add(&a, &fresh_key());
    let output = run(oversqlite(&a).args(["--json", "sync"]));
    let synced: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(synced["uploaded"], 1, "{synced}");
    let output = run(oversqlite(&a).args(["--json", "status"]));
    let status: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(status["unsent"], 0, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_runs() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let url = format!("http://{}", server.address());
    let output = run(Command::new(binary("examples/quickstart"))
        .args(["quickstart.db", &url])
        .current_dir(&folder));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.contains("1 users, 1 posts"),
        "it counts what it has: {text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blocking_example_runs() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let url = format!("http://{}", server.address());
    for (file, users) in [("one.db", "1 users"), ("two.db", "2 users")] {
        let output = run(Command::new(binary("examples/blocking"))
            .args([file, &url])
            .current_dir(&folder));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains("sent: true"), "{text}");
        assert!(text.contains(users), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_two_devices_runs() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let url = format!("http://{}", server.address());
    let output = run(Command::new(binary("examples/two_devices"))
        .args([".", &url])
        .current_dir(&folder));
    let text = String::from_utf8(output.stdout).expect("text");
    for said in [
        "the laptop hears of users",
        r#"lost on the phone: {"name":"Evi"}"#,
        "on the laptop: Evi",
    ] {
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedding_example_serves_its_own_users_on_postgres() {
    let database = Backend::Postgres.database().await;
    let mut child = Command::new(binary("examples/embed"))
        .env("DATABASE_URL", database.url())
        .env("LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
    output.read_line(&mut line).expect("a line");
    let running = Watch(child);
    let url = line
        .trim()
        .strip_prefix("listening on ")
        .expect("it says where it listens")
        .to_owned();

    let http = reqwest::Client::new();
    let key = http
        .post(format!("{url}/login/ann/phone"))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a key");
    let id = fresh_key();
    let upload = serde_json::json!({"changes": [{
        "source_change_id": 1, "schema": "business", "table": "users", "op": "INSERT", "pk": id,
        "payload": {"id": id, "name": "Ann"},
    }]});
    let reply = http
        .post(format!("{url}/sync/upload"))
        .bearer_auth(&key)
        .json(&upload)
        .send()
        .await
        .expect("an answer");
    let reply: serde_json::Value = reply.json().await.expect("JSON");
    assert_eq!(reply["statuses"][0]["status"], "applied", "{reply}");
    let row = database
        .ask("SELECT owner_id || ' ' || name FROM business.users")
        .await;
    assert_eq!(row.as_deref(), Some("ann Ann"));
    // The back end writes too, and the device gets it.
    let welcomed = http.post(format!("{url}/welcome/ann")).send().await;
    assert_eq!(welcomed.expect("an answer").status(), 200);
    let page = http
        .get(format!("{url}/sync/download"))
        .bearer_auth(&key)
        .send()
        .await
        .expect("an answer");
    let page: serde_json::Value = page.json().await.expect("JSON");
    assert_eq!(
        page["changes"][0]["payload"]["name"], "welcome, ann",
        "{page}"
    );
    assert_eq!(page["changes"][0]["source_id"], "server");
    let stranger = http
        .get(format!("{url}/sync/download"))
        .bearer_auth("guess")
        .send()
        .await
        .expect("an answer");
    assert_eq!(stranger.status(), 401);
    drop(running);
}
