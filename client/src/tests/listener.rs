//! The listener against a server of a few lines that plays a script: sockets that
//! end by `bye`, fall silent or are refused; when it comes back, and what the engine
//! is told.

use super::{config, folder};
use crate::client::Client;
use crate::listener::{self, Signal, Times};
use futures_util::{SinkExt as _, StreamExt as _};
use oversync_shared::wire::WS_SUBPROTOCOL;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

const HELLO: &str = r#"{"type":"hello","epoch":"e","head":7}"#;

/// What the server does with one upgrade.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Says hello, then this, and closes.
    Say(&'static str),
    /// Says hello, and nothing more, ever: a connection that is half open.
    FallSilent,
    /// Says hello, and answers pings.
    Stay,
    /// An HTTP answer in place of the upgrade.
    Answer(&'static str),
}

const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BUSY: &str =
    "HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What it says of itself; `None`: an older server, which says nothing.
type Capabilities = Option<&'static str>;

const WAITS: Capabilities = Some(
    r#"{"protocol":"v1","app_name":"x","epoch":"e","schema_version":1,"min_schema_version":1,
    "limits":{"max_changes":10,"max_payload_bytes":100,"max_body_bytes":1000,"max_page":10},
    "features":["ws","wait","epoch"]}"#,
);

/// Times that a test can wait for.
const SHORT: Times = Times {
    ping_every: Duration::from_millis(200),
    silence: Duration::from_secs(5),
    no_hints_retry: Duration::from_millis(300),
};

/// When each upgrade was asked for.
type Upgrades = Arc<Mutex<Vec<Instant>>>;

struct Stage {
    upgrades: Upgrades,
    signals: mpsc::Receiver<Signal>,
    _client: Client,
    _folder: TempDir,
}

/// A server that plays this script, the last act over and over, and a listener.
async fn stage(script: &'static [Act], capabilities: Capabilities) -> Stage {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = server.local_addr().expect("an address");
    let upgrades = Upgrades::default();
    tokio::spawn(serve(server, script, capabilities, Arc::clone(&upgrades)));
    let folder = folder();
    let client = open(&folder, address).await;
    let (sender, signals) = mpsc::channel(16);
    tokio::spawn(listener::run(Arc::clone(client.core()), sender, SHORT));
    Stage {
        upgrades,
        signals,
        _client: client,
        _folder: folder,
    }
}

async fn open(folder: &TempDir, address: SocketAddr) -> Client {
    let mut config = config(folder).table("t");
    rusqlite::Connection::open(&config.path)
        .and_then(|file| file.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL)"))
        .expect("made");
    config.server = format!("http://{address}");
    Client::open(config).await.expect("opens")
}

