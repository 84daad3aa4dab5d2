//! A real nginx in front of servers, with the configuration of `packaging/`: Debian's
//! `nginx`, on a port and in a folder of its own. A missing one is a failure, never a
//! skipped test.

use crate::authority::Authority;
use crate::eventually::eventually;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// What operators are given.
const SAMPLE: &str = include_str!("../../packaging/nginx.conf");

/// A proxy; ends with its value.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one before these servers, with a certificate of this authority.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(servers: &[SocketAddr], authority: &Authority) -> Self {
        authority.renew();
        for _ in 0..5 {
            if let Some(proxy) = Self::try_start(servers, authority).await {
                return proxy;
            }
        }
        panic!("nginx ends at once; install it: apt-get install nginx-light");
    }

    /// `None` when it ended: somebody else may have taken its port just then.
    async fn try_start(servers: &[SocketAddr], authority: &Authority) -> Option<Self> {
        let folder = TempDir::with_prefix("oversync-nginx.").expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let site = site(port, servers, authority);
        let text = main_file(folder.path(), &site);
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, text).expect("the settings are written");
        let child = Command::new(program())
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("nginx runs; install it: apt-get install nginx-light");
        let mut proxy = Self {
            child,
            port,
            _folder: folder,
        };
        let errors = proxy._folder.path().join("error.log");
        let is_up = eventually("nginx takes connections, or ends", || {
            let ended = proxy.child.try_wait().expect("can be waited for");
            let connected = TcpStream::connect(("127.0.0.1", port));
            async move {
                match ended {
                    Some(_) => Some(false),
                    None => connected.await.ok().map(|_| true),
                }
            }
        })
        .await;
        if !is_up {
            let log = std::fs::read_to_string(&errors).unwrap_or_default();
            eprintln!("nginx ended: {log}");
        }
        is_up.then_some(proxy)
    }

    /// Where devices find it.
    pub fn base(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM: the workers go with their master.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

/// The sample with this test's places in it; each must be there to be replaced.
fn site(port: u16, servers: &[SocketAddr], authority: &Authority) -> String {
    let upstream: Vec<String> = servers.iter().map(|at| format!("server {at};")).collect();
    let file = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let places = [
        ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;")),
        ("server 127.0.0.1:8080;", upstream.join("\n    ")),
        (
            "/etc/ssl/sync.example.org.pem",
            file(&authority.certificate_file()),
        ),
        ("/etc/ssl/sync.example.org.key", file(&authority.key_file())),
    ];
    places
        .into_iter()
        .fold(SAMPLE.to_owned(), |text, (sample, ours)| {
            assert!(text.contains(sample), "{sample} is in the sample");
            text.replace(sample, &ours)
        })
}

/// What Debian's own main file says otherwise, all in one folder.
fn main_file(folder: &Path, site: &str) -> String {
    let folder = folder.display();
    let is_root = Command::new("id").arg("-u").output();
    let is_root = is_root.is_ok_and(|output| output.stdout == b"0\n");
    let user = if is_root { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"
    )
}

/// Debian puts it where only administrators look.
fn program() -> &'static str {
    let debian = "/usr/sbin/nginx";
    if Path::new(debian).exists() {
        debian
    } else {
        "nginx"
    }
}
