//! From what was sent to a change that can be decided.
//!
//! The checks run in the order PROTOCOL.md section 3 gives them; the first
//! failure is the verdict. What passes has folded names, a parsed key, a
//! fingerprint of its content and its references read from the payload.

use super::fault::Fault;
use crate::catalog::{Catalog, TableIx};
use crate::ids::{ChangeId, RowVersion};
use crate::json::{self, JsonFault, Kind, Reader};
use crate::key::RowKey;
use crate::names::TableName;
use crate::wire::Op;
use sha2::{Digest, Sha256};

/// One change as it was sent: only its JSON types are known.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawChange<'a> {
    /// Device-local number.
    pub source_change_id: i64,
    /// As sent.
    pub schema: &'a str,
    /// As sent.
    pub table: &'a str,
    /// As sent.
    pub op: &'a str,
    /// As sent.
    pub pk: &'a str,
    /// As sent.
    pub server_version: i64,
    /// The payload's text; `None` when absent or null.
    pub payload: Option<&'a str>,
}

/// The first 16 bytes of SHA-256 over a change's content: table, key,
/// operation and payload as JSON values. Tells a repeated change from a change
/// id used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// Of a stored change, with its payload as it came; what [`check`] gave the
    /// change when it was sent. `scratch` is working space.
    pub fn of(
        table: &TableName,
        key: RowKey,
        op: Op,
        payload: Option<&str>,
        scratch: &mut Vec<u8>,
    ) -> Result<Self, JsonFault> {
        scratch.clear();
        if let Some(payload) = payload {
            json::canonicalise(payload, scratch)?;
        }
        Ok(Self::new(table, key, op, scratch))
    }

    fn new(table: &TableName, key: RowKey, op: Op, canonical_payload: &[u8]) -> Self {
        let mut hash = Sha256::new();
        // Names cannot contain a line feed, so the parts cannot run together.
        for part in [
            table.schema.as_bytes(),
            table.table.as_bytes(),
            op.as_str().as_bytes(),
        ] {
            hash.update(part);
            hash.update(b"\n");
        }
        hash.update(key.uuid().as_bytes());
        hash.update(canonical_payload);
        let digest = hash.finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }
}

/// A reference that a payload holds, in a foreign key column of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The table it refers to.
    pub parent: TableIx,
    /// What it says.
    pub value: LinkValue,
}

/// The value of a referencing column. Null, absent and empty are no links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkValue {
    /// A key, with the text as sent.
    Key(RowKey, String),
    /// Nothing that could be a key.
    NotKey,
}

/// The state of its row that a change builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The version its sender has seen: the version gate compares.
    Version(RowVersion),
    /// Whatever the row is when its turn comes: the gate lets it pass. For the
    /// server's own changes only; a device cannot say this.
    Current,
}

impl Base {
    /// A row that has never been seen.
    pub const NEW: Self = Self::Version(RowVersion::NEVER_SEEN);

    /// The version, where it names one.
    pub const fn version(self) -> Option<RowVersion> {
        match self {
            Self::Version(version) => Some(version),
            Self::Current => None,
        }
    }
}

/// A change that passed the checks of its own text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Device-local number.
    pub id: ChangeId,
    /// The registered table.
    pub table: TableIx,
    /// What happens to the row.
    pub op: Op,
    /// The row.
    pub key: RowKey,
    /// What its sender believes the row is.
    pub base: Base,
    /// Of its content.
    pub fingerprint: Fingerprint,
    /// What the payload refers to.
    pub links: Vec<Link>,
}

/// Checks one change by itself, in the protocol's order.
///
/// `scratch` is working space, to be passed again for the next change.
pub fn check(
    raw: &RawChange<'_>,
    catalog: &Catalog,
    max_payload_bytes: usize,
    scratch: &mut Vec<u8>,
) -> Result<Change, Fault> {
    let name = TableName::parse(raw.schema, raw.table).map_err(Fault::Name)?;
    let Some(table) = catalog.find(&name) else {
        return Err(Fault::Unregistered(name));
    };
    let op = Op::parse(raw.op).ok_or_else(|| Fault::Operation(raw.op.trim().to_uppercase()))?;
    let key = RowKey::parse(raw.pk).ok_or_else(|| Fault::Key(raw.pk.to_owned()))?;
    if op.is_upsert() && raw.payload.is_none() {
        return Err(Fault::PayloadMissing(op));
    }
    scratch.clear();
    let mut links = Vec::new();
    if let Some(payload) = raw.payload {
        if payload.len() > max_payload_bytes {
            return Err(Fault::PayloadTooLarge {
                bytes: payload.len(),
                limit: max_payload_bytes,
            });
        }
        if Reader::new(payload).kind() != Ok(Kind::Object) {
            return Err(Fault::PayloadNotObject);
        }
        if !op.is_upsert() {
            return Err(Fault::DeleteWithPayload);
        }
        json::canonicalise(payload, scratch).map_err(Fault::PayloadMalformed)?;
        links = read_links(payload, table, catalog);
    }
    Ok(Change {
        id: ChangeId::new(raw.source_change_id),
        table,
        op,
        key,
        base: Base::Version(RowVersion::new(raw.server_version)),
        fingerprint: Fingerprint::new(&name, key, op, scratch),
        links,
    })
}

fn read_links(payload: &str, table: TableIx, catalog: &Catalog) -> Vec<Link> {
    let keys = &catalog.table(table).foreign_keys;
    if keys.is_empty() {
        return Vec::new();
    }
    let members = json::members(payload).expect("BUG: the payload has been checked");
    keys.iter()
        .filter_map(|key| {
            let (_, text) = members
                .iter()
                .find(|(name, _)| *name == key.column.as_str())?;
            Some(Link {
                parent: key.parent,
                value: read_link(text)?,
            })
        })
        .collect()
}

/// `None` for null and the empty string, which refer to nothing.
fn read_link(text: &str) -> Option<LinkValue> {
    let mut reader = Reader::new(text);
    match reader.kind() {
        Ok(Kind::Null) => None,
        Ok(Kind::String) => {
            let value = reader.string().expect("BUG: the payload has been checked");
            if value.is_empty() {
                return None;
            }
            Some(match RowKey::parse_reference(&value) {
                Some(key) => LinkValue::Key(key, value.into_owned()),
                None => LinkValue::NotKey,
            })
        }
        _ => Some(LinkValue::NotKey),
    }
}
