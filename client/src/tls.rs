//! The process's TLS back end, for programs that have not chosen one.

/// Chooses aws-lc-rs unless the program has chosen already.
pub(crate) fn install() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing the race against another thread is as good as winning it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}
