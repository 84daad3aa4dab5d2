//! What an engine does when the server asks for patience, when calls are dropped
//! in the middle, and what its status says all the while.

use oversqlite::{ConnectionState, Direction, Error, SetupError, Status};
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    App, Backend, Config, Port, Seed, Server, Target, eventually, on_both_stores, within,
};
use rand::Rng as _;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

on_both_stores!(
    calls_that_are_dropped_lose_and_double_nothing,
    the_status_stream_tells_the_truth,
    commits_of_any_connection_are_noticed,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_before_the_time_the_server_names() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let busy = Arc::new(AtomicBool::new(true));
    let judge = Arc::clone(&busy);
    let proxy = Proxy::start(server.address(), move |line| {
        let tells = line.contains("/sync/capabilities");
        match judge.load(Ordering::SeqCst) && !tells {
            true => Verdict::Busy(2),
            false => Verdict::Pass,
        }
    })
    .await;
    let behind = Target::new(proxy.base(), server.target().secret());
    let user = fresh_user();
    let ada = App::open(&behind, &user, "ada").await;
    ada.client.start().expect("the engine starts");
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(9) {
        // New work is no reason to ask sooner.
        ada.add(&fresh_key(), &format!("{n}"));
        n += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for way in ["/sync/download", "/sync/ws"] {
        let seen = proxy.seen(way);
        let times = seen.len();
        let most = start.elapsed().as_secs() as usize / 2 + 1;
        assert!((2..=most).contains(&times), "{way}: {times} times");
        for pair in seen.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= Duration::from_millis(1_950), "{way}: {apart:?}");
        }
    }
    assert!(
        proxy.seen("/sync/upload").is_empty(),
        "the first pass comes first"
    );
    busy.store(false, Ordering::SeqCst);
    within(Duration::from_secs(60), "everything is sent", || async {
        let status = ada.client.status().await.expect("a status");
        (status.unsent == 0 && status.hydrated).then_some(())
    })
    .await;
}

/// Every call of a client may be dropped at any time, with another client on the
/// same file that takes its turn at once.
async fn calls_that_are_dropped_lose_and_double_nothing(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::open(&server.target(), &user, "ada").await;
    let again = ada.second(&server.target()).await;
    let bob = App::open(&server.target(), &user, "bob").await;
    let mut chance = Seed::from_env().rng(0);
    let (mut rows, mut dropped, mut round) = (0, 0, 0);
    // As many rounds as it takes: how many calls are dropped is up to the machine.
    while round < 120 || dropped < 30 {
        assert!(round < 2_000, "calls are dropped: {dropped}");
        for app in [&ada, &bob] {
            for _ in 0..chance.random_range(0..4) {
                app.add(&fresh_key(), "x");
                rows += 1;
            }
        }
        let time = Duration::from_micros(chance.random_range(0..40_000));
        let app = [&ada, &again, &bob][round % 3];
        let done = match chance.random_range(0..4) {
            0 => timeout(time, app.client.upload_once())
                .await
                .map(|done| done.map(drop)),
            1 => timeout(time, app.client.download_once(3))
                .await
                .map(|done| done.map(drop)),
            2 => timeout(time, app.client.hydrate())
                .await
                .map(|done| done.map(drop)),
            _ => timeout(time, app.client.sync())
                .await
                .map(|done| done.map(drop)),
        };
        match done {
            Err(_) => dropped += 1,
            // The other client of the file has left a job behind.
            Ok(Ok(()) | Err(Error::Setup(SetupError::InUse { .. }))) => {}
            Ok(Err(error)) => panic!("round {round}: {error}"),
        }
        round += 1;
    }
    for app in [&ada, &bob, &again, &bob, &ada] {
        eventually("everything is exchanged", || async {
            app.client
                .sync()
                .await
                .is_ok_and(|done| done.complete)
                .then_some(())
        })
        .await;
    }
    assert_eq!(ada.people().len(), rows);
    assert_eq!(ada.people(), bob.people());
    for app in [&ada, &bob] {
        let status = app.client.status().await.expect("a status");
        let stuck = status.unsent + status.rejected + status.conflicts + status.parked;
        assert_eq!(stuck, 0, "{status:?}");
    }
    let observer = server.target().device(&user, "observer");
    assert_eq!(observer.server_ids("").await.len(), rows, "every row once");
}

/// What the stream says next that is as wanted.
async fn told(
    stream: &mut watch::Receiver<Status>,
    what: &str,
    is: impl FnMut(&Status) -> bool,
) -> Status {
    let found = {
        let wait = timeout(Duration::from_secs(60), stream.wait_for(is)).await;
        wait.ok()
            .map(|found| found.expect("the client is there").clone())
    };
    found.unwrap_or_else(|| panic!("never told: {what}; last: {:?}", stream.borrow()))
}

