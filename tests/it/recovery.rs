//! `oversync backup` and `oversync restore`: what they refuse, what a backup holds, and
//! where streams go on afterwards.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Port, Server, eventually, on_both_stores,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

on_both_stores!(
    a_backup_is_one_moment_of_a_busy_server,
    a_file_that_is_there_stays,
    nothing_is_restored_where_it_would_harm,
    streams_go_on_above_the_lost_history,
    change_ids_mean_what_they_meant,
    who_was_revoked_stays_out,
    a_deletion_that_nobody_remembers_is_undone,
    restored_twice_and_nothing_written,
);

const USERS: &str = "business.users";

/// What a restore adds to every place unless it is told otherwise.
const STEP: i64 = 1_000_000_000_000;

/// Runs the program, which must refuse: what it says.
pub(crate) async fn refused(server: &Server, arguments: &[&str]) -> String {
    let output = server.run(arguments).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// A folder for a backup, and the backup's name in it.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
    let path = folder.path().join("backup");
    (folder, path)
}

pub(crate) async fn back_up(server: &Server, to: &Path) -> Value {
    server.told(&["backup", "--json", "--to", text(to)]).await
}

/// Stops the server, puts the backup in place of its database, and starts it again.
async fn replaced(server: &mut Server, from: &Path, more: &[&str]) -> Value {
    server.terminate().await;
    let from = ["restore", "--replace", "--json", "--from", text(from)];
    let done = server.told(&[&from[..], more].concat()).await;
    server.restart(Port::Same).await;
    done
}

pub(crate) async fn epoch(device: &HttpDevice) -> String {
    let page = device.download("after=0").await;
    page["epoch"].as_str().expect("an epoch").to_owned()
}

/// Keys that a device sent: all of them, and those that were acknowledged.
#[derive(Default)]
struct Sent {
    all: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
}

/// A device that uploads rows until it is told to stop.
async fn write(device: HttpDevice, sent: Arc<Mutex<Sent>>, stop: Arc<AtomicBool>) {
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        let keys: Vec<String> = (0..3).map(|_| fresh_key()).collect();
        let changes: Vec<Value> = keys
            .iter()
            .map(|key| {
                id += 1;
                insert(id, USERS, key, json!({"name": "x".repeat(500)}))
            })
            .collect();
        sent.lock().expect("locks").all.extend(keys.iter().cloned());
        device.upload_patiently(&changes).await;
        sent.lock().expect("locks").acknowledged.extend(keys);
    }
}

async fn a_backup_is_one_moment_of_a_busy_server(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let devices: Vec<HttpDevice> = (0..3).map(|_| server.target().one_device()).collect();
    let sent: Vec<Arc<Mutex<Sent>>> = devices.iter().map(|_| Arc::default()).collect();
    let writers: Vec<_> = devices
        .iter()
        .zip(&sent)
        .map(|(device, sent)| tokio::spawn(write(device.clone(), sent.clone(), stop.clone())))
        .collect();
    let acknowledged = |user: usize| sent[user].lock().expect("locks").acknowledged.clone();
    eventually("everybody writes", || async {
        (0..3)
            .all(|user| acknowledged(user).len() >= 60)
            .then_some(())
    })
    .await;
    let before: Vec<BTreeSet<String>> = (0..3).map(acknowledged).collect();
    let (_folder, path) = place();
    let manifest = back_up(&server, &path).await;
    let sent_until: Vec<BTreeSet<String>> = sent
        .iter()
        .map(|sent| sent.lock().expect("locks").all.clone())
        .collect();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("it ends");
    }
    assert_eq!(manifest["users"], 3, "{manifest}");
    assert_eq!(manifest["epoch"], epoch(&devices[0]).await);
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "others cannot read it");

    let elsewhere = backend.database().await;
    let mut restored = Server::answering(&elsewhere, Config::default()).await;
    // Its settings are needed, its database is not.
    restored.terminate().await;
    emptied(&elsewhere).await;
    let done = restored
        .told(&["restore", "--json", "--from", text(&path)])
        .await;
    assert_eq!(done["backup"], manifest, "{done}");
    assert_eq!(done["users"], 3, "{done}");
    restored.restart(Port::Same).await;
    let mut entries = 0;
    for user in 0..3 {
        let reader = restored.target().device(devices[user].user(), "reader");
        let (changes, head) = reader.download_all(0, 1_000, "").await;
        let ids: Vec<i64> = changes
            .iter()
            .map(|change| change["server_id"].as_i64().expect("an id"))
            .collect();
        let dense: Vec<i64> = (1..=ids.len() as i64).collect();
        assert_eq!(ids, dense);
        assert_eq!(head, ids.len() as i64 + STEP);
        let keys: BTreeSet<String> = changes
            .iter()
            .map(|change| change["pk"].as_str().expect("a key").to_owned())
            .collect();
        assert!(
            before[user].is_subset(&keys),
            "all that was acknowledged before"
        );
        assert!(keys.is_subset(&sent_until[user]), "nothing of later");
        entries += ids.len();
    }
    assert_eq!(manifest["entries"], entries);
    restored.verified().await;
}

