//! Changes as a test writes them down: the tables they are of, what refers to what
//! there, and the little that the business tables hold.

use crate::catalog::{ColumnIx, Compared, ForeignKeys, Reference, RefersTo, TableSpec};
use crate::names::TableName;
use crate::upload::{Change, ColumnValue, Fault, Holder, RawChange, RowAt, check};
use crate::wire::Op;
use crate::{Catalog, RowKey, TableIx};
use std::collections::HashMap;
use uuid::Uuid;

/// Column, parent, and the parent's column where it is not the key.
type Refers = (&'static str, &'static str, Option<&'static str>);

/// Parent, child, refers to itself, refer to each other; the same by a column
/// that is not the key, and a ring of both kinds.
pub(super) const TABLES: &[(&str, &[Refers])] = &[
    ("posts", &[("author_id", "users", None)]),
    ("users", &[]),
    ("nodes", &[("parent_id", "nodes", None)]),
    ("lefts", &[("right_id", "rights", None)]),
    ("rights", &[("left_id", "lefts", None)]),
    ("badges", &[("wearer", "people", Some("name"))]),
    ("people", &[]),
    ("terms", &[("broader", "terms", Some("name"))]),
    ("cocks", &[("hen", "hens", Some("name"))]),
    ("hens", &[("cock_id", "cocks", None)]),
];

/// Business rows with a name: their table, their key if it is a UUID, their name.
pub(super) const BUSINESS: &[(&str, Option<u8>, u8)] =
    &[("people", Some(2), 1), ("terms", None, 2)];

pub(super) fn catalog() -> Catalog {
    catalog_with(ForeignKeys::RefColumnAware)
}

pub(super) fn catalog_with(mode: ForeignKeys) -> Catalog {
    let name = |table: &str| TableName::parse("s", table).expect("valid");
    let specs = TABLES.iter().map(|(table, references)| TableSpec {
        name: name(table),
        references: references
            .iter()
            .map(|(column, parent, by)| Reference {
                column: (*column).to_owned(),
                parent: name(parent),
                to: by.map_or(RefersTo::Key, |by| RefersTo::Column {
                    name: by.to_owned(),
                    compared: Compared::AsText,
                }),
            })
            .collect(),
        after: Vec::new(),
    });
    Catalog::new(specs.collect(), mode).expect("valid")
}

/// What the business tables hold of the values that changes refer to.
pub(super) fn holders(
    catalog: &Catalog,
    changes: &[Result<Change, Fault>],
) -> HashMap<(ColumnIx, ColumnValue), Vec<Holder>> {
    let values = changes.iter().flatten().flat_map(Change::values);
    let found = values.map(|(column, value)| {
        let table = &catalog.column(column).table.table;
        let rows = BUSINESS
            .iter()
            .filter(|(there, _, name)| there == table && value.sent() == format!("v{name}"))
            .map(|(_, n, _)| n.map_or(Holder::Other, |n| Holder::Row(key(n))))
            .collect();
        ((column, value.clone()), rows)
    });
    found.collect()
}

pub(super) fn ix(catalog: &Catalog, table: &str) -> TableIx {
    catalog
        .find(&TableName::parse("s", table).expect("valid"))
        .expect("registered")
}

pub(super) fn key(n: u8) -> RowKey {
    RowKey::new(Uuid::from_u128(n.into()))
}

/// A change as a test writes it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) id: i64,
    pub(super) table: &'static str,
    pub(super) op: Op,
    pub(super) key: u8,
    pub(super) base: i64,
    pub(super) link: LinkTo,
    pub(super) name: Name,
    pub(super) content: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Absent,
    Null,
    Is(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkTo {
    Absent,
    Null,
    Row(u8),
    NoKey,
}

pub(super) fn sent(id: i64, table: &'static str, op: Op, key: u8, base: i64) -> Sent {
    Sent {
        id,
        table,
        op,
        key,
        base,
        link: LinkTo::Absent,
        name: Name::Absent,
        content: 0,
    }
}

impl Sent {
    pub(super) fn to(mut self, parent: u8) -> Self {
        self.link = LinkTo::Row(parent);
        self
    }

    pub(super) fn named(mut self, name: u8) -> Self {
        self.name = Name::Is(name);
        self
    }

    pub(super) fn payload(&self) -> Option<String> {
        if self.op == Op::Delete {
            return None;
        }
        let columns = TABLES.iter().find(|(table, _)| *table == self.table)?.1;
        let link = columns.first().and_then(|(column, _, by)| match self.link {
            LinkTo::Absent => None,
            LinkTo::Null => Some(format!(",\"{column}\":null")),
            LinkTo::Row(n) if by.is_some() => Some(format!(",\"{column}\":\"v{n}\"")),
            LinkTo::Row(n) => Some(format!(",\"{column}\":\"{}\"", key(n))),
            LinkTo::NoKey => Some(format!(",\"{column}\":7")),
        });
        let name = match self.name {
            Name::Absent => String::new(),
            Name::Null => ",\"name\":null".to_owned(),
            Name::Is(n) => format!(",\"name\":\"v{n}\""),
        };
        Some(format!(
            "{{\"n\":{}{name}{}}}",
            self.content,
            link.unwrap_or_default()
        ))
    }

    pub(super) fn check(&self, catalog: &Catalog) -> Result<Change, Fault> {
        let (pk, payload) = (key(self.key).to_string(), self.payload());
        let raw = RawChange {
            source_change_id: self.id,
            schema: "s",
            table: self.table,
            op: self.op.as_str(),
            pk: &pk,
            server_version: self.base,
            payload: payload.as_deref(),
        };
        check(&raw, catalog, 1_000, &mut Vec::new())
    }
}

/// All changes of an upload, checked.
pub(super) fn checked(catalog: &Catalog, upload: &[Sent]) -> Vec<Result<Change, Fault>> {
    upload.iter().map(|sent| sent.check(catalog)).collect()
}

pub(super) type Row = (&'static str, u8);

/// The table that rows of this one refer to, and by which column.
pub(super) fn parent_table(table: &str) -> Option<(&'static str, Option<&'static str>)> {
    TABLES
        .iter()
        .find(|(name, _)| *name == table)?
        .1
        .first()
        .map(|(_, parent, by)| (*parent, *by))
}

pub(super) fn is_referred_to_by_name(table: &str) -> bool {
    let mut references = TABLES.iter().flat_map(|(_, references)| *references);
    references.any(|(_, parent, by)| *parent == table && by.is_some())
}

pub(super) fn looks_at_names(catalog: &Catalog) -> bool {
    catalog.mode() == ForeignKeys::RefColumnAware
}

pub(super) fn row_at(catalog: &Catalog, (table, n): Row) -> RowAt {
    RowAt {
        table: ix(catalog, table),
        key: key(n),
    }
}
