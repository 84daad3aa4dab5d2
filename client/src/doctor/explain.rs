//! The verdict on one row: from what the file and the server say, which of the
//! ways to be stuck it is, in words. Pure.

use super::row::{LastChange, Look, RowHere, RowThere};
use super::{Finding, Gravity, RowDiagnosis, Symptom};
use crate::state::State;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is the matter with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowVerdict {
    /// The same here and on the server.
    Same,
    /// Deleted here and on the server.
    Deleted,
    /// Neither here nor on the server.
    Nowhere,
    /// Its table is not synchronised by this file.
    TableNotSynchronised,
    /// Its key is no UUID: it stays here.
    KeyIsNoUuid,
    /// The edit was refused.
    Rejected,
    /// The edit waits for the row it refers to.
    WaitsForRow,
    /// The edit waits to be sent.
    Unsent,
    /// A newer state of the server's has come, and waits until the edit is
    /// settled.
    WaitsForEdit,
    /// The server's state has come, and cannot be written into the table.
    Parked,
    /// The server's state has not been downloaded yet.
    NotDownloaded,
    /// It stands here, and was never captured.
    NotCaptured,
    /// Both have it, and they differ, though nothing is on its way.
    Differs,
    /// Nothing more can be said without the server.
    ServerNotAsked,
}

impl RowVerdict {
    /// Who mends it.
    pub fn gravity(self) -> Gravity {
        match self {
            Self::Same | Self::Deleted | Self::Nowhere | Self::ServerNotAsked => Gravity::Note,
            Self::WaitsForRow | Self::Unsent | Self::WaitsForEdit | Self::NotDownloaded => {
                Gravity::Waiting
            }
            Self::TableNotSynchronised
            | Self::KeyIsNoUuid
            | Self::Rejected
            | Self::Parked
            | Self::NotCaptured
            | Self::Differs => Gravity::Trouble,
        }
    }
}

type Said = (RowVerdict, String, String);

fn said(verdict: RowVerdict, what: impl Into<String>, advice: impl Into<String>) -> Said {
    (verdict, what.into(), advice.into())
}

/// Judges a row.
pub(super) fn explain(
    table: &str,
    key: &str,
    look: Look,
    there: Option<RowThere>,
    state: &Option<State>,
    findings: &[Finding],
) -> RowDiagnosis {
    let (verdict, what, advice) = match &look {
        Look::NoTables => said(
            RowVerdict::TableNotSynchronised,
            "nothing in this file is synchronised as things are",
            "see the findings above",
        ),
        Look::UnknownTable => said(
            RowVerdict::TableNotSynchronised,
            format!("table \"{table}\" is not among those this file synchronises"),
            "list it, in the application and at the server; a row of it stays where it was written",
        ),
        Look::BadKey(present, refused) => bad_key(key, *present, refused.is_some()),
        Look::Row(here) => match local(here, findings) {
            Some(said) => said,
            None => settled(here, there.as_ref(), state.as_ref(), findings),
        },
    };
    RowDiagnosis {
        table: table.to_owned(),
        key: key.to_owned(),
        verdict,
        what,
        advice,
        here: match look {
            Look::Row(here) => Some(here),
            Look::NoTables | Look::UnknownTable | Look::BadKey(..) => None,
        },
        there,
    }
}

fn bad_key(key: &str, present: bool, refused: bool) -> Said {
    let what = match (present, refused) {
        (true, true) => {
            format!("its key \"{key}\" is no UUID: it is in the rejected list, and stays here")
        }
        (true, false) => {
            format!("its key \"{key}\" is no UUID: it will be put into the rejected list")
        }
        (false, _) => format!(
            "there is no such row, and \"{key}\" is no UUID: the key of no synchronised row"
        ),
    };
    said(RowVerdict::KeyIsNoUuid, what, "give the row a UUID as key")
}

