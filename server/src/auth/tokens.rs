//! Signed tokens (JWT), checked by configuration: which algorithm, which keys,
//! which audience and issuer. A token chooses nothing but, by its `kid`, among
//! the keys that are there.

use super::algorithm::{Algorithm, TokenKey};
use super::checked::Checked;
use super::jwks::KeySet;
use super::key_file::{KeyFile, Parse};
use super::{Authenticator, Identity, Unauthenticated};
use crate::settings::{AuthSettings, Settings, SettingsError, secret_problem};
use async_trait::async_trait;
use jsonwebtoken::{Validation, decode, decode_header};
use oversync_shared::{DeviceId, UserId};
use serde::Deserialize;
use std::sync::Arc;
use time::OffsetDateTime;

/// How far the clocks of issuer and server may differ, in seconds (PROTOCOL.md
/// section 2: at most 30).
const LEEWAY_SECONDS: u64 = 30;

/// The end of the year 9999, in seconds since 1970.
const LAST_DATE: f64 = 253_402_300_799.0;

/// A point in time as tokens write it (RFC 7519, section 2): seconds since 1970,
/// perhaps with decimals, up to the year 9999.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
struct NumericDate(OffsetDateTime);

impl TryFrom<f64> for NumericDate {
    type Error = &'static str;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        if !(0.0..=LAST_DATE).contains(&seconds) {
            return Err("no date between 1970 and 9999");
        }
        Ok(Self(
            OffsetDateTime::UNIX_EPOCH + time::Duration::seconds_f64(seconds),
        ))
    }
}

/// What a token says, of what is read here. Audience, issuer and the beginning
/// are judged before; a date that is none is a fault wherever it stands.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    did: String,
    exp: NumericDate,
    #[serde(default, rename = "iat")]
    _iat: Option<NumericDate>,
    #[serde(default, rename = "nbf")]
    _nbf: Option<NumericDate>,
}

/// Takes signed tokens.
pub struct TokenAuthenticator {
    keys: Keys,
    /// One for each algorithm, in the order of [`Algorithm::ALL`].
    validations: [Validation; Algorithm::ALL.len()],
    checked: Checked<KeySet>,
}

enum Keys {
    Secret(Arc<KeySet>),
    File(KeyFile<KeySet>),
}

impl TokenAuthenticator {
    /// Takes tokens signed with this secret, HS256.
    pub fn new(secret: &[u8]) -> Self {
        let key = TokenKey::from_secret(secret, Algorithm::HS256);
        let keys = KeySet::One(Arc::new(key));
        Self::with(Keys::Secret(Arc::new(keys)), &AuthSettings::default())
    }

    /// Takes the tokens that the settings describe. Reads the key files; an
    /// error names the setting.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let auth = &settings.auth;
        let algorithm = auth.algorithm.unwrap_or(Algorithm::HS256);
        let keys = if let Some(path) = &auth.jwks_file {
            let parse = Box::new(KeySet::from_jwks);
            Keys::File(KeyFile::open("auth.jwks_file", path, parse)?)
        } else if let Some(path) = &auth.public_key_file {
            let parse = Box::new(move |pem: &str| {
                Ok(KeySet::One(Arc::new(TokenKey::from_pem(pem, algorithm)?)))
            });
            Keys::File(KeyFile::open("auth.public_key_file", path, parse)?)
        } else if let Some(path) = &settings.jwt_secret_file {
            let parse = secret_in_file(settings, |secret, algorithm| {
                KeySet::One(Arc::new(TokenKey::from_secret(secret, algorithm)))
            });
            Keys::File(KeyFile::open("jwt_secret_file", path, parse)?)
        } else {
            let secret = settings.secret()?;
            let key = Arc::new(TokenKey::from_secret(secret, algorithm));
            Keys::Secret(Arc::new(KeySet::One(key)))
        };
        Ok(Self::with(keys, auth))
    }

    fn with(keys: Keys, auth: &AuthSettings) -> Self {
        Self {
            keys,
            validations: Algorithm::ALL.map(|algorithm| validation(algorithm, auth)),
            checked: Checked::default(),
        }
    }

    fn identity(&self, token: &str) -> Option<Identity> {
        let mut keys = match &self.keys {
            Keys::Secret(keys) => keys.clone(),
            Keys::File(file) => file.keys(),
        };
        let hash = Checked::<KeySet>::hash(token);
        // The clock that a token's times are judged by.
        let now = jsonwebtoken::get_current_timestamp();
        if let Some(identity) = self.checked.find(&hash, &keys, now) {
            return Some(identity);
        }
        let key = match (&*keys, &self.keys) {
            (KeySet::One(key), _) => key.clone(),
            (KeySet::Named(_), Keys::Secret(_)) => return None,
            (KeySet::Named(_), Keys::File(file)) => {
                let kid = decode_header(token).ok()?.kid;
                match keys.find(kid.as_deref()) {
                    Some(key) => key,
                    None => {
                        keys = file.keys_read_again()?;
                        keys.find(kid.as_deref())?
                    }
                }
            }
        };
        let identity = self.check(token, &key)?;
        self.checked.remember(hash, keys, now, &identity);
        Some(identity)
    }

    /// Whom a token names, by its signature and its claims.
    fn check(&self, token: &str, key: &TokenKey) -> Option<Identity> {
        let place = Algorithm::ALL
            .iter()
            .position(|algorithm| *algorithm == key.algorithm)?;
        let token = decode::<Claims>(token, &key.key, &self.validations[place]).ok()?;
        // What an extension means that must be understood, is not understood
        // here (RFC 7515, section 4.1.11).
        if token.header.crit.is_some() {
            return None;
        }
        Some(Identity {
            user: UserId::new(token.claims.sub).ok()?,
            device: DeviceId::new(token.claims.did).ok()?,
            expires_at: Some(token.claims.exp.0),
        })
    }
}

