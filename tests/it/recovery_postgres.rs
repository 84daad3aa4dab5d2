//! `oversync backup` and `oversync restore` on PostgreSQL: its programs, what else is in
//! the database, servers that run meanwhile, and a restore that did not come to its end.

use crate::recovery::{back_up, epoch, place, refused, text};
use oversync_tests::device::{insert, update};
use oversync_tests::server::output;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Port, Server, eventually};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

const USERS: &str = "business.users";

/// PostgreSQL's programs: not there, too old, and what they are told how.
#[tokio::test]
async fn postgresql_has_programs_of_its_own() {
    let database = Backend::Postgres.database().await;
    let secret = "not-for-everybody's-eyes";
    // Trusted, whatever the password.
    let url = database
        .url()
        .replacen("oversync@", "oversync:not-for-everybody%27s-eyes@", 1);
    let server = Server::answering(&database, Config::default()).await;
    let (folder, path) = place();
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).expect("a folder");
    let run = |path_variable: String| {
        let to = ["backup", "--to", text(&path), "--database-url", &url];
        let mut program = server.program(&to);
        program.env("PATH", path_variable);
        output(program)
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let output = run(text(&programs).to_owned()).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        said(&output).contains("pg_dump was not found on PATH"),
        "{output:?}"
    );

    let system = std::env::var("PATH").expect("a PATH");
    let both = format!("{}:{system}", text(&programs));
    let put = |script: &str| {
        let file = programs.join("pg_dump");
        // Another file: the one before may be running still.
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, script).expect("written");
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&file, all).expect("it can be run");
    };
    put("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n");
    let output = run(both.clone()).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("is of version 9"), "{output:?}");

    // The real one, with its arguments written down.
    let log = folder.path().join("arguments");
    put(&format!(
        "#!/bin/sh\necho \"$@\" >> '{}'\nPATH='{system}' exec pg_dump \"$@\"\n",
        text(&log)
    ));
    let output = run(both).await;
    assert!(output.status.success(), "{output:?}");
    let arguments = std::fs::read_to_string(&log).expect("it was run");
    assert!(arguments.contains("--snapshot"), "{arguments}");
    for word in [secret, "not-for"] {
        assert!(!arguments.contains(word), "{arguments}");
        assert!(!said(&output).contains(word), "{output:?}");
    }
    assert!(path.exists());
}

/// What an operator should not do, and what may happen all the same: the database is
/// restored while a server runs that remembers the lost history.
#[tokio::test]
async fn a_running_server_notices_a_restore_beneath_it() {
    let database = Backend::Postgres.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let key = fresh_key();
    ada.upload(&[insert(1, USERS, &key, json!({"n": 1}))]).await;
    let lost = fresh_key();
    ada.upload(&[insert(2, USERS, &lost, json!({}))]).await;
    bob.download("after=0").await;
    let old = epoch(&bob).await;
    // To before the second change, at the very revision that the server remembers.
    database
        .execute(
            "DELETE FROM oversync.log WHERE server_id = 2; DELETE FROM oversync.rows WHERE server_id = 2;
             UPDATE oversync.devices SET highest_change_id = 1 WHERE device_key > 0;
             INSERT INTO oversync.jumps SELECT user_key, 1, 1001 FROM oversync.users;
             UPDATE oversync.users SET head = 1001;
             UPDATE oversync.meta SET epoch = 'new'",
        )
        .await;
    let body =
        |epoch: &str, change: &Value| json!({"changes": [change], "epoch": epoch}).to_string();
    let edit = update(3, USERS, &lost, 1, json!({"n": 2}));
    // It remembers the epoch before, and must not tell of it.
    let taken = ada
        .upload_raw(body("new", &insert(4, USERS, &fresh_key(), json!({}))))
        .await;
    let reply = taken.ok();
    assert_eq!(reply["statuses"][0]["status"], "applied", "{reply}");
    assert_eq!(
        (&reply["epoch"], &reply["head"]),
        (&json!("new"), &json!(1002))
    );
    let refused = ada.upload_raw(body(&old, &edit)).await;
    assert_eq!(refused.refused(409, "epoch_mismatch")["epoch"], "new");
    // A row that the database does not have.
    let status = ada.upload_one(edit).await;
    assert_eq!(status["status"], "invalid", "{status}");
    let page = bob.download("after=2").await;
    assert_eq!(
        (&page["epoch"], &page["changes"][0]["server_id"]),
        (&json!("new"), &json!(1002))
    );
    assert_eq!(ada.get("/sync/capabilities").await.ok()["epoch"], "new");
    let mut socket = bob.connect().await;
    let hello = socket.message().await;
    assert_eq!(
        (&hello["epoch"], &hello["head"]),
        (&json!("new"), &json!(1002))
    );
    server.verified().await;
    assert!(server.log().contains("restored beneath"));
}

