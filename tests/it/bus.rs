//! Heads between processes: over PostgreSQL and over NATS, through the loss of the
//! connection, of the NATS server, and of one of two processes. No change is missed
//! whatever is lost, and hints are prompt again afterwards.

use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Backend, Config, Database, Event, HttpDevice, Nats, Port, Server, Socket, eventually, within,
};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The net below all hints: heads of connected users are read every two seconds.
const NET: Duration = Duration::from_secs(8);

/// Two processes on one database; the writer is at the one, the listener at the
/// other.
struct Two {
    here: Server,
    there: Server,
    writer: HttpDevice,
    reader: HttpDevice,
}

impl Two {
    async fn start(database: &Database, config: Config) -> Self {
        let here = Server::start(database, config.clone().operators()).await;
        let there = Server::start(database, config.operators()).await;
        let user = fresh_user();
        Self {
            writer: here.target().device(&user, "writer"),
            reader: there.target().device(&user, "reader"),
            here,
            there,
        }
    }

    /// Heads that the listener's process has heard of from the other.
    async fn heard(&self) -> f64 {
        self.there
            .admin()
            .metric("oversync_heads_heard_total")
            .await
    }
}

async fn write(device: &HttpDevice, id: i64) {
    let change = insert(id, "business.users", &fresh_key(), json!({}));
    let reply = device.upload_patiently(&[change]).await;
    assert_eq!(reply["statuses"][0]["status"], "applied", "{reply}");
}

/// Writes `count` changes one after another, each when the one before has been told.
async fn told(
    writer: &HttpDevice,
    next: &mut i64,
    count: i64,
    socket: &mut Socket,
    seen: &mut i64,
) {
    for _ in 0..count {
        *next += 1;
        write(writer, *next).await;
        let start = Instant::now();
        socket.told_of(*next, seen).await;
        assert!(start.elapsed() < NET, "{:?}", start.elapsed());
    }
}

/// Hints come by the bus again: ten in a row in less time than the net needs for two.
async fn is_prompt_again(two: &Two, next: &mut i64, socket: &mut Socket, seen: &mut i64) {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let (start, heard) = (Instant::now(), two.heard().await);
        told(&two.writer, next, 10, socket, seen).await;
        if start.elapsed() < Duration::from_secs(4) && two.heard().await >= heard + 10.0 {
            return;
        }
        assert!(Instant::now() < deadline, "latency does not recover");
    }
}

/// A device that writes until it is told to stop; how many changes it has written.
fn keep_writing(device: HttpDevice, from: i64) -> (Arc<AtomicBool>, JoinHandle<i64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut id = from;
        while !stopped.load(Ordering::Relaxed) {
            id += 1;
            write(&device, id).await;
        }
        id
    });
    (stop, writing)
}

