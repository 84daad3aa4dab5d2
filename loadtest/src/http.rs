//! A small HTTP/1.1 client for the devices of a load test: one kept connection,
//! its own source address, as few copies as it takes. On a small machine the
//! driver must not cost more than the server. `https://` goes through reqwest.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Longest a request may take.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Longest head of an answer.
const MAX_HEAD: usize = 64 * 1024;

/// Why there is no answer. The text is short: errors are counted by it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot connect")]
    Connect,
    /// The connection ended before the answer did.
    #[error("connection lost")]
    Lost,
    /// Nothing came in time.
    #[error("timeout")]
    Timeout,
    /// What came is not HTTP.
    #[error("not HTTP")]
    NotHttp,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As given, without a trailing slash.
    pub url: String,
    /// `host:port`.
    pub authority: String,
    address: Option<SocketAddr>,
}

impl Endpoint {
    /// Resolves a URL, `http://…` or `https://…`.
    pub async fn resolve(url: &str) -> anyhow::Result<Self> {
        let parsed = reqwest::Url::parse(url)?;
        let host = parsed
            .host_str()
            .ok_or_else(|| anyhow::anyhow!("{url}: no host"))?;
        let port = parsed
            .port_or_known_default()
            .ok_or_else(|| anyhow::anyhow!("{url}: no port"))?;
        let authority = format!("{host}:{port}");
        let address = match parsed.scheme() {
            "http" => {
                let mut found = tokio::net::lookup_host(&authority).await?;
                let found = found
                    .next()
                    .ok_or_else(|| anyhow::anyhow!("{host}: unknown"))?;
                Some(found)
            }
            "https" => None,
            other => anyhow::bail!("{url}: {other} is not spoken here"),
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            authority,
            address,
        })
    }

    /// Whether many source addresses can be used.
    pub fn is_loopback(&self) -> bool {
        matches!(self.address, Some(SocketAddr::V4(address)) if address.ip().is_loopback())
    }

    /// A TCP connection from this source address; `None` over TLS.
    pub async fn connect(&self, source: Option<Ipv4Addr>) -> Option<std::io::Result<TcpStream>> {
        let address = self.address?;
        Some(connect(address, source).await)
    }
}

/// A socket at a source address. The port is said, in turn: to look for a free one the
/// kernel goes through all that are bound, also at other addresses, and thousands of
/// devices at once, behind some runs whose ports still rest, kept both cores busy with
/// that and the server waiting.
fn from_here(source: Ipv4Addr) -> std::io::Result<TcpSocket> {
    let mut tries = 0;
    loop {
        let socket = TcpSocket::new_v4()?;
        match socket.bind(SocketAddr::from((source, next_port()))) {
            // Somebody listens there on all addresses, or it comes round again.
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < MOST_TRIES => tries += 1,
            other => return other.map(|()| socket),
        }
    }
}

/// Ports that are bound in turn, of all addresses together.
fn next_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    FIRST_PORT + (taken % span) as u16
}

/// Below are ports with a meaning.
const FIRST_PORT: u16 = 10_000;

/// Taken ports that are passed over for one connection.
const MOST_TRIES: u32 = 1_000;

async fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> std::io::Result<TcpStream> {
    let socket = match (source, address.is_ipv4()) {
        (Some(source), true) => from_here(source)?,
        (None, true) => TcpSocket::new_v4()?,
        (_, false) => TcpSocket::new_v6()?,
    };
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the request was granted.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// A connection that is opened when needed, and again when it was lost.
pub struct Http {
    endpoint: Arc<Endpoint>,
    source: Option<Ipv4Addr>,
    stream: Option<TcpStream>,
    secure: Option<reqwest::Client>,
    buffer: Vec<u8>,
}

impl Http {
    /// Nothing is connected yet.
    pub fn new(endpoint: Arc<Endpoint>, source: Option<Ipv4Addr>) -> Self {
        let secure = endpoint.address.is_none().then(reqwest::Client::new);
        Self {
            endpoint,
            source,
            stream: None,
            secure,
            buffer: Vec::new(),
        }
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// `GET` with a bearer token; the path begins with a slash.
    pub async fn get(&mut self, path: &str, token: &str) -> Result<Answer, HttpError> {
        self.request("GET", path, token, b"").await
    }

    /// `POST` of JSON with a bearer token.
    pub async fn post(
        &mut self,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        self.request("POST", path, token, body).await
    }

    async fn request(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let answer = async {
            if let Some(client) = &self.secure {
                return secure(client, &self.endpoint, method, path, token, body).await;
            }
            // A server may have closed a kept connection meanwhile; everything
            // that is sent here may be sent twice.
            if self.stream.is_some() {
                match self.exchange(method, path, token, body).await {
                    Err(HttpError::Lost) => {}
                    other => return other,
                }
            }
            let stream = connect(
                self.endpoint.address.ok_or(HttpError::Connect)?,
                self.source,
            );
            self.stream = Some(stream.await.map_err(|_| HttpError::Connect)?);
            self.exchange(method, path, token, body).await
        };
        let answer = tokio::time::timeout(TIMEOUT, answer)
            .await
            .unwrap_or(Err(HttpError::Timeout));
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let stream = self.stream.as_mut().ok_or(HttpError::Lost)?;
        let buffer = &mut self.buffer;
        buffer.clear();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.endpoint.authority,
            body.len()
        );
        buffer.extend_from_slice(head.as_bytes());
        buffer.extend_from_slice(body);
        let lost = |_| HttpError::Lost;
        stream.write_all(buffer).await.map_err(lost)?;
        buffer.clear();
        let end = loop {
            if let Some(end) = find(buffer, b"\r\n\r\n") {
                break end;
            }
            if buffer.len() > MAX_HEAD {
                return Err(HttpError::NotHttp);
            }
            if stream.read_buf(buffer).await.map_err(lost)? == 0 {
                self.stream = None;
                return Err(HttpError::Lost);
            }
        };
        let head = Head::parse(&buffer[..end]).ok_or(HttpError::NotHttp)?;
        let mut rest = buffer.split_off(end + 4);
        let body = match head.length {
            Some(length) => {
                rest.reserve(length.saturating_sub(rest.len()));
                while rest.len() < length {
                    if stream.read_buf(&mut rest).await.map_err(lost)? == 0 {
                        return Err(HttpError::Lost);
                    }
                }
                rest
            }
            None if head.chunked => read_chunks(stream, rest).await?,
            None => {
                stream.read_to_end(&mut rest).await.map_err(lost)?;
                rest
            }
        };
        if head.close {
            self.stream = None;
        }
        Ok(Answer {
            status: head.status,
            retry_after: head.retry_after,
            body,
        })
    }
}

#[derive(Debug, Default)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    close: bool,
    retry_after: Option<u64>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        first
            .next()
            .filter(|version| version.starts_with("HTTP/1."))?;
        let mut head = Self {
            status: first.next()?.parse().ok()?,
            ..Self::default()
        };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(value.parse().ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("retry-after") {
                head.retry_after = value.parse().ok();
            }
        }
        Some(head)
    }
}

async fn read_chunks(stream: &mut TcpStream, mut rest: Vec<u8>) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::with_capacity(rest.len());
    let mut at = 0;
    loop {
        let line_end = loop {
            if let Some(end) = find(&rest[at..], b"\r\n") {
                break at + end;
            }
            more(stream, &mut rest).await?;
        };
        let size = std::str::from_utf8(&rest[at..line_end])
            .ok()
            .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok())
            .ok_or(HttpError::NotHttp)?;
        let (start, end) = (line_end + 2, line_end + 2 + size);
        while rest.len() < end + 2 {
            more(stream, &mut rest).await?;
        }
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&rest[start..end]);
        at = end + 2;
    }
}

async fn more(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Result<(), HttpError> {
    match stream.read_buf(rest).await {
        Ok(0) | Err(_) => Err(HttpError::Lost),
        Ok(_) => Ok(()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

async fn secure(
    client: &reqwest::Client,
    endpoint: &Endpoint,
    method: &str,
    path: &str,
    token: &str,
    body: &[u8],
) -> Result<Answer, HttpError> {
    let url = format!("{}{path}", endpoint.url);
    let request = if method == "POST" {
        client
            .post(url)
            .header("content-type", "application/json")
            .body(body.to_vec())
    } else {
        client.get(url)
    };
    let kind = |error: reqwest::Error| {
        if error.is_connect() {
            HttpError::Connect
        } else {
            HttpError::Lost
        }
    };
    let answer = request.bearer_auth(token).send().await.map_err(kind)?;
    let retry_after = answer
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Answer {
        status: answer.status().as_u16(),
        retry_after,
        body: answer.bytes().await.map_err(kind)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn served(answers: &'static [&'static str]) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut seen = vec![0; 4096];
                // Two requests a connection; then it is closed without a word.
                for _ in 0..2 {
                    if stream.read(&mut seen).await.expect("readable") == 0 {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).await.expect("sent");
                }
            }
        });
        let endpoint = Endpoint::resolve(&url).await.expect("an address");
        assert!(endpoint.is_loopback());
        Http::new(Arc::new(endpoint), Some(Ipv4Addr::new(127, 0, 0, 9)))
    }

    #[tokio::test]
    async fn a_closed_connection_is_opened_again() {
        let body = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nhello";
        let mut http = served(Box::leak(Box::new([body, body]))).await;
        for _ in 0..4 {
            let answer = http.post("/x", "t", b"{}").await.expect("an answer");
            assert_eq!((answer.status, answer.retry_after), (503, Some(7)));
            assert_eq!(answer.body, b"hello");
        }
        assert!(matches!(http.get("/x", "t").await, Err(HttpError::Connect)));
    }

    #[tokio::test]
    async fn chunks_are_put_together() {
        let mut http = served(&[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
        ])
        .await;
        let answer = http.get("/", "t").await.expect("an answer");
        assert!(answer.is_success());
        assert_eq!(answer.body, b"hello!");
    }
}
