//! What devices write: tables, rows, contents, and their spellings on the wire.
//!
//! A [`Content`] is what a change means, with an equality of its own: the
//! checker compares contents, never fingerprints or texts. [`Words::write`]
//! spells one out, each time perhaps differently.

use crate::mutants::{Mutant, Rules};
use oversync_shared::catalog::{Catalog, ForeignKeys, Reference, RefersTo, TableSpec};
use oversync_shared::upload::{Base, Change, Fault, Fingerprint, RawChange, RowAt, check};
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, TableName};
use std::fmt::Write as _;
use std::rc::Rc;

/// Keys per table; the same ones in every table and for every user.
pub const KEYS: usize = 3;
pub const TABLES: usize = 5;
pub const ROWS: usize = KEYS * TABLES;

/// Table and key in one small number.
pub type Row = usize;

pub const TEAMS: usize = 0;
pub const PEOPLE: usize = 1;
pub const NOTES: usize = 2;
pub const CHICKENS: usize = 3;
pub const EGGS: usize = 4;

/// Schema and name.
pub const NAMES: [(&str, &str); TABLES] = [
    ("public", "teams"),
    ("public", "people"),
    ("public", "notes"),
    ("farm", "chickens"),
    ("farm", "eggs"),
];

/// Each table's foreign keys: a chain, a table that refers to itself, a cycle
/// of two.
pub const REFERENCES: [[Option<(&str, usize)>; 2]; TABLES] = [
    [None, None],
    [Some(("team", TEAMS)), None],
    [Some(("author", PEOPLE)), Some(("answers", NOTES))],
    [Some(("egg", EGGS)), None],
    [Some(("chicken", CHICKENS)), None],
];

const FIRST_KEY: u128 = 0x0f8f_ad5b_d9cb_469f_a165_7086_7728_95a0;

/// Digits that only look alike to those who read numbers as floating point.
const NUMBERS: [&str; 4] = ["1", "1.0", "9007199254740993", "9007199254740992"];

pub const fn table_of(row: Row) -> usize {
    row / KEYS
}

pub const fn row(table: usize, key: usize) -> Row {
    table * KEYS + key
}

pub fn name_of(row: Row) -> String {
    format!("{}{}", NAMES[table_of(row)].1, row % KEYS)
}

/// What a referencing column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTo {
    Absent,
    Null,
    Empty,
    /// A key and one of its spellings: a spelling is part of the value.
    Key(usize, usize),
    /// Text that is no key in any spelling.
    Nonsense,
}

/// What a change says, apart from how it is spelt and which version it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub row: Row,
    pub op: Op,
    pub links: [LinkTo; 2],
    pub number: usize,
    pub note: usize,
}

impl Content {
    pub fn delete(row: Row) -> Self {
        Self {
            row,
            op: Op::Delete,
            links: [LinkTo::Absent; 2],
            number: 0,
            note: 0,
        }
    }

    /// The rows it refers to, with the column's place.
    pub fn parents(&self) -> impl Iterator<Item = (Row, usize)> + '_ {
        (0..2).filter_map(|place| match self.links[place] {
            LinkTo::Key(key, _) => {
                let (_, table) = REFERENCES[table_of(self.row)][place]?;
                Some((row(table, key), place))
            }
            _ => None,
        })
    }
}

/// A change that is wrong by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    UnknownTable,
    BadKey,
    BadOperation,
    BadPayload,
}

/// One change as a device froze it.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub id: i64,
    pub content: Content,
    pub base: i64,
    /// Whatever the version is: the server may say that, whose `base` says nothing
    /// then.
    pub current: bool,
    pub flaw: Option<Flaw>,
}

/// What a device froze to be sent together.
#[derive(Debug)]
pub struct Batch {
    pub user: usize,
    pub device: usize,
    pub serial: usize,
    pub changes: Vec<Sent>,
}

/// A batch as it was spelt once.
#[derive(Debug)]
pub struct Spelt {
    pub batch: Rc<Batch>,
    pub payloads: Vec<Option<Rc<str>>>,
    /// Each change checked by itself, which is a function of its text alone.
    pub checked: Vec<Result<Change, Fault>>,
}

/// The catalogue and the spellings of every key; made once.
pub struct Words {
    pub catalog: Catalog,
    pub rows: Vec<RowAt>,
    keys: Vec<[String; 5]>,
}

impl Words {
    pub fn new() -> Self {
        let name = |table: usize| {
            TableName::parse(NAMES[table].0, NAMES[table].1).expect("the names are plain")
        };
        let specs = (0..TABLES).map(|table| TableSpec {
            name: name(table),
            references: REFERENCES[table]
                .iter()
                .flatten()
                .map(|&(column, parent)| Reference {
                    column: column.to_owned(),
                    parent: name(parent),
                    to: RefersTo::Key,
                })
                .collect(),
            after: Vec::new(),
        });
        let catalog =
            Catalog::new(specs.collect(), ForeignKeys::Enabled).expect("the tables fit together");
        let uuid = |key: usize| uuid::Uuid::from_u128(FIRST_KEY + key as u128);
        let rows = (0..ROWS)
            .map(|row| RowAt {
                table: catalog
                    .find(&name(table_of(row)))
                    .expect("it is registered"),
                key: RowKey::new(uuid(row % KEYS)),
            })
            .collect();
        let keys = (0..KEYS)
            .map(|key| {
                let uuid = uuid(key);
                let base64 = base64::Engine::encode(
                    &base64::engine::general_purpose::STANDARD,
                    uuid.as_bytes(),
                );
                [
                    uuid.hyphenated().to_string(),
                    uuid.simple().to_string(),
                    uuid.to_string().to_uppercase(),
                    uuid.braced().to_string(),
                    base64,
                ]
            })
            .collect();
        Self {
            catalog,
            rows,
            keys,
        }
    }