/// Empties a database whose server has stopped.
async fn emptied(database: &Database) {
    match database.backend() {
        Backend::Embedded => {
            let file = database.url().strip_prefix("sqlite://").expect("a file");
            std::fs::remove_file(file).expect("the file goes");
        }
        Backend::Postgres => database.execute("DROP SCHEMA oversync CASCADE").await,
    }
}

async fn a_file_that_is_there_stays(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let (folder, path) = place();
    std::fs::write(&path, "somebody's letter").expect("written");
    let said = refused(&server, &["backup", "--to", text(&path)]).await;
    assert!(said.contains("--force"), "{said}");
    let there = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(there, "somebody's letter");
    server
        .told(&["backup", "--json", "--force", "--to", text(&path)])
        .await;
    assert_ne!(std::fs::read(&path).expect("read"), b"somebody's letter");
    if let Some(itself) = database.url().strip_prefix("sqlite://") {
        let said = refused(&server, &["backup", "--force", "--to", itself]).await;
        assert!(said.contains("the database itself"), "{said}");
    }
    let said = refused(
        &server,
        &["backup", "--to", text(&folder.path().join("no/where"))],
    )
    .await;
    assert!(said.contains("No such file"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn nothing_is_restored_where_it_would_harm(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let before = device.download("after=0&include_self=true").await;
    let (folder, path) = place();
    back_up(&server, &path).await;

    let running = match backend {
        Backend::Embedded => "in use by another server",
        Backend::Postgres => "running servers",
    };
    for ways in [
        &["restore", "--replace", "--from", text(&path)][..],
        &["restore", "--in-place"][..],
    ] {
        let said = refused(&server, ways).await;
        assert!(said.contains(running), "{ways:?}: {said}");
    }
    server.terminate().await;
    let said = refused(&server, &["restore", "--from", text(&path)]).await;
    assert!(said.contains("--replace"), "{said}");
    let whole = std::fs::read(&path).expect("it is there");
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &whole[..whole.len() * 9 / 10]).expect("written");
    let nonsense = folder.path().join("nonsense");
    std::fs::write(&nonsense, "no backup at all").expect("written");
    for damaged in [&cut, &nonsense, &folder.path().join("nowhere")] {
        refused(&server, &["restore", "--replace", "--from", text(damaged)]).await;
    }
    let too_far = i64::MAX.to_string();
    let said = refused(&server, &["restore", "--in-place", "--step", &too_far]).await;
    assert!(said.contains("between 1 and"), "{said}");
    server.restart(Port::Same).await;
    assert_eq!(device.download("after=0&include_self=true").await, before);
    server.verified().await;
}

/// Devices that know of no epochs keep their cursors: what is new must lie above all of
/// them, also of a user whom the backup does not know.
async fn streams_go_on_above_the_lost_history(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let row = || insert(1, USERS, &fresh_key(), json!({}));
    ada.upload(&[row()]).await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    let (carl, dora) = server.target().two_devices();
    for id in 2..9 {
        ada.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
        carl.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
    }
    let old = epoch(&bob).await;
    let cursor = bob.download("after=0").await["next_after"].clone();
    assert_eq!(cursor, 8);
    let other_cursor = dora.download("after=0").await["next_after"].clone();
    assert_eq!(other_cursor, 7);
    let done = replaced(&mut server, &path, &["--step", "1000"]).await;
    assert_eq!((&done["step"], &done["users"]), (&json!(1000), &json!(1)));

    let new = epoch(&bob).await;
    assert_ne!(new, old);
    assert_eq!(done["epoch"], new);
    let query = format!("after={cursor}&epoch={old}");
    bob.download_raw(&query)
        .await
        .refused(409, "epoch_mismatch");
    let body = json!({"changes": [row()], "epoch": old}).to_string();
    ada.upload_raw(body).await.refused(409, "epoch_mismatch");
    for (writer, reader, cursor, place) in [
        (&ada, &bob, &cursor, 1_002),
        (&carl, &dora, &other_cursor, 1_001),
    ] {
        let key = fresh_key();
        writer.upload(&[insert(50, USERS, &key, json!({}))]).await;
        let page = reader.download(&format!("after={cursor}")).await;
        assert_eq!(page["changes"].as_array().map(Vec::len), Some(1), "{page}");
        assert_eq!(page["changes"][0]["pk"], key, "{page}");
        assert_eq!(page["changes"][0]["server_id"], place, "{page}");
        assert_eq!(page["head"], place, "{page}");
    }
    server.verified().await;
}

/// A change that the backup has is answered as the first time. One that it has not is
/// what it is when it comes.
async fn change_ids_mean_what_they_meant(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let (kept, lost, other) = (fresh_key(), fresh_key(), fresh_key());
    let first = insert(1, USERS, &kept, json!({"n": 1}));
    let status = ada.upload_one(first.clone()).await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    let second = insert(2, USERS, &lost, json!({"n": 2}));
    assert_eq!(ada.upload_one(second.clone()).await["status"], "applied");
    assert_eq!(
        ada.upload_one(update(3, USERS, &kept, 1, json!({"n": 3})))
            .await["new_server_version"],
        2
    );
    replaced(&mut server, &path, &[]).await;

    assert_eq!(ada.upload_one(first).await, status, "as the first time");
    // An id of the lost history, for something else: it is that, and no other.
    let third = insert(3, USERS, &other, json!({"n": 4}));
    assert_eq!(ada.upload_one(third).await["new_server_version"], 1);
    let late = ada
        .upload_one(update(3, USERS, &kept, 1, json!({"n": 3})))
        .await;
    assert_ne!(late["status"], "applied", "{late}");
    assert_eq!(ada.upload_one(second).await["new_server_version"], 1);
    let (changes, _) = bob.download_all(0, 100, "").await;
    let rows: Vec<(&str, i64)> = changes
        .iter()
        .map(|change| {
            let n = change["payload"]["n"].as_i64().expect("a number");
            (change["pk"].as_str().expect("a key"), n)
        })
        .collect();
    assert_eq!(rows, [(&*kept, 1), (&*other, 4), (&*lost, 2)]);
    server.verified().await;
}

async fn who_was_revoked_stays_out(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default().operators()).await;
    let (ada, bob) = server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let carl = ada.sibling("carl");
    server.admin().revoke(&bob).await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    server.admin().revoke(&carl).await;
    replaced(&mut server, &path, &[]).await;
    for device in [&bob, &carl] {
        device
            .download_raw("after=0")
            .await
            .refused(401, "authentication_failed");
    }
    ada.download("after=0").await;
}

async fn a_deletion_that_nobody_remembers_is_undone(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let key = fresh_key();
    ada.upload(&[insert(1, USERS, &key, json!({"n": 1}))]).await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    ada.upload(&[delete(2, USERS, &key, 1)]).await;
    replaced(&mut server, &path, &[]).await;
    let (changes, _) = bob.download_all(0, 100, "").await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["payload"], json!({"n": 1}));
    // Whoever remembers it says so again.
    let again = ada.upload_one(delete(3, USERS, &key, 1)).await;
    assert_eq!(again["status"], "applied", "{again}");
    server.verified().await;
}

