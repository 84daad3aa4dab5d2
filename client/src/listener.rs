//! Hints over a WebSocket: connects, listens, reconnects, for ever. Where the
//! server has none, or something on the way refuses the upgrade, news come by
//! long poll, and where that fails by the engine's own polling; the WebSocket is
//! tried again from time to time.
//!
//! A hint carries no rows and decides nothing: all it does is ring the engine.
//! Before a token ends, the next one is handed over the open socket.
//! A connection that is silent for too long is given up, so that a half-open
//! one is noticed.

use crate::backoff::Backoff;
use crate::core::Core;
use crate::error::NetworkError;
use crate::long_poll;
use crate::token::Tokens;
use crate::transport::{Transport, retry_after};
use futures_util::{SinkExt as _, StreamExt as _};
use oversync_shared::ServerId;
use oversync_shared::wire::{
    ByeReason, ClientMessage, ServerMessage, WS_MAX_CLIENT_FRAME, WS_SUBPROTOCOL,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long the whole way to an open socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How often in a row an upgrade may fail, though the server answers requests,
/// before another way is taken.
const REFUSALS: u32 = 3;

/// How long the listener waits for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How often to ask whether anybody is there.
    pub(crate) ping_every: Duration,
    /// Silence after which nobody is.
    pub(crate) silence: Duration,
    /// How often to look whether a server without hints has learned them.
    pub(crate) no_hints_retry: Duration,
}

impl Times {
    /// Two pings go unanswered before a socket is given up, within a minute.
    pub(crate) const USUAL: Self = Self {
        ping_every: Duration::from_secs(20),
        silence: Duration::from_secs(50),
        no_hints_retry: Duration::from_secs(300),
    };
}

/// A session that lasted this long was a good one: the next failure is a first one.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// What the engine hears.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// Connected; the head at that time, and of which history.
    Online { head: ServerId, epoch: String },
    /// There is something up to here.
    Head(ServerId),
    /// Not connected any more.
    Offline,
    /// No WebSocket gets through; news come by long poll.
    LongPoll,
    /// Neither gets through.
    NoHints,
}

/// Why a session ended.
enum End {
    /// Lost, or never got; how long the server asked to stay away.
    Lost(String, Option<Duration>),
    /// The server said so.
    Bye { reason: ByeReason, wait: Duration },
    /// The token that it was last shown has ended.
    Expired { token: Arc<str>, wait: Duration },
    /// The token was refused.
    Unauthorised,
    /// The server does not speak hints, or something on the way does not let
    /// them through.
    NoHints,
    /// Nobody listens to us any more.
    Done,
}

impl End {
    fn lost(error: &NetworkError) -> Self {
        Self::Lost(error.to_string(), error.retry_after())
    }
}

/// Listens until the engine is gone.
pub(crate) async fn run(core: Arc<Core>, engine: mpsc::Sender<Signal>, times: Times) {
    let mut backoff = Backoff::default();
    let mut refusals = 0;
    loop {
        let mut greeted = false;
        let begun = Instant::now();
        let mut end = session(&core, &engine, times, &mut greeted, &mut refusals).await;
        let was_good = greeted && begun.elapsed() >= GOOD_AFTER;
        if greeted {
            refusals = 0;
        }
        if matches!(end, End::NoHints) {
            let retry_at = Instant::now() + times.no_hints_retry;
            end = match without_hints(&core, &engine, retry_at).await {
                long_poll::End::TimeIsUp => continue,
                long_poll::End::Useless => End::NoHints,
                long_poll::End::Lost(error) => End::lost(&error),
                long_poll::End::Done => End::Done,
            };
        }
        let signal = match end {
            End::NoHints => Signal::NoHints,
            _ => Signal::Offline,
        };
        if matches!(end, End::Done) || engine.send(signal).await.is_err() {
            return;
        }
        // A provider that gives the old token again is no reason for haste: the
        // server still lets it in for a while, and closes at once, over and over.
        let is_renewed = match &end {
            End::Expired { token, .. } if greeted => {
                is_followed(&core.transport.tokens, token).await
            }
            _ => false,
        };
        if was_good || is_renewed {
            backoff.reset();
        }
        let wait = match end {
            End::Expired { .. } if is_renewed => Duration::ZERO,
            End::Expired { wait, .. } => {
                tracing::debug!("the token has ended, and there is no other");
                backoff.next(Some(wait))
            }
            End::Bye { reason, wait } => {
                tracing::debug!(?reason, "the server closes the socket");
                backoff.next(Some(wait))
            }
            End::NoHints => times.no_hints_retry,
            End::Unauthorised => backoff.next(None),
            End::Lost(why, asked) => {
                tracing::debug!(why, "no socket");
                backoff.next(asked)
            }
            End::Done => return,
        };
        sleep(wait).await;
    }
}

