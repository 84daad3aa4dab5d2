//! Settings of credentials: which tokens devices must show. Checked before anything starts; each refusal names the setting.

use super::{Settings, SettingsError, is_known, value};
use crate::auth::Algorithm;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which tokens are taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// How they are signed: `HS256` (unless set), `HS384`, `HS512`, `RS256`, `ES256` or
    /// `EdDSA`. Keys in a JWK set have their own.
    pub algorithm: Option<Algorithm>,
    /// A public key, PEM, for RS256, ES256 or EdDSA; read again when it changes.
    pub public_key_file: Option<PathBuf>,
    /// A JWK set of public keys; read again when it changes, and for a `kid`
    /// that is not in it.
    pub jwks_file: Option<PathBuf>,
    /// Must be (among) the token's `aud`.
    pub audience: Option<String>,
    /// Must be the token's `iss`.
    pub issuer: Option<String>,
}

impl AuthSettings {
    /// Whether tokens are signed by somebody else, with a private key.
    pub(super) fn has_public_keys(&self) -> bool {
        self.public_key_file.is_some() || self.jwks_file.is_some()
    }
}

impl Settings {
    /// The secret for tokens.
    pub(crate) fn secret(&self) -> Result<&[u8], SettingsError> {
        match &self.jwt_secret {
            Some(secret) => Ok(secret.expose().as_bytes()),
            None => Err(value(
                "jwt_secret",
                "is not set; set it or jwt_secret_file, or start with --dev to try things out",
            )),
        }
    }

    pub(super) fn check_auth(&self) -> Result<(), SettingsError> {
        let auth = &self.auth;
        for (setting, text) in [
            ("auth.audience", &auth.audience),
            ("auth.issuer", &auth.issuer),
        ] {
            if text.as_deref() == Some("") {
                return Err(value(setting, "is empty; leave it out to take any"));
            }
        }
        let algorithm = auth.algorithm.unwrap_or(Algorithm::HS256);
        if auth.has_public_keys() {
            return self.check_public_keys();
        }
        let Some(shortest) = algorithm.min_secret_bytes() else {
            return Err(value(
                "auth.public_key_file",
                &format!("is not set; {algorithm} needs it"),
            ));
        };
        match secret_problem(self.secret()?, algorithm, shortest, self.dev) {
            Some(problem) => Err(value("jwt_secret", &problem)),
            None => Ok(()),
        }
    }

    fn check_public_keys(&self) -> Result<(), SettingsError> {
        let auth = &self.auth;
        let setting = if auth.jwks_file.is_some() {
            "auth.jwks_file"
        } else {
            "auth.public_key_file"
        };
        if self.jwt_secret.is_some() {
            return Err(value(
                setting,
                "is set together with jwt_secret (or jwt_secret_file); set one of them",
            ));
        }
        if auth.jwks_file.is_some() {
            if auth.public_key_file.is_some() {
                return Err(value(
                    "auth.jwks_file",
                    "is set together with auth.public_key_file; set one of them",
                ));
            }
            if auth.algorithm.is_some() {
                return Err(value(
                    "auth.algorithm",
                    "is set together with auth.jwks_file, where each key has its own; leave it out",
                ));
            }
        } else if auth
            .algorithm
            .is_none_or(|algorithm| algorithm.min_secret_bytes().is_some())
        {
            return Err(value(
                "auth.algorithm",
                "must be RS256, ES256 or EdDSA with auth.public_key_file",
            ));
        }
        Ok(())
    }
}

/// Why a secret does not do for this algorithm, whose shortest it is. `dev`
/// takes the known ones, and short ones for HS256.
pub(crate) fn secret_problem(
    secret: &[u8],
    algorithm: Algorithm,
    shortest: usize,
    dev: bool,
) -> Option<String> {
    if dev && algorithm == Algorithm::HS256 {
        return None;
    }
    if secret.len() < shortest {
        return Some(format!(
            "is shorter than {shortest} bytes, which {algorithm} needs; make one with: openssl rand -base64 {}",
            shortest * 3 / 2
        ));
    }
    if !dev && is_known(secret) {
        return Some(
            "is a sample that everybody knows; make one with: openssl rand -base64 48".to_owned(),
        );
    }
    None
}