async fn restored_twice_and_nothing_written(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    replaced(&mut server, &path, &["--step", "10"]).await;
    server.terminate().await;
    server
        .told(&["restore", "--in-place", "--json", "--step", "5"])
        .await;
    // What an old file was replaced by is a whole one, too.
    server.restart(Port::Same).await;
    server.verified().await;
    ada.upload(&[insert(2, USERS, &fresh_key(), json!({}))])
        .await;
    assert_eq!(bob.server_ids("").await, [1, 17]);
    server.verified().await;
    // A hole that no restore has made is still found.
    let log = match backend {
        Backend::Embedded => "_oversync_jumps",
        Backend::Postgres => "oversync.jumps",
    };
    database
        .execute(&format!("DELETE FROM {log} WHERE after = 11"))
        .await;
    let output = server.run(&["verify"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// The file that was replaced is whole, and where the program says.
#[tokio::test]
async fn the_old_file_is_kept() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::answering(&database, Config::default()).await;
    let device = server.target().one_device();
    let (folder, path) = place();
    back_up(&server, &path).await;
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    // Its log is not in its file yet.
    server.kill();
    server.restart(Port::Same).await;
    let done = replaced(&mut server, &path, &[]).await;
    let kept = done["kept"].as_str().expect("a path");
    let again = folder.path().join("again");
    let url = format!("sqlite://{kept}");
    let manifest = server
        .told(&[
            "backup",
            "--json",
            "--to",
            text(&again),
            "--database-url",
            &url,
        ])
        .await;
    assert_eq!(
        (&manifest["users"], &manifest["entries"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        device.download("after=0&include_self=true").await["changes"],
        json!([])
    );
}

/// A server that runs as somebody else can open what root has restored.
#[tokio::test]
async fn a_restored_file_belongs_to_who_had_the_one_before() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::answering(&database, Config::default()).await;
    let (folder, path) = place();
    back_up(&server, &path).await;
    server.terminate().await;
    let file = PathBuf::from(database.url().trim_start_matches("sqlite://"));
    let lock = PathBuf::from(format!("{}.lock", text(&file)));
    let owned = |path: &Path| {
        let data = std::fs::metadata(path).expect("it is there");
        (data.uid(), data.gid(), data.mode() & 0o777)
    };
    // Only root gives files away.
    let is_root = owned(folder.path()).0 == 0;
    let (uid, gid) = match is_root {
        true => (12_345, 23_456),
        false => (owned(&file).0, owned(&file).1),
    };
    for path in [&file, file.parent().expect("a folder")] {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("it is given away");
    }
    let may = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&file, may).expect("set");
    std::fs::remove_file(&lock).expect("the server had one");
    let replace = ["restore", "--replace", "--json", "--from", text(&path)];
    let kept = server.told(&replace).await["kept"].clone();
    assert_eq!(owned(&file), (uid, gid, 0o640));
    assert_eq!((owned(&lock).0, owned(&lock).1), (uid, gid));
    // Where there is none, the folder says whose.
    for path in [Path::new(kept.as_str().expect("a path")), &file, &lock] {
        std::fs::remove_file(path).expect("it is there");
    }
    let from = ["restore", "--json", "--from", text(&path)];
    server.told(&from).await;
    assert_eq!(owned(&file), (uid, gid, 0o600));
    assert_eq!((owned(&lock).0, owned(&lock).1), (uid, gid));
}
