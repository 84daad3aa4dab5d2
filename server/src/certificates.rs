//! The server's certificate, from its files; a renewed one serves the connections
//! that are made from then on.

use crate::auth::KeyFile;
use crate::settings::{SettingsError, TlsSettings};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;

/// Gives each connection the certificate of now.
pub(crate) struct Certificates(KeyFile<Arc<CertifiedKey>>);

impl Certificates {
    /// Reads the files that the settings name; `None` where they name none. An error
    /// names the setting.
    pub(crate) fn from_settings(tls: &TlsSettings) -> Result<Option<Self>, SettingsError> {
        let Some(certificate) = &tls.certificate_file else {
            return Ok(None);
        };
        let paths = [certificate].into_iter().chain(&tls.key_file);
        let file = KeyFile::open_all(
            "tls.certificate_file",
            paths.cloned().collect(),
            Box::new(|pem| certified(pem).map(Arc::new)),
        )?;
        Ok(Some(Self(file)))
    }

    /// How connections are made with it: TLS 1.2 and 1.3.
    pub(crate) fn server_config(self) -> ServerConfig {
        ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("BUG: the provider speaks the default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.keys()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// The one that the program has chosen; else aws-lc-rs.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

fn certified(pem: &str) -> Result<CertifiedKey, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate (-----BEGIN CERTIFICATE-----) in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| format!("the private key cannot be read: {error}"))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| format!("certificate and key do not belong together: {error}"))
}