/// A pg_restore that is newer than the server names settings that it does not know.
#[tokio::test]
async fn a_newer_program_restores_into_an_older_server() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let (folder, path) = place();
    back_up(&server, &path).await;
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).expect("a folder");
    let newer = programs.join("pg_restore");
    let system = std::env::var("PATH").expect("a PATH");
    let script = format!(
        "#!/bin/sh\nPATH='{system}' pg_restore \"$@\" | sed '/^SET lock_timeout/a SET transaction_timeout = 0;'\n"
    );
    std::fs::write(&newer, script).expect("written");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&newer, all).expect("it can be run");
    server.terminate().await;
    let mut program = server.program(&["restore", "--replace", "--from", text(&path)]);
    program.env("PATH", format!("{}:{system}", text(&programs)));
    let output = output(program).await;
    assert!(output.status.success(), "{output:?}");
    server.restart(Port::Same).await;
    assert_eq!(bob.server_ids("").await, [1]);
    server.verified().await;
}

/// What belongs to somebody else in the database is left alone.
#[tokio::test]
async fn an_extension_of_another_user_stays() {
    let file = Backend::Embedded.database().await;
    let mut server = Server::answering(&file, Config::default()).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    server.terminate().await;
    let database = Backend::Postgres.database().await;
    let (_, name) = database.url().rsplit_once('/').expect("a name");
    let name = name.split('?').next().expect("a name");
    database
        .execute(&format!(
            "CREATE EXTENSION pgcrypto; CREATE ROLE owner_{name} LOGIN; ALTER DATABASE {name} OWNER TO owner_{name};"
        ))
        .await;
    let user = format!("owner_{name}@");
    let url = database.url().replacen("oversync@", &user, 1);
    assert_ne!(url, database.url());
    server
        .told(&["migrate", "--json", "--from", file.url(), "--to", &url])
        .await;
    let (_folder, path) = place();
    let there = ["--json", "--database-url", &url];
    let to = ["backup", "--to", text(&path)];
    let manifest = server.told(&[&to[..], &there].concat()).await;
    let from = ["restore", "--replace", "--from", text(&path)];
    let done = server.told(&[&from[..], &there].concat()).await;
    assert_eq!(done["users"], 1, "{done}");
    assert_ne!(done["epoch"], manifest["epoch"], "{done}");
    let left = "SELECT count(*) FROM pg_extension WHERE extname = 'pgcrypto'";
    assert_eq!(database.ask(left).await.as_deref(), Some("1"));
    let kept = "SELECT count(*) FROM oversync.log";
    assert_eq!(database.ask(kept).await.as_deref(), Some("1"));
}

/// They come in transactions of their own: not all or nothing.
#[tokio::test]
async fn large_objects_are_neither_backed_up_nor_restored() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    database.execute("SELECT lo_create(0)").await;
    let (_folder, path) = place();
    let said = refused(&server, &["backup", "--to", text(&path)]).await;
    for word in ["large objects", "pg_basebackup", "restore --in-place"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!path.exists());
    // A dump that somebody else has made.
    let mut dump = std::process::Command::new("pg_dump");
    dump.arg("--format=custom").arg("--file").arg(&path);
    dump.arg("--dbname").arg(database.url());
    let output = output(dump).await;
    assert!(output.status.success(), "{output:?}");
    server.terminate().await;
    let before = database.ask("SELECT epoch FROM oversync.meta").await;
    let said = refused(&server, &["restore", "--replace", "--from", text(&path)]).await;
    assert!(said.contains("large objects"), "{said}");
    let after = database.ask("SELECT epoch FROM oversync.meta").await;
    assert_eq!(after, before, "nothing has happened");
    database
        .execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
        .await;
    std::fs::remove_file(&path).expect("it was there");
    back_up(&server, &path).await;
    server
        .told(&["restore", "--replace", "--json", "--from", text(&path)])
        .await;
}

