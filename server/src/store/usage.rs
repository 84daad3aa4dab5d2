//! What a user has, as far as that may be limited.

use oversync_shared::ServerId;
use oversync_shared::upload::Amount;

/// Rows and bytes of a user, read from one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The user's head then.
    pub head: ServerId,
    /// What there is, or was added at most.
    pub used: Amount,
}
