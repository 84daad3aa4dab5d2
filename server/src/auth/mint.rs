//! Making tokens: `/signin` in development, and host applications that have
//! authenticated a user in their own way.

use super::algorithm::Algorithm;
use super::tokens::Claims;
use crate::settings::Settings;
use jsonwebtoken::{EncodingKey, Header, encode};
use oversync_shared::{DeviceId, UserId};
use std::time::Duration;
use time::OffsetDateTime;

/// Signs tokens with a shared secret.
pub struct TokenMint {
    header: Header,
    key: EncodingKey,
    audience: Option<String>,
    issuer: Option<String>,
}

impl TokenMint {
    /// Signs with HS256, and says neither audience nor issuer.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            header: Header::new(Algorithm::HS256.for_tokens()),
            key: EncodingKey::from_secret(secret),
            audience: None,
            issuer: None,
        }
    }

    /// Signs tokens that a server with these settings takes; `None` when it
    /// takes only those of somebody with a private key.
    pub fn from_settings(settings: &Settings) -> Option<Self> {
        let secret = settings.jwt_secret.as_ref()?;
        let algorithm = settings.auth.algorithm.unwrap_or(Algorithm::HS256);
        algorithm.min_secret_bytes()?;
        Some(Self {
            header: Header::new(algorithm.for_tokens()),
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
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
            sub: user.to_string(),
            did: device.to_string(),
            exp: issued.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
            iat: Some(issued),
            aud: self.audience.clone(),
            iss: self.issuer.clone(),
        };
        encode(&self.header, &claims, &self.key).expect("BUG: a secret signs any claims")
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