/// The devices that are refused stand in the database from the moment at which the
/// backup does, whenever the restore comes to its end.
#[tokio::test]
async fn who_was_revoked_stays_out_of_half_a_restore() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, Config::default().operators()).await;
    let (ada, bob) = server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    // So far up that the largest step does not fit.
    database
        .execute("UPDATE oversync.meta SET first_head = 8000000000000000")
        .await;
    let (_folder, path) = place();
    back_up(&server, &path).await;
    server.admin().revoke(&bob).await;
    let since = "SELECT revoked_at::text FROM oversync.revoked";
    let revoked_at = database.ask(since).await;
    server.terminate().await;
    let too_far = ["--step", "2250000000000000", "--from", text(&path)];
    let said = refused(&server, &[&["restore", "--replace"], &too_far[..]].concat()).await;
    assert!(said.contains("a new history has not begun"), "{said}");
    let output = server.run(&["devices", "--user", ada.user()]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("restore --in-place"), "{said}");
    assert!(!said.contains("migrate"), "{said}");
    server
        .told(&["restore", "--in-place", "--json", "--step", "5"])
        .await;
    assert_eq!(database.ask(since).await, revoked_at, "to the microsecond");
    server.restart(Port::Same).await;
    bob.download_raw("after=0")
        .await
        .refused(401, "authentication_failed");
    assert_eq!(ada.server_ids("&include_self=true").await, [1]);
    server.verified().await;
}

/// One that came when the mark was there already goes by itself.
#[tokio::test]
async fn a_server_that_has_just_been_refused_is_waited_for() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::answering(&database, Config::default()).await;
    server.terminate().await;
    let connect = async |name: &str| {
        let options: PgConnectOptions = database.url().parse().expect("a URL");
        let options = options.application_name(name);
        PgConnection::connect_with(&options)
            .await
            .expect("it is there")
    };
    let ask = async |sql: String| (database.ask(&sql).await? == "1").then_some(());
    // Past the first look for servers, and not yet at the second.
    let mut reader = connect("reader").await;
    sqlx::raw_sql("BEGIN; LOCK TABLE oversync.users IN ACCESS SHARE MODE")
        .execute(&mut reader)
        .await
        .expect("locked");
    let program = server.program(&["restore", "--in-place", "--json"]);
    let restore = tokio::spawn(output(program));
    let of_restore = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'oversync recovery'";
    eventually("it waits for the lock", || {
        ask(format!(
            "SELECT count(*) {of_restore} AND wait_event_type = 'Lock'"
        ))
    })
    .await;
    let refused = connect("oversync").await;
    reader.close().await.expect("it ends");
    // As a server ends that was refused: soon, and after it has been seen.
    eventually("it has seen the server, and let go of the lock", || {
        ask(format!(
            "SELECT count(*) {of_restore} AND query = 'ROLLBACK'"
        ))
    })
    .await;
    refused.close().await.expect("it ends");
    let output = restore.await.expect("it ends");
    assert!(output.status.success(), "{output:?}");
}

/// A restore that did not come to its end: no server starts, and one word ends it.
#[tokio::test]
async fn half_a_restore_is_not_served() {
    let database = Backend::Postgres.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    server.terminate().await;
    database
        .execute("UPDATE oversync.meta SET epoch = 'unfinished restore ' || epoch")
        .await;
    let output = server.run(&["devices", "--user", ada.user()]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("restore --in-place"),
        "{said}"
    );
    server.told(&["restore", "--in-place", "--json"]).await;
    server.restart(Port::Same).await;
    assert_eq!(bob.server_ids("").await, [1]);
    server.verified().await;
}
