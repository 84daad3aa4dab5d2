//! One trace per change, without anything being carried along.
//!
//! Whoever touches a change (the device that made it, the server, each device that
//! applies it) knows its user, its device and its number there. The trace id is made of
//! these, so that all of them write into one trace, over restarts and several server
//! processes. `docs/TRACING.md` has the rule for others.

use crate::{ChangeId, UserId};
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use sha2::{Digest as _, Sha256};

/// Set apart from other uses of the same hash.
const PURPOSE: &str = "oversync/change";

/// Changes of one request that have a span of their own: the first of an upload, the
/// newest of a page. More would tell nobody anything, and fill a collector.
pub const MAX_CHANGES: usize = 100;

/// Where the spans of one change belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeTrace {
    /// The W3C trace id.
    pub trace_id: [u8; 16],
    /// The id of the span that all of them have as their parent. Nobody writes it.
    pub parent_id: [u8; 8],
}

impl ChangeTrace {
    /// Of a user's change: the device that made it, and its number there.
    pub fn of(user: &UserId, device: &str, change: ChangeId) -> Self {
        // Names hold no control characters, so that NUL parts them.
        let name = format!("{PURPOSE}\0{user}\0{device}\0{change}");
        let hash: [u8; 32] = Sha256::digest(name).into();
        let (trace_id, rest) = hash.split_at(16);
        Self {
            trace_id: trace_id.try_into().expect("BUG: 16 of 32 bytes"),
            parent_id: rest[..8].try_into().expect("BUG: 8 of 16 bytes"),
        }
    }

    /// What spans are started in that belong here, whatever else is going on.
    pub fn context(&self) -> Context {
        let parent = SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.parent_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        Context::new().with_remote_span_context(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_documented_one_and_of_one_change_only() {
        let user = UserId::new("user-ann").expect("a name");
        let of = |device: &str, change| ChangeTrace::of(&user, device, ChangeId::new(change));
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        // printf 'oversync/change\0user-ann\0phone\0%s' 7 | sha256sum
        let known = of("phone", 7);
        assert_eq!(hex(&known.trace_id), "7da8c76795652a4a1e25882dc55089eb");
        assert_eq!(hex(&known.parent_id), "06132ca3dfd14090");
        assert_ne!(of("phone", 8), known);
        assert_ne!(of("phone\u{e9}", 7), known);
        // Another cut of the same letters.
        let other = UserId::new("user-annp").expect("a name");
        assert_ne!(ChangeTrace::of(&other, "hone", ChangeId::new(7)), known);
    }
}
