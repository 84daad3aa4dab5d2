//! Something between a device and a server that does not let everything
//! through, as company networks do.
//!
//! One request per connection, each judged by its first line: whatever it
//! refuses, the rest passes unchanged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the proxy does with a request, judged by its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Passes it on.
    Pass,
    /// Answers by this status itself.
    Refuse(u16),
    /// Answers 503, and asks to stay away for so many seconds.
    Busy(u32),
    /// Passes it on, and what time it is according to the answer is this.
    Date(&'static str),
    /// Closes the connection without a word.
    Cut,
    /// Answers itself: this status, this body of JSON.
    Answer(u16, &'static str),
    /// Passes it on, unless its body is larger: then 413 without a word, as many a
    /// thing in between does.
    AtMost(usize),
    /// Passes it on, and closes after so many bytes of the answer.
    Short(usize),
}

/// A running proxy; ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    seen: Seen,
    task: JoinHandle<()>,
}

/// First lines of requests, and when they came.
type Seen = Arc<Mutex<Vec<(Instant, String)>>>;

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of the server at `upstream`.
    pub async fn start(
        upstream: SocketAddr,
        judge: impl Fn(&str) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (judge, seen) = (Arc::new(judge), Seen::default());
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the business of its two ends.
                let (judge, log) = (Arc::clone(&judge), Arc::clone(&log));
                tokio::spawn(async move {
                    let judge = |line: &str| {
                        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                        log.push((Instant::now(), line.to_owned()));
                        judge(line)
                    };
                    let _ = serve(client, upstream, judge).await;
                });
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    /// One that passes uploads on and loses the answers, while that is said.
    pub async fn losing_answers(upstream: SocketAddr) -> (Self, Arc<AtomicBool>) {
        let is_lost = Arc::new(AtomicBool::new(false));
        let judge = Arc::clone(&is_lost);
        let proxy = Self::start(upstream, move |line| {
            match judge.load(Ordering::SeqCst) && line.contains("/sync/upload") {
                true => Verdict::Short(0),
                false => Verdict::Pass,
            }
        });
        (proxy.await, is_lost)
    }

    /// When requests came whose first line contains this.
    pub fn seen(&self, what: &str) -> Vec<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = seen.iter().filter(|(_, line)| line.contains(what));
        found.map(|(at, _)| *at).collect()
    }

    /// Where devices find it.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    judge: impl Fn(&str) -> Verdict,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") {
            break end;
        }
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let (mut date, mut short) = (None, None);
    match judge(text.lines().next().unwrap_or_default()) {
        Verdict::Pass => {}
        Verdict::Date(shown) => date = Some(shown),
        Verdict::Busy(seconds) => {
            let answer = format!(
                "HTTP/1.1 503 Busy\r\nretry-after: {seconds}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            return client.write_all(answer.as_bytes()).await;
        }
        Verdict::Cut => return Ok(()),
        Verdict::Answer(status, body) => {
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} Answered\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            read_body(&mut client, &text, head.len() - end - 4).await?;
            return client.write_all(answer.as_bytes()).await;
        }
        Verdict::AtMost(most) if body_length(&text) > most => {
            read_body(&mut client, &text, head.len() - end - 4).await?;
            let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return client.write_all(answer.as_bytes()).await;
        }
        Verdict::AtMost(_) => {}
        Verdict::Short(most) => short = Some(most),
        Verdict::Refuse(status) => {
            let answer = format!(
                "HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            return client.write_all(answer.as_bytes()).await;
        }
    }
    let mut server = TcpStream::connect(upstream).await?;
    // One request per connection; an upgrade needs its own header.
    let upgrade = text.to_lowercase().contains("\r\nupgrade:");
    let kept = text
        .lines()
        .filter(|line| upgrade || !line.to_lowercase().starts_with("connection:"));
    let mut passed = kept.collect::<Vec<_>>().join("\r\n");
    if !upgrade {
        passed.push_str("\r\nconnection: close");
    }
    server.write_all(passed.as_bytes()).await?;
    server.write_all(&head[end..]).await?;
    if let Some(date) = date {
        return answer_at(date, client, server).await;
    }
    if let Some(most) = short {
        let rest = read_body(&mut client, &text, head.len() - end - 4).await?;
        server.write_all(&rest).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        return client.write_all(&answer[..answer.len().min(most)]).await;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn body_length(head: &str) -> usize {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Reads what has not come yet: a connection that is closed on unread bytes is
/// reset, and the answer with it.
async fn read_body(client: &mut TcpStream, head: &str, come: usize) -> std::io::Result<Vec<u8>> {
    let mut rest = vec![0; body_length(head).saturating_sub(come)];
    client.read_exact(&mut rest).await?;
    Ok(rest)
}

/// Passes an answer on with another Date. The request must have come whole.
async fn answer_at(
    date: &str,
    mut client: TcpStream,
    mut server: TcpStream,
) -> std::io::Result<()> {
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.unwrap_or(answer.len()));
    let head = String::from_utf8_lossy(head);
    let kept = head
        .lines()
        .filter(|line| !line.to_lowercase().starts_with("date:"));
    let head = kept.collect::<Vec<_>>().join("\r\n");
    let head = format!("{head}\r\ndate: {date}");
    client.write_all(head.as_bytes()).await?;
    client.write_all(body).await
}