#[async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated> {
        self.identity(token).ok_or(Unauthenticated)
    }
}

/// Reads a secret that signs tokens, and makes of it what is wanted. What would
/// not do at the start does not do later either.
pub(super) fn secret_in_file<T>(
    settings: &Settings,
    make: impl Fn(&[u8], Algorithm) -> T + Send + Sync + 'static,
) -> Parse<T> {
    let algorithm = settings.auth.algorithm.unwrap_or(Algorithm::HS256);
    let dev = settings.dev;
    Box::new(move |text| {
        let secret = text.trim().as_bytes();
        let Some(shortest) = algorithm.min_secret_bytes() else {
            return Err(format!("is no use: {algorithm} needs a public key"));
        };
        // As while somebody writes it.
        if secret.is_empty() {
            return Err("is empty".to_owned());
        }
        match secret_problem(secret, algorithm, shortest, dev) {
            Some(problem) => Err(problem),
            None => Ok(make(secret, algorithm)),
        }
    })
}

/// The algorithm is ours to choose, never the token's.
fn validation(algorithm: Algorithm, auth: &AuthSettings) -> Validation {
    let mut validation = Validation::new(algorithm.for_tokens());
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.validate_aud = false;
    let mut required = vec!["exp", "sub"];
    if let Some(audience) = &auth.audience {
        validation.validate_aud = true;
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    if let Some(issuer) = &auth.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

#[cfg(test)]
mod tests {
    use super::super::mint_token;
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use std::time::Duration;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn check(claims: serde_json::Value) -> Option<Identity> {
        let key = EncodingKey::from_secret(SECRET);
        let token =
            encode(&Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).expect("signs");
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

    /// RFC 7519: a NumericDate may have decimals.
    #[test]
    fn dates_may_have_decimals_but_must_be_dates() {
        let now = OffsetDateTime::now_utc().unix_timestamp() as f64;
        let with = |name: &str, value: serde_json::Value| {
            let mut claims = serde_json::json!({"sub": "u", "did": "d", "exp": now + 60.0});
            claims[name] = value;
            check(claims)
        };
        let found = with("exp", (now + 60.75).into()).expect("taken");
        let end = found.expires_at.expect("an end").unix_timestamp_nanos();
        assert_eq!(end, (now as i128) * 1_000_000_000 + 60_750_000_000);
        assert!(with("exp", (now - 40.5).into()).is_none(), "over");
        assert!(with("nbf", (now - 0.5).into()).is_some());
        assert!(with("nbf", (now + 45.5).into()).is_none(), "not yet");
        assert!(with("iat", (now - 0.25).into()).is_some());
        assert!(with("iat", 1.5e9.into()).is_some());
        for name in ["exp", "nbf", "iat"] {
            for absurd in [-1.0, -0.5, 1e12, 1e18, 1e300, f64::MAX] {
                assert!(with(name, absurd.into()).is_none(), "{name} {absurd}");
            }
            for wrong in [
                serde_json::json!("soon"),
                serde_json::json!(true),
                serde_json::json!([now + 60.0]),
                serde_json::json!(i64::MIN),
                serde_json::json!(u64::MAX),
            ] {
                assert!(with(name, wrong.clone()).is_none(), "{name} {wrong}");
            }
        }
        // What JSON cannot hold, in a token of its own.
        for endless in ["1e999", "-1e999", "NaN", "Infinity"] {
            let claims = format!(r#"{{"sub":"u","did":"d","exp":{endless}}}"#);
            let raw = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let signed = format!("{}.{}", raw(r#"{"alg":"HS256"}"#), raw(&claims));
            let signature = jsonwebtoken::crypto::sign(
                signed.as_bytes(),
                &EncodingKey::from_secret(SECRET),
                jsonwebtoken::Algorithm::HS256,
            );
            let token = format!("{signed}.{}", signature.expect("signs"));
            assert!(TokenAuthenticator::new(SECRET).identity(&token).is_none());
        }
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_choice() {
        let claims = serde_json::json!({"sub": "u", "did": "d", "exp": OffsetDateTime::now_utc().unix_timestamp() + 60});
        let token = encode(
            &Header::new(jsonwebtoken::Algorithm::HS512),
            &claims,
            &EncodingKey::from_secret(SECRET),
        )
        .expect("signs");
        assert!(TokenAuthenticator::new(SECRET).identity(&token).is_none());
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1IiwiZGlkIjoiZCIsImV4cCI6OTk5OTk5OTk5OX0.";
        assert!(TokenAuthenticator::new(SECRET).identity(none).is_none());
    }
}
