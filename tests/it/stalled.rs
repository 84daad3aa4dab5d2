//! Clients that ask and do not read: what they cost is bounded, and nobody else
//! notices. 200 of them; OVERSYNC_STALLED=1000 for as many as the promise names.

use oversync_tests::device::insert;
use oversync_tests::target::fresh_key;
use oversync_tests::{
    Backend, Config, HttpDevice, Server, Socket, eventually, on_both_stores, within,
};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

on_both_stores!(
    downloads_that_nobody_reads_cost_little,
    hints_that_nobody_reads_cost_little
);

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A connection that is used may cost so much (GUARANTEES, BOUNDED).
const CONNECTION: usize = 64 * KIB;

/// What the server has room for, by default.
const ANSWERS: usize = 64 * MIB;

/// Pages being read at any moment, as rows, as text, and in SQLite; and what the
/// allocator keeps.
const READING: usize = 64 * MIB;

fn readers() -> usize {
    let number = std::env::var("OVERSYNC_STALLED").ok();
    number.map_or(200, |number| number.parse().expect("a number"))
}

/// Bytes of memory a server has now.
fn memory(server: &Server) -> usize {
    let path = format!("/proc/{}/status", server.pid());
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("a size")
        .trim()
        .parse::<usize>()
        .expect("a number")
        * KIB
}

fn open_files(server: &Server) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", server.pid()));
    folder.expect("the process runs").count()
}

async fn write(device: &HttpDevice, id: i64, payload: serde_json::Value) -> i64 {
    let change = insert(id, "business.users", &fresh_key(), payload);
    let reply = device.upload(&[change]).await;
    assert_eq!(reply["statuses"][0]["status"], "applied");
    reply["head"].as_i64().expect("a head")
}

/// Asks for a page and reads nothing; the system takes a few KiB for it.
async fn ask_and_stall(address: SocketAddr, token: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 * KIB as u32).expect("set");
    let mut stream = socket.connect(address).await.expect("connects");
    let request = format!(
        "GET /sync/download?limit=1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

/// A device beside them writes and reads as ever.
async fn lives(device: &HttpDevice, id: i64) {
    let before = write(device, id, json!({"n": id})).await - 1;
    let page = device
        .sibling("reader")
        .download(&format!("after={before}"))
        .await;
    assert_eq!(page["changes"][0]["payload"]["n"], id);
}

async fn downloads_that_nobody_reads_cost_little(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().set("limits.stall_seconds", 4);
    let server = Server::start(&database, config.operators()).await;
    let (ada, bob) = server.target().two_devices();
    let text = "x".repeat(200_000);
    for id in 1..=30 {
        write(&ada, id, json!({"text": text})).await;
    }
    let other = server.target().one_device();
    lives(&other, 1).await;
    let (memory_before, files_before) = (memory(&server), open_files(&server));

    let mut most = 0;
    let mut stalled = Vec::new();
    for n in 0..readers() {
        stalled.push(ask_and_stall(server.address(), bob.token()).await);
        most = most.max(memory(&server));
        if n % 20 == 0 {
            lives(&other, 2 + n as i64).await;
        }
    }
    // A device that does read gets the same large page all the same: those who stand
    // still make room.
    let page = eventually("somebody who reads has the page", || async {
        let reply = bob.download_raw("limit=1000").await;
        if reply.status == 503 {
            assert!(reply.headers.contains_key("retry-after"));
        }
        (reply.status == 200).then(|| reply.json())
    })
    .await;
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(30));
    most = most.max(memory(&server));
    let bound = ANSWERS + READING + readers() * CONNECTION;
    let grown = most.saturating_sub(memory_before);
    println!("{} stalled downloads: {} MiB more", readers(), grown / MIB);
    assert!(
        grown < bound,
        "{} MiB, bound {} MiB",
        grown / MIB,
        bound / MIB
    );

    // Their connections end too; the pool of 12 to the database may have grown.
    within(
        Duration::from_secs(40),
        "their connections are closed",
        || async { (open_files(&server) <= files_before + 16).then_some(()) },
    )
    .await;
    within(
        Duration::from_secs(40),
        "nothing is kept for them",
        || async {
            let admin = server.admin();
            let held = admin.metric("oversync_answer_bytes_in_flight").await;
            (held == 0.0).then_some(())
        },
    )
    .await;
    drop(stalled);
}

async fn hints_that_nobody_reads_cost_little(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    let ada = server.target().one_device();
    write(&ada, 1, json!({})).await;
    let other = server.target().one_device();
    lives(&other, 1).await;
    let before = memory(&server);
    let mut stalled: Vec<Socket> = Vec::new();
    for n in 0..readers() {
        stalled.push(ada.sibling(&format!("stalled-{n}")).connect().await);
    }
    // One that reads shows that hints go on.
    let mut reader = ada.sibling("reader").connect().await;
    let mut told = reader.hello().await;
    let mut most = 0;
    for id in 2..=400 {
        write(&ada, id, json!({})).await;
        reader.told_of(id, &mut told).await;
        most = most.max(memory(&server));
        if id % 50 == 0 {
            lives(&other, id).await;
        }
    }
    let grown = most.saturating_sub(before);
    println!("{} stalled sockets: {} MiB more", readers(), grown / MIB);
    let bound = 24 * MIB + readers() * CONNECTION;
    assert!(
        grown < bound,
        "{} MiB, bound {} MiB",
        grown / MIB,
        bound / MIB
    );
    // At the latest when they have answered no ping for 60 s, with the next look, every
    // 25 s. The one that reads must go on answering.
    let let_go = within(Duration::from_secs(120), "they are let go", || async {
        (server.admin().metric("oversync_sessions").await <= 1.0).then_some(())
    });
    let reads = async { while reader.next_within(Duration::from_secs(1)).await.is_none() {} };
    tokio::select! {
        () = let_go => {}
        () = reads => panic!("nothing was new"),
    }
    write(&ada, 401, json!({})).await;
    reader.told_of(401, &mut told).await;
    drop(stalled);
}
