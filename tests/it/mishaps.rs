//! What operators do with backups that nobody should do, and what happens all the same:
//! copies put in place by hand, files that have lost their half, programs ended in the
//! middle. And what folding makes of a stream that a restore has torn apart.

use crate::growth::rows_touched;
use crate::recovery::{place, text};
use oversync_tests::device::insert;
use oversync_tests::folding::folded_by_hand;
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Port, Server, eventually, on_both_stores,
};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

on_both_stores!(what_is_folded_after_a_restore_are_entries,);

const USERS: &str = "business.users";

/// What a restore adds to every place unless it is told otherwise.
const STEP: i64 = 1_000_000_000_000;

/// Rows by changes from `first` on.
async fn write(device: &HttpDevice, first: i64, rows: i64) {
    let rows: Vec<_> = (first..first + rows)
        .map(|id| insert(id, USERS, &fresh_key(), json!({"name": id})))
        .collect();
    device.upload(&rows).await;
}

/// The embedded store's file.
fn file(database: &Database) -> &str {
    database.url().strip_prefix("sqlite://").expect("a file")
}

/// Its log, beside it.
fn log(database: &Database) -> String {
    format!("{}-wal", file(database))
}

/// HISTORY-IDENTITY: under its old epoch it would hand out places again that devices
/// have read.
#[tokio::test]
async fn a_backup_that_was_copied_into_place_is_not_served() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    write(&device, 1, 1).await;
    let (_folder, path) = place();
    server
        .told(&["backup", "--json", "--to", text(&path)])
        .await;
    write(&device, 2, 1).await;
    server.terminate().await;
    assert!(!Path::new(&log(&database)).exists(), "all is in its file");
    std::fs::copy(&path, file(&database)).expect("copied");

    let says_what_to_do = |output: Output| {
        assert!(!output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("oversync restore --in-place"), "{said}");
    };
    // It opens the store as `serve` does, and ends.
    says_what_to_do(server.run(&["devices", "--user", device.user()]).await);
    let url = format!("sqlite://{}", text(&path));
    let elsewhere = "postgres://nobody@127.0.0.1:1/nowhere";
    says_what_to_do(
        server
            .run(&["migrate", "--from", &url, "--to", elsewhere])
            .await,
    );
    let (copy, whole) = (std::fs::read(file(&database)), std::fs::read(&path));
    assert_eq!(
        copy.expect("read"),
        whole.expect("read"),
        "nothing is changed"
    );

    server.told(&["restore", "--in-place", "--json"]).await;
    server.restart(Port::Same).await;
    write(&device, 3, 1).await;
    let heads = device.download("after=0&include_self=true").await;
    assert_eq!(heads["head"], STEP + 2);
    server.verified().await;
}

/// Where only the log is left, it is what there is to save.
#[tokio::test]
async fn a_log_without_its_file_is_set_aside_as_it_is() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::answering(&database, Config::default()).await;
    let device = server.target().one_device();
    let (_folder, path) = place();
    server
        .told(&["backup", "--json", "--to", text(&path)])
        .await;
    write(&device, 1, 3).await;
    server.kill();
    let before = std::fs::read(log(&database)).expect("the log of a killed server");
    assert!(!before.is_empty());
    std::fs::remove_file(file(&database)).expect("the file goes");
    let restore = ["restore", "--replace", "--json", "--from", text(&path)];
    let done = server.told(&restore).await;
    let kept = done["kept"].as_str().expect("a path");
    let kept = std::fs::read(format!("{kept}-wal")).expect("the log is kept");
    assert!(kept == before, "{} bytes of {}", kept.len(), before.len());
    server.restart(Port::Same).await;
    server.verified().await;
}

/// Makes a database of this size that takes a while to copy.
const BALLAST: &str =
    "CREATE TABLE ballast (bytes BLOB); INSERT INTO ballast VALUES (zeroblob(128 * 1024 * 1024))";

/// What is half made, in a folder.
fn half_made(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".oversync-"))
        .collect()
}

