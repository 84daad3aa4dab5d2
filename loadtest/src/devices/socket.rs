//! A WebSocket for hints with buffers as small as they may be: thousands of
//! them stand in one process.

use crate::http::Endpoint;
use futures_util::StreamExt as _;
use oversync_shared::wire::{ServerMessage, WS_SUBPROTOCOL};
use std::net::Ipv4Addr;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_with_config};

/// A hint is some fifty bytes.
const BUFFER: usize = 1024;

/// A connected socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// Why there is no socket.
#[derive(Debug)]
pub enum Refusal {
    /// The token was refused.
    Token,
    /// Another answer than the upgrade, and the seconds after which to come again.
    Status(u16, Option<u64>),
    /// No connection.
    Unreachable,
}

impl Socket {
    /// Upgrades a connection from this source address.
    pub async fn connect(
        endpoint: &Endpoint,
        source: Option<Ipv4Addr>,
        token: &str,
    ) -> Result<Self, Refusal> {
        let url = endpoint.url.replacen("http", "ws", 1) + "/sync/ws";
        let mut request = url
            .into_client_request()
            .map_err(|_| Refusal::Unreachable)?;
        let headers = request.headers_mut();
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("sec-websocket-protocol", WS_SUBPROTOCOL.to_owned()),
        ] {
            let value = HeaderValue::from_str(&value).map_err(|_| Refusal::Token)?;
            headers.insert(name, value);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(64 * BUFFER);
        let connected = match endpoint.connect(source).await {
            Some(stream) => {
                let stream = stream.map_err(|_| Refusal::Unreachable)?;
                let stream = MaybeTlsStream::Plain(stream);
                client_async_with_config(request, stream, Some(config)).await
            }
            None => tokio_tungstenite::connect_async_with_config(request, Some(config), true).await,
        };
        match connected {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(Error::Http(answer)) if answer.status() == 401 => Err(Refusal::Token),
            Err(Error::Http(answer)) => {
                let again = answer.headers().get("retry-after");
                let again = again.and_then(|text| text.to_str().ok()?.parse().ok());
                Err(Refusal::Status(answer.status().as_u16(), again))
            }
            Err(_) => Err(Refusal::Unreachable),
        }
    }

    /// The next message; `None` when the socket has ended.
    pub async fn next(&mut self) -> Option<ServerMessage> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    if let Ok(message) = serde_json::from_str(text.as_str()) {
                        return Some(message);
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
