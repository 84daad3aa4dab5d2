//! From what was sent to a change that can be decided.
//!
//! The checks run in the order PROTOCOL.md section 3 gives them; the first
//! failure is the verdict. What passes has folded names, a parsed key, a
//! fingerprint of its content and its references read from the payload.

use super::fault::Fault;
use super::value::{ColumnValue, MAX_VALUE_BYTES, Read};
use super::view::RowAt;
use crate::catalog::{Catalog, ColumnIx, Parent, TableIx};
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
/// Null, absent and empty are no links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// To the key of a registered table.
    Key {
        /// The row it refers to.
        parent: RowAt,
        /// As sent.
        sent: String,
    },
    /// To the key of a registered table, and nothing that could be a key.
    NotKey,
    /// To another column.
    Column {
        /// Which.
        column: ColumnIx,
        /// What the row that it refers to must hold there.
        value: ColumnValue,
        /// Whether the payload says that its own row holds it: a row may refer
        /// to itself.
        is_own: bool,
    },
    /// To another column, by more than [`MAX_VALUE_BYTES`]: nothing is called so.
    TooLong {
        /// Which.
        column: ColumnIx,
        /// As sent, cut.
        sent: String,
    },
}

/// What a payload says of a column that other rows refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The column.
    pub column: ColumnIx,
    /// `None` for null, the empty string, and what is too long to be named.
    pub value: Option<ColumnValue>,
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
    /// Of its payload, as it was sent.
    pub bytes: usize,
    /// What the payload refers to.
    pub links: Vec<Link>,
    /// What it can be referred to by, besides its key.
    pub offers: Vec<Offer>,
}

impl Change {
    /// The row that changes.
    pub const fn row(&self) -> RowAt {
        RowAt {
            table: self.table,
            key: self.key,
        }
    }

    /// The values it refers to in columns that are not keys.
    pub fn values(&self) -> impl Iterator<Item = (ColumnIx, &ColumnValue)> {
        self.links.iter().filter_map(|link| match link {
            Link::Column { column, value, .. } => Some((*column, value)),
            Link::Key { .. } | Link::NotKey | Link::TooLong { .. } => None,
        })
    }
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
    let (mut links, mut offers) = (Vec::new(), Vec::new());
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
        (links, offers) = read_links(payload, table, catalog);
    }
    Ok(Change {
        id: ChangeId::new(raw.source_change_id),
        table,
        op,
        key,
        base: Base::Version(RowVersion::new(raw.server_version)),
        fingerprint: Fingerprint::new(&name, key, op, scratch),
        bytes: raw.payload.map_or(0, str::len),
        links,
        offers,
    })
}

pub(super) fn read_links(
    payload: &str,
    place: TableIx,
    catalog: &Catalog,
) -> (Vec<Link>, Vec<Offer>) {
    let table = catalog.table(place);
    if table.foreign_keys.is_empty() && table.offered.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let members = json::members(payload).expect("BUG: the payload has been checked");
    let find = |column: &str| {
        let found = members.iter().find(|(name, _)| *name == column);
        found.map(|(_, text)| *text)
    };
    let links = table.foreign_keys.iter().filter_map(|key| {
        let text = find(&key.column)?;
        match key.parent {
            Parent::Key(parent) => {
                let own = table.conversion.as_ref();
                read_key(text, parent, |sent| {
                    own.and_then(|own| own.0.convert_reference(&key.column, sent))
                })
            }
            Parent::Column(column) => {
                let referenced = catalog.column(column);
                let value = match ColumnValue::read(text, referenced.compared) {
                    Read::Nothing => return None,
                    Read::TooLong(sent) => return Some(Link::TooLong { column, sent }),
                    Read::Value(value) => value,
                };
                let own = || match find(&referenced.wire_name) {
                    Some(text) => ColumnValue::read(text, referenced.compared),
                    None => Read::Nothing,
                };
                let is_own = referenced.registered == Some(place)
                    && matches!(own(), Read::Value(own) if own.compared() == value.compared());
                Some(Link::Column {
                    column,
                    value,
                    is_own,
                })
            }
        }
    });
    let offers = table.offered.iter().filter_map(|&column| {
        let referenced = catalog.column(column);
        let text = find(&referenced.wire_name)?;
        let value = match ColumnValue::read(text, referenced.compared) {
            Read::Value(value) => Some(value),
            Read::Nothing | Read::TooLong(_) => None,
        };
        Some(Offer { column, value })
    });
    (links.collect(), offers.collect())
}

/// `None` for null and the empty string, which refer to nothing.
fn read_key(text: &str, table: TableIx, convert: impl Fn(&str) -> Option<RowKey>) -> Option<Link> {
    let mut reader = Reader::new(text);
    let (sent, usual) = match reader.kind() {
        Ok(Kind::Null) => return None,
        Ok(Kind::String) => {
            let sent = reader.string().expect("BUG: the payload has been checked");
            let usual = RowKey::parse_reference(&sent);
            (sent, usual)
        }
        _ => (text.into(), None),
    };
    if sent.is_empty() {
        return None;
    }
    // Whatever a host's conversion would make of it.
    if sent.len() > MAX_VALUE_BYTES {
        return Some(Link::NotKey);
    }
    Some(match convert(&sent).or(usual) {
        Some(key) => Link::Key {
            parent: RowAt { table, key },
            sent: sent.into_owned(),
        },
        None => Link::NotKey,
    })
}
