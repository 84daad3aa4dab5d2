//! Tokens: one with any byte changed is refused; one that is well signed is taken
//! exactly when its claims are what PROTOCOL.md section 2 asks for.

use super::Target;
use super::bytes::{NASTY, mutate};
use crate::server::SECRET;
use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oversync::Clock;
use oversync::auth::{Authenticator as _, Identity, TokenAuthenticator, mint_token};
use oversync_shared::{DeviceId, UserId};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Clocks move while a case runs; nothing is said of times this near to a limit.
const NEAR: i64 = 40;

pub(super) struct Token {
    auth: TokenAuthenticator,
    good: String,
}

impl Token {
    pub(super) fn new() -> Self {
        let good = mint_token(
            SECRET.as_bytes(),
            &UserId::new("ann").expect("a user"),
            &DeviceId::new("ada").expect("a device"),
            Clock::system().now(),
            Duration::from_secs(24 * 3_600),
        );
        Self {
            auth: TokenAuthenticator::new(SECRET.as_bytes()),
            good,
        }
    }

    fn ask(&self, token: &str) -> Option<Identity> {
        let asked = self.auth.authenticate(token).now_or_never();
        asked.expect("a secret asks nobody").ok()
    }
}

/// A claim's value: good, nearly good, anything.
fn claim(name: &str, rng: &mut StdRng) -> Value {
    let now = Clock::system().now().unix_timestamp();
    let offset = *[-1_000_000, -3_600, 3_600, 1_000_000]
        .choose(rng)
        .expect("not empty");
    match (rng.random_range(0..10), name) {
        (0, _) => Value::Null,
        (1, _) => json!([]),
        (2, _) => rng.random::<i64>().into(),
        (3, _) => rng.random::<f64>().into(),
        (4, _) => (*NASTY.choose(rng).expect("not empty")).into(),
        (5, "sub" | "did") => "é".repeat(rng.random_range(120..135)).into(),
        (6, "did") => "server".into(),
        (_, "sub" | "did") => "x".repeat(rng.random_range(1..258)).into(),
        (7, _) => json!((now + offset) as f64),
        _ => (now + offset).into(),
    }
}

impl Target for Token {
    /// A token, or claims behind a `!`, which are signed when they are checked.
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8> {
        if rng.random_bool(0.5) {
            let mut claims = Map::new();
            for name in ["sub", "did", "exp", "nbf", "iat", "aud"] {
                let is_needed = matches!(name, "sub" | "did" | "exp");
                if rng.random_bool(if is_needed { 0.97 } else { 0.3 }) {
                    claims.insert(name.to_owned(), claim(name, rng));
                }
            }
            return format!("!{}", Value::Object(claims)).into_bytes();
        }
        let mut bytes = self.good.clone().into_bytes();
        if rng.random_bool(0.5) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        } else {
            mutate(&mut bytes, rng);
        }
        bytes
    }

    fn check(&mut self, _: u64, input: &[u8]) -> Result<(), String> {
        // What is no text is refused with its header.
        let Ok(text) = std::str::from_utf8(input) else {
            return Ok(());
        };
        let Some(claims) = text.strip_prefix('!') else {
            let taken = self.ask(text).is_some();
            return match (taken, text == self.good) {
                (true, false) => Err("a forged token was taken".into()),
                (false, true) => Err("a good token was refused".into()),
                _ => Ok(()),
            };
        };
        let Ok(claims) = serde_json::from_str::<Value>(claims) else {
            return Ok(());
        };
        let sign = |algorithm| {
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            encode(&Header::new(algorithm), &claims, &key).expect("any claims can be signed")
        };
        if self.ask(&sign(Algorithm::HS384)).is_some() {
            return Err("another algorithm was taken".into());
        }
        let found = self.ask(&sign(Algorithm::HS256));
        let must = judge(&claims);
        match (&found, must) {
            (Some(identity), Must::BeTaken | Must::Either) => {
                let same = claims["sub"] == identity.user.as_str()
                    && claims["did"] == identity.device.as_str();
                if same {
                    Ok(())
                } else {
                    Err(format!("{identity:?} of {claims}"))
                }
            }
            (None, Must::BeRefused | Must::Either) => Ok(()),
            _ => Err(format!("{found:?}, and it must {must:?}")),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Must {
    BeTaken,
    BeRefused,
    /// Near a limit, or in a form that issuers do not use.
    Either,
}

fn judge(claims: &Value) -> Must {
    let name = |value: &Value| {
        value.as_str().is_some_and(|text| {
            (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
        })
    };
    if !name(&claims["sub"]) || !name(&claims["did"]) || claims["did"] == "server" {
        return Must::BeRefused;
    }
    let now = Clock::system().now().unix_timestamp();
    let Some(exp) = claims["exp"].as_f64() else {
        return Must::BeRefused;
    };
    if exp < (now - NEAR) as f64 {
        return Must::BeRefused;
    }
    let nbf = &claims["nbf"];
    if nbf.as_f64().is_some_and(|nbf| nbf > (now + NEAR) as f64) {
        return Must::BeRefused;
    }
    let is_usual = claims["exp"]
        .as_i64()
        .is_some_and(|exp| (now + NEAR..4_000_000_000).contains(&exp))
        && (nbf.is_null()
            || nbf
                .as_i64()
                .is_some_and(|nbf| (0..now - NEAR).contains(&nbf)))
        // Not judged, but a date it must be.
        && (claims["iat"].is_null()
            || claims["iat"]
                .as_i64()
                .is_some_and(|iat| (0..4_000_000_000).contains(&iat)));
    // An audience is the configuration's affair; of another type it is odd.
    let aud = claims.get("aud");
    if is_usual && aud.is_none() && claims.get("nbf") != Some(&Value::Null) {
        Must::BeTaken
    } else {
        Must::Either
    }
}
