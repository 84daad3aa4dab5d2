//! A real nginx in front of servers, with the configuration of `packaging/`: Debian's
//! `nginx`, on a port and in a folder of its own. A missing one is a failure, never a
//! skipped test.

use crate::authority::Authority;
use crate::eventually::eventually;
use crate::port::HeldPort;
use std::net::SocketAddr;
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
    /// Nobody else takes it meanwhile; nginx may.
    port: HeldPort,
    folder: TempDir,
}

impl Nginx {
    /// Starts one before these servers, with a certificate of this authority.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(servers: &[SocketAddr], authority: &Authority) -> Self {
        authority.renew();
        let folder = TempDir::with_prefix("oversync-nginx.").expect("a temporary folder");
        let held = HeldPort::take();
        let port = held.address().port();
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
            port: held,
            folder,
        };
        let errors = proxy.folder.path().join("error.log");
        eventually("nginx takes connections", || {
            if let Some(status) = proxy.child.try_wait().expect("can be waited for") {
                let log = std::fs::read_to_string(&errors).unwrap_or_default();
                panic!("nginx ended, {status}: {log}");
            }
            let connected = TcpStream::connect(("127.0.0.1", port));
            async move { connected.await.ok() }
        })
        .await;
        proxy
    }

    /// Where devices find it.
    pub fn base(&self) -> String {
        format!("https://{}", self.port.address())
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
