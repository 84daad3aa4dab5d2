//! A JWK set: several public keys, each with its name (`kid`) and algorithm.
//!
//! Symmetric keys are refused: a set is made to be published. Keys for other
//! purposes and of other kinds are passed over, as RFC 7517 section 5 asks.

use super::algorithm::{Algorithm, TokenKey};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The keys that tokens may be signed with.
pub(super) enum KeySet {
    /// One key, whatever a token calls it.
    One(Arc<TokenKey>),
    /// By `kid`.
    Named(HashMap<String, Arc<TokenKey>>),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// The key that a token with this `kid` must be signed with. Without a
    /// `kid` there must be only one to choose from.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<Arc<TokenKey>> {
        match (self, kid) {
            (Self::One(key), _) => Some(key.clone()),
            (Self::Named(keys), Some(kid)) => keys.get(kid).cloned(),
            (Self::Named(keys), None) => {
                let mut all = keys.values();
                all.next().filter(|_| all.next().is_none()).cloned()
            }
        }
    }

    /// Reads a set. The error says what is wrong with it.
    pub(super) fn from_jwks(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text)
            .map_err(|error| format!("is not a JWK set, {{\"keys\": […]}}: {error}"))?;
        let mut named = HashMap::new();
        let mut nameless = Vec::new();
        for value in document.keys {
            if value["kty"] == "oct" {
                return Err("holds a symmetric key (kty \"oct\"); only public keys belong in a key set, a secret in jwt_secret_file".to_owned());
            }
            // What cannot be read is of a kind that is not ours.
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else {
                continue;
            };
            let Some(key) = usable(&jwk)? else { continue };
            let key = Arc::new(key);
            match jwk.common.key_id {
                None => nameless.push(key),
                Some(kid) => {
                    if named.contains_key(&kid) {
                        return Err(format!("has two keys with the kid \"{kid}\""));
                    }
                    named.insert(kid, key);
                }
            }
        }
        match (named.is_empty(), nameless.len()) {
            (false, 0) => Ok(Self::Named(named)),
            (true, 1) => Ok(Self::One(nameless.remove(0))),
            (true, 0) => Err("holds no key for RS256, ES256 or EdDSA".to_owned()),
            _ => Err("has several keys, and one without a kid".to_owned()),
        }
    }
}

/// `None` for a key that signs no tokens of ours.
fn usable(jwk: &Jwk) -> Result<Option<TokenKey>, String> {
    let is_for_signatures = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return Ok(None),
    };
    let is_ours = jwk
        .common
        .key_algorithm
        .is_none_or(|named| named == KeyAlgorithm::from(algorithm.for_tokens()));
    if !is_for_signatures || !is_ours {
        return Ok(None);
    }
    let name = jwk.common.key_id.as_deref().unwrap_or("without a kid");
    let key = DecodingKey::from_jwk(jwk)
        .map_err(|error| format!("has a malformed key ({name}): {error}"))?;
    Ok(Some(TokenKey { key, algorithm }))
}
