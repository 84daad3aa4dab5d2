//! Devices that do not know what was deleted, while the server folds deletions away: a
//! file whose backup was put back, and a key that is used again.

use oversync_tests::folding::{count, eager, own};
use oversync_tests::proxy::Proxy;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Database, Server, Target, eventually, on_both_stores};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

on_both_stores!(
    a_file_put_back_that_uploads_first_has_no_row_too_many,
    a_row_made_anew_under_a_folded_tombstone_stays,
    what_was_sent_before_the_backup_is_not_made_anew,
);

fn run(app: &App, sql: &str, key: &str) {
    app.connection().execute(sql, [key]).expect("the SQL runs");
}

/// Everybody knows everything, and the server keeps only what lives.
async fn all_is_folded(database: &Database, apps: &[&App]) {
    let users = own(database, "users");
    let behind = format!("SELECT count(*) FROM {users} WHERE floor < head OR swept < fold");
    eventually("everything is folded", || async {
        for app in apps {
            app.client.sync().await.ok()?;
        }
        (database.ask(&behind).await? == "0").then_some(())
    })
    .await;
}

fn backed_up(app: &App) -> PathBuf {
    let backup = app.path().with_extension("backup");
    run(app, "VACUUM INTO ?1", backup.to_str().expect("text"));
    backup
}

/// The file as its last backup had it.
fn put_back(backup: &Path, file: &Path) {
    for left in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(file.with_extension(left));
    }
    std::fs::copy(backup, file).expect("copied");
}

async fn a_file_put_back_that_uploads_first_has_no_row_too_many(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let (target, user) = (server.target(), fresh_user());
    let mut ada = App::open(&target, &user, "ada").await;
    let bob = App::open(&target, &user, "bob").await;
    let keys: Vec<String> = (0..8).map(|_| fresh_key()).collect();
    for key in &keys {
        ada.add(key, "before");
    }
    for app in [&ada, &bob] {
        app.client.sync().await.expect("synchronised");
    }
    let backup = backed_up(&ada);
    // Numbers that the copy does not know to be used.
    run(
        &ada,
        "UPDATE users SET name = 'later' WHERE id = ?1",
        &keys[0],
    );
    ada.add(&fresh_key(), "later");
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    for key in &keys[4..] {
        run(&bob, "DELETE FROM users WHERE id = ?1", key);
    }
    all_is_folded(&database, &[&bob, &ada]).await;

    ada.client.stop().await;
    put_back(&backup, ada.path());
    ada = ada.reopen(&target).await;
    assert_eq!(ada.people().len(), 8);
    let mine = fresh_key();
    ada.add(&mine, "unsent");
    run(
        &ada,
        "UPDATE users SET name = 'edited' WHERE id = ?1",
        &keys[1],
    );
    // One of a row that is gone: it loses, and is kept.
    run(
        &ada,
        "UPDATE users SET name = 'lost' WHERE id = ?1",
        &keys[4],
    );
    ada.client.upload_once().await.expect("asked");
    eventually("both are at rest", || async {
        for app in [&ada, &bob] {
            app.client.sync().await.ok()?;
        }
        (ada.client.status().await.ok()?.unsent == 0 && ada.people() == bob.people()).then_some(())
    })
    .await;
    let people = ada.people();
    let name = |key: &String| {
        let mut rows = people.iter();
        rows.find(|row| row.0 == *key).map(|row| row.1.as_str())
    };
    assert_eq!(people.len(), 6, "{people:?}");
    assert_eq!(name(&keys[0]), Some("later"));
    assert_eq!(name(&keys[1]), Some("edited"));
    assert_eq!(name(&mine), Some("unsent"));
    for key in &keys[4..] {
        assert_eq!(name(key), None);
    }
    let kept = ada.client.conflicts().await.expect("a list");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(
        kept[0]
            .lost
            .as_deref()
            .is_some_and(|lost| lost.contains("lost"))
    );
    server.verified().await;
}