async fn without_hints(
    core: &Core,
    engine: &mpsc::Sender<Signal>,
    retry_at: Instant,
) -> long_poll::End {
    match core.server().await {
        Ok(server) if server.wait => long_poll::run(core, engine, retry_at).await,
        Ok(_) => long_poll::End::Useless,
        Err(error) => long_poll::End::Lost(error),
    }
}

async fn session(
    core: &Core,
    engine: &mpsc::Sender<Signal>,
    times: Times,
    greeted: &mut bool,
    refusals: &mut u32,
) -> End {
    match core.server().await {
        Ok(server) if !server.hints => return End::NoHints,
        Ok(_) => {}
        // Nothing gets through: no reason to blame the WebSocket.
        Err(error) => {
            *refusals = 0;
            return End::lost(&error);
        }
    }
    let tokens = &core.transport.tokens;
    let mut token = match tokens.get().await {
        Ok(token) => token,
        Err(error) => return End::lost(&error),
    };
    let mut socket = match timeout(CONNECT_TIMEOUT, connect(&core.transport, &token)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(end)) => {
            if matches!(end, End::Unauthorised) {
                tokens.refused(&token);
            }
            return refused(end, refusals);
        }
        Err(_) => {
            let end = End::Lost("connecting took too long".to_owned(), None);
            return refused(end, refusals);
        }
    };
    let mut end = listen(&mut socket, engine, times, greeted, tokens, &mut token).await;
    if let End::Bye {
        reason: ByeReason::TokenExpired,
        wait,
    } = end
    {
        tokens.refused(&token);
        end = End::Expired { token, wait };
    }
    let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
    end
}

/// Whether there is another token than one that has ended; asks for it.
async fn is_followed(tokens: &Arc<Tokens>, ended: &Arc<str>) -> bool {
    tokens.get().await.is_ok_and(|token| token != *ended)
}

/// An upgrade that fails again and again is not going to succeed.
fn refused(end: End, refusals: &mut u32) -> End {
    match end {
        // The server answers, and asks for patience.
        End::Lost(_, Some(_)) => end,
        End::Lost(_, None) => {
            *refusals += 1;
            if *refusals >= REFUSALS {
                // After a while with the other way, one more try is enough.
                *refusals = REFUSALS - 1;
                return End::NoHints;
            }
            end
        }
        other => other,
    }
}

/// Whether a WebSocket gets through; why not, in words.
pub(crate) async fn try_connect(transport: &Transport, token: &str) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, connect(transport, token)).await {
        Ok(Ok(mut socket)) => {
            let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
            Ok(())
        }
        Ok(Err(End::Lost(why, _))) => Err(why),
        Ok(Err(End::Unauthorised)) => Err("the token was refused".to_owned()),
        Ok(Err(_)) => Err("the upgrade was refused".to_owned()),
        Err(_) => Err("it took too long".to_owned()),
    }
}

async fn connect(transport: &Transport, token: &str) -> Result<Socket, End> {
    let lost = |error: &dyn std::fmt::Display| End::Lost(error.to_string(), None);
    let mut request = transport
        .socket_url()
        .as_str()
        .into_client_request()
        .map_err(|error| lost(&error))?;
    let bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| lost(&NetworkError::Token("it is no header value".to_owned())))?;
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(WS_SUBPROTOCOL),
    );
    // Hints are small and urgent: no Nagle.
    let tls = Connector::Rustls(Arc::clone(&transport.tls));
    match connect_async_tls_with_config(request, None, true, Some(tls)).await {
        Ok((socket, _)) => Ok(socket),
        Err(SocketError::Http(response)) => Err(match response.status() {
            StatusCode::UNAUTHORIZED => End::Unauthorised,
            // The server has trouble, perhaps only now.
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                End::Lost(status.to_string(), retry_after(response.headers()))
            }
            _ => End::NoHints,
        }),
        Err(error) => Err(lost(&error)),
    }
}