async fn the_status_stream_tells_the_truth(backend: Backend) {
    let database = backend.database().await;
    let small = Config::default().set("limits.max_payload_bytes", 500);
    let mut server = Server::start(&database, small).await;
    let fails = Arc::new(AtomicBool::new(false));
    let judge = Arc::clone(&fails);
    let proxy = Proxy::start(server.address(), move |line| {
        let moves = line.contains("/sync/upload") || line.contains("/sync/download");
        match moves && judge.load(Ordering::SeqCst) {
            true => Verdict::Refuse(500),
            false => Verdict::Pass,
        }
    })
    .await;
    let behind = Target::new(proxy.base(), server.target().secret());
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::open(&behind, &user, "bob").await;
    let mut stream = bob.client.status_stream();
    let first = stream.borrow_and_update().clone();
    assert_eq!(first.connection, ConnectionState::Stopped);
    assert_eq!(
        (first.unsent, first.oldest_unsent_age, first.hydrated),
        (0, None, false)
    );
    assert_eq!(
        (first.last_confirmed_at, first.stalled_reason),
        (None, None)
    );

    let key = fresh_key();
    bob.add(&key, "his");
    let status = bob.client.status().await.expect("a status");
    // It counts seconds of the clock, and one may begin in between.
    let is_young = status.oldest_unsent_age.is_some_and(|age| age < 100);
    assert!(status.unsent == 1 && is_young, "{status:?}");
    bob.client.start().expect("the engine starts");
    let status = told(&mut stream, "online, and all sent", |status| {
        let is_online = status.connection == ConnectionState::Online && status.hydrated;
        is_online && status.unsent == 0 && status.cursor == 1
    })
    .await;
    assert_eq!(status.behind_by, Some(0));
    assert!(status.last_confirmed_at.is_some() && status.oldest_unsent_age.is_none());

    bob.client
        .pause(Direction::Downloads)
        .await
        .expect("paused");
    for n in 0..3 {
        ada.add(&fresh_key(), &format!("hers {n}"));
    }
    let status = told(&mut stream, "behind by three", |status| {
        status.behind_by == Some(3)
    })
    .await;
    assert_eq!(
        status.stalled_reason.as_deref(),
        Some("downloads are paused")
    );
    bob.client.resume(Direction::Both).await.expect("resumed");
    let status = told(&mut stream, "caught up", |status| {
        status.behind_by == Some(0)
    })
    .await;
    assert_eq!(status.stalled_reason, None);

    // An edit of both sides on one column, and an edit that is too large.
    let set = |app: &App, name: &str| {
        let sql = "UPDATE users SET name = ?2 WHERE id = ?1";
        app.connection()
            .execute(sql, [key.as_str(), name])
            .expect("set");
    };
    bob.client.pause(Direction::Both).await.expect("paused");
    set(&bob, "mine");
    eventually("her side has the row", || async {
        ada.people().iter().any(|(id, _)| *id == key).then_some(())
    })
    .await;
    set(&ada, "theirs");
    ada.sent().await;
    bob.client.resume(Direction::Both).await.expect("resumed");
    told(&mut stream, "one conflict", |status| status.conflicts == 1).await;
    bob.add(&fresh_key(), &"x".repeat(600));
    told(&mut stream, "one rejected", |status| status.rejected == 1).await;

    // The way for hints is open, and yet nothing moves.
    fails.store(true, Ordering::SeqCst);
    bob.add(&fresh_key(), "late");
    let status = told(&mut stream, "uploads refused", |status| {
        status.connection == ConnectionState::Online && status.stalled_reason.is_some()
    })
    .await;
    let why = status.stalled_reason.expect("a reason");
    assert!(
        why.contains("uploads are refused") && why.contains("500"),
        "{why}"
    );
    ada.add(&fresh_key(), "not to be had");
    let status = told(&mut stream, "stalled", |status| {
        status.connection == ConnectionState::Stalled && status.unsent == 1
    })
    .await;
    let why = status.stalled_reason.expect("a reason");
    assert!(why.contains("500"), "{why}");
    fails.store(false, Ordering::SeqCst);
    told(&mut stream, "online again", |status| {
        status.connection == ConnectionState::Online && status.unsent == 0
    })
    .await;

    server.terminate().await;
    bob.add(&fresh_key(), "offline");
    let status = told(&mut stream, "offline, and for how long", |status| {
        status.connection == ConnectionState::Offline && status.oldest_unsent_age >= Some(1)
    })
    .await;
    assert!(
        status
            .stalled_reason
            .is_some_and(|why| why.contains("unreachable"))
    );
    server.restart(Port::Same).await;
    let status = told(&mut stream, "as if nothing had been", |status| {
        status.connection == ConnectionState::Online && status.unsent == 0
    })
    .await;
    assert_eq!(status.stalled_reason, None);
    bob.client.stop().await;
    let last = told(&mut stream, "stopped", |status| {
        status.connection == ConnectionState::Stopped
    });
    last.await;
}

/// A program's own connection: by `notify`, and by looking at the file.
async fn commits_of_any_connection_are_noticed(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let looks =
        |config: oversqlite::Config| config.foreign_writers_interval(Duration::from_millis(20));
    let bob = App::open_with(&server.target(), &user, "bob", looks).await;
    bob.client.start().expect("the engine starts");
    for app in [&ada, &bob] {
        let mut stream = app.client.status_stream();
        told(&mut stream, "online", |status| {
            status.connection == ConnectionState::Online && status.hydrated
        })
        .await;
        let plain = Connection::open(app.path()).expect("opens");
        plain.busy_timeout(Duration::from_secs(5)).expect("set");
        for _ in 0..5 {
            let key = fresh_key();
            plain
                .execute("INSERT INTO users (id, name) VALUES (?1, 'x')", [&key])
                .expect("written");
            // Ada looks once an hour, and is told.
            if std::ptr::eq(app, &ada) {
                app.client.notify();
            }
            let other = if std::ptr::eq(app, &ada) { &bob } else { &ada };
            eventually("the row arrives", || async {
                other
                    .people()
                    .iter()
                    .any(|(id, _)| *id == key)
                    .then_some(())
            })
            .await;
        }
    }
}
