//! Which servers a device believes: those that the system does, and those that a
//! certificate given by the application vouches for. The same for requests and for
//! the WebSocket.

use crate::error::SetupError;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

/// Reads certificates in PEM, one after the other.
pub(crate) fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let problem = |why: String| SetupError::Certificate { why };
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(error.to_string()))?;
    if all.is_empty() {
        return Err(problem("there is none in it".to_owned()));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &all {
        roots
            .add(certificate.clone())
            .map_err(|error| problem(error.to_string()))?;
    }
    Ok(all)
}

/// How connections are made: the system's roots (on Linux also those of
/// `SSL_CERT_FILE`) and `extra` ones. A system that has none, as a bare container,
/// gets Mozilla's.
pub(crate) fn config(extra: &[CertificateDer<'static>]) -> ClientConfig {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("BUG: the provider speaks the default versions");
    match verifier(extra, provider) {
        Ok(verifier) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
        Err(error) => {
            tracing::debug!(%error, "the system's roots cannot be used, Mozilla's are");
            let mut roots = rustls::RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            };
            roots.add_parsable_certificates(extra.iter().cloned());
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    }
}

#[cfg(not(target_os = "android"))]
fn verifier(
    extra: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Verifier, rustls::Error> {
    Verifier::new_with_extra_roots(extra.iter().cloned(), provider)
}

/// Android's own verifier takes no further roots; with them, it is left out.
#[cfg(target_os = "android")]
fn verifier(
    extra: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Verifier, rustls::Error> {
    if extra.is_empty() {
        Verifier::new(provider)
    } else {
        Err(rustls::Error::General(
            "further roots are asked for".to_owned(),
        ))
    }
}

/// The one that the program has chosen; else aws-lc-rs.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
