//! `oversqlite` as a person uses it when something is in the way: conflicts,
//! refused edits, two processes on one file, signing out, no server.

use crate::programs::{Watch, add, dev_server, init, oversqlite, run};
use oversync_tests::app::people;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Server, eventually, within};
use rusqlite::Connection;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Output;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::with_prefix("oversync-app.").expect("a temporary folder")
}

/// Runs a command whatever comes of it: its exit code and what it says.
fn code(file: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = oversqlite(file).args(arguments).output().expect("it runs");
    oversync_tests::canary::look_through(&output);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn told(file: &Path, arguments: &[&str]) -> String {
    text(&run(oversqlite(file).args(arguments)))
}

/// What a command prints as JSON, a value a line.
fn json(file: &Path, arguments: &[&str]) -> Vec<Value> {
    let printed = text(&run(oversqlite(file).arg("--json").args(arguments)));
    printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn write(file: &Path, sql: &str) {
    let connection = Connection::open(file).expect("the file opens");
    connection
        .busy_timeout(Duration::from_secs(10))
        .expect("set");
    connection.execute_batch(sql).expect("the SQL runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_is_listed_shown_restored_and_dismissed() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    add(&a, &fresh_key());
    add(&a, &fresh_key());
    told(&a, &["sync"]);
    told(&b, &["sync"]);
    write(&a, "UPDATE users SET name = 'Anna'");
    write(&b, "UPDATE users SET name = 'Anne', email = 'kept'");
    told(&a, &["sync"]);
    told(&b, &["sync"]);
    let listed = told(&b, &["conflicts"]);
    assert_eq!(listed, told(&b, &["conflicts", "list"]));
    assert!(
        listed.contains("mine:") && listed.contains("theirs:"),
        "{listed}"
    );
    assert!(
        listed.contains(r#"lost:   {"name":"Anne"} (conflict 1)"#),
        "{listed}"
    );
    let shown = json(&b, &["conflicts", "show", "1"]);
    assert_eq!(
        (&shown[0]["id"], &shown[0]["columns"][0]),
        (&1.into(), &"name".into())
    );
    assert_eq!(json(&b, &["conflicts"]).len(), 2);
    told(&b, &["conflicts", "restore", "1"]);
    told(&b, &["conflicts", "dismiss", "2"]);
    assert_eq!(told(&b, &["conflicts"]), "");
    assert_eq!(code(&b, &["conflicts", "restore", "1"]).0, Some(2));
    told(&b, &["sync"]);
    told(&a, &["sync"]);
    let mut names: Vec<String> = people(&a).into_iter().map(|(_, name)| name).collect();
    names.sort();
    assert_eq!(names, ["Anna", "Anne"]);
    assert_eq!(people(&a), people(&b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_edit_is_exported_retried_and_dropped() {
    let database = Backend::Embedded.database().await;
    let small = Config::default()
        .set("dev", true)
        .set("limits.max_payload_bytes", 500);
    let server = Server::start(&database, small).await;
    let folder = folder();
    let a = init(&folder, "a.db", &server);
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    for key in &keys {
        add(&a, key);
    }
    write(
        &a,
        &format!(
            "UPDATE users SET email = printf('%.600c', 'x') WHERE id <> '{}'",
            keys[0]
        ),
    );
    assert_eq!(
        code(&a, &["sync"]).0,
        Some(5),
        "done, but something is rejected"
    );
    let listed = told(&a, &["rejected"]);
    assert_eq!(listed, told(&a, &["rejected", "list"]));
    assert!(listed.contains("bad_payload"), "{listed}");
    let lines = told(&a, &["rejected", "export"]);
    let exported: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(exported.len(), 2);
    assert_eq!(exported[0]["table"], "users");
    assert_eq!(exported[0]["payload"]["id"], exported[0]["key"]);
    // One is mended and tried again, though an edit alone would do.
    let mended = exported[0]["key"].as_str().expect("a key");
    let id = |entry: &Value| entry["id"].to_string();
    told(&a, &["rejected", "retry", "--all"]);
    assert_eq!(json(&a, &["status"])[0]["unsent"], 2);
    write(
        &a,
        &format!("UPDATE users SET email = NULL WHERE id = '{mended}'"),
    );
    assert_eq!(code(&a, &["sync"]).0, Some(5));
    let left = json(&a, &["rejected"]);
    assert_eq!(left.len(), 1);
    told(&a, &["rejected", "retry", &id(&left[0])]);
    assert_eq!(code(&a, &["sync"]).0, Some(5));
    let left = json(&a, &["rejected"]);
    told(&a, &["rejected", "drop", &id(&left[0])]);
    assert_eq!(code(&a, &["sync"]).0, Some(0));
    assert_eq!(people(&a).len(), 2, "the server has never had the third");
    assert_eq!(code(&a, &["rejected", "drop", "99"]).0, Some(2));
}

/// In which the one that stands by takes over.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// What a running `watch` prints, line by line.
struct Said(mpsc::Receiver<String>);

impl Said {
    fn of(watch: &mut Watch) -> Self {
        let output = watch.0.stdout.take().expect("its output is piped");
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Self(heard)
    }

    async fn connection(&self, is: &str) {
        self.one_of(&[is], Duration::from_secs(60)).await;
    }

    async fn one_of(&self, states: &[&str], deadline: Duration) {
        let words = states.iter().map(|is| format!(r#""connection":"{is}""#));
        let words: Vec<String> = words.collect();
        within(deadline, &format!("it says {states:?}"), || {
            let is_said = |line: String| words.iter().any(|word| line.contains(word));
            let found = self.0.try_iter().any(is_said);
            async move { found.then_some(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_synchronises_and_the_next_takes_over_when_it_is_killed() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    let _there = Watch::start(&b);
    let mut first = Watch::start(&a);
    Said::of(&mut first).connection("online").await;
    let mut rows = 0;
    for _ in 0..3 {
        let mut second = Watch::start(&a);
        let says = Said::of(&mut second);
        says.connection("standby").await;
        assert_eq!(code(&a, &["sync"]).0, Some(7), "it is synchronised already");
        // Captured while two are there, sent by the one.
        for _ in 0..10 {
            add(&a, &fresh_key());
            rows += 1;
        }
        assert_eq!(json(&a, &["status"])[0]["user"], "user-ann");
        // In the middle of it.
        first.kill();
        add(&a, &fresh_key());
        rows += 1;
        // The lease is free at once, and is tried every second; ten times that for a
        // machine that is busy with other tests. Connecting comes on top of it.
        says.one_of(&["offline", "online"], TAKEN_OVER).await;
        eventually("every row arrives", || async {
            (people(&b).len() == rows).then_some(())
        })
        .await;
        first = second;
    }
    let observer = server.target().device("user-ann", "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    assert_eq!(changes.len(), rows, "every row was uploaded once");
    first.kill();
    assert_eq!(code(&a, &["sync"]).0, Some(0), "its end frees the file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_loses_nothing_unless_told_to() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let a = init(&folder, "a.db", &server);
    let key = fresh_key();
    add(&a, &key);
    let (exit, said) = code(&a, &["sign-out"]);
    assert_eq!(exit, Some(6), "{said}");
    assert_eq!(people(&a).len(), 1);
    let url = format!("http://{}", server.address());
    let as_bob = [
        "init", "--server", &url, "--signin", "bob", "--schema", "business", "--table", "users",
    ];
    let (exit, said) = code(&a, &as_bob);
    assert_eq!(exit, Some(2));
    assert!(
        said.contains("user-ann") && said.contains("user-bob"),
        "{said}"
    );
    assert_eq!(json(&a, &["sign-out", "--sync"])[0]["type"], "signed_out");
    assert!(people(&a).is_empty());
    // Nobody's now; it becomes another user's, and only that one's.
    assert_eq!(code(&a, &["status"]).0, Some(1));
    assert_eq!(code(&a, &as_bob).0, Some(0));
    add(&a, &fresh_key());
    told(&a, &["sync"]);
    assert_eq!(people(&a).len(), 1);
    let ann = server.target().device("user-ann", "observer");
    let (changes, _) = ann.download_all(0, 100, "").await;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0]["pk"], key.as_str());
    add(&a, &fresh_key());
    told(&a, &["sign-out", "--discard"]);
    let bob = server.target().device("user-bob", "observer");
    assert_eq!(bob.server_ids("").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_is_no_bad_token() {
    let (mut server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let a = init(&folder, "a.db", &server);
    let url = format!("http://{}", server.address());
    server.terminate().await;
    add(&a, &fresh_key());
    assert_eq!(code(&a, &["sync"]).0, Some(3));
    let other = folder.path().join("b.db");
    let arguments = [
        "init", "--server", &url, "--signin", "ann", "--table", "users",
    ];
    assert_eq!(code(&other, &arguments).0, Some(3));
    let status = &json(&a, &["status"])[0];
    assert_eq!(
        (&status["unsent"], &status["rejected"]),
        (&1.into(), &0.into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_this_device_has_is_exported_as_json_lines() {
    let database = Backend::Embedded.database().await;
    let small = Config::default()
        .set("dev", true)
        .set("limits.max_payload_bytes", 500);
    let server = Server::start(&database, small).await;
    let folder = folder();
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    let (both, large) = (fresh_key(), fresh_key());
    add(&a, &both);
    told(&a, &["sync"]);
    told(&b, &["sync"]);
    write(&a, "UPDATE users SET name = 'Anna'");
    write(&b, "UPDATE users SET name = 'Anne'");
    told(&a, &["sync"]);
    let wide = format!("INSERT INTO users (id, name) VALUES ('{large}', printf('%.600c', 'x'))");
    write(&b, &wide);
    assert_eq!(code(&b, &["sync"]).0, Some(5));
    let (captured, waits) = (fresh_key(), fresh_key());
    write(
        &b,
        &format!("INSERT INTO posts (id, title, author_id) VALUES ('{waits}', 't', '{large}')"),
    );
    assert_eq!(code(&b, &["sync"]).0, Some(5));
    write(
        &b,
        &format!(
            "INSERT INTO users (id, name, email) VALUES ('{captured}', 'new', 9223372036854775807)"
        ),
    );
    write(&b, &format!("DELETE FROM users WHERE id = '{both}'"));
    // Beside a process that has the file.
    let mut watch = Watch::start(&b);
    drop(watch.0.stdout.take());
    told(&b, &["pause", "uploads"]);
    watch.kill();
    write(
        &b,
        &format!("UPDATE users SET name = 'newer' WHERE id = '{captured}'"),
    );

    let lines = |arguments: &[&str]| -> Vec<Value> {
        let all: Vec<&str> = ["export"].iter().chain(arguments).copied().collect();
        let text = told(&b, &all);
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let all = lines(&[]);
    let of = |list: &str| all.iter().filter(|line| line["list"] == list).count();
    assert_eq!((of("rejected"), of("conflict")), (1, 1), "{all:?}");
    assert_eq!(
        lines(&["--rejected"]).len() + lines(&["--conflicts"]).len(),
        2
    );
    let unsent = lines(&["--unsent"]);
    assert_eq!(unsent.len(), all.len() - 2);
    let find = |key: &str| {
        let found = unsent.iter().rfind(|line| line["key"] == key);
        found
            .unwrap_or_else(|| panic!("{key} in {unsent:?}"))
            .clone()
    };
    assert_eq!(find(&waits)["stage"], "waiting");
    assert_eq!(find(&waits)["waits_for"], format!("users/{large}"));
    assert_eq!(find(&captured)["payload"]["name"], "newer");
    let text = told(&b, &["export", "--unsent"]);
    assert!(
        text.contains("9223372036854775807"),
        "digit for digit: {text}"
    );
    let file = folder.path().join("export.jsonl");
    let path = file.to_str().expect("a path");
    let done = json(&b, &["export", "--output", path]);
    assert_eq!(done[0]["lines"], all.len());
    assert_eq!(
        std::fs::read_to_string(&file)
            .expect("written")
            .lines()
            .count(),
        all.len()
    );
    let (exit, said) = code(&b, &["export", "--output", path]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(
        said.contains("export.jsonl"),
        "nothing is overwritten: {said}"
    );
}

/// What others sent and this file cannot take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_is_listed_with_its_reason_and_goes_by_itself() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    assert_eq!(told(&b, &["parked"]), "", "nothing is parked");
    assert!(json(&b, &["parked"]).is_empty());
    write(&b, "CREATE UNIQUE INDEX one_name ON users (name)");
    let (mine, theirs) = (fresh_key(), fresh_key());
    for (file, key) in [(&b, &mine), (&a, &theirs)] {
        write(
            file,
            &format!("INSERT INTO users (id, name) VALUES ('{key}', 'Ann')"),
        );
        assert_eq!(code(file, &["sync"]).0, Some(0));
    }
    // Nobody has refused an edit: this is no failure.
    assert_eq!(code(&b, &["sync"]).0, Some(0));
    assert_eq!(json(&b, &["status"])[0]["parked"], 1);
    let (exit, _) = code(&b, &["parked"]);
    assert_eq!(exit, Some(0), "to list is no failure either");
    let text = told(&b, &["parked"]);
    for word in ["users", &theirs, "version 1", "refused", "UNIQUE"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let listed = json(&b, &["parked"]);
    assert_eq!(listed.len(), 1);
    for (name, value) in [("table", "users"), ("key", &theirs), ("reason", "refused")] {
        assert_eq!(listed[0][name], value, "{listed:?}");
    }
    let payload = listed[0]["payload"].as_str().expect("the row as it came");
    assert!(payload.contains("Ann"), "{payload}");
    // What was in its way has changed.
    write(
        &b,
        &format!("UPDATE users SET name = 'Bob' WHERE id = '{mine}'"),
    );
    assert_eq!(code(&b, &["sync"]).0, Some(0));
    write(
        &a,
        &format!("UPDATE users SET email = 'a@b' WHERE id = '{theirs}'"),
    );
    assert_eq!(code(&a, &["sync"]).0, Some(0));
    assert_eq!(code(&b, &["sync"]).0, Some(0));
    assert_eq!(told(&b, &["parked"]), "");
    assert!(people(&b).iter().any(|(id, _)| *id == theirs));
    let none = folder.path().join("none.db");
    assert_eq!(code(&none, &["parked"]).0, Some(1), "no such file");
}

/// Every command that can fail says so in JSON, too, with its exit code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_json_where_json_is_asked_for() {
    let (mut server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let a = init(&folder, "a.db", &server);
    server.terminate().await;
    add(&a, &fresh_key());
    let none = folder.path().join("none.db");
    for (file, arguments, exit) in [
        (&a, &["sync"][..], 3),
        (&a, &["sign-out"], 6),
        (&a, &["conflicts", "restore", "7"], 2),
        (&a, &["rejected", "drop", "7"], 2),
        (&a, &["doctor", "--row", "users"], 2),
        (&none, &["status"], 1),
        (&none, &["doctor"], 1),
        (&none, &["export"], 1),
        (&none, &["watch"], 1),
        (&none, &["sql", "SELECT 1"], 1),
    ] {
        let mut command = oversqlite(file);
        let output = command
            .arg("--json")
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(
            output.status.code(),
            Some(exit),
            "{arguments:?}: {output:?}"
        );
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["type"], "error", "{value}");
        assert_eq!(value["code"], exit, "{value}");
        assert!(
            value["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    assert!(!none.exists(), "a typing error makes no file");
}

/// At a terminal long work has a bar; in a pipe it has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_has_a_progress_bar_at_a_terminal() {
    let (server, _database) = dev_server(Backend::Embedded).await;
    let folder = folder();
    let (a, b) = (
        init(&folder, "a.db", &server),
        init(&folder, "b.db", &server),
    );
    write(
        &a,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
         INSERT INTO users (id, name) SELECT lower(hex(randomblob(16))), 'x' FROM n",
    );
    let at_terminal = |file: &Path| {
        let line = format!(
            "{} --db {} sync",
            oversync_tests::server::binary("oversqlite").display(),
            file.display()
        );
        let output = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("script runs");
        assert!(output.status.success(), "{output:?}");
        text(&output)
    };
    let said = at_terminal(&a);
    assert!(
        said.contains("uploading") && said.contains("/9000"),
        "{said}"
    );
    let said = at_terminal(&b);
    assert!(
        said.contains("downloading") && said.contains("/9000"),
        "{said}"
    );
    let output = run(oversqlite(&a).arg("sync"));
    assert_eq!(output.stderr, b"");
}
