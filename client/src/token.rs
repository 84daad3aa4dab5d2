//! Where bearer tokens come from, and the one that is in use.
//!
//! The application's provider is asked once, and again after the server has
//! refused a token; concurrent callers share one question. Tokens never touch
//! the file.

use crate::error::NetworkError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Why there is no token, in words for a person.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TokenError {
    message: String,
    unreachable: bool,
}

impl TokenError {
    /// Wraps a message: there is no token, and trying again soon is no use.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            unreachable: false,
        }
    }

    /// Whoever gives out tokens cannot be reached: as good as being offline, an
    /// [`NetworkError::Unreachable`](crate::NetworkError::Unreachable).
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            unreachable: true,
        }
    }
}

impl From<TokenError> for NetworkError {
    fn from(error: TokenError) -> Self {
        if error.unreachable {
            Self::Unreachable(error.message)
        } else {
            Self::Token(error.message)
        }
    }
}

/// A pending token.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// Fetches a bearer token for the client's user and device.
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now; called again when the server has refused the
    /// last one.
    fn token(&self) -> TokenFuture;
}

impl<F, Fut> TokenProvider for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, TokenError>> + Send + 'static,
{
    fn token(&self) -> TokenFuture {
        Box::pin(self())
    }
}

/// The token in use.
pub(crate) struct Tokens {
    provider: Arc<dyn TokenProvider>,
    current: Mutex<Option<Arc<str>>>,
}

impl Tokens {
    pub(crate) fn new(provider: Arc<dyn TokenProvider>) -> Self {
        Self {
            provider,
            current: Mutex::new(None),
        }
    }

    /// The token in use, or a new one.
    pub(crate) async fn get(&self) -> Result<Arc<str>, NetworkError> {
        let mut current = self.current.lock().await;
        if let Some(token) = &*current {
            return Ok(Arc::clone(token));
        }
        let token: Arc<str> = self.provider.token().await?.into();
        *current = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Forgets a token that was refused, unless it has been replaced already.
    pub(crate) async fn refused(&self, token: &Arc<str>) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|held| held == token) {
            *current = None;
        }
    }
}