    pub fn row_of(&self, at: RowAt) -> Row {
        let key = at.key.uuid().as_u128() - FIRST_KEY;
        row(at.table.index(), key as usize)
    }

    /// A reference as the server names it when it is missing.
    pub fn missing(&self, content: &Content, place: usize) -> String {
        let (LinkTo::Key(key, spelling), Some((_, table))) = (
            content.links[place],
            REFERENCES[table_of(content.row)][place],
        ) else {
            return String::new();
        };
        let (schema, name) = NAMES[table];
        format!("{schema}.{name}:{}", self.keys[key][spelling])
    }

    /// Spells a batch; `style` chooses key order, white space and escapes.
    pub fn spell(&self, batch: &Rc<Batch>, style: usize, rules: Rules) -> Spelt {
        let mut scratch = Vec::new();
        let mut payloads = Vec::with_capacity(batch.changes.len());
        let mut checked = Vec::with_capacity(batch.changes.len());
        for (place, sent) in batch.changes.iter().enumerate() {
            let payload = self.payload(sent, style).map(Rc::<str>::from);
            let table = table_of(sent.content.row);
            let raw = RawChange {
                source_change_id: sent.id,
                schema: NAMES[table].0,
                table: match sent.flaw {
                    Some(Flaw::UnknownTable) => "nowhere",
                    _ => NAMES[table].1,
                },
                op: match sent.flaw {
                    Some(Flaw::BadOperation) => "UPSERT",
                    _ => sent.content.op.as_str(),
                },
                pk: match sent.flaw {
                    Some(Flaw::BadKey) => "seven",
                    // Base64 is for referencing columns only.
                    _ => &self.keys[sent.content.row % KEYS][(style + place) % 4],
                },
                server_version: sent.base,
                payload: payload.as_deref(),
            };
            let mut change = check(&raw, &self.catalog, 4_096, &mut scratch);
            if let Ok(change) = &mut change
                && sent.current
            {
                change.base = Base::Current;
            }
            if rules.is(Mutant::FingerprintOfRawText)
                && let Ok(change) = &mut change
            {
                change.fingerprint = raw_text_fingerprint(payload.as_deref().unwrap_or_default());
            }
            checked.push(change);
            payloads.push(payload);
        }
        Spelt {
            batch: batch.clone(),
            payloads,
            checked,
        }
    }

    fn payload(&self, sent: &Sent, style: usize) -> Option<String> {
        let content = &sent.content;
        let flawed = sent.flaw == Some(Flaw::BadPayload);
        match (content.op.is_upsert(), flawed) {
            (false, false) | (true, true) => return None,
            (false, true) => return Some("{}".to_owned()),
            (true, false) => {}
        }
        let space = if style & 1 == 0 { "" } else { " " };
        let e = if style & 2 == 0 { "é" } else { "\\u00e9" };
        let mut out = String::with_capacity(96);
        out.push('{');
        let mut put = |part: usize| {
            let comma = if out.len() == 1 { "" } else { "," };
            let column = |place: usize| REFERENCES[table_of(content.row)][place];
            let done = match part {
                0 => write!(
                    out,
                    "{comma}{space}\"n\":{space}{}",
                    NUMBERS[content.number]
                ),
                1 => write!(out, "{comma}\"t\":\"{e}{}\"{space}", content.note),
                _ => match (column(part - 2), content.links[part - 2]) {
                    (None, _) | (_, LinkTo::Absent) => Ok(()),
                    (Some((name, _)), LinkTo::Null) => write!(out, "{comma}\"{name}\":{space}null"),
                    (Some((name, _)), LinkTo::Empty) => write!(out, "{comma}\"{name}\":\"\""),
                    (Some((name, _)), LinkTo::Nonsense) => {
                        write!(out, "{comma}\"{name}\":\"x\"{space}")
                    }
                    (Some((name, _)), LinkTo::Key(key, spelling)) => {
                        write!(
                            out,
                            "{comma}\"{name}\"{space}:\"{}\"",
                            self.keys[key][spelling]
                        )
                    }
                },
            };
            done.expect("a String takes any text");
        };
        if style & 4 == 0 {
            (0..4).for_each(&mut put);
        } else {
            (0..4).rev().for_each(&mut put);
        }
        out.push('}');
        Some(out)
    }
}

pub fn draw_number(chance: &mut crate::chance::Chance) -> usize {
    chance.below(NUMBERS.len())
}

/// What a careless server would compare.
fn raw_text_fingerprint(text: &str) -> Fingerprint {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Fingerprint(hash.to_le_bytes())
}
