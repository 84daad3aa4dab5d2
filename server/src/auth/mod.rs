//! Who is calling: the authenticator and its default, signed tokens.
//!
//! A host application may bring its own [`Authenticator`]. Whatever fails, the
//! caller learns nothing but that authentication failed.

mod admin_token;
mod algorithm;
mod checked;
mod jwks;
mod key_file;
mod mint;
mod revoked;
mod tokens;

pub(crate) use admin_token::AdminToken;
pub use algorithm::Algorithm;
pub(crate) use key_file::KeyFile;
pub use mint::{TokenMint, mint_token};
pub(crate) use revoked::Revoked;
pub use tokens::TokenAuthenticator;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use async_trait::async_trait;
use oversync_shared::wire::WS_BEARER_PREFIX;
use oversync_shared::{DeviceId, UserId};
use std::sync::Arc;
use time::OffsetDateTime;

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
            return bearer(header.to_str().ok()?);
        }
        let protocols = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
        protocols
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|protocol| protocol.trim().strip_prefix(WS_BEARER_PREFIX))
    }
}

/// The token of an Authorization header, `Bearer <token>`.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Somebody's authenticator, and a refusal of revoked devices behind it.
pub(crate) struct Gate {
    /// Who decides who is calling.
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Who may not.
    pub(crate) revoked: Revoked,
}

#[async_trait]
impl Authenticator for Gate {
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated> {
        let identity = self.authenticator.authenticate(token).await?;
        if self.revoked.contains(&identity.user, &identity.device) {
            return Err(Unauthenticated);
        }
        Ok(identity)
    }

    fn token_of<'a>(&self, request: &'a HttpRequest) -> Option<&'a str> {
        self.authenticator.token_of(request)
    }
}