/// Hears hints until the socket ends; `token` is the one it was last shown.
async fn listen(
    socket: &mut Socket,
    engine: &mpsc::Sender<Signal>,
    times: Times,
    greeted: &mut bool,
    tokens: &Arc<Tokens>,
    token: &mut Arc<str>,
) -> End {
    let lost = |why: &str| End::Lost(why.to_owned(), None);
    let mut next_token = Box::pin(following(tokens, Arc::clone(token)));
    let mut ping = interval(times.ping_every);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    loop {
        tokio::select! {
            // Reading also answers the server's pings.
            received = socket.next() => {
                heard_at = Instant::now();
                match received {
                    None => return lost("closed"),
                    Some(Err(error)) => return lost(&error.to_string()),
                    Some(Ok(Message::Text(text))) => {
                        if let Some(end) = hear(&text, engine, greeted).await {
                            return end;
                        }
                        // The engine may have been busy: that is not the server's silence.
                        heard_at = Instant::now();
                    }
                    Some(Ok(Message::Close(_))) => return lost("closed"),
                    Some(Ok(_)) => {}
                }
            }
            _ = ping.tick() => {
                if let Err(error) = socket.send(Message::Ping(Vec::new().into())).await {
                    return lost(&error.to_string());
                }
            }
            () = sleep_until(heard_at + times.silence) => return lost("the server is silent"),
            fresh = &mut next_token => {
                if let Some(message) = token_message(&fresh) {
                    if let Err(error) = socket.send(Message::text(message)).await {
                        return lost(&error.to_string());
                    }
                    token.clone_from(&fresh);
                }
                next_token.set(following(tokens, fresh));
            }
        }
    }
}

/// The token that follows on `held`, shortly before that one ends. Waits for as
/// long as the provider has none, and for ever on a token that does not say when
/// it ends.
async fn following(tokens: &Arc<Tokens>, held: Arc<str>) -> Arc<str> {
    let mut backoff = Backoff::default();
    loop {
        match tokens.due(&held) {
            Some(due) => sleep_until(due).await,
            None => return std::future::pending().await,
        }
        match tokens.renew(&held).await {
            Ok(fresh) if fresh != held => return fresh,
            Ok(_) => tracing::debug!("the provider gives the old token again"),
            Err(error) => tracing::debug!(%error, "no fresh token yet"),
        }
        sleep(backoff.next(None)).await;
    }
}

/// None when the server would take the frame for too long: then the socket ends
/// with the token, and the next one begins with a fresh one.
fn token_message(token: &str) -> Option<String> {
    let message = ClientMessage::Token {
        token: token.to_owned(),
    };
    let text = serde_json::to_string(&message).expect("BUG: messages serialise");
    (text.len() <= WS_MAX_CLIENT_FRAME).then_some(text)
}

async fn hear(text: &str, engine: &mpsc::Sender<Signal>, greeted: &mut bool) -> Option<End> {
    let signal = match serde_json::from_str(text) {
        Ok(ServerMessage::Hello { head, epoch }) => {
            *greeted = true;
            Signal::Online { head, epoch }
        }
        Ok(ServerMessage::Changes { head, .. }) => Signal::Head(head),
        Ok(ServerMessage::Bye {
            reason,
            retry_after_ms,
        }) => {
            return Some(End::Bye {
                reason,
                wait: Duration::from_millis(retry_after_ms),
            });
        }
        // A message of tomorrow.
        Err(_) => return None,
    };
    match engine.send(signal).await {
        Ok(()) => None,
        Err(_) => Some(End::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenError;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn only_another_token_is_a_reason_to_come_back_at_once() {
        let fresh = Arc::new(AtomicBool::new(false));
        let is_fresh = Arc::clone(&fresh);
        let tokens = Arc::new(Tokens::new(Arc::new(move || {
            let name = match is_fresh.load(Ordering::SeqCst) {
                true => "new",
                false => "old",
            };
            async move { Ok::<_, TokenError>(name.to_owned()) }
        })));
        let old = tokens.get().await.expect("a token");
        tokens.refused(&old);
        assert!(!is_followed(&tokens, &old).await, "the old one again");
        tokens.refused(&old);
        fresh.store(true, Ordering::SeqCst);
        assert!(is_followed(&tokens, &old).await);
        // It is the one the next session takes.
        assert_eq!(&*tokens.get().await.expect("a token"), "new");
    }

    #[tokio::test]
    async fn without_a_token_nobody_comes_back_at_once() {
        let tokens = Arc::new(Tokens::new(Arc::new(|| async {
            Err(TokenError::new("signed out"))
        })));
        assert!(!is_followed(&tokens, &"old".into()).await);
    }
}
