//! A WebSocket for hints, seen frame by frame.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long a message may take that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    response: Response,
}

/// What comes over a socket, pings left out.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A text frame.
    Message(Value),
    /// The end: the close frame's code, when there was one.
    Closed(Option<u16>),
}

/// An upgrade that was refused.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl Socket {
    /// Upgrades a connection with these headers.
    pub async fn connect(
        authority: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Refused> {
        let mut request = format!("ws://{authority}/sync/ws")
            .into_client_request()
            .expect("a request");
        for (name, value) in headers {
            request.headers_mut().append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).expect("a header value"),
            );
        }
        match connect_async(request).await {
            Ok((stream, response)) => Ok(Self { stream, response }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err(Refused {
                    status: response.status().as_u16(),
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                })
            }
            Err(error) => panic!("no WebSocket: {error}"),
        }
    }

    /// A header of the answer to the upgrade.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next event; waits for it.
    ///
    /// # Panics
    /// When nothing comes for a minute.
    pub async fn next(&mut self) -> Event {
        self.next_within(PATIENCE)
            .await
            .expect("a WebSocket message within a minute")
    }

    /// The next event, if it comes in time.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Event> {
        let read = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let value = serde_json::from_str(text.as_str());
                        return Event::Message(value.expect("hints are JSON"));
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Event::Closed(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Event::Closed(None),
                }
            }
        };
        tokio::time::timeout(patience, read).await.ok()
    }

    /// The next message.
    ///
    /// # Panics
    /// When the socket closes instead.
    pub async fn message(&mut self) -> Value {
        match self.next().await {
            Event::Message(message) => message,
            Event::Closed(code) => panic!("closed ({code:?}) before the message"),
        }
    }

    /// The head of the hello that must come next.
    pub async fn hello(&mut self) -> i64 {
        let hello = self.message().await;
        assert_eq!(hello["type"], "hello", "{hello}");
        assert!(hello["epoch"].is_string(), "{hello}");
        hello["head"].as_i64().expect("a head")
    }

    /// Reads hints until one says that the head is at least this. Hints follow
    /// on each other: `after` is the head of the one before, given as `told`.
    pub async fn told_of(&mut self, head: i64, told: &mut i64) {
        while *told < head {
            let hint = self.message().await;
            assert_eq!(hint["type"], "changes", "{hint}");
            assert_eq!(hint["after"], *told, "hints follow on each other: {hint}");
            let next = hint["head"].as_i64().expect("a head");
            assert!(next > *told, "a hint says something new: {hint}");
            *told = next;
        }
    }

    /// Waits for the close and returns its code; messages are passed over.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Event::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// Everything that has come and still comes until the end, read without an answer
    /// to any ping: pongs to a socket that has closed would cut off what is left.
    /// What was read before must have been taken with [`next`](Self::next).
    ///
    /// # Panics
    /// When the end does not come in a minute.
    pub async fn rest_unanswered(self) -> Vec<Value> {
        let mut stream = self.stream.into_inner();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
        read.await.expect("the end comes").expect("an orderly end");
        let texts = frames(&bytes).into_iter();
        texts
            .filter(|(opcode, _)| *opcode == TEXT)
            .map(|(_, text)| serde_json::from_slice(text).expect("hints are JSON"))
            .collect()
    }

    /// Sends a frame; an error means that the server has closed.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.stream.send(message).await
    }

    /// Sends text.
    pub async fn send_text(&mut self, text: &str) {
        self.send(Message::text(text)).await.expect("sent");
    }
}

/// The opcode of a text frame (RFC 6455, 5.2).
const TEXT: u8 = 1;

/// Opcodes and contents of whole frames as servers send them: without a mask.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            126 => {
                let (length, rest) = rest.split_first_chunk().expect("a length");
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            127.. => panic!("a frame of 64 KiB or with a mask"),
            short => (usize::from(*short), rest),
        };
        let (content, rest) = rest.split_at(length);
        frames.push((first & 0x0f, content));
        bytes = rest;
    }
    frames
}