async fn a_row_made_anew_under_a_folded_tombstone_stays(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let (target, user) = (server.target(), fresh_user());
    let ada = App::open(&target, &user, "ada").await;
    let bob = App::open(&target, &user, "bob").await;
    let (key, other) = (fresh_key(), fresh_key());
    ada.add(&key, "first");
    ada.add(&other, "stays");
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    run(&bob, "DELETE FROM users WHERE id = ?1", &key);
    all_is_folded(&database, &[&bob, &ada]).await;

    let cyd = App::open(&target, &user, "cyd").await;
    cyd.client.sync().await.expect("synchronised");
    let held = "SELECT count(*) FROM _sync_row";
    let file = Connection::open(cyd.path()).expect("opens");
    let held: i64 = file.query_row(held, [], |row| row.get(0)).expect("a count");
    assert_eq!(held, 1, "the tombstone was told to nobody new");
    cyd.add(&key, "second");
    eventually("all have it", || async {
        for app in [&cyd, &ada, &bob] {
            app.client.sync().await.ok()?;
        }
        let expected = cyd.people();
        let is_there = expected.contains(&(key.clone(), "second".to_owned()));
        let are_equal = [&ada, &bob].iter().all(|app| app.people() == expected);
        (is_there && are_equal).then_some(())
    })
    .await;
    assert_eq!(cyd.people().len(), 2);
    assert_eq!(cyd.client.status().await.expect("a status").unsent, 0);
    assert_eq!(cyd.client.conflicts().await.expect("a list").len(), 0);
    server.verified().await;
}

/// The answer to an upload was lost, and a backup made then. The server has it; what it
/// knew of it is settled and forgotten, and the row deleted since. Sent again by the file
/// that was put back, it looks like a row made anew.
async fn what_was_sent_before_the_backup_is_not_made_anew(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let (proxy, is_lost) = Proxy::losing_answers(server.address()).await;
    let behind = Target::new(proxy.base(), server.target().secret());
    let user = fresh_user();
    let mut ada = App::open(&behind, &user, "ada").await;
    let bob = App::open(&server.target(), &user, "bob").await;
    for app in [&ada, &bob] {
        app.client.sync().await.expect("synchronised");
    }
    let key = fresh_key();
    is_lost.store(true, Ordering::SeqCst);
    ada.add(&key, "sent");
    ada.client.sync().await.expect_err("no answer");
    let backup = backed_up(&ada);
    let frozen = "SELECT count(*) FROM _sync_outbox";
    let frozen: i64 = Connection::open(&backup)
        .and_then(|file| file.query_row(frozen, [], |row| row.get(0)))
        .expect("a count");
    assert_eq!(frozen, 1);
    is_lost.store(false, Ordering::SeqCst);
    // Each tells that what came before it is settled.
    for name in ["one more", "another"] {
        ada.add(&fresh_key(), name);
        ada.client.sync().await.expect("synchronised");
    }
    bob.client.sync().await.expect("synchronised");
    run(&bob, "DELETE FROM users WHERE id = ?1", &key);
    all_is_folded(&database, &[&bob, &ada]).await;
    let devices = own(&database, "devices");
    let known = format!(
        "records r JOIN {devices} d ON d.user_key = r.user_key AND d.device_key = r.device_key \
         WHERE d.device_id = 'ada' AND r.change_id = 1"
    );
    assert_eq!(count(&database, &known).await, 0);

    ada.client.stop().await;
    put_back(&backup, ada.path());
    ada = ada.reopen(&behind).await;
    eventually("both are at rest", || async {
        for app in [&ada, &bob] {
            app.client.sync().await.ok()?;
        }
        let unsent = ada.client.status().await.ok()?.unsent;
        (unsent == 0 && ada.people() == bob.people()).then_some(())
    })
    .await;
    let people = ada.people();
    assert_eq!(people.len(), 2, "{people:?}");
    assert!(people.iter().all(|(id, _)| *id != key), "{people:?}");
    let kept = ada.client.conflicts().await.expect("a list");
    assert_eq!(kept.len(), 1, "{kept:?}");
    server.verified().await;
}
