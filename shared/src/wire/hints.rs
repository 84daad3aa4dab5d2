//! Hints over the WebSocket: the socket's names and limits, and what is said on it.

use crate::ids::ServerId;
use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol of hints.
pub const WS_SUBPROTOCOL: &str = "oversync.v1";

/// The prefix of the second subprotocol by which browsers bring their token.
pub const WS_BEARER_PREFIX: &str = "bearer.";

/// Longest frame a client may send over the WebSocket, in bytes (PROTOCOL.md
/// section 7); a longer one closes the socket with 1009.
pub const WS_MAX_CLIENT_FRAME: usize = 4 * 1024;

/// Why the server is about to close a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// The token ended and no fresh one came.
    TokenExpired,
    /// The server stops or restarts.
    ShuttingDown,
    /// The client does not read.
    SlowConsumer,
    /// The device was revoked.
    Revoked,
}

/// A message from the server over the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// First message; the head is read after the session is registered.
    Hello {
        /// The database's history.
        epoch: String,
        /// The user's head.
        head: ServerId,
    },
    /// There are changes in (after, head].
    Changes {
        /// The last head this session was told.
        after: ServerId,
        /// The user's head.
        head: ServerId,
    },
    /// The socket is about to be closed.
    Bye {
        /// Why.
        reason: ByeReason,
        /// How long to stay away, in milliseconds.
        retry_after_ms: u64,
    },
}

/// A message from a client over the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// A fresh token for the same user and device.
    Token {
        /// The token.
        token: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_text() {
        let text = |message: &ServerMessage| serde_json::to_string(message).expect("serialises");
        assert_eq!(
            text(&ServerMessage::Hello {
                epoch: "e".into(),
                head: ServerId::new(7)
            }),
            r#"{"type":"hello","epoch":"e","head":7}"#
        );
        assert_eq!(
            text(&ServerMessage::Changes {
                after: ServerId::new(1),
                head: ServerId::new(2)
            }),
            r#"{"type":"changes","after":1,"head":2}"#
        );
        assert_eq!(
            text(&ServerMessage::Bye {
                reason: ByeReason::TokenExpired,
                retry_after_ms: 5
            }),
            r#"{"type":"bye","reason":"token_expired","retry_after_ms":5}"#
        );
    }
}
