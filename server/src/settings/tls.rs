//! Settings of TLS on the public listener.

use super::{Settings, SettingsError, value};
use crate::certificates::Certificates;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// With which certificate the server speaks HTTPS; plain HTTP unless set. Both files
/// are read again when they change.
#[derive(Debug, Clone, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The certificate and those that vouch for it, in PEM, the server's own first.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, in PEM; not needed where the certificate's file has it too.
    pub key_file: Option<PathBuf>,
}

impl Settings {
    pub(super) fn check_tls(&self) -> Result<(), SettingsError> {
        if self.tls.certificate_file.is_none() && self.tls.key_file.is_some() {
            let problem = "is set without tls.certificate_file";
            return Err(value("tls.key_file", problem));
        }
        Certificates::from_settings(&self.tls)?;
        Ok(())
    }
}
