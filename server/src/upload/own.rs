//! Changes of the server itself: back-end code that writes a user's rows.
//!
//! They take the same road as a device's upload, as the device `server`. What
//! differs: their change ids are given out by the server, in every round of
//! [`apply`](super::apply) anew, above the highest on record; and a change may
//! build on whatever its row is by then. Devices can say neither.

use super::parse::{self, SentBase};
use super::{ReadError, Upload, checked};
use bytestring::ByteString;
use oversync_shared::ids::NameError;
use oversync_shared::upload::{Base, Decision, RawChange};
use oversync_shared::wire::{Limits, Op};
use oversync_shared::{Catalog, ChangeId, DeviceId, RowVersion, UserId};
use serde_json::value::RawValue;

/// The word for [`Base::Current`] in a request.
const CURRENT: &str = "current";

/// One change that the server makes to a user's row.
#[derive(Debug, Clone)]
pub struct ServerChange {
    /// The row's schema; empty is `public`.
    pub schema: String,
    /// The row's table.
    pub table: String,
    /// What happens to it; to the version gate, INSERT is the same as UPDATE.
    pub op: Op,
    /// Its key, a UUID.
    pub pk: String,
    /// What it must be before.
    pub base: Base,
    /// The whole row, one JSON object; none for a delete.
    pub payload: Option<Box<RawValue>>,
}

impl ServerChange {
    /// Sets a row, new or not.
    pub fn set(schema: &str, table: &str, pk: &str, base: Base, payload: Box<RawValue>) -> Self {
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            op: if base == Base::NEW {
                Op::Insert
            } else {
                Op::Update
            },
            pk: pk.to_owned(),
            base,
            payload: Some(payload),
        }
    }

    /// Deletes a row.
    pub fn delete(schema: &str, table: &str, pk: &str, base: Base) -> Self {
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            op: Op::Delete,
            pk: pk.to_owned(),
            base,
            payload: None,
        }
    }
}

/// Why a body is not a write that can be decided. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAWrite {
    /// As for an upload.
    #[error(transparent)]
    Upload(#[from] ReadError),
    /// No `user`.
    #[error("user is missing")]
    NoUser,
    /// A `user` that is no name.
    #[error("user {0}")]
    User(NameError),
    /// A `server_version` that is a text, but not `current`.
    #[error("server_version must be an integer or \"current\", not {0:?}")]
    Base(String),
}

/// Reads the body of a write: an upload with a `user`, in which
/// `"server_version": "current"` stands for whatever the version is.
pub fn read_write(
    body: &ByteString,
    catalog: &Catalog,
    limits: &Limits,
) -> Result<Upload, NotAWrite> {
    let envelope =
        parse::parse_write(body.as_bytes(), limits.max_changes).map_err(ReadError::from)?;
    let user = envelope.user.as_deref().ok_or(NotAWrite::NoUser)?;
    let user = UserId::new(user).map_err(NotAWrite::User)?;
    let mut bases = Vec::with_capacity(envelope.changes.len());
    for sent in &envelope.changes {
        bases.push(match sent.base() {
            SentBase::Version(version) => Base::Version(RowVersion::new(*version)),
            SentBase::Word(word) if word == CURRENT => Base::Current,
            SentBase::Word(word) => return Err(NotAWrite::Base(word.clone().into_owned())),
        });
    }
    let upload = super::assemble(body, &user, &DeviceId::server(), envelope, catalog, limits)?;
    Ok(numbered(upload, bases))
}

/// Checks changes made in this process.
pub fn write_of(
    user: &UserId,
    changes: &[ServerChange],
    catalog: &Catalog,
    limits: &Limits,
) -> Upload {
    let mut upload = Upload {
        user: user.clone(),
        device: DeviceId::server(),
        epoch: None,
        settled_below: None,
        ids: vec![ChangeId::default(); changes.len()],
        changes: Vec::with_capacity(changes.len()),
        payloads: Vec::with_capacity(changes.len()),
        room: None,
    };
    if changes.len() > limits.max_changes {
        upload.refuse_all(limits.max_changes);
        return upload;
    }
    let mut scratch = Vec::new();
    for change in changes {
        let payload = change.payload.as_deref().map(RawValue::get);
        let raw = RawChange {
            source_change_id: 0,
            schema: &change.schema,
            table: &change.table,
            op: change.op.as_str(),
            pk: &change.pk,
            server_version: change.base.version().map_or(0, RowVersion::get),
            payload: payload.filter(|text| *text != "null"),
        };
        upload
            .changes
            .push(checked(&raw, catalog, limits, &mut scratch));
        upload.payloads.push(raw.payload.map(ByteString::from));
    }
    let bases = changes.iter().map(|change| change.base).collect();
    numbered(upload, bases)
}

/// Gives each change its base, and a number that is only different from the
/// others' until the real one is known.
fn numbered(mut upload: Upload, bases: Vec<Base>) -> Upload {
    for (position, (change, base)) in upload.changes.iter_mut().zip(bases).enumerate() {
        if let Ok(change) = change {
            change.id = ChangeId::new(position as i64 + 1);
            change.base = base;
        }
    }
    upload
}

/// Gives the entries of a decision their change ids: what follows the highest on
/// record. The guard makes that still true at the commit.
pub(super) fn give_ids(decision: &mut Decision, highest: ChangeId) {
    for (next, entry) in (highest.get() + 1..).zip(&mut decision.plan.log) {
        entry.change_id = ChangeId::new(next);
    }
}

/// The ids that the answer shows: those given out, 0 for what was not written.
pub(super) fn given_ids(decision: &Decision) -> Vec<ChangeId> {
    let mut ids = vec![ChangeId::default(); decision.verdicts.len()];
    for entry in &decision.plan.log {
        ids[entry.position] = entry.change_id;
    }
    ids
}
