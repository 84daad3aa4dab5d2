//! What a token says of itself, read and not verified: only the server can tell
//! whether it is true.
//!
//! Used to fetch the next token before this one ends, and to tell a person what
//! is wrong with it. Nothing is refused here because of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::time::Duration;

/// The claims of a JWT that matter here. Times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// The user (`sub`).
    pub user: Option<String>,
    /// The device (`did`).
    pub device: Option<String>,
    /// When it ends (`exp`).
    pub expires_at: Option<i64>,
    /// When it was made (`iat`).
    pub issued_at: Option<i64>,
    /// Before when it is not good (`nbf`).
    pub not_before: Option<i64>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    sub: serde_json::Value,
    #[serde(default)]
    did: serde_json::Value,
    #[serde(default)]
    exp: serde_json::Value,
    #[serde(default)]
    iat: serde_json::Value,
    #[serde(default)]
    nbf: serde_json::Value,
}

impl Claims {
    /// Reads the middle part of a JWT; none when it is none. A claim of the
    /// wrong type counts as absent.
    ///
    /// ```
    /// use oversqlite::Claims;
    ///
    /// // {"sub":"user-ada","did":"phone","exp":1893456000}
    /// let token = "e30.eyJzdWIiOiJ1c2VyLWFkYSIsImRpZCI6InBob25lIiwiZXhwIjoxODkzNDU2MDAwfQ.c2ln";
    /// let claims = Claims::read(token).unwrap();
    /// assert_eq!(claims.user.as_deref(), Some("user-ada"));
    /// assert_eq!(claims.expires_at, Some(1_893_456_000));
    /// assert_eq!(Claims::read("a key of another kind"), None);
    /// ```
    pub fn read(token: &str) -> Option<Self> {
        let part = token.split('.').nth(1)?.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        let raw: Raw = serde_json::from_slice(&bytes).ok()?;
        let text = |value: serde_json::Value| value.as_str().map(str::to_owned);
        let time = |value: &serde_json::Value| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a date with a fraction; out of range saturates"
            )]
            let whole = |seconds: f64| seconds as i64;
            value.as_i64().or_else(|| value.as_f64().map(whole))
        };
        Some(Self {
            user: text(raw.sub),
            device: text(raw.did),
            expires_at: time(&raw.exp),
            issued_at: time(&raw.iat),
            not_before: time(&raw.nbf),
        })
    }

    /// For how long it is good from now on, if it was made just now; `now_ms` is
    /// the device's wall clock, in milliseconds since 1970.
    ///
    /// The clock may be wrong, so it only counts where it is plausible: the span
    /// between `iat` and `exp` is true on every clock.
    pub(crate) fn lifetime(&self, now_ms: i64) -> Option<Duration> {
        let end = self.expires_at?;
        let left = end.saturating_mul(1000).saturating_sub(now_ms);
        let span = self
            .issued_at
            .map(|made| end.saturating_sub(made).saturating_mul(1000));
        let life = match span {
            Some(span) if left <= 0 || left > span => span,
            Some(_) | None => left,
        };
        u64::try_from(life).ok().map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_does_not_make_a_token_longer_or_shorter_than_it_is() {
        let claims = Claims {
            expires_at: Some(4_600),
            issued_at: Some(1_000),
            ..Claims::default()
        };
        let life = |now_ms| claims.lifetime(now_ms).map(|life| life.as_millis());
        assert_eq!(life(1_000_500), Some(3_599_500), "a right clock is exact");
        assert_eq!(life(3_000_000), Some(1_600_000), "one that was kept");
        assert_eq!(life(9_000_000), Some(3_600_000), "a clock that is ahead");
        assert_eq!(life(0), Some(3_600_000), "and one that is behind");
        let bare = Claims {
            expires_at: Some(4_600),
            ..Claims::default()
        };
        assert_eq!(bare.lifetime(4_000_000), Some(Duration::from_secs(600)));
        assert_eq!(bare.lifetime(9_000_000), None, "nothing is known");
        assert_eq!(Claims::default().lifetime(0), None);
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        for text in ["", ".", "..", "a.b.c", "x.e30", "x.W10.y"] {
            let claims = Claims::read(text);
            assert!(
                claims.is_none() || claims == Some(Claims::default()),
                "{text}"
            );
        }
    }
}
