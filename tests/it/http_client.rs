//! The examples for authors of HTTP-only clients, as processes beside the real client
//! and against real servers: `docs/http_client.py`, the least there can be, and
//! `docs/http_device.py`, which also goes on where the other stops, and sends many
//! edits at once.

use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    App, Backend, Config, Database, Port, Server, Target, eventually, on_both_stores,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The two programs. They have their table layout in common.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http_client.py");
const DEVICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http_device.py");

on_both_stores!(
    it_keeps_up_with_the_real_client,
    an_edit_that_loses_is_kept_beside,
    the_small_one_stops_where_the_other_goes_on,
    a_new_file_under_an_old_name_counts_on,
    a_file_put_back_counts_on,
    a_restored_server_gets_back_what_it_lost,
    it_outlives_its_server_and_its_servers_history,
    what_is_refused_holds_up_nothing_else,
);

/// One file of a Python client.
struct Python {
    program: &'static str,
    folder: TempDir,
    user: String,
    name: String,
}

/// Ends with its test.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Python {
    fn new(program: &'static str, target: &Target, user: &str, name: &str) -> Self {
        let python = Self {
            program,
            folder: TempDir::with_prefix("oversync-python.").expect("a temporary folder"),
            user: user.to_owned(),
            name: name.to_owned(),
        };
        python.connect(target);
        python
    }

    fn connect(&self, target: &Target) {
        let token = target.token(&self.user, &self.name, Duration::from_secs(3_600));
        self.run(&["token", target.base(), &token]);
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("device.db")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("python3");
        command.arg(program).arg(self.file()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let output = self.command(self.program, arguments).output();
        let output = output.expect("python3 is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Traceback"), "{arguments:?}: {said}");
        output
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What was kept, which only the larger of the two lists.
    fn lost(&self) -> String {
        let listed = self.command(DEVICE, &["lost"]).output();
        let listed = listed.expect("python3 is installed");
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).expect("text")
    }

    fn watch(&self) -> Watching {
        Watching(
            self.command(self.program, &["watch"])
                .stdout(Stdio::null())
                .spawn()
                .expect("python3 is installed"),
        )
    }

    fn put(&self, key: &str, payload: &Value) {
        self.run(&["put", "business.users", &payload.to_string(), key]);
    }

    /// Keys and payloads as the application sees them.
    fn people(&self) -> Vec<(String, Value)> {
        let listed = self.run(&["list", "business.users"]);
        let row = |line: &str| {
            let (key, payload) = line.split_once(' ').expect("a key and a payload");
            let payload = serde_json::from_str(payload).expect("JSON");
            (key.to_owned(), payload)
        };
        listed.lines().map(row).collect()
    }

    fn names(&self) -> Vec<(String, String)> {
        let name = |(key, payload): (String, Value)| {
            let name = payload["name"].as_str().expect("a name").to_owned();
            (key, name)
        };
        self.people().into_iter().map(name).collect()
    }
}

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    (database, server)
}

async fn it_keeps_up_with_the_real_client(backend: Backend) {
    for program in [CLIENT, DEVICE] {
        keeps_up(backend, program).await;
    }
}

async fn keeps_up(backend: Backend, program: &'static str) {
    let (_database, server) = server(backend).await;
    let (target, user) = (server.target(), fresh_user());
    let app = App::start(&target, &user, "app").await;
    let python = Python::new(program, &target, &user, "python");
    let _watching = python.watch();
    let (first, second) = (fresh_key(), fresh_key());
    app.add(&first, "Ann");
    eventually("the app's row is at the Python client", || async {
        (python.names() == [(first.clone(), "Ann".to_owned())]).then_some(())
    })
    .await;
    python.put(
        &second,
        &json!({"id": second, "name": "B\u{f6}b \u{1f642}"}),
    );
    python.run(&["sync"]);
    eventually("both have both", || async {
        (app.people().len() == 2 && app.people() == python.names()).then_some(())
    })
    .await;
    python.run(&["put", "business.users", "null", &first]);
    python.run(&["sync"]);
    eventually("the delete arrives", || async {
        (app.people() == python.names() && app.people().len() == 1).then_some(())
    })
    .await;
}

async fn an_edit_that_loses_is_kept_beside(backend: Backend) {
    for program in [CLIENT, DEVICE] {
        keeps_what_loses(backend, program).await;
    }
}

