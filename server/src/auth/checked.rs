//! Tokens that were checked a moment ago: a device sends the same one with every
//! request, and checking a signature costs more than most requests.
//!
//! A token is remembered by its hash, with whom it names, until it ends; under
//! other keys, or a clock that was put back, it is checked again. What was refused is
//! not remembered, and whether a device is revoked is asked of every request.

use super::Identity;
use crate::recent::Recent;
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex};

/// Tokens remembered: twice this at most, about 250 bytes each.
const ROOM: usize = 8_192;

/// What identifies a token here.
pub(super) type Hash = [u8; 32];

/// Tokens that named somebody when they were checked with keys of this kind.
pub(super) struct Checked<K> {
    tokens: Mutex<Recent<Hash, Known<K>>>,
}

struct Known<K> {
    identity: Identity,
    /// Held, so that no other keys can come to lie where these did.
    keys: Arc<K>,
    /// In seconds since 1970: when it was checked …
    at: u64,
    /// … and the second in which it ends, the clocks' difference not counted.
    end: u64,
}

impl<K> Default for Checked<K> {
    fn default() -> Self {
        Self {
            tokens: Mutex::new(Recent::new(ROOM)),
        }
    }
}

impl<K> Checked<K> {
    /// Of a token as it was sent.
    pub(super) fn hash(token: &str) -> Hash {
        Sha256::digest(token).into()
    }

    /// Whom a token names that was checked with these very keys.
    pub(super) fn find(&self, token: &Hash, keys: &Arc<K>, now: u64) -> Option<Identity> {
        let tokens = self.tokens.lock().expect("BUG: no panic under this lock");
        let known = tokens.get(token)?;
        let stands = Arc::ptr_eq(&known.keys, keys) && (known.at..known.end).contains(&now);
        stands.then(|| known.identity.clone())
    }

    /// A token was found good at `now`.
    pub(super) fn remember(&self, token: Hash, keys: Arc<K>, now: u64, identity: &Identity) {
        let Some(end) = identity.expires_at else {
            return;
        };
        let known = Known {
            identity: identity.clone(),
            keys,
            at: now,
            end: u64::try_from(end.unix_timestamp()).unwrap_or(0),
        };
        let mut tokens = self.tokens.lock().expect("BUG: no panic under this lock");
        tokens.insert(token, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oversync_shared::{DeviceId, UserId};
    use time::OffsetDateTime;

    #[test]
    fn a_token_stands_until_it_ends_and_under_its_own_keys() {
        let identity = |end: Option<i64>| Identity {
            user: UserId::new("u").expect("valid"),
            device: DeviceId::new("d").expect("valid"),
            expires_at: end.map(|end| OffsetDateTime::from_unix_timestamp(end).expect("a date")),
        };
        let checked = Checked::default();
        let (keys, same_text) = (Arc::new("keys"), Arc::new("keys"));
        let token = Checked::<&str>::hash("a.b.c");
        assert_eq!(checked.find(&token, &keys, 100), None);
        checked.remember(token, keys.clone(), 100, &identity(Some(160)));
        for (now, stands) in [(99, false), (100, true), (159, true), (160, false)] {
            assert_eq!(checked.find(&token, &keys, now).is_some(), stands, "{now}");
        }
        assert_eq!(checked.find(&token, &same_text, 100), None);
        let other = Checked::<&str>::hash("a.b.d");
        assert_eq!(checked.find(&other, &keys, 100), None);
        // One without an end could never be forgotten in time.
        checked.remember(other, keys.clone(), 100, &identity(None));
        assert_eq!(checked.find(&other, &keys, 100), None);
    }
}
