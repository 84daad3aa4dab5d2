//! Thousands at once: who has everything is answered without the database, heads are
//! asked for together, the rest comes in by class, and nobody comes back at the same
//! moment as everybody else.

use futures_util::future::join_all;
use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Admin, Backend, Config, Database, HttpDevice, Reply, Server, Socket, eventually, on_both_stores,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::collections::HashSet;
use std::time::{Duration, Instant};

on_both_stores!(
    who_has_everything_is_answered_without_reading_a_page,
    what_is_remembered_is_never_behind,
    each_socket_gets_its_own_time_to_come_back,
);

const USERS: &str = "business.users";

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    (database, server)
}

async fn write(device: &HttpDevice, id: i64) -> i64 {
    let reply = device
        .upload(&[insert(id, USERS, &fresh_key(), json!({}))])
        .await;
    reply["head"].as_i64().expect("a head")
}

const PAGES: &str = r#"oversync_downloads_total{status="answered"}"#;
const QUIET: &str = "oversync_quiet_downloads_total";
const QUESTIONS: &str = "oversync_head_questions_total";

/// Pages read, downloads answered without, and questions for heads, so far.
async fn counted(admin: &Admin) -> [f64; 3] {
    [
        admin.metric(PAGES).await,
        admin.metric(QUIET).await,
        admin.metric(QUESTIONS).await,
    ]
}

async fn who_has_everything_is_answered_without_reading_a_page(backend: Backend) {
    let database = backend.database().await;
    // Places of the log are asked for in the end that nobody was known to need.
    let config = Config::default().unfolded().operators();
    let server = Server::start(&database, config).await;
    let (ada, bob) = server.target().two_devices();
    let new = server.target().one_device();
    write(&ada, 1).await;
    write(&bob, 7).await;
    // The first page of each is read: that is where it stands.
    let pages = [
        (&ada, ada.download("after=2").await),
        (&bob, bob.download("after=2").await),
        (&new, new.download("").await),
    ];
    assert_eq!(pages[0].1["highest_source_change_id"], 1);
    assert_eq!(pages[1].1["highest_source_change_id"], 7);
    let before = counted(&server.admin()).await;
    for _ in 0..20 {
        for (device, page) in &pages {
            let after = page["next_after"].as_i64().expect("a cursor");
            let query = format!("after={after}");
            assert_eq!(&device.download(&query).await, page, "to the letter");
            let limited = format!("after={after}&limit=1&include_self=true&schema=business");
            assert_eq!(&device.download(&limited).await, page);
        }
    }
    // Waiting is as cheap, from its begin to its end.
    let waiting = (0..20).map(|_| bob.download("after=2&wait=1"));
    for page in join_all(waiting).await {
        assert_eq!(page, pages[1].1);
    }
    let after = counted(&server.admin()).await;
    assert_eq!(after[0], before[0], "no page was read");
    assert_eq!(after[1] - before[1], 120.0 + 2.0 * 20.0);
    if backend == Backend::Embedded {
        assert_eq!(after[2], before[2], "the database was asked nothing");
    }
    // What is not quite the same question is a page.
    for (query, head) in [("after=1", 2), ("after=3", 2), ("after=2&until=2", 2)] {
        assert_eq!(bob.download(query).await["head"], head, "{query}");
    }
    assert_eq!(counted(&server.admin()).await[0], before[0] + 3.0);
    bob.download_raw("after=2&epoch=another")
        .await
        .refused(409, "epoch_mismatch");
}

/// Two devices that know everything, at two processes where there can be two: what
/// the one has been told is written, the other gets, and its own numbers are right.
async fn what_is_remembered_is_never_behind(backend: Backend) {
    let (database, here) = server(backend).await;
    let there = match backend {
        Backend::Embedded => None,
        Backend::Postgres => Some(Server::start(&database, Config::default()).await),
    };
    let (ada, bob) = here.target().two_devices();
    let ada = there
        .as_ref()
        .map_or(ada.clone(), |there| ada.at(&there.target()));
    for n in 1..=30 {
        let (writer, reader) = if n % 3 == 0 {
            (&bob, &ada)
        } else {
            (&ada, &bob)
        };
        for device in [writer, reader] {
            for _ in 0..2 {
                let page = device.download(&format!("after={}", n - 1)).await;
                assert_eq!(
                    (&page["head"], &page["changes"]),
                    (&json!(n - 1), &json!([]))
                );
            }
        }
        assert_eq!(write(writer, n).await, n);
        let page = reader.download(&format!("after={}", n - 1)).await;
        assert_eq!(page["changes"][0]["server_id"], n, "{page}");
        let page = writer.download(&format!("after={}", n - 1)).await;
        assert_eq!(
            (&page["head"], &page["highest_source_change_id"]),
            (&json!(n), &json!(n))
        );
    }
}