/// A device that downloads when it is told to, and only then, until it has this many.
async fn follow(reader: &HttpDevice, socket: &mut Socket, after: &mut i64, until: i64) {
    while *after < until {
        match socket.next().await {
            Event::Message(hint) => assert_eq!(hint["type"], "changes", "{hint}"),
            Event::Closed(code) => panic!("closed: {code:?}"),
        }
        let (changes, _) = reader.download_all(*after, 1_000, "").await;
        for change in changes {
            assert_eq!(
                change["server_id"],
                *after + 1,
                "no change is missed: {change}"
            );
            *after += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_listen_connection_comes_back() {
    let database = Backend::Postgres.database().await;
    let two = Two::start(&database, Config::default()).await;
    let mut socket = two.reader.connect().await;
    let (mut next, mut seen) = (0, socket.hello().await);
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
    for _ in 0..3 {
        let killed = database
            .ask(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'",
            )
            .await;
        assert_eq!(killed.as_deref(), Some("2"), "both listened");
        told(&two.writer, &mut next, 5, &mut socket, &mut seen).await;
        is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
        eventually("both listen again", || async {
            let listening = database
                .ask(
                    "SELECT count(*) FROM pg_stat_activity \
                     WHERE datname = current_database() AND query LIKE 'LISTEN%'",
                )
                .await;
            (listening.as_deref() == Some("2")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_carries_heads_and_may_go_away() {
    let mut nats = Nats::start().await;
    let database = Backend::Postgres.database().await;
    let config = Config::default().set("nats.url", nats.url());
    let two = Two::start(&database, config).await;
    let mut socket = two.reader.connect().await;
    let (mut next, mut seen) = (0, socket.hello().await);
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
    let listening = database
        .ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")
        .await;
    assert_eq!(
        listening.as_deref(),
        Some("0"),
        "the database carries nothing"
    );

    // Down: the net carries on, and what is written is told within seconds.
    nats.stop();
    let heard = two.heard().await;
    told(&two.writer, &mut next, 4, &mut socket, &mut seen).await;
    assert_eq!(two.heard().await, heard, "nothing else could");
    assert!(two.there.log().contains("not connected to NATS"));
    nats.restart().await;
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;

    // Down and up again under load: every change arrives, in its place.
    let mut after = seen;
    let (stop, writing) = keep_writing(two.writer.clone(), next);
    for _ in 0..2 {
        follow(&two.reader, &mut socket, &mut after, seen + 50).await;
        nats.stop();
        follow(&two.reader, &mut socket, &mut after, seen + 100).await;
        nats.restart().await;
        seen = after;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.expect("every write is applied");
    follow(&two.reader, &mut socket, &mut after, written).await;
    drop((two, nats));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_is_not_there_keeps_nobody_from_starting() {
    let mut nats = Nats::start().await;
    nats.stop();
    let database = Backend::Postgres.database().await;
    let config = Config::default().set("nats.url", nats.url());
    let two = Two::start(&database, config).await;
    let mut socket = two.reader.connect().await;
    let (mut next, mut seen) = (0, socket.hello().await);
    told(&two.writer, &mut next, 2, &mut socket, &mut seen).await;
    nats.restart().await;
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
}

/// Two deployments with one subject between them hear nothing of each other: their
/// databases have different histories.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_do_not_hear_each_other() {
    let nats = Nats::start().await;
    let config = Config::default().set("nats.url", nats.url());
    let (one, other) = (
        Backend::Postgres.database().await,
        Backend::Postgres.database().await,
    );
    let (one, other) = (
        Two::start(&one, config.clone()).await,
        Two::start(&other, config).await,
    );
    let mut socket = one.reader.connect().await;
    let (mut next, mut seen) = (0, socket.hello().await);
    is_prompt_again(&one, &mut next, &mut socket, &mut seen).await;
    assert_eq!(other.heard().await, 0.0);
}

/// One process was started after the restore, the other goes on over it with nothing but
/// an idle socket. They talk of the new history; a head of the lost one, which a third
/// might still tell of, is not heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_beneath_a_process_moves_it_to_the_new_history() {
    let nats = Nats::start().await;
    let database = Backend::Postgres.database().await;
    let config = Config::default().set("nats.url", nats.url());
    let mut two = Two::start(&database, config).await;
    let mut socket = two.reader.connect().await;
    let (mut next, mut seen) = (0, socket.hello().await);
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
    let lost = two.writer.download("").await["epoch"].clone();
    let lost = lost.as_str().expect("an epoch");
    two.here.terminate().await;
    // As `oversync restore --in-place`, which sees servers only where no pooler hides them.
    database
        .execute(
            "INSERT INTO oversync.jumps SELECT user_key, head, head + 1000 FROM oversync.users;
             UPDATE oversync.users SET head = head + 1000, revision = revision + 1;
             UPDATE oversync.meta SET epoch = 'new', first_head = 1000",
        )
        .await;
    two.here.restart(Port::Same).await;
    next += 1_000;
    is_prompt_again(&two, &mut next, &mut socket, &mut seen).await;
    assert!(two.there.log().contains("restored beneath"));

    // NATS delivers in order: had the first been heard, the second would tell nothing new.
    for (epoch, ahead) in [(lost, 50), ("new", 1)] {
        let head = json!([[two.writer.user(), next + ahead]]).to_string();
        nats.publish(&format!("oversync.heads.{epoch}"), &head)
            .await;
    }
    socket.told_of(next + 1, &mut seen).await;
    assert_eq!(seen, next + 1, "of this history");
    told(&two.writer, &mut next, 1, &mut socket, &mut seen).await;
    let hello = two.reader.connect().await.hello().await;
    assert_eq!(hello, next);
    two.there.verified().await;
}

/// SIGKILL of one of two processes under load. The device at the other goes on
/// hearing; the one that wrote at the killed one goes on there; every change that
/// was acknowledged is read, once and in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_processes_is_killed_under_load() {
    let database = Backend::Postgres.database().await;
    let mut two = Two::start(&database, Config::default()).await;
    let mut socket = two.reader.connect().await;
    let mut after = socket.hello().await;
    let other = two.writer.sibling("other").at(&two.there.target());
    let (stop, other_writes) = keep_writing(other, 0);
    for round in 0..3 {
        let writer = two.writer.at(&two.here.target());
        let (victim, mut done) = (writer.clone(), 1_000 * (round + 1));
        // Writes until the process is gone, and once more where it goes on.
        let writing = tokio::spawn(async move {
            loop {
                done += 1;
                let change = insert(done, "business.users", &fresh_key(), json!({}));
                match victim.try_upload(std::slice::from_ref(&change)).await {
                    Ok(reply) if reply.status == 503 => {}
                    Ok(reply) => assert_eq!(reply.ok()["statuses"][0]["status"], "applied"),
                    Err(_) => return change,
                }
            }
        });
        let until = after + 60;
        follow(&two.reader, &mut socket, &mut after, until).await;
        two.here.kill();
        let unanswered = writing.await.expect("every answer was right");
        let again = writer.at(&two.there.target());
        let retry = std::slice::from_ref(&unanswered);
        let first = again.upload_patiently(retry).await["statuses"].clone();
        assert_eq!(first[0]["status"], "applied");
        let second = again.upload_patiently(retry).await;
        assert_eq!(second["statuses"], first, "once");
        let until = after + 30;
        follow(&two.reader, &mut socket, &mut after, until).await;
        two.here.restart(Port::Same).await;
        within(Duration::from_secs(20), "it answers again", || async {
            writer
                .download_raw("limit=1")
                .await
                .status
                .eq(&200)
                .then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    other_writes.await.expect("the other was never disturbed");
    let head = two.reader.download("").await["head"]
        .as_i64()
        .expect("a head");
    follow(&two.reader, &mut socket, &mut after, head).await;
    two.there.verified().await;
}