/// Runs the program until something half made is in the folder, and sends it a signal then.
/// `None` when it had ended before.
async fn stopped(
    server: &Server,
    arguments: &[&str],
    folder: &Path,
    signal: &str,
) -> Option<Output> {
    let mut program = server.program(arguments);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = program.spawn().expect("it starts");
    while half_made(folder).is_empty() {
        if child.try_wait().expect("it can be waited for").is_some() {
            let output = child.wait_with_output().expect("it ends");
            return (!output.status.success()).then_some(output);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let told = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().expect("it ends"));
    let output = output.await.expect("it ends");
    (!output.status.success()).then_some(output)
}

/// Tries until the signal comes in the middle. What is made is not there then.
async fn stopped_in_the_middle(server: &Server, arguments: &[&str], made: &Path, signal: &str) {
    const TRIES: usize = 50;
    let folder = made.parent().expect("a folder");
    for _ in 0..TRIES {
        let output = stopped(server, arguments, folder, signal).await;
        assert_eq!(half_made(folder), Vec::<String>::new());
        let Some(output) = output else {
            std::fs::remove_file(made).expect("it was made");
            continue;
        };
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("stopped by a signal"), "{said}");
        assert!(!made.exists());
        return;
    }
    panic!("it was always faster than the signal");
}

/// A database's size may be more than there is room for twice.
#[tokio::test]
async fn who_is_stopped_leaves_nothing_half_made() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    write(&server.target().one_device(), 1, 1).await;
    database.execute(BALLAST).await;
    let (_folder, path) = place();
    let backup = ["backup", "--json", "--to", text(&path)];
    // Beside a running server.
    for signal in ["-INT", "-TERM"] {
        stopped_in_the_middle(&server, &backup, &path, signal).await;
    }
    server.told(&backup).await;
    let (_folder, restored) = place();
    let url = format!("sqlite://{}", text(&restored));
    let restore = ["restore", "--json", "--from", text(&path), "--database-url"];
    let restore = [&restore[..], &[&*url]].concat();
    stopped_in_the_middle(&server, &restore, &restored, "-TERM").await;
    server.told(&restore).await;
    server.verified().await;
}

/// PostgreSQL's program goes with the one that has started it, and takes its file along.
#[tokio::test]
async fn who_is_stopped_stops_its_programs() {
    let database = Backend::Postgres.database().await;
    let server = Server::start(&database, Config::default()).await;
    write(&server.target().one_device(), 1, 1).await;
    // The dump waits for this.
    let url = database.url().to_owned();
    let mut holder = PgConnection::connect(&url).await.expect("connects");
    let made = holder.execute("CREATE TABLE held (x int)").await;
    made.expect("made");
    let locked = holder.execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE");
    locked.await.expect("locked");
    let (folder, path) = place();
    let backup = ["backup", "--json", "--to", text(&path)];
    stopped_in_the_middle(&server, &backup, &path, "-TERM").await;
    let of_dumps = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'pg_dump'";
    holder.execute("ROLLBACK").await.expect("let go");
    eventually("the dump is gone", || async {
        (database.ask(of_dumps).await? == "0").then_some(())
    })
    .await;
    assert_eq!(half_made(folder.path()), Vec::<String>::new());
    assert!(!path.exists());
}

/// How many users were folded by one pass.
async fn folded(server: &Server) -> String {
    let output = server.run(&["fold"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("text");
    let users = said.strip_prefix("users folded: ").expect(&said);
    users.split(',').next().expect("a number").to_owned()
}

/// The places that a restore has left out are no entries that could be folded.
async fn what_is_folded_after_a_restore_are_entries(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, folded_by_hand()).await;
    let device = server.target().one_device();
    write(&device, 1, 6).await;
    server.terminate().await;
    assert_eq!(folded(&server).await, "1");
    let (_folder, path) = place();
    server
        .told(&["backup", "--json", "--to", text(&path)])
        .await;
    let restore = ["restore", "--replace", "--json", "--from", text(&path)];
    server.told(&restore).await;

    for (rows, users) in [(1, "0"), (3, "0"), (1, "1"), (1, "0")] {
        server.restart(Port::Same).await;
        let highest = device.download("after=0").await["highest_source_change_id"].as_i64();
        write(&device, highest.expect("an id") + 1, rows).await;
        server.terminate().await;
        assert_eq!(folded(&server).await, users, "after {rows} more");
    }
    server.restart(Port::Same).await;
    let page = device.download("after=0&include_self=true").await;
    assert_eq!(page["head"], 6 + STEP + 6);
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(12));
    server.verified().await;
}

/// After a restore every head is far above its floor, for ever.
#[tokio::test]
async fn who_has_been_idle_since_a_restore_costs_a_pass_nothing() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, folded_by_hand()).await;
    write(&server.target().one_device(), 1, 6).await;
    server.terminate().await;
    assert_eq!(folded(&server).await, "1");
    server.told(&["restore", "--in-place", "--json"]).await;
    let before = rows_touched(&database, "folded").await;
    assert_eq!(folded(&server).await, "0");
    assert_eq!(rows_touched(&database, "folded").await - before, 0);
}
