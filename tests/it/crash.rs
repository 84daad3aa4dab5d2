//! SIGKILL and SIGTERM in the middle of uploads: what was acknowledged is there,
//! and every retry gets the answer that the first one got.

use futures_util::future::join_all;
use oversync_tests::device::{insert, update};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Backend, Config, Event, HttpDevice, Port, Seed, Server, eventually, on_both_stores,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_both_stores!(
    what_was_acknowledged_survives_sigkill,
    sigterm_answers_what_is_running_and_says_bye,
    a_stream_of_uploads_ends_cleanly_with_sigterm,
);

/// One device's uploads: each batch with its answer, the last perhaps without.
struct Uploads {
    device: HttpDevice,
    answered: Vec<(Vec<Value>, Value)>,
    unanswered: Option<Vec<Value>>,
    row: (String, i64),
    next_id: i64,
}

impl Uploads {
    fn new(device: HttpDevice) -> Self {
        Self {
            device,
            answered: Vec::new(),
            unanswered: None,
            row: (fresh_key(), 0),
            next_id: 1,
        }
    }

    /// A few new rows, and one row that is edited again and again.
    fn batch(&mut self, rng: &mut StdRng) -> Vec<Value> {
        let mut batch = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            batch.push(insert(self.id(), "business.users", &fresh_key(), json!({})));
        }
        let (key, version) = self.row.clone();
        batch.push(update(
            self.id(),
            "business.users",
            &key,
            version,
            json!({"v": version}),
        ));
        self.row.1 += 1;
        batch
    }

    fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Uploads until the server is gone.
    async fn run(&mut self, mut rng: StdRng, count: &AtomicUsize) {
        loop {
            let batch = self.batch(&mut rng);
            match self.device.try_upload(&batch).await {
                Ok(reply) if reply.status == 200 => {
                    self.answered
                        .push((batch, reply.json()["statuses"].clone()));
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(reply) => panic!(
                    "neither an answer nor an end: {} {}",
                    reply.status, reply.text
                ),
                Err(_) => {
                    self.unanswered = Some(batch);
                    return;
                }
            }
        }
    }

    /// After the restart: sends everything again, the unanswered first.
    async fn retry(&mut self) {
        if let Some(batch) = self.unanswered.take() {
            let answer = self.device.statuses(&batch).await;
            for status in &answer {
                assert_eq!(status["status"], "applied", "{status}");
            }
            self.answered.push((batch, answer.into()));
        }
        for (batch, answer) in &self.answered {
            let again = self.device.upload(batch).await;
            assert_eq!(
                again["statuses"], *answer,
                "the same answer as before the crash"
            );
        }
    }
}

/// Everything answered is in the stream, once; ids are dense; versions rise.
async fn check_stream(reader: &HttpDevice, all: &[Uploads]) {
    let (changes, _) = reader.download_all(0, 1_000, "").await;
    let mut found: Vec<(String, i64)> = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(change["server_id"], index + 1);
        let source = change["source_id"].as_str().expect("text").to_owned();
        found.push((
            source,
            change["source_change_id"].as_i64().expect("a number"),
        ));
    }
    found.sort_unstable();
    let mut expected: Vec<(String, i64)> = all
        .iter()
        .flat_map(|uploads| (1..uploads.next_id).map(|id| (uploads.device.name().to_owned(), id)))
        .collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

