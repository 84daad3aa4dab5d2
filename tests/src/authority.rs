//! An authority that gives out certificates of this machine, in files of its own.

use oversync::Clock;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// An authority that only who is told of it believes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: TempDir,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.folder).finish()
    }
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: TempDir::with_prefix("oversync-tls.").expect("a temporary folder"),
        }
    }
}

impl Authority {
    /// Its own certificate, which vouches for the others.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Where the certificate of this machine stands.
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// Where its key stands.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    /// A new certificate of this machine (`localhost`, `127.0.0.1`), and its key.
    pub fn certify(&self) -> (String, String) {
        self.certify_for(3_650)
    }

    /// The same, good for so many days from now on; below 0 it has ended already.
    pub fn certify_for(&self, days: i64) -> (String, String) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("two names");
        let day = Duration::from_secs(24 * 3_600);
        let span = day * u32::try_from(days.unsigned_abs()).expect("not so many");
        let now = Clock::system().now();
        params.not_after = if days < 0 { now - span } else { now + span };
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a new certificate and its key into the files.
    pub fn renew(&self) {
        let (certificate, key) = self.certify();
        std::fs::write(self.certificate_file(), certificate).expect("written");
        std::fs::write(self.key_file(), key).expect("written");
    }

    /// Believes this authority alone, and makes a new connection for each client.
    pub fn client(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("PEM");
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([root])
            .tls_info(true)
            .build()
            .expect("an HTTP client")
    }
}