async fn each_socket_gets_its_own_time_to_come_back(backend: Backend) {
    const SOCKETS: usize = 100;
    let (_database, mut server) = server(backend).await;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let mut socket = server.target().one_device().connect().await;
        socket.hello().await;
        sockets.push(socket);
    }
    server.tell_to_stop();
    let mut delays = Vec::new();
    for socket in &mut sockets {
        let bye = socket.message().await;
        assert_eq!(
            (&bye["type"], &bye["reason"]),
            (&json!("bye"), &json!("shutting_down"))
        );
        delays.push(bye["retry_after_ms"].as_u64().expect("milliseconds"));
    }
    server.stopped().await;
    delays.sort_unstable();
    // Over two seconds, one in each slot of 20 ms.
    for (slot, delay) in (0..).zip(&delays) {
        assert!((slot * 20..=slot * 20 + 20).contains(delay), "{delays:?}");
    }
}

/// Nobody is told where a stream stands until this connection commits.
async fn standing_still(database: &Database) -> PgConnection {
    let mut lock = PgConnection::connect(database.url())
        .await
        .expect("connects");
    lock.execute("BEGIN; LOCK TABLE oversync.users IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    lock
}

/// The server rereads the heads of connected users this often, whoever asks.
const REREAD: Duration = Duration::from_secs(2);

/// A database that does not answer, as it does not when everybody is back at once:
/// all sockets together wait for one question, and downloads do not pile up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stands_still_meets_no_herd() {
    const SOCKETS: usize = 60;
    const DOWNLOADS: usize = 40;
    let (database, server) = server(Backend::Postgres).await;
    let admin = server.admin();
    let user = fresh_user();
    let head = write(&server.target().device(&user, "writer"), 1).await;
    let mut lock = standing_still(&database).await;
    let before = admin.metric(QUESTIONS).await;
    let start = Instant::now();
    let rereads = || (start.elapsed().as_secs_f64() / REREAD.as_secs_f64()).floor();

    let mut sockets: Vec<Socket> = Vec::new();
    for n in 0..SOCKETS {
        let device = server.target().device(&user, &format!("device-{n}"));
        sockets.push(device.connect().await);
    }
    eventually("all sessions are there", || async {
        (admin.metric("oversync_sessions").await == SOCKETS as f64).then_some(())
    })
    .await;

    // Far behind are those who begin with nothing, at a server that knows nothing.
    let behind = |after: i64| {
        let target = server.target();
        (0..DOWNLOADS).map(move |n| {
            let device = target.device(&format!("nobody-{n}"), "d");
            async move { device.download_raw(&format!("after={after}")).await }
        })
    };
    let refusals = async {
        let (near, far) = tokio::join!(
            tokio::spawn(join_all(behind(5).collect::<Vec<_>>())),
            tokio::spawn(join_all(behind(0).collect::<Vec<_>>())),
        );
        (near.expect("answered"), far.expect("answered"))
    };
    let unlock = async {
        // All but those who are being read have been sent away.
        eventually("the waiting are sent away", || async {
            let sent = |class: &str| {
                admin.metric_named(format!(
                    r#"oversync_downloads_sent_away_total{{class="{class}"}}"#
                ))
            };
            let sent = (sent("download").await, sent("hydrate").await);
            (sent.0 + sent.1 >= (2 * DOWNLOADS - 8) as f64).then_some(())
        })
        .await;
        let questions = admin.metric(QUESTIONS).await - before;
        let allowed = 3.0 + rereads();
        assert!(questions <= allowed, "{questions}, {allowed} allowed");
        lock.execute("COMMIT").await.expect("unlocked");
    };
    let ((near, far), ()) = tokio::join!(refusals, unlock);
    let (near, far) = (retry_after(&near), retry_after(&far));
    assert!(
        near.iter().all(|seconds| (1..=3).contains(seconds)),
        "{near:?}"
    );
    assert!(
        far.iter().all(|seconds| (5..=15).contains(seconds)),
        "{far:?}"
    );
    assert!(near.len() + far.len() >= 2 * DOWNLOADS - 8);
    let different: HashSet<u64> = far.iter().copied().collect();
    assert!(different.len() > 2, "not all at the same moment: {far:?}");

    for socket in &mut sockets {
        assert_eq!(socket.hello().await, head);
    }
    let questions = admin.metric(QUESTIONS).await - before;
    let allowed = 8.0 + rereads();
    assert!(
        questions <= allowed,
        "{questions} questions for {SOCKETS} sockets, {allowed} allowed"
    );
}

