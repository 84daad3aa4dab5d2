//! A real NATS server: Debian's `nats-server`, on a port and in a folder of its own.
//! A missing one is a failure, never a skipped test.

use crate::eventually::eventually;
use crate::port::HeldPort;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A server that can be stopped and started; ends with its value.
#[derive(Debug)]
pub struct Nats {
    folder: TempDir,
    port: HeldPort,
    child: Option<Child>,
}

impl Nats {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("oversync-nats.").expect("a temporary folder");
        let mut server = Self {
            folder,
            port: HeldPort::take(),
            child: None,
        };
        server.restart().await;
        server
    }

    /// For the setting `nats.url`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.port.address())
    }

    /// Publishes a message as anybody could, and waits until the server has taken it.
    pub async fn publish(&self, subject: &str, payload: &str) {
        let stream = TcpStream::connect(self.port.address()).await;
        let mut stream = BufReader::new(stream.expect("it takes connections"));
        let length = payload.len();
        let said = format!(
            "CONNECT {{\"verbose\":false}}\r\nPUB {subject} {length}\r\n{payload}\r\nPING\r\n"
        );
        stream.write_all(said.as_bytes()).await.expect("sent");
        let mut line = String::new();
        while line.trim() != "PONG" {
            line.clear();
            let read = stream.read_line(&mut line).await.expect("an answer");
            assert!(read > 0 && !line.starts_with("-ERR"), "{line}");
        }
    }

    /// Stops it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process can be killed");
            child.wait().expect("the process ends");
        }
    }

    /// Starts it again, where it was before.
    pub async fn restart(&mut self) {
        self.stop();
        let address = self.port.address();
        let port = address.port();
        let child = Command::new(program())
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .arg("--log")
            .arg(self.folder.path().join("log.txt"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("nats-server runs; install it: apt-get install nats-server");
        let child = self.child.insert(child);
        eventually("nats-server takes connections", || {
            if let Some(status) = child.try_wait().expect("can be waited for") {
                panic!("nats-server ended with {status}");
            }
            let connected = TcpStream::connect(address);
            async move { connected.await.ok().map(drop) }
        })
        .await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Debian puts it where only administrators look.
fn program() -> &'static str {
    let place = "/usr/sbin/nats-server";
    if Path::new(place).exists() {
        place
    } else {
        "nats-server"
    }
}
