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
#[error("{0}")]
pub struct TokenError(String);

impl TokenError {
    /// Wraps a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
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
        let fetched = self.provider.token().await;
        let token: Arc<str> = fetched
            .map_err(|error| NetworkError::Token(error.to_string()))?
            .into();
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
