//! The signatures that tokens may carry, and the keys that check them.
//!
//! The algorithm is a property of the key, from configuration; a token that
//! names another one is refused, whatever it is signed with.

use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A public P-256 point, uncompressed: the only curve of ES256.
const P256_POINT_BYTES: usize = 65;

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub(super) const ALL: [Self; 6] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::ES256,
        Self::EdDSA,
    ];

    /// Shortest secret, in bytes: as long as the hash (RFC 7518, section 3.2).
    /// `None` for those that are checked with a public key.
    pub fn min_secret_bytes(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            Self::RS256 | Self::ES256 | Self::EdDSA => None,
        }
    }

    pub(super) fn for_tokens(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::HS384 => jsonwebtoken::Algorithm::HS384,
            Self::HS512 => jsonwebtoken::Algorithm::HS512,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A key and the one algorithm it is for.
pub(super) struct TokenKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

impl TokenKey {
    /// A shared secret, for the HS algorithms.
    pub(super) fn from_secret(secret: &[u8], algorithm: Algorithm) -> Self {
        Self {
            key: DecodingKey::from_secret(secret),
            algorithm,
        }
    }

    /// A public key in PEM. The error says what the file should hold.
    pub(super) fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Self, String> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(
                "holds a private key; the server needs only the public one: openssl pkey -pubout"
                    .to_owned(),
            );
        }
        let (read, wanted) = match algorithm {
            Algorithm::RS256 => (DecodingKey::from_rsa_pem(pem.as_bytes()), "RSA"),
            Algorithm::ES256 => (DecodingKey::from_ec_pem(pem.as_bytes()), "P-256 (EC)"),
            Algorithm::EdDSA => (DecodingKey::from_ed_pem(pem.as_bytes()), "Ed25519"),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                return Err(format!("{algorithm} has no public key"));
            }
        };
        let key = read.ok().filter(|key| {
            algorithm != Algorithm::ES256
                || key
                    .try_get_as_bytes()
                    .is_ok_and(|point| point.len() == P256_POINT_BYTES)
        });
        match key {
            Some(key) => Ok(Self { key, algorithm }),
            None => Err(format!(
                "does not hold a public {wanted} key in PEM (-----BEGIN PUBLIC KEY-----), which {algorithm} needs"
            )),
        }
    }
}
