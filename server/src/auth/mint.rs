//! Making tokens: `/signin` in development, and host applications that have
//! authenticated a user in their own way.

use super::algorithm::Algorithm;
use super::key_file::KeyFile;
use super::tokens::secret_in_file;
use crate::settings::Settings;
use jsonwebtoken::{EncodingKey, Header, encode};
use oversync_shared::{DeviceId, UserId};
use serde::Serialize;
use std::time::Duration;
use time::OffsetDateTime;

/// What a token of ours says.
#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    did: &'a str,
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

enum Key {
    Fixed(EncodingKey),
    /// The same file, and the same rules, as where tokens are checked.
    File(KeyFile<EncodingKey>),
}

/// Signs tokens with a shared secret.
pub struct TokenMint {
    header: Header,
    key: Key,
    audience: Option<String>,
    issuer: Option<String>,
}

impl TokenMint {
    /// Signs with HS256, and says neither audience nor issuer.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            header: Header::new(Algorithm::HS256.for_tokens()),
            key: Key::Fixed(EncodingKey::from_secret(secret)),
            audience: None,
            issuer: None,
        }
    }

    /// Signs tokens that a server with these settings takes; `None` when it
    /// takes only those of somebody with a private key.
    pub fn from_settings(settings: &Settings) -> Option<Self> {
        let algorithm = settings.auth.algorithm.unwrap_or(Algorithm::HS256);
        algorithm.min_secret_bytes()?;
        let file = settings.jwt_secret_file.as_deref().and_then(|path| {
            let parse = secret_in_file(settings, |secret, _| EncodingKey::from_secret(secret));
            KeyFile::open("jwt_secret_file", path, parse).ok()
        });
        let key = match (file, &settings.jwt_secret) {
            (Some(file), _) => Key::File(file),
            (None, Some(secret)) => {
                Key::Fixed(EncodingKey::from_secret(secret.expose().as_bytes()))
            }
            (None, None) => return None,
        };
        Some(Self {
            header: Header::new(algorithm.for_tokens()),
            key,
            audience: settings.auth.audience.clone(),
            issuer: settings.auth.issuer.clone(),
        })
    }

    /// A token for a device of a user, good from `now` for `lifetime`.
    pub fn mint(
        &self,
        user: &UserId,
        device: &DeviceId,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> String {
        let issued = now.unix_timestamp();
        let claims = Claims {
            sub: user.as_str(),
            did: device.as_str(),
            exp: issued.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
            iat: issued,
            aud: self.audience.as_deref(),
            iss: self.issuer.as_deref(),
        };
        let signed = match &self.key {
            Key::Fixed(key) => encode(&self.header, &claims, key),
            Key::File(file) => encode(&self.header, &claims, &file.keys()),
        };
        signed.expect("BUG: a secret signs any claims")
    }
}

/// Mints a token for a device of a user, good from `now` for `lifetime`, signed
/// with HS256. A host application that has authenticated its user in its own way
/// can hand it to the device.
pub fn mint_token(
    secret: &[u8],
    user: &UserId,
    device: &DeviceId,
    now: OffsetDateTime,
    lifetime: Duration,
) -> String {
    TokenMint::new(secret).mint(user, device, now, lifetime)
}
