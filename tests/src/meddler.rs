//! Somebody between a device and a server who meddles with the hints: everything else
//! passes as it is. Frames of a server are plain (no mask, no compression), and short.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is done to the text frames of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meddling {
    /// All hints after the hello are lost.
    Lost,
    /// Each comes a hundred times.
    Hundredfold,
    /// Each comes so much later.
    Delayed(Duration),
    /// The one before comes again after each.
    Reordered,
    /// Before each come hints of heads that are not there, of another history, and
    /// what is no hint at all.
    Forged,
}

/// What nobody has said.
const FORGED: [&str; 6] = [
    r#"{"type":"changes","after":0,"head":9007199254740991}"#,
    r#"{"type":"changes","after":-9,"head":-1}"#,
    r#"{"type":"hello","epoch":"another history","head":1}"#,
    r#"{"type":"hello","epoch":"another history","head":9007199254740991}"#,
    r#"{"type":"changes","after":"x"}"#,
    "no JSON",
];

impl Meddling {
    /// What comes of a text.
    fn of(self, text: String, last: &mut Option<String>) -> Vec<String> {
        match self {
            Self::Lost if text.contains("\"changes\"") => vec![],
            Self::Lost | Self::Delayed(_) => vec![text],
            Self::Hundredfold => vec![text; 100],
            Self::Reordered => {
                let before = last.replace(text.clone());
                [Some(text), before].into_iter().flatten().collect()
            }
            Self::Forged => {
                let forged = FORGED.map(str::to_owned);
                forged.into_iter().chain([text]).collect()
            }
        }
    }
}

/// A running meddler; ends with its value.
#[derive(Debug)]
pub struct Meddler {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Meddler {
    /// In front of the server at `upstream`.
    pub async fn start(upstream: SocketAddr, meddling: Meddling) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the business of its two ends.
                tokio::spawn(async move {
                    let _ = serve(client, upstream, meddling).await;
                });
            }
        });
        Self { address, task }
    }

    /// Where devices find it.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Up to the end of a request's or an answer's head.
async fn head(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    meddling: Meddling,
) -> std::io::Result<()> {
    let request = head(&mut client).await?;
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&request).await?;
    let is_socket = request.starts_with(b"GET /sync/ws");
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let back = async {
        if is_socket {
            meddle(from_server, to_client, meddling).await
        } else {
            let (mut from, mut to) = (from_server, to_client);
            copy(&mut from, &mut to).await.map(|_| ())
        }
    };
    // One end that closes closes the other.
    tokio::select! {
        ended = back => ended,
        ended = copy(&mut from_client, &mut to_server) => ended.map(|_| ()),
    }
}

async fn meddle(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    meddling: Meddling,
) -> std::io::Result<()> {
    let answer = head(&mut from).await?;
    to.write_all(&answer).await?;
    let mut last = None;
    loop {
        let (first, length) = (from.read_u8().await?, from.read_u8().await?);
        assert!(length < 126, "a hint is short, and not masked");
        let mut body = vec![0; usize::from(length)];
        from.read_exact(&mut body).await?;
        // A whole text; pings, pongs and the close pass.
        if first != 0x81 {
            write(&mut to, first, &body).await?;
            continue;
        }
        if let Meddling::Delayed(time) = meddling {
            tokio::time::sleep(time).await;
        }
        let text = String::from_utf8(body).expect("a server's text is UTF-8");
        for text in meddling.of(text, &mut last) {
            write(&mut to, first, text.as_bytes()).await?;
        }
    }
}

async fn write(to: &mut OwnedWriteHalf, first: u8, body: &[u8]) -> std::io::Result<()> {
    let length = u8::try_from(body.len()).expect("short");
    to.write_all(&[&[first, length], body].concat()).await
}
