//! Who is calling: the authenticator and its default, signed tokens.
//!
//! A host application may bring its own [`Authenticator`]. Whatever fails, the
//! caller learns nothing but that authentication failed.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use async_trait::async_trait;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use oversync_shared::wire::WS_BEARER_PREFIX;
use oversync_shared::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;

/// How far the clocks of issuer and server may differ, in seconds (PROTOCOL.md
/// section 2: at most 30).
const LEEWAY_SECONDS: u64 = 30;

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Owner of the data.
    pub user: UserId,
    /// The calling device.
    pub device: DeviceId,
    /// When the credential ends; a WebSocket ends with it.
    pub expires_at: Option<OffsetDateTime>,
}

/// The caller could not be authenticated. Carries no reason on purpose: there is
/// one identical answer for every fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct Unauthenticated;

/// Decides who is calling. The default takes signed tokens; a host application
/// may put its own in its place.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Turns a token into an identity.
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated>;

    /// Finds the token of a request: the Authorization header, or the second
    /// WebSocket subprotocol `bearer.<token>`, by which browsers bring it.
    fn token_of<'a>(&self, request: &'a HttpRequest) -> Option<&'a str> {
        if let Some(header) = request.headers().get(AUTHORIZATION) {
            let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
            return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
        }
        let protocols = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
        protocols
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|protocol| protocol.trim().strip_prefix(WS_BEARER_PREFIX))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    did: String,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
}

/// Signed tokens (JWT), HS256.
pub struct TokenAuthenticator {
    key: DecodingKey,
    validation: Validation,
}

impl TokenAuthenticator {
    /// Takes tokens signed with this secret.
    pub fn new(secret: &[u8]) -> Self {
        // The algorithm is ours to choose, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self {
            key: DecodingKey::from_secret(secret),
            validation,
        }
    }

    fn identity(&self, token: &str) -> Option<Identity> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .ok()?
            .claims;
        Some(Identity {
            user: UserId::new(claims.sub).ok()?,
            device: DeviceId::new(claims.did).ok()?,
            expires_at: Some(OffsetDateTime::from_unix_timestamp(claims.exp).ok()?),
        })
    }
}

#[async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated> {
        self.identity(token).ok_or(Unauthenticated)
    }
}

/// Mints a token for a device of a user, good from `now` for `lifetime`, signed
/// with HS256. Used by `/signin`; a host application that has authenticated its
/// user in its own way can hand it to the device.
pub fn mint_token(
    secret: &[u8],
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
    };
    encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(secret),
    )
    .expect("BUG: HS256 signs any claims")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn check(claims: serde_json::Value) -> Option<Identity> {
        let key = EncodingKey::from_secret(SECRET);
        let token = encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signs");
        TokenAuthenticator::new(SECRET).identity(&token)
    }

    #[test]
    fn what_is_taken_and_what_is_not() {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let (user, device) = (
            UserId::new("u").expect("valid"),
            DeviceId::new("d").expect("valid"),
        );
        let minted = mint_token(
            SECRET,
            &user,
            &device,
            OffsetDateTime::now_utc(),
            Duration::from_secs(60),
        );
        let found = TokenAuthenticator::new(SECRET)
            .identity(&minted)
            .expect("our own token");
        assert_eq!((found.user, found.device), (user, device));
        assert!(
            TokenAuthenticator::new(b"another secret, also long enough")
                .identity(&minted)
                .is_none()
        );

        let json = |sub: &str, did: &str, exp: i64| serde_json::json!({"sub": sub, "did": did, "exp": exp});
        assert!(check(json("u", "d", now + 60)).is_some());
        assert!(check(json("u", "server", now + 60)).is_none());
        assert!(check(json("u\0", "d", now + 60)).is_none());
        assert!(check(json(&"u".repeat(256), "d", now + 60)).is_none());
        assert!(check(json("u", "", now + 60)).is_none());
        assert!(
            check(json("u", "d", now - 20)).is_some(),
            "within the leeway"
        );
        assert!(check(json("u", "d", now - 40)).is_none());
        assert!(
            check(serde_json::json!({"sub": "u", "did": "d"})).is_none(),
            "exp is required"
        );
        assert!(check(serde_json::json!({"sub": 5, "did": "d", "exp": now + 60})).is_none());
        assert!(
            check(serde_json::json!({"sub": "u", "did": "d", "exp": now + 60, "nbf": now + 45}))
                .is_none()
        );
        assert!(
            check(serde_json::json!({"sub": "u", "did": "d", "exp": now + 60, "nbf": now - 1}))
                .is_some()
        );
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_choice() {
        let claims = serde_json::json!({"sub": "u", "did": "d", "exp": OffsetDateTime::now_utc().unix_timestamp() + 60});
        let token = encode(
            &Header::new(Algorithm::HS512),
            &claims,
            &EncodingKey::from_secret(SECRET),
        )
        .expect("signs");
        assert!(TokenAuthenticator::new(SECRET).identity(&token).is_none());
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1IiwiZGlkIjoiZCIsImV4cCI6OTk5OTk5OTk5OX0.";
        assert!(TokenAuthenticator::new(SECRET).identity(none).is_none());
    }
}
