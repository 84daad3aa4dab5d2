//! Something between a device and a server that does not let everything
//! through, as company networks do.
//!
//! One request per connection, each judged by its first line: whatever it
//! refuses, the rest passes unchanged.

use std::net::SocketAddr;
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
    /// Closes the connection without a word.
    Cut,
}

/// A running proxy; ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of the server at `upstream`.
    pub async fn start(upstream: SocketAddr, judge: fn(&str) -> Verdict) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the business of its two ends.
                tokio::spawn(async move {
                    let _ = serve(client, upstream, judge).await;
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

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    judge: fn(&str) -> Verdict,
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
    match judge(text.lines().next().unwrap_or_default()) {
        Verdict::Pass => {}
        Verdict::Cut => return Ok(()),
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
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