async fn what_was_acknowledged_survives_sigkill(backend: Backend) {
    let seed = Seed::from_env();
    let mut chance = seed.rng(0);
    let database = backend.database().await;
    // Every entry is looked for in the log, also of a row that has changed since.
    let mut server = Server::start(&database, Config::default().unfolded()).await;
    let user = fresh_user();
    let mut all: Vec<Uploads> = (0..4)
        .map(|n| Uploads::new(server.target().device(&user, &format!("device-{n}"))))
        .collect();
    for round in 1..=4 {
        let count = Arc::new(AtomicUsize::new(0));
        let enough = chance.random_range(5..60);
        let streams = all.into_iter().enumerate().map(|(n, mut uploads)| {
            let (count, rng) = (count.clone(), seed.rng(round * 100 + n as u64));
            tokio::spawn(async move {
                uploads.run(rng, &count).await;
                uploads
            })
        });
        let streams: Vec<_> = streams.collect();
        eventually("uploads are acknowledged", || {
            let reached = count.load(Ordering::Relaxed) >= enough;
            async move { reached.then_some(()) }
        })
        .await;
        server.kill();
        all = join_all(streams)
            .await
            .into_iter()
            .map(|ended| ended.expect("every answer is a good one"))
            .collect();
        server.restart(Port::Free).await;
        for uploads in &mut all {
            uploads.device = uploads.device.at(&server.target());
            uploads.retry().await;
        }
        check_stream(&server.target().device(&user, "reader"), &all).await;
    }
}

/// An upload of which the server has only half when it is told to stop.
async fn half_an_upload(device: &HttpDevice, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(device.target().authority())
        .await
        .expect("connects");
    let head = format!(
        "POST /sync/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        device.token(),
        body.len()
    );
    let half = format!("{head}{}", &body[..body.len() / 2]);
    stream.write_all(half.as_bytes()).await.expect("sent");
    stream
}

async fn sigterm_answers_what_is_running_and_says_bye(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default().operators()).await;
    let (ada, bob) = server.target().two_devices();
    let mut socket = bob.connect().await;
    socket.hello().await;

    // Long enough to be waited for: a body earns a second with each KiB.
    let body =
        json!({"changes": [insert(1, "business.users", &fresh_key(), json!({}))]}).to_string();
    let body = format!("{}{body}", " ".repeat(20 * 1024));
    let mut upload = half_an_upload(&ada, &body).await;
    eventually("half of it has arrived", || async {
        let arrived = server
            .admin()
            .metric("oversync_upload_bytes_in_flight")
            .await;
        (arrived == (body.len() / 2) as f64).then_some(())
    })
    .await;
    server.tell_to_stop();
    let bye = socket.message().await;
    assert_eq!(
        (&bye["type"], &bye["reason"]),
        (&json!("bye"), &json!("shutting_down"))
    );
    assert!(bye["retry_after_ms"].is_u64(), "{bye}");
    assert!(matches!(socket.next().await, Event::Closed(_)));

    upload
        .write_all(&body.as_bytes()[body.len() / 2..])
        .await
        .expect("the connection is still there");
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""status":"applied""#), "{answer}");
    server.stopped().await;

    server.restart(Port::Same).await;
    assert_eq!(bob.at(&server.target()).server_ids("").await, [1]);
}

async fn a_stream_of_uploads_ends_cleanly_with_sigterm(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    // Every entry is looked for in the log, also of a row that has changed since.
    let mut server = Server::start(&database, Config::default().unfolded()).await;
    let user = fresh_user();
    let count = Arc::new(AtomicUsize::new(0));
    let streams: Vec<_> = (0..4)
        .map(|n| {
            let mut uploads = Uploads::new(server.target().device(&user, &format!("device-{n}")));
            let count = count.clone();
            tokio::spawn(async move {
                uploads.run(seed.rng(n), &count).await;
                uploads
            })
        })
        .collect();
    eventually("uploads are acknowledged", || {
        let reached = count.load(Ordering::Relaxed) >= 30;
        async move { reached.then_some(()) }
    })
    .await;
    server.terminate().await;
    let mut all = Vec::new();
    for stream in streams {
        all.push(stream.await.expect("every answer is a good one"));
    }
    server.restart(Port::Same).await;
    for uploads in &mut all {
        uploads.device = uploads.device.at(&server.target());
        uploads.retry().await;
    }
    check_stream(&server.target().device(&user, "reader"), &all).await;
}