async fn serve(
    server: TcpListener,
    script: &'static [Act],
    capabilities: Capabilities,
    upgrades: Upgrades,
) {
    while let Ok((stream, _)) = server.accept().await {
        let mut head = [0; 4096];
        let length = stream.peek(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let upgrades = Arc::clone(&upgrades);
        tokio::spawn(async move {
            if head.starts_with("GET /sync/ws") {
                let n = {
                    let mut upgrades = upgrades.lock().expect("no panic");
                    upgrades.push(Instant::now());
                    upgrades.len() - 1
                };
                play(stream, script[n.min(script.len() - 1)]).await;
            } else if head.starts_with("GET /sync/capabilities") {
                answer(stream, capabilities).await;
            } else {
                // A long poll: there is nothing new, and it does not wait.
                let page = r#"{"changes":[],"has_more":false,"next_after":0,"window_until":0}"#;
                answer(stream, Some(page)).await;
            }
        });
    }
}

async fn answer(mut stream: TcpStream, body: Option<&str>) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let (status, body) = match body {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", ""),
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn play(mut stream: TcpStream, act: Act) {
    if let Act::Answer(text) = act {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(text.as_bytes()).await;
        return;
    }
    let mut socket = accept(stream).await;
    let _ = socket.send(Message::text(HELLO)).await;
    match act {
        Act::Say(text) => {
            let _ = socket.send(Message::text(text)).await;
            let _ = socket.close(None).await;
        }
        // Not even read: pings are answered by reading.
        Act::FallSilent => std::future::pending().await,
        Act::Stay | Act::Answer(_) => while socket.next().await.is_some() {},
    }
}

#[expect(clippy::result_large_err, reason = "the trait of the library wants it")]
async fn accept(stream: TcpStream) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let chosen = |_: &Request, mut response: Response| {
        let name = HeaderValue::from_static(WS_SUBPROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
        Ok(response)
    };
    accept_hdr_async(stream, chosen).await.expect("an upgrade")
}

impl Stage {
    /// What the engine is told next.
    async fn told(&mut self) -> Signal {
        let told = timeout(Duration::from_secs(20), self.signals.recv()).await;
        told.expect("soon").expect("the listener lives")
    }

    async fn online(&mut self) {
        let told = self.told().await;
        assert!(
            matches!(told, Signal::Online { head, .. } if head.get() == 7),
            "{told:?}"
        );
    }

    async fn offline(&mut self) {
        let told = self.told().await;
        assert!(matches!(told, Signal::Offline), "{told:?}");
    }

    /// The time between two upgrades.
    fn between(&self, first: usize) -> Duration {
        let upgrades = self.upgrades.lock().expect("no panic");
        upgrades[first + 1] - upgrades[first]
    }
}

#[tokio::test]
async fn a_bye_says_when_to_come_back() {
    let script = &[
        Act::Say(r#"{"type":"bye","reason":"shutting_down","retry_after_ms":900}"#),
        Act::Stay,
    ];
    let mut stage = stage(script, None).await;
    stage.online().await;
    stage.offline().await;
    stage.online().await;
    let waited = stage.between(0);
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
}

#[tokio::test]
async fn an_upgrade_that_is_put_off_is_tried_again_then_and_by_no_other_way() {
    let script = &[
        Act::Answer(BUSY),
        Act::Answer(BUSY),
        Act::Answer(BUSY),
        Act::Answer(BUSY),
        Act::Stay,
    ];
    let mut stage = stage(script, WAITS).await;
    for n in 0..4 {
        // More often than an upgrade may fail before another way is taken.
        stage.offline().await;
        if n > 0 {
            assert!(stage.between(n - 1) >= Duration::from_secs(1), "{n}");
        }
    }
    stage.online().await;
}

#[tokio::test]
async fn a_socket_that_has_fallen_silent_is_given_up() {
    let mut stage = stage(&[Act::FallSilent, Act::Stay], None).await;
    stage.online().await;
    let begun = Instant::now();
    stage.offline().await;
    let silent = begun.elapsed();
    assert!(
        silent >= SHORT.silence - Duration::from_millis(100),
        "{silent:?}"
    );
    stage.online().await;
    // One that answers pings is kept for as long as it does.
    let told = timeout(SHORT.silence * 2, stage.signals.recv()).await;
    assert!(told.is_err(), "{told:?}");
}

#[test]
fn a_socket_is_given_up_within_a_minute_and_not_for_one_lost_ping() {
    let usual = Times::USUAL;
    assert!(usual.silence <= Duration::from_secs(60));
    assert!(usual.silence >= usual.ping_every * 2);
}

#[tokio::test]
async fn sockets_are_taken_again_once_they_get_through() {
    // To a server with long polls, and to one without.
    for capabilities in [WAITS, None] {
        let script = &[Act::Answer(FORBIDDEN), Act::Answer(FORBIDDEN), Act::Stay];
        let mut stage = stage(script, capabilities).await;
        let mut meanwhile = Vec::new();
        let head = loop {
            match stage.told().await {
                Signal::Online { head, .. } => break head,
                other => meanwhile.push(other),
            }
        };
        assert_eq!(head.get(), 7);
        let is_expected = |signal: &Signal| match capabilities {
            Some(_) => matches!(signal, Signal::LongPoll),
            None => matches!(signal, Signal::NoHints),
        };
        assert_eq!(meanwhile.len(), 2, "{meanwhile:?}");
        assert!(meanwhile.iter().all(is_expected), "{meanwhile:?}");
        assert!(stage.between(0) >= SHORT.no_hints_retry);
    }
}
