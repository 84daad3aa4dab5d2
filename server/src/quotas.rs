//! What users may have, and what is known of what they have.
//!
//! What a user has is a function of its stream, so it is remembered with the head at
//! which it was true, for all ways in (`--bypass-actors` too) and apart from the cache
//! of the user's actor, which ends with any fault. `upload/quota.rs` asks and decides;
//! the guard of a commit proves that the head was still the same.

use crate::recent::Recent;
use crate::settings::QuotaSettings;
use oversync_shared::upload::Amount;
use oversync_shared::{ServerId, UserId};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

/// Twice as many users at most are remembered, about 200 bytes each.
const USERS: usize = 20_000;

/// How well it is known what a user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sureness {
    /// As it is.
    Exactly,
    /// It is this or less.
    AtMost,
}

/// What a user had at a head.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The database's history.
    pub(crate) epoch: Arc<str>,
    /// The head.
    pub(crate) at: ServerId,
    /// What there was.
    pub(crate) used: Amount,
    /// How well that is known.
    pub(crate) sureness: Sureness,
    /// When all of it was last counted in the database.
    pub(crate) measured: Instant,
}

/// The limits as they were last loaded, and what is known of users.
pub(crate) struct Quotas {
    settings: RwLock<Arc<QuotaSettings>>,
    known: Mutex<Recent<UserId, Known>>,
}

impl Quotas {
    pub(crate) fn new(settings: &QuotaSettings) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings.clone())),
            known: Mutex::new(Recent::new(USERS)),
        }
    }

    /// The limits; `None` where none is set.
    pub(crate) fn limits(&self) -> Option<Arc<QuotaSettings>> {
        let settings = self.settings.read().expect("BUG: no panic under this lock");
        (**settings != QuotaSettings::default()).then(|| Arc::clone(&settings))
    }

    /// Takes over other limits. What was counted for the old ones may not be all that
    /// the new ones need.
    pub(crate) fn take_over(&self, wanted: &QuotaSettings) {
        let mut settings = self
            .settings
            .write()
            .expect("BUG: no panic under this lock");
        if **settings != *wanted {
            *settings = Arc::new(wanted.clone());
            *self.known.lock().expect("BUG: no panic under this lock") = Recent::new(USERS);
        }
    }

    /// What is known of a user in this history.
    pub(crate) fn known(&self, user: &UserId, epoch: &Arc<str>) -> Option<Known> {
        let known = self.known.lock().expect("BUG: no panic under this lock");
        known
            .get(user)
            .filter(|known| known.epoch == *epoch)
            .cloned()
    }

    /// Remembers; what is known of a later head stays, unless all has been counted since.
    pub(crate) fn remember(&self, user: &UserId, now: Known) {
        let mut known = self.known.lock().expect("BUG: no panic under this lock");
        let is_newer = known.get(user).is_none_or(|old| {
            old.at <= now.at || old.epoch != now.epoch || old.measured < now.measured
        });
        if is_newer {
            known.insert(user.clone(), now);
        }
    }
}
