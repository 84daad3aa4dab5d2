//! The ways on which news reach a device: WebSocket, long poll, plain polling;
//! what is held back; and several processes on one file, of which one
//! synchronises and the others stand by.

use oversqlite::{Changed, ConnectionState, Direction, Error, NetworkError, SetupError, Status};
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    App, Backend, Config, Database, Port, Server, Target, eventually, on_both_stores, within,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

on_both_stores!(
    a_refused_upgrade_falls_back_to_long_poll,
    refused_uploads_do_not_keep_downloads_back,
    what_is_paused_waits_and_the_rest_moves,
    a_batch_without_an_answer_waits_quietly_while_uploads_are_paused,
    another_client_on_the_file_stands_by_and_takes_over,
);

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    (database, server)
}

fn behind(proxy: &Proxy, server: &Server) -> Target {
    Target::new(proxy.base(), server.target().secret())
}

async fn status(app: &App, what: &str, is: impl Fn(&Status) -> bool) {
    within(Duration::from_secs(30), what, || async {
        let status = app.client.status().await.expect("a status");
        is(&status).then_some(())
    })
    .await;
}

async fn connected(app: &App, how: ConnectionState) {
    status(app, &format!("{how:?}"), |status| {
        status.connection == how && status.hydrated
    })
    .await;
}

/// A row of one arrives at the other.
async fn crosses(from: &App, to: &App) {
    let key = fresh_key();
    from.add(&key, "Ann");
    eventually("the row arrives", || async {
        to.people().iter().any(|(id, _)| *id == key).then_some(())
    })
    .await;
}