async fn keeps_what_loses(backend: Backend, program: &'static str) {
    let (_database, server) = server(backend).await;
    let (target, user) = (server.target(), fresh_user());
    let (here, there) = (
        Python::new(program, &target, &user, "here"),
        Python::new(program, &target, &user, "there"),
    );
    let key = fresh_key();
    // An integer that no double can hold, by both ways.
    here.put(
        &key,
        &json!({"name": "Ann", "n": 9_007_199_254_740_993_i64}),
    );
    here.run(&["sync"]);
    there.run(&["sync"]);
    assert_eq!(there.people()[0].1["n"], 9_007_199_254_740_993_i64);
    // Two edits on top of each other here; one there, made on what they overtake.
    there.put(&key, &json!({"name": "Cy"}));
    here.put(&key, &json!({"name": "Bo"}));
    here.put(&key, &json!({"name": "Bob"}));
    here.run(&["sync"]);
    assert_eq!(there.names(), [(key.clone(), "Cy".to_owned())]);
    there.run(&["sync"]);
    assert_eq!(there.names(), [(key.clone(), "Bob".to_owned())]);
    assert!(there.lost().contains("\"Cy\""));
    assert_eq!((here.names(), here.lost()), (there.names(), String::new()));
    // What the server can never take is kept too, with the reason.
    there.run(&["put", "business.unheard_of", "{}"]);
    there.run(&["sync"]);
    assert!(there.lost().contains("unregistered_table"));
}

async fn the_small_one_stops_where_the_other_goes_on(backend: Backend) {
    let (_database, first) = server(backend).await;
    let user = fresh_user();
    let mut python = Python::new(CLIENT, &first.target(), &user, "python");
    let (known, later) = (fresh_key(), fresh_key());
    python.put(&known, &json!({"name": "Ann"}));
    python.run(&["sync"]);
    // The device's name in another file; and another history.
    let twin = Python::new(CLIENT, &first.target(), &user, "python");
    twin.put(&later, &json!({"name": "Bob"}));
    let (_other, second) = server(backend).await;
    python.put(&later, &json!({"name": "Bob"}));
    python.connect(&second.target());
    for stopped in [&twin, &python] {
        for command in ["sync", "watch"] {
            let output = stopped.try_run(&[command]);
            let why = String::from_utf8_lossy(&output.stderr);
            let is_told = why.contains("epoch_mismatch") || why.contains("a copy");
            assert!(!output.status.success() && is_told, "{output:?}");
        }
        assert!(stopped.names().contains(&(later.clone(), "Bob".to_owned())));
        assert_eq!(stopped.lost(), "");
    }
    python.program = DEVICE;
    python.connect(&second.target());
    python.run(&["sync"]);
    let reader = Python::new(CLIENT, &second.target(), &user, "reader");
    reader.run(&["sync"]);
    assert_eq!(reader.people().len(), 2);
    assert_eq!(reader.people(), python.people());
    // As if the other had been killed while it read everything again.
    let file = rusqlite::Connection::open(python.file()).expect("opens");
    let began = "UPDATE state SET value = 0 WHERE name = 'hydrated'";
    assert_eq!(file.execute(began, []).expect("written"), 1);
    python.program = CLIENT;
    let output = python.try_run(&["sync"]);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && why.contains("let it finish"),
        "{output:?}"
    );
    // Nor does a file change its device.
    let token = second
        .target()
        .token(&user, "another", Duration::from_secs(60));
    let output = python.try_run(&["token", second.target().base(), &token]);
    assert!(!output.status.success(), "{output:?}");
}

async fn a_new_file_under_an_old_name_counts_on(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (target, user) = (server.target(), fresh_user());
    let before = Python::new(DEVICE, &target, &user, "phone");
    let (first, second) = (fresh_key(), fresh_key());
    before.put(&first, &json!({"name": "Ann"}));
    before.run(&["sync"]);
    let after = Python::new(DEVICE, &target, &user, "phone");
    after.put(&second, &json!({"name": "Bob"}));
    after.run(&["sync"]);
    assert_eq!(after.lost(), "");
    assert_eq!(after.people().len(), 2, "its own rows come back too");
    let reader = Python::new(DEVICE, &target, &user, "reader");
    reader.run(&["sync"]);
    assert_eq!(reader.people(), after.people());
}