/// What the file alone explains: an edit that has not gone, a state that cannot
/// be written.
fn local(here: &RowHere, findings: &[Finding]) -> Option<Said> {
    if let Some(refused) = &here.rejected {
        return Some(said(
            RowVerdict::Rejected,
            format!(
                "the edit made here was refused: {} {}",
                refused.reason, refused.detail
            ),
            format!(
                "edit the row again, or `oversqlite rejected retry {0}`, or `rejected drop {0}` to get the server's state back",
                refused.number
            ),
        ));
    }
    if let Some(parked) = &here.parked {
        let detail = match parked.detail.is_empty() {
            true => String::new(),
            false => format!(": {}", parked.detail),
        };
        return Some(said(
            RowVerdict::Parked,
            format!(
                "version {} of the server has come and cannot be written into the table ({}{detail})",
                parked.number, parked.reason
            ),
            "it is written by itself when what is in the way has gone: the missing row arrives, the schema is mended, a newer version comes",
        ));
    }
    if let Some(parent) = &here.waits_for {
        return Some(match here.waits_for_rejected {
            true => said(
                RowVerdict::WaitsForRow,
                format!("the edit waits for {parent}, which it refers to and which was refused"),
                "mend or drop that row, see `oversqlite rejected`",
            ),
            false => said(
                RowVerdict::WaitsForRow,
                format!("the edit waits for {parent}, which it refers to and which is on its way"),
                "it goes by itself when that one has arrived",
            ),
        });
    }
    if let Some(version) = here.met_version {
        return Some(said(
            RowVerdict::WaitsForEdit,
            format!("version {version} of the server met an edit that is not settled yet"),
            "the two are put together with the next synchronisation",
        ));
    }
    let stage = match here.change_id {
        Some(id) => format!("the edit is on its way as change {id}, and not acknowledged"),
        None if here.pending => "the edit is captured and waits to be sent".to_owned(),
        None if here.captured => {
            "the edit is captured, and no client has looked at it yet".to_owned()
        }
        None => return None,
    };
    let (why, advice) = held_up(findings, Way::Up);
    Some(said(RowVerdict::Unsent, format!("{stage}{why}"), advice))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// The first reason why nothing moves.
fn held_up(findings: &[Finding], way: Way) -> (String, String) {
    let paused = match way {
        Way::Up => Symptom::UploadsPaused,
        Way::Down => Symptom::DownloadsPaused,
    };
    let reasons = [
        Symptom::TableUnfit,
        paused,
        Symptom::BadAddress,
        Symptom::Unreachable,
        Symptom::NotTheServer,
        Symptom::NoToken,
        Symptom::TokenExpired,
        Symptom::TokenNotYetValid,
        Symptom::TokenOfAnotherUser,
        Symptom::TokenOfAnotherDevice,
        Symptom::TokenRefused,
        Symptom::SchemaVersion,
        Symptom::Overloaded,
        Symptom::ServerFails,
        Symptom::FirstPassIncomplete,
        Symptom::NobodySynchronises,
    ];
    let found = reasons
        .iter()
        .find_map(|reason| findings.iter().find(|found| found.symptom == *reason));
    match found {
        Some(found) => (
            format!("; held up because {}", found.what),
            found.advice.clone(),
        ),
        None => (
            String::new(),
            "it goes with the next synchronisation".to_owned(),
        ),
    }
}

/// Nothing is on its way from here.
fn settled(
    here: &RowHere,
    there: Option<&RowThere>,
    state: Option<&State>,
    findings: &[Finding],
) -> Said {
    let Some(there) = there else {
        let advice = "the server could not be asked; try again with a connection";
        return unasked(here, advice.to_owned());
    };
    let Some(last) = &there.last else {
        if there.not_read_below > 0 {
            let advice = format!(
                "the server has no change of it behind position {} of {}; what is older was not read",
                there.not_read_below, there.head
            );
            return unasked(here, advice);
        }
        return match (here.present, here.version) {
            (false, _) => said(
                RowVerdict::Nowhere,
                "it is neither here nor on the server",
                "was it written by another user, or is the key right?",
            ),
            (true, 0) => not_captured(),
            (true, version) => said(
                RowVerdict::Differs,
                format!("it stands here at version {version}, and the server has never had it"),
                "the server has lost it, or is another one; the next synchronisation sends it again",
            ),
        };
    };
    let by = format!(
        "change {} of device \"{}\" at {}",
        last.change_id, last.device, last.at
    );
    if here.version == last.version {
        return same(here, last, &by);
    }
    let cursor = state.map_or(0, |state| state.cursor.get());
    if last.server_id > cursor {
        let (why, advice) = held_up(findings, Way::Down);
        return said(
            RowVerdict::NotDownloaded,
            format!(
                "the server has version {} at position {} ({by}), this file has applied up to {cursor}{why}",
                last.version, last.server_id
            ),
            advice,
        );
    }
    said(
        RowVerdict::Differs,
        format!(
            "the server has version {} ({by}), this file holds version {} although it has passed that position",
            last.version, here.version
        ),
        "please report this; deleting nothing and opening a fresh file brings the server's state",
    )
}

/// What the file alone can say.
fn unasked(here: &RowHere, advice: String) -> Said {
    let what = match (here.present, here.version, here.deleted) {
        (true, 0, _) => return not_captured(),
        (true, version, _) => {
            format!("it stands here at version {version}; nothing of it is unsent")
        }
        (false, 0, _) => "it is not here, and this file has never heard of it".to_owned(),
        (false, version, true) => {
            format!("it was deleted; this file knows it from version {version}")
        }
        (false, version, false) => {
            return said(
                RowVerdict::NotCaptured,
                format!(
                    "it is not in the table, though this file holds version {version} of it: its delete was not captured"
                ),
                "synchronise: the client looks for such rows when it puts the triggers back",
            );
        }
    };
    said(RowVerdict::ServerNotAsked, what, advice)
}

fn not_captured() -> Said {
    said(
        RowVerdict::NotCaptured,
        "it stands in the table, and no trigger has noted it: it was written while the triggers were missing or switched off",
        "touch it (`UPDATE … SET id = id`), or synchronise where triggers are missing: all rows are then looked at",
    )
}

/// Both are at one version.
fn same(here: &RowHere, last: &LastChange, by: &str) -> Said {
    let version = last.version;
    match (here.present, last.deleted) {
        (false, true) => said(
            RowVerdict::Deleted,
            format!("it was deleted by {by}"),
            "nothing to do",
        ),
        (true, true) => not_captured(),
        (false, false) => said(
            RowVerdict::NotCaptured,
            format!(
                "it is not in the table, though both sides are at version {version}: its delete was not captured"
            ),
            "synchronise: the client looks for such rows when it puts the triggers back",
        ),
        (true, false) => match differing(here.payload.as_deref(), last.payload.as_deref()) {
            columns if columns.is_empty() => said(
                RowVerdict::Same,
                format!("it is the same here and on the server, at version {version} ({by})"),
                "nothing to do",
            ),
            columns => said(
                RowVerdict::NotCaptured,
                format!(
                    "both sides are at version {version}, and differ in {}: an edit here was not captured",
                    columns.join(", ")
                ),
                "touch the row to have it captured",
            ),
        },
    }
}

/// Columns whose values are not the same; a column that one side does not know
/// is none of them, nor is one that only spells a UUID differently.
fn differing(here: Option<&str>, there: Option<&str>) -> Vec<String> {
    let read = |text: Option<&str>| -> BTreeMap<String, Value> {
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    };
    let (here, there) = (read(here), read(there));
    let uuid = |value: &Value| {
        value
            .as_str()
            .and_then(oversync_shared::RowKey::parse_reference)
    };
    here.iter()
        .filter(|(name, value)| {
            there.get(*name).is_some_and(|other| {
                let same_key = uuid(value).is_some() && uuid(value) == uuid(other);
                other != *value && !same_key
            })
        })
        .map(|(name, _)| name.clone())
        .collect()
}