async fn a_refused_upgrade_falls_back_to_long_poll(backend: Backend) {
    let (_database, server) = server(backend).await;
    // An answer that is no upgrade, and a connection that is closed on it.
    for judge in [
        (|line| match line.contains("/sync/ws") {
            true => Verdict::Refuse(403),
            false => Verdict::Pass,
        }) as fn(&str) -> Verdict,
        |line| match line.contains("/sync/ws") {
            true => Verdict::Cut,
            false => Verdict::Pass,
        },
    ] {
        let proxy = Proxy::start(server.address(), judge).await;
        let user = fresh_user();
        let ada = App::start(&server.target(), &user, "ada").await;
        let bob = App::start(&behind(&proxy, &server), &user, "bob").await;
        connected(&ada, ConnectionState::Online).await;
        connected(&bob, ConnectionState::LongPoll).await;
        // Both poll once an hour: what arrives was waited for.
        for _ in 0..3 {
            crosses(&ada, &bob).await;
            crosses(&bob, &ada).await;
        }
        connected(&bob, ConnectionState::LongPoll).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_long_poll_it_polls_and_says_so() {
    let (_database, server) = server(Backend::Embedded).await;
    for judge in [
        // A server that tells nothing of itself, and one whose long polls fail.
        (|line| match ["/sync/ws", "/sync/capabilities"]
            .iter()
            .any(|path| line.contains(path))
        {
            true => Verdict::Refuse(404),
            false => Verdict::Pass,
        }) as fn(&str) -> Verdict,
        |line| match ["/sync/ws", "wait="].iter().any(|path| line.contains(path)) {
            true => Verdict::Refuse(403),
            false => Verdict::Pass,
        },
    ] {
        let proxy = Proxy::start(server.address(), judge).await;
        let user = fresh_user();
        let ada = App::start(&server.target(), &user, "ada").await;
        let often = |config: oversqlite::Config| config.poll_interval(Duration::from_millis(200));
        let bob = App::open_with(&behind(&proxy, &server), &user, "bob", often).await;
        bob.client.start().expect("the engine starts");
        connected(&bob, ConnectionState::Polling).await;
        crosses(&ada, &bob).await;
        crosses(&bob, &ada).await;
    }
}

async fn refused_uploads_do_not_keep_downloads_back(backend: Backend) {
    // Each store has a switch of its own: the tests run beside one another.
    static REFUSING: [AtomicBool; 2] = [const { AtomicBool::new(true) }; 2];
    fn judge(line: &str, store: usize) -> Verdict {
        match line.contains("/sync/upload") && REFUSING[store].load(Ordering::SeqCst) {
            true => Verdict::Refuse(403),
            false => Verdict::Pass,
        }
    }
    let (_database, server) = server(backend).await;
    let (refusing, proxy) = match backend {
        Backend::Embedded => (
            &REFUSING[0],
            Proxy::start(server.address(), |line| judge(line, 0)).await,
        ),
        Backend::Postgres => (
            &REFUSING[1],
            Proxy::start(server.address(), |line| judge(line, 1)).await,
        ),
    };
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::start(&behind(&proxy, &server), &user, "bob").await;
    connected(&bob, ConnectionState::Online).await;
    let his = fresh_key();
    bob.add(&his, "Bob");
    for _ in 0..5 {
        crosses(&ada, &bob).await;
    }
    status(&bob, "the reason, and a living connection", |status| {
        let why = status.stalled_reason.as_deref().unwrap_or_default();
        status.unsent == 1
            && status.connection == ConnectionState::Online
            && why.contains("uploads are refused")
            && why.contains("403")
    })
    .await;
    // The same by hand, without an engine.
    let carl = App::open(&behind(&proxy, &server), &user, "carl").await;
    carl.client.hydrate().await.expect("hydrated");
    carl.add(&fresh_key(), "Carl");
    let hers = fresh_key();
    ada.add(&hers, "Ann");
    ada.sent().await;
    let refused = carl.client.sync().await;
    assert!(
        matches!(
            refused,
            Err(Error::Network(NetworkError::Refused { status: 403, .. }))
        ),
        "{refused:?}"
    );
    assert!(carl.people().iter().any(|(id, _)| *id == hers));
    // The server takes uploads again: nothing needs to be done here.
    refusing.store(false, Ordering::SeqCst);
    eventually("what was refused arrives", || async {
        ada.people().iter().any(|(id, _)| *id == his).then_some(())
    })
    .await;
    status(&bob, "nothing is stalled", |status| {
        status.stalled_reason.is_none() && status.unsent == 0
    })
    .await;
}

async fn what_is_paused_waits_and_the_rest_moves(backend: Backend) {
    let (_database, mut server) = server(backend).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::start(&server.target(), &user, "bob").await;
    for app in [&ada, &bob] {
        connected(app, ConnectionState::Online).await;
    }
    bob.client.pause(Direction::Uploads).await.expect("paused");
    let his = fresh_key();
    bob.add(&his, "his");
    crosses(&ada, &bob).await;
    let held = bob.client.status().await.expect("a status");
    assert_eq!((held.unsent, held.connection), (1, ConnectionState::Online));
    assert_eq!(held.stalled_reason.as_deref(), Some("uploads are paused"));
    assert!(ada.people().iter().all(|(id, _)| *id != his));

    bob.client
        .pause(Direction::Downloads)
        .await
        .expect("paused");
    connected(&bob, ConnectionState::Stalled).await;
    let hers = fresh_key();
    ada.add(&hers, "hers");
    ada.sent().await;
    status(&bob, "it knows that it is behind", |status| {
        status.behind_by > Some(0)
    })
    .await;
    // Also after a restart, of both.
    bob.client.stop().await;
    server.terminate().await;
    server.restart(Port::Same).await;
    let bob = bob.reopen(&server.target()).await;
    bob.client.start().expect("the engine starts");
    connected(&bob, ConnectionState::Stalled).await;
    assert!(bob.people().iter().all(|(id, _)| *id != hers));

    bob.client
        .resume(Direction::Downloads)
        .await
        .expect("resumed");
    eventually("her row arrives", || async {
        bob.people().iter().any(|(id, _)| *id == hers).then_some(())
    })
    .await;
    assert!(
        ada.people().iter().all(|(id, _)| *id != his),
        "uploads still wait"
    );
    bob.client.resume(Direction::Both).await.expect("resumed");
    eventually("his row arrives", || async {
        ada.people().iter().any(|(id, _)| *id == his).then_some(())
    })
    .await;
    connected(&bob, ConnectionState::Online).await;
}

async fn another_client_on_the_file_stands_by_and_takes_over(backend: Backend) {
    let (_database, server) = server(backend).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    // It looks for what others write to the file.
    let looks =
        |config: oversqlite::Config| config.foreign_writers_interval(Duration::from_millis(50));
    let bob = App::open_with(&server.target(), &user, "bob", looks).await;
    bob.client.start().expect("the engine starts");
    connected(&bob, ConnectionState::Online).await;
    let second = bob.second(&server.target()).await;
    second.client.start().expect("the engine starts");
    connected(&second, ConnectionState::Standby).await;
    // It captures, and the other one sends.
    let mut heard = second.client.changes();
    crosses(&second, &ada).await;
    // It is told that something was written, not what.
    crosses(&ada, &second).await;
    let event = tokio::time::timeout(Duration::from_secs(60), heard.next()).await;
    assert_eq!(event.expect("soon"), Some(Changed::Missed));
    let refused = second.client.sync().await;
    assert!(
        matches!(refused, Err(Error::Setup(SetupError::InUse { .. }))),
        "{refused:?}"
    );
    bob.client.stop().await;
    within(Duration::from_secs(30), "it takes over", || async {
        let status = second.client.status().await.expect("a status");
        (status.connection == ConnectionState::Online).then_some(())
    })
    .await;
    crosses(&second, &ada).await;
    crosses(&ada, &second).await;
}

/// A row of it has been changed elsewhere: that cannot be written before the answer has
/// come, and nothing is asked again and again meanwhile.
async fn a_batch_without_an_answer_waits_quietly_while_uploads_are_paused(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (proxy, is_lost) = Proxy::losing_answers(server.address()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::open(&behind(&proxy, &server), &user, "bob").await;
    bob.client.sync().await.expect("synchronised");
    let key = fresh_key();
    bob.add(&key, "his");
    is_lost.store(true, Ordering::SeqCst);
    bob.client.sync().await.expect_err("no answer");
    bob.client.pause(Direction::Uploads).await.expect("paused");
    is_lost.store(false, Ordering::SeqCst);
    eventually("it has arrived all the same", || async {
        ada.people().iter().any(|(id, _)| *id == key).then_some(())
    })
    .await;
    let edit = "UPDATE users SET name = 'hers' WHERE id = ?1";
    ada.connection().execute(edit, [&key]).expect("edited");
    ada.sent().await;

    bob.client.start().expect("the engine starts");
    status(&bob, "it has read that", |status| {
        status.connection == ConnectionState::Online && status.behind_by == Some(0)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pages = proxy.seen("/sync/download").len();
    assert!(pages < 20, "{pages} pages were asked for");
    assert_eq!(bob.client.status().await.expect("a status").unsent, 1);

    bob.client
        .resume(Direction::Uploads)
        .await
        .expect("resumed");
    eventually("her edit is there", || async {
        bob.people()
            .contains(&(key.clone(), "hers".to_owned()))
            .then_some(())
    })
    .await;
    bob.sent().await;
}