/// Found by reading: its next change went under a number that the server knew.
async fn a_file_put_back_counts_on(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (target, user) = (server.target(), fresh_user());
    let python = Python::new(DEVICE, &target, &user, "phone");
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    python.put(&keys[0], &json!({"name": "Ann"}));
    python.run(&["sync"]);
    let copy = python.folder.path().join("copy.db");
    std::fs::copy(python.file(), &copy).expect("a copy");
    python.put(&keys[0], &json!({"name": "Anna"}));
    python.put(&keys[1], &json!({"name": "Bob"}));
    python.run(&["sync"]);
    std::fs::copy(&copy, python.file()).expect("put back");
    // Under the numbers of the two that the file knows nothing of.
    python.put(&keys[2], &json!({"name": "Cy"}));
    python.put(&keys[1], &json!({"name": "Bo"}));
    python.run(&["sync"]);
    let lost = python.lost();
    assert_eq!(lost.lines().count(), 1, "made on nothing: {lost}");
    assert!(lost.contains("\"Bo\""), "{lost}");
    let reader = Python::new(DEVICE, &target, &user, "reader");
    reader.run(&["sync"]);
    let mut names: Vec<String> = reader.names().into_iter().map(|(_, name)| name).collect();
    names.sort();
    assert_eq!(names, ["Anna", "Bob", "Cy"]);
    assert_eq!(python.people(), reader.people());
}

/// Found by reading: what was acknowledged, and newer than the backup, went without a word.
async fn a_restored_server_gets_back_what_it_lost(backend: Backend) {
    let (_database, first) = server(backend).await;
    let user = fresh_user();
    let python = Python::new(DEVICE, &first.target(), &user, "python");
    let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
    let [newer, gone, same, other, edited] = keys.as_slice() else {
        unreachable!("BUG: five keys")
    };
    let one = [(newer, "Ann"), (gone, "Bob"), (same, "Cy")];
    for (key, name) in one.into_iter().chain([(other, "Mine"), (edited, "Ed")]) {
        python.put(key, &json!({"name": name}));
    }
    python.run(&["sync"]);
    python.put(newer, &json!({"name": "Anna"}));
    python.run(&["delete", "business.users", gone]);
    python.run(&["sync"]);
    // What the backup has, and what another device has written since.
    let (_other, second) = server(backend).await;
    let native = Python::new(DEVICE, &second.target(), &user, "native");
    for (key, name) in one
        .into_iter()
        .chain([(other, "Theirs"), (edited, "Their Ed")])
    {
        native.put(key, &json!({"name": name}));
    }
    native.run(&["sync"]);
    python.put(edited, &json!({"name": "Edward"}));
    python.connect(&second.target());
    python.run(&["sync"]);
    let reader = Python::new(DEVICE, &second.target(), &user, "reader");
    reader.run(&["sync"]);
    let mut expected = [
        (newer, "Anna"),
        (same, "Cy"),
        (other, "Theirs"),
        (edited, "Their Ed"),
    ]
    .map(|(key, name)| (key.clone(), name.to_owned()));
    expected.sort();
    assert_eq!(reader.names(), expected);
    assert_eq!(python.people(), reader.people());
    let lost = python.lost();
    assert_eq!(lost.lines().count(), 3, "{lost}");
    for name in ["\"Mine\"", "\"Ed\"", "\"Edward\""] {
        assert!(lost.contains(name), "{lost}");
    }
    // Numbers go on from the highest, however often.
    for server in [&first, &second, &first, &second] {
        python.connect(&server.target());
        python.run(&["sync"]);
    }
    python.run(&["put", "business.unheard_of", "{}"]);
    python.run(&["sync"]);
    let lost = python.lost();
    let refused = lost.lines().find(|line| line.contains("unheard_of"));
    let number = refused.and_then(|line| line.split_once(' '));
    let number: i64 = number.expect("kept").0.parse().expect("a number");
    assert!((10..40).contains(&number), "{lost}");
}

