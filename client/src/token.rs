//! Where bearer tokens come from, and the one that is in use.
//!
//! The application's provider is asked once, again shortly before the token
//! ends, and after the server has refused it; concurrent callers share one
//! question and its answer. A provider that fails costs nothing but the
//! connection: the token in use stays in use. Tokens never touch the file.

use crate::claims::Claims;
use crate::clock::unix_now_ms;
use crate::error::NetworkError;
use futures_util::FutureExt as _;
use rand::Rng as _;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

/// How long before its end a token is replaced, at least; short ones earlier
/// in proportion.
const MARGIN: Duration = Duration::from_secs(30);

/// A short token is replaced when this part of its life is left.
const MARGIN_PART: u32 = 4;

/// How long the provider may take: one that hangs is as good as unreachable.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Fetches a bearer token for the client's user and device. Implemented for
/// every `Fn() -> impl Future<Output = Result<String, TokenError>>`.
///
/// It is asked when there is no token, when the server has refused the last one,
/// and shortly before one ends (its `exp`, where it is a JWT): the fresh one is
/// handed over the open socket, which stays open. A client never asks it twice at a
/// time, and a question once asked is not cut short but by the end of the runtime, or
/// after a minute: a refresh token that is good for one use is safe. It may outlive
/// [`Client::stop`](crate::Client::stop): where two clients share such a token, one after
/// the other or side by side, the provider itself lets them take turns. While it fails,
/// the last token is used for as long as the server takes it; local work does not depend
/// on it. One that panics is an error like another.
///
/// ```
/// use oversqlite::{TokenError, TokenFuture, TokenProvider};
///
/// struct Login {
///     refresh_token: String,
/// }
///
/// impl TokenProvider for Login {
///     fn token(&self) -> TokenFuture {
///         let refresh_token = self.refresh_token.clone();
///         Box::pin(async move {
///             // Ask your own sign-in here.
///             match refresh_token.as_str() {
///                 "" => Err(TokenError::new("signed out: sign in again")),
///                 _ => Ok("a fresh token".to_owned()),
///             }
///         })
///     }
/// }
/// ```
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now.
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

struct Held {
    token: Arc<str>,
    /// When to fetch the next one; none when it does not say when it ends.
    due: Option<Instant>,
}

/// The token in use.
pub(crate) struct Tokens {
    provider: Arc<dyn TokenProvider>,
    held: Mutex<Option<Held>>,
    /// Held while the provider is asked; why it last failed.
    asking: tokio::sync::Mutex<Option<NetworkError>>,
    /// How often it has answered.
    answers: AtomicU64,
}

impl Tokens {
    pub(crate) fn new(provider: Arc<dyn TokenProvider>) -> Self {
        Self {
            provider,
            held: Mutex::new(None),
            asking: tokio::sync::Mutex::new(None),
            answers: AtomicU64::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // Nothing that holds the lock can panic half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_use(&self) -> Option<Arc<str>> {
        self.held().as_ref().map(|held| Arc::clone(&held.token))
    }

    /// The token in use, or a new one.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<str>, NetworkError> {
        match self.in_use() {
            Some(token) => Ok(token),
            None => self.ask(None).await,
        }
    }

    /// The token that follows on `old`. Until it is there, and if there is none,
    /// `old` stays in use.
    pub(crate) async fn renew(self: &Arc<Self>, old: &Arc<str>) -> Result<Arc<str>, NetworkError> {
        self.ask(Some(old)).await
    }

    /// When a token should be replaced: now, when it has been already.
    pub(crate) fn due(&self, token: &Arc<str>) -> Option<Instant> {
        match &*self.held() {
            Some(held) if held.token == *token => held.due,
            _ => Some(Instant::now()),
        }
    }

