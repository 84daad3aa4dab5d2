//! The rows that an answer shows with its conflicts: those of the log, and those of the
//! upload's own plan, which are at hand.

use super::Upload;
use crate::store::Show;
use bytestring::ByteString;
use oversync_shared::ServerId;
use oversync_shared::upload::{Decision, Verdict};
use std::collections::{BTreeMap, HashMap};

/// Log entries whose payloads a conflict shows; those of this upload's own plan
/// are at hand.
pub(super) fn entries_to_show(decision: &Decision, head: ServerId) -> Show {
    let mut entries: BTreeMap<ServerId, usize> = BTreeMap::new();
    for verdict in &decision.verdicts {
        if let Verdict::Conflict(current) = verdict
            && !current.state.deleted
            && current.state.at <= head
        {
            *entries.entry(current.state.at).or_default() += 1;
        }
    }
    Show {
        entries,
        max_bytes: 0,
    }
}

/// A payload of this very upload that conflicts show.
pub(super) struct OwnShown {
    pub(super) text: ByteString,
    pub(super) times: usize,
}

pub(super) fn shown_from_plan(decision: &Decision, upload: &Upload) -> HashMap<ServerId, OwnShown> {
    let mut times: HashMap<ServerId, usize> = HashMap::new();
    for verdict in &decision.verdicts {
        if let Verdict::Conflict(current) = verdict {
            *times.entry(current.state.at).or_default() += 1;
        }
    }
    decision
        .plan
        .log
        .iter()
        .filter_map(|entry| {
            let times = *times.get(&entry.server_id)?;
            let text = upload.payloads[entry.position].clone()?;
            Some((entry.server_id, OwnShown { text, times }))
        })
        .collect()
}

pub(super) fn own_texts(own: HashMap<ServerId, OwnShown>) -> HashMap<ServerId, Option<String>> {
    own.into_iter()
        .map(|(id, shown)| (id, Some(shown.text.to_string())))
        .collect()
}
