//! A row's key as the application spells it, next to its canonical form.

use crate::schema::{KeyKind, Table};
use oversync_shared::RowKey;
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, Value, ValueRef};
use uuid::Uuid;

/// A key as it stands in the application's table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LocalKey(pub(crate) Value);

impl LocalKey {
    /// The canonical key, or `None` when this is no UUID in the form the column
    /// is declared for.
    pub(crate) fn canonical(&self, kind: KeyKind) -> Option<RowKey> {
        match (&self.0, kind) {
            (Value::Text(text), KeyKind::Text) => RowKey::parse(text),
            (Value::Blob(bytes), KeyKind::Blob) => Uuid::from_slice(bytes).ok().map(RowKey::new),
            _ => None,
        }
    }

    /// The spelling this crate gives to a key that comes without one.
    pub(crate) fn usual(key: RowKey, kind: KeyKind) -> Self {
        Self(match kind {
            KeyKind::Text => {
                let mut text = Uuid::encode_buffer();
                Value::Text(key.uuid().hyphenated().encode_lower(&mut text).to_owned())
            }
            KeyKind::Blob => Value::Blob(key.uuid().as_bytes().to_vec()),
        })
    }

    /// Whether this is [`LocalKey::usual`].
    pub(crate) fn is_usual(&self, key: RowKey, kind: KeyKind) -> bool {
        match (&self.0, kind) {
            (Value::Text(text), KeyKind::Text) => {
                text == key
                    .uuid()
                    .hyphenated()
                    .encode_lower(&mut Uuid::encode_buffer())
            }
            (Value::Blob(bytes), KeyKind::Blob) => bytes == key.uuid().as_bytes(),
            _ => false,
        }
    }

    /// For people.
    pub(crate) fn display(&self) -> String {
        match &self.0 {
            Value::Null => "NULL".to_owned(),
            Value::Integer(n) => n.to_string(),
            Value::Real(x) => x.to_string(),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("x'{digits}'")
            }
        }
    }
}

impl ToSql for LocalKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for LocalKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        // Text that is not UTF-8 is kept as bytes: it is no UUID either way.
        Ok(Self(match value {
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Blob(bytes.to_vec()),
            },
            other => Value::try_from(other).expect("BUG: only text can fail to convert"),
        }))
    }
}

/// The number of a table and the canonical key: names a row in every `_sync_`
/// table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RowRef {
    pub(crate) tbl: i64,
    pub(crate) key: RowKey,
}

impl RowRef {
    pub(crate) fn new(table: &Table, key: RowKey) -> Self {
        Self { tbl: table.n, key }
    }

    pub(crate) fn pk(self) -> Uuid {
        self.key.uuid()
    }
}