    /// Forgets a token that was refused, unless it has been replaced already.
    pub(crate) fn refused(&self, token: &Arc<str>) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| held.token == *token) {
            *held = None;
        }
    }

    /// Asks to the end, though whoever wants the token may give up meanwhile: a
    /// provider that was cut off could lose what its sign-in has just handed out, a
    /// refresh token that replaces the last one.
    async fn ask(self: &Arc<Self>, old: Option<&Arc<str>>) -> Result<Arc<str>, NetworkError> {
        let (this, old) = (Arc::clone(self), old.cloned());
        let asking = async move { this.ask_in_turn(old.as_ref()).await };
        let answer = tokio::spawn(asking.in_current_span()).await;
        answer.unwrap_or_else(|_| Err(NetworkError::Unreachable("shutting down".to_owned())))
    }

    async fn ask_in_turn(&self, old: Option<&Arc<str>>) -> Result<Arc<str>, NetworkError> {
        let answers = self.answers.load(Ordering::Acquire);
        let mut failed = self.asking.lock().await;
        if let Some(token) = self.in_use()
            && old.is_none_or(|old| *old != token)
        {
            return Ok(token);
        }
        // Somebody has asked while this one waited for its turn.
        if let Some(error) = &*failed
            && self.answers.load(Ordering::Acquire) != answers
        {
            return Err(error.clone());
        }
        let asked = AssertUnwindSafe(async { self.provider.token().await }).catch_unwind();
        let answer = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(TokenError::new("the token provider panicked")),
            Err(_) => Err(TokenError::unreachable("no token within a minute")),
        };
        self.answers.fetch_add(1, Ordering::AcqRel);
        match answer {
            Ok(token) => {
                let token: Arc<str> = token.into();
                *self.held() = Some(Held {
                    token: Arc::clone(&token),
                    due: due(&token),
                });
                *failed = None;
                Ok(token)
            }
            Err(error) => {
                let error = NetworkError::from(error);
                *failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

/// When to fetch the token that follows on one that has just come. Not all
/// devices at the same time before the end: they may have got theirs together.
fn due(token: &str) -> Option<Instant> {
    let life = Claims::read(token)?.lifetime(unix_now_ms())?;
    let margin = (life / MARGIN_PART).min(MARGIN);
    let early = margin.mul_f64(rand::rng().random_range(1.0..2.0));
    Some(Instant::now() + life.saturating_sub(early))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn tokens(
        answer: impl Fn(usize) -> Result<String, TokenError> + Send + Sync + 'static,
    ) -> (Arc<Tokens>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let answer = Arc::new(answer);
        let provider = move || {
            let (counter, answer) = (Arc::clone(&counter), Arc::clone(&answer));
            async move {
                let turn = counter.fetch_add(1, Ordering::SeqCst);
                // Others come meanwhile.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                answer(turn)
            }
        };
        (Arc::new(Tokens::new(Arc::new(provider))), asked)
    }

    async fn together(
        tokens: &Arc<Tokens>,
        old: Option<Arc<str>>,
    ) -> Vec<Result<Arc<str>, NetworkError>> {
        let all = (0..8).map(|_| {
            let (tokens, old) = (Arc::clone(tokens), old.clone());
            async move {
                match old {
                    Some(old) => tokens.renew(&old).await,
                    None => tokens.get().await,
                }
            }
        });
        futures_util::future::join_all(all).await
    }

    #[tokio::test]
    async fn callers_share_one_question_and_its_answer() {
        let (tokens, asked) = tokens(|turn| match turn {
            1 => Err(TokenError::new("not now")),
            _ => Ok(format!("t{turn}")),
        });
        let first = together(&tokens, None).await;
        assert!(
            first
                .iter()
                .all(|token| token.as_deref().is_ok_and(|t| t == "t0"))
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // A renewal that fails leaves the old one in use.
        let old: Arc<str> = "t0".into();
        let second = together(&tokens, Some(Arc::clone(&old))).await;
        assert!(
            second
                .iter()
                .all(|token| matches!(token, Err(NetworkError::Token(why)) if why == "not now"))
        );
        assert_eq!(
            asked.load(Ordering::SeqCst),
            2,
            "one failure for all of them"
        );
        assert_eq!(&*tokens.get().await.expect("in use"), "t0");
        let third = together(&tokens, Some(old)).await;
        assert!(
            third
                .iter()
                .all(|token| token.as_deref().is_ok_and(|t| t == "t2"))
        );
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        tokens.refused(&"t0".into());
        assert_eq!(
            &*tokens.get().await.expect("in use"),
            "t2",
            "an old refusal counts no more"
        );
    }

    #[tokio::test]
    async fn a_question_goes_on_when_nobody_waits_for_it() {
        let (tokens, asked) = tokens(|turn| Ok(format!("t{turn}")));
        tokio::select! {
            biased;
            _ = tokens.get() => panic!("the provider takes its time"),
            () = tokio::task::yield_now() => {}
        }
        let token = tokens.get().await.expect("the first answer");
        assert_eq!(&*token, "t0");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "asked once");
    }

    #[tokio::test]
    async fn a_provider_that_panics_is_asked_again() {
        let (tokens, asked) = tokens(|turn| match turn {
            0 => panic!("no keychain"),
            _ => Ok(format!("t{turn}")),
        });
        for answer in together(&tokens, None).await {
            let error = answer.expect_err("it panics").to_string();
            assert_eq!(error, "no token: the token provider panicked");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "once for all of them");
        assert_eq!(&*tokens.get().await.expect("a token"), "t1");
    }
}
