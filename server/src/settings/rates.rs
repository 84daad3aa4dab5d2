//! Settings of limits per user and per address. All of them are off unless set.

use super::{Settings, SettingsError, value};
use documented::DocumentedFields;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// How much one user and one address may ask for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct RateSettings {
    /// Requests of one user, all its devices together.
    pub user_requests: Option<Rate>,
    /// Requests from one address, also those without a good token. Of IPv6, one
    /// address is a network of 64 bits.
    pub address_requests: Option<Rate>,
    /// Open WebSockets of one user.
    pub user_sockets: Option<NonZeroU32>,
    /// Open WebSockets from one address.
    pub address_sockets: Option<NonZeroU32>,
    /// Networks, as in `10.0.0.0/8`, whose `X-Forwarded-For` is believed. The
    /// address is then the last one named there that is no such proxy itself.
    pub trusted_proxies: Vec<IpNet>,
}

/// A lasting rate, and what may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests per second, lasting.
    pub per_second: NonZeroU32,
    /// Requests at once, after a rest.
    pub burst: NonZeroU32,
}

/// Shortest time after which an answer that nobody takes may be given up, in
/// seconds: any network pauses that long.
const MIN_STALL: u64 = 2;

/// Least room for answers: one piece of a page and the largest row.
const MIN_ANSWER_BYTES: usize = 8 * 1024 * 1024;

impl Settings {
    pub(super) fn check_answers(&self) -> Result<(), SettingsError> {
        if self.limits.stall_seconds < MIN_STALL {
            return Err(value("limits.stall_seconds", "must be at least 2"));
        }
        if self.limits.max_answer_bytes < MIN_ANSWER_BYTES {
            let problem = "must be at least 8388608: no page of large rows could be sent";
            return Err(value("limits.max_answer_bytes", problem));
        }
        Ok(())
    }
}