/// The times to come back of those who were refused; the others have their page.
fn retry_after(replies: &[Reply]) -> Vec<u64> {
    let mut times = Vec::new();
    for reply in replies {
        if reply.status == 200 {
            continue;
        }
        let body: Value = reply.refused(503, "overloaded");
        assert_eq!(body["message"], "overloaded, try again later");
        let header = reply.headers.get("retry-after").expect("Retry-After");
        times.push(header.to_str().expect("text").parse().expect("seconds"));
    }
    times
}

/// The question for heads is given up after 20 seconds: who waited for it is told, who
/// comes later has a new one, and nobody is forgotten when the database is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_for_heads_that_is_not_answered_is_given_up() {
    let (database, server) = server(Backend::Postgres).await;
    let admin = server.admin();
    let user = fresh_user();
    let bob = server.target().device(&user, "bob");
    let head = write(&bob, 1).await;
    let at_head = format!("after={head}");
    let page = bob.download(&at_head).await;
    let mut lock = standing_still(&database).await;
    let before = admin.metric(QUESTIONS).await;
    let start = Instant::now();
    // It has everything: all that is asked for it is the head.
    let refused = {
        let (bob, at_head) = (bob.clone(), at_head.clone());
        tokio::spawn(async move { bob.download_raw(&at_head).await })
    };
    eventually("the question is asked", || async {
        (admin.metric(QUESTIONS).await > before).then_some(())
    })
    .await;
    let mut socket = bob.sibling("ada").connect().await;
    let refused = refused.await.expect("answered");
    refused.refused(503, "overloaded");
    assert!(refused.headers.contains_key("retry-after"));
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(19), "{took:?}");
    // The socket's question was never the one that was given up, or is asked again.
    eventually("somebody asks again", || async {
        (admin.metric(QUESTIONS).await >= before + 2.0).then_some(())
    })
    .await;
    lock.execute("COMMIT").await.expect("unlocked");
    assert_eq!(socket.hello().await, head);
    assert_eq!(bob.download(&at_head).await, page);
    let mut told = head;
    let next = write(&bob, 2).await;
    socket.told_of(next, &mut told).await;
}

/// Each device that came asked the question that fails once more, and those that had
/// gone again were asked for as long as the database was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_asked_now_and_then() {
    const DEVICES: usize = 20;
    let (database, server) = server(Backend::Embedded).await;
    let (admin, target) = (server.admin(), server.target());
    // Its answer says that the tables are there.
    let before = admin.metric(QUESTIONS).await;
    database
        .execute("ALTER TABLE _oversync_users RENAME TO away")
        .await;
    let start = Instant::now();
    let mut sockets = Vec::new();
    for _ in 0..DEVICES {
        sockets.push(target.one_device().connect().await);
        // Longer than those who come together are gathered.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let asked = admin.metric(QUESTIONS).await - before;
    // One at once, and one in half a second.
    let most = 2.0 + start.elapsed().as_secs_f64() / 0.5;
    assert!(asked <= most, "{asked} questions, {most} at most");
    let mut last = sockets.pop().expect("a socket");
    drop(sockets);
    eventually("those that have gone are not asked for", || async {
        let log = server.log();
        let told = log
            .lines()
            .rfind(|line| line.contains("heads could not be read; trying again"))?;
        told.split_whitespace()
            .any(|word| word == "sessions=1")
            .then_some(())
    })
    .await;
    database
        .execute("ALTER TABLE away RENAME TO _oversync_users")
        .await;
    assert_eq!(last.hello().await, 0);
}