async fn it_outlives_its_server_and_its_servers_history(backend: Backend) {
    let (_database, mut first) = server(backend).await;
    let user = fresh_user();
    let python = Python::new(DEVICE, &first.target(), &user, "python");
    let (known, later, met) = (fresh_key(), fresh_key(), fresh_key());
    python.put(&known, &json!({"name": "Ann"}));
    let watching = python.watch();
    let reader = first.target().device(&user, "reader");
    eventually("the edit is sent", || async {
        (reader.download("").await["head"] == 1).then_some(())
    })
    .await;
    first.kill();
    python.put(&known, &json!({"name": "Anna"}));
    let refused = python.try_run(&["sync"]);
    assert!(!refused.status.success() && !refused.stderr.is_empty());
    first.restart(Port::Same).await;
    eventually("the edit made meanwhile is sent", || async {
        (reader.download("").await["head"] == 2).then_some(())
    })
    .await;
    drop(watching);
    for name in ["Cy", "Cyd"] {
        python.put(&met, &json!({"name": name}));
        python.run(&["sync"]);
    }
    // Another history: what this device has is offered again, also an edit of a row
    // that is not there. One that is there is not overwritten: the edit was made on
    // something else.
    let (_other, second) = server(backend).await;
    let native = Python::new(DEVICE, &second.target(), &user, "native");
    native.put(&met, &json!({"name": "Theirs"}));
    native.run(&["sync"]);
    python.put(&later, &json!({"name": "Bob"}));
    python.put(&known, &json!({"name": "Annabel"}));
    python.put(&met, &json!({"name": "Cyril"}));
    python.connect(&second.target());
    python.run(&["sync"]);
    let reader = Python::new(DEVICE, &second.target(), &user, "reader");
    reader.run(&["sync"]);
    let mut expected = [(known, "Annabel"), (later, "Bob"), (met, "Theirs")]
        .map(|(key, name)| (key, name.to_owned()));
    expected.sort();
    assert_eq!(reader.names(), expected);
    assert_eq!(python.names(), reader.names());
    let lost = python.lost();
    assert_eq!(lost.lines().count(), 1, "{lost}");
    assert!(lost.contains("Cyril"), "{lost}");
}

async fn what_is_refused_holds_up_nothing_else(backend: Backend) {
    for program in [CLIENT, DEVICE] {
        is_not_held_up(backend, program).await;
    }
}

async fn is_not_held_up(backend: Backend, program: &'static str) {
    let database = backend.database().await;
    let small = Config::default()
        .set("limits.max_changes", 2)
        .set("limits.max_payload_bytes", 1_000)
        .set("limits.max_body_bytes", 2_000);
    let server = Server::start(&database, small).await;
    let (target, user) = (server.target(), fresh_user());
    let python = Python::new(program, &target, &user, "python");
    // Halved, these are a body too large and, at the end, three changes.
    let long = "x".repeat(5_000);
    for name in [
        "Ann",
        long.as_str(),
        "Bob",
        "Cy",
        long.as_str(),
        "Di",
        "Ed",
        "Flo",
        "Gus",
    ] {
        python.put(&fresh_key(), &json!({ "name": name }));
    }
    python.run(&["sync"]);
    let reader = Python::new(program, &target, &user, "reader");
    reader.run(&["sync"]);
    assert_eq!(reader.people().len(), 7);
    assert_eq!(reader.people(), python.people());
    let lost = python.lost();
    assert_eq!(lost.matches("request_too_large").count(), 2, "{lost}");
    // What JSON cannot carry holds up nothing either, where it is taken at all.
    let is_taken = program == CLIENT;
    let put = python.try_run(&["put", "business.users", r#"{"name": NaN}"#]);
    assert_eq!(put.status.success(), is_taken, "{put:?}");
    python.put(&fresh_key(), &json!({"name": "Hal"}));
    python.run(&["sync"]);
    assert_eq!(python.lost().contains("NaN"), is_taken);
    reader.run(&["sync"]);
    assert_eq!(reader.people().len(), 8);
    assert_eq!(reader.people(), python.people());
    // Nor does it say more than what is wrong.
    for wrong in [&["nonsense"][..], &["put"], &["list"], &["put", "a.b", "{"]] {
        let refused = python.try_run(wrong);
        assert!(!refused.status.success(), "{refused:?}");
    }
    // Nor is another user let in.
    let other = target.token(&fresh_user(), "python", Duration::from_secs(3_600));
    let refused = python.try_run(&["token", target.base(), &other]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(python.people(), reader.people());
}
