//! Two edits of one row, put together column by column.
//!
//! Takes the row as it was before the local edit, as it stands on this device
//! and as it stands on the server, as JSON objects, and says what the row shall
//! be and what is lost by that. Values are compared as JSON values, numbers by
//! their digits; column names fold to lower case. Pure: the device calls it when
//! an unsent edit has met a newer row, and carries the outcome out.
//!
//! A column that a side does not carry is unknown to it (PROTOCOL.md section
//! 6a): its absence is no edit, and the other side's value stays.

mod number;
mod policy;
#[cfg(test)]
mod tests;

use crate::json::{self, JsonFault};
pub use number::compare;
pub use policy::{ColumnChoice, ColumnConflict, ColumnPolicy, ColumnRule, Policies};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Whose value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This device's.
    Client,
    /// The server's.
    Server,
}

/// Whose row the merged one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// The server has all of it already: nothing is left to be sent.
    Theirs,
    /// It is this device's row as it is.
    Mine,
    /// Neither: it is written here, and sent.
    Mixed,
}

/// A value that is not in the merged row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The column.
    pub column: String,
    /// Whose value it was.
    pub side: Side,
    /// The value, as JSON text.
    pub value: String,
}

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The row, as a JSON object.
    pub row: String,
    /// Whose it is.
    pub stands: Stands,
    /// What was lost, by column.
    pub lost: Vec<Lost>,
}

struct Value<'a> {
    raw: &'a str,
    /// Equal exactly for equal JSON values.
    form: Vec<u8>,
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

type Row<'a> = BTreeMap<String, Value<'a>>;

fn fold(column: &str) -> String {
    column.to_lowercase()
}

fn read(text: &str) -> Result<Row<'_>, JsonFault> {
    json::canonicalise(text, &mut Vec::new())?;
    let mut row = Row::new();
    for (name, raw) in json::members(text)? {
        let mut form = Vec::new();
        json::canonicalise(raw, &mut form)?;
        // A second spelling of a column is ignored, as on writing it.
        row.entry(fold(&name)).or_insert(Value { raw, form });
    }
    Ok(row)
}

/// Merges two edits of one row.
///
/// A column changed on one side only takes that side's value; changed to the
/// same value on both, that value (in a counter both count); changed differently,
/// what its policy says.
/// Without a base (the row was not known to the server before the edit, or the
/// image was lost) every column in which the sides differ counts as changed on
/// both.
pub fn merge(
    base: Option<&str>,
    mine: &str,
    theirs: &str,
    policies: &Policies,
) -> Result<Merged, JsonFault> {
    let base = base.map(read).transpose()?;
    let (mine, theirs) = (read(mine)?, read(theirs)?);
    let sides = Sides {
        base: base.as_ref(),
        mine: &mine,
        theirs: &theirs,
    };
    let mut merged = Merging::default();
    for column in names(&mine, &theirs) {
        merged.take(sides, column, policies);
    }
    let mut row = merged.row;
    row.push_str(if row.is_empty() { "{}" } else { "}" });
    Ok(Merged {
        row,
        stands: match (merged.sends, merged.writes) {
            (false, _) => Stands::Theirs,
            (true, false) => Stands::Mine,
            (true, true) => Stands::Mixed,
        },
        lost: merged.lost,
    })
}

/// Which changes of either side are not in a row that somebody else has decided
/// on; a value that neither side keeps is named once, as this device's.
pub fn lost(
    base: Option<&str>,
    mine: &str,
    theirs: &str,
    outcome: &str,
) -> Result<Vec<Lost>, JsonFault> {
    let base = base.map(read).transpose()?;
    let (mine, theirs, outcome) = (read(mine)?, read(theirs)?, read(outcome)?);
    let sides = Sides {
        base: base.as_ref(),
        mine: &mine,
        theirs: &theirs,
    };
    let mut found = Vec::new();
    for column in names(&mine, &theirs) {
        let (m, t) = (mine.get(column), theirs.get(column));
        if m == t {
            continue;
        }
        let stands = outcome.get(column).or(m).or(t);
        for (value, side) in [(m, Side::Client), (t, Side::Server)] {
            if let Some(value) = value
                && sides.changed(column, value)
                && stands != Some(value)
            {
                found.push(loss(column, side, value));
                break;
            }
        }
    }
    Ok(found)
}

fn names<'a>(mine: &'a Row<'_>, theirs: &'a Row<'_>) -> BTreeSet<&'a str> {
    mine.keys()
        .chain(theirs.keys())
        .map(String::as_str)
        .collect()
}

fn loss(column: &str, side: Side, value: &Value<'_>) -> Lost {
    Lost {
        column: column.to_owned(),
        side,
        value: value.raw.to_owned(),
    }
}

#[derive(Clone, Copy)]
struct Sides<'a> {
    base: Option<&'a Row<'a>>,
    mine: &'a Row<'a>,
    theirs: &'a Row<'a>,
}

impl<'a> Sides<'a> {
    fn base(&self, column: &str) -> Option<&'a Value<'a>> {
        self.base.and_then(|base| base.get(column))
    }

    /// Whether a value is an edit, as far as one can know.
    fn changed(&self, column: &str, value: &Value<'_>) -> bool {
        self.base(column) != Some(value)
    }
}

#[derive(Default)]
struct Merging {
    row: String,
    lost: Vec<Lost>,
    /// Something in it is news to the server.
    sends: bool,
    /// Something in it is news to this device.
    writes: bool,
}

impl Merging {
    fn push(&mut self, column: &str, raw: &str) {
        self.row.push(if self.row.is_empty() { '{' } else { ',' });
        self.row
            .push_str(&serde_json::to_string(column).expect("BUG: a string always serialises"));
        self.row.push(':');
        self.row.push_str(raw);
    }

    fn take(&mut self, sides: Sides<'_>, column: &str, policies: &Policies) {
        let (mine, theirs) = match (sides.mine.get(column), sides.theirs.get(column)) {
            (Some(mine), Some(theirs)) if mine == theirs => {
                return match counted_twice(sides, column, mine, policies) {
                    Some(sum) => self.value(column, &sum, mine, theirs),
                    None => self.push(column, theirs.raw),
                };
            }
            (Some(mine), Some(theirs)) => (mine, theirs),
            (Some(mine), None) => {
                self.sends |= sides.changed(column, mine);
                return self.push(column, mine.raw);
            }
            (None, Some(theirs)) => {
                self.writes = true;
                return self.push(column, theirs.raw);
            }
            (None, None) => return,
        };
        if !sides.changed(column, mine) {
            return self.server(column, theirs);
        }
        if !sides.changed(column, theirs) {
            return self.client(column, mine);
        }
        match decide(sides, column, mine, theirs, policies.of(column)) {
            ColumnChoice::Server => {
                self.lost.push(loss(column, Side::Client, mine));
                self.server(column, theirs);
            }
            ColumnChoice::Client => {
                self.lost.push(loss(column, Side::Server, theirs));
                self.client(column, mine);
            }
            ColumnChoice::Value(value) => self.value(column, &value, mine, theirs),
        }
    }

    /// A value of neither side, perhaps.
    fn value(&mut self, column: &str, value: &str, mine: &Value<'_>, theirs: &Value<'_>) {
        let same = |side: &Value<'_>| {
            let mut form = Vec::new();
            json::canonicalise(value, &mut form).is_ok() && form == side.form
        };
        self.sends |= !same(theirs);
        self.writes |= !same(mine);
        self.push(column, value);
    }

    fn server(&mut self, column: &str, theirs: &Value<'_>) {
        self.writes = true;
        self.push(column, theirs.raw);
    }

    fn client(&mut self, column: &str, mine: &Value<'_>) {
        self.sends = true;
        self.push(column, mine.raw);
    }
}

/// Two devices that have added the same to a counter have both added it.
fn counted_twice(
    sides: Sides<'_>,
    column: &str,
    both: &Value<'_>,
    policies: &Policies,
) -> Option<String> {
    let base = sides.base(column)?;
    match policies.of(column) {
        ColumnPolicy::Add if base != both => number::add(base.raw, both.raw, both.raw),
        _ => None,
    }
}

fn decide(
    sides: Sides<'_>,
    column: &str,
    mine: &Value<'_>,
    theirs: &Value<'_>,
    policy: &ColumnPolicy,
) -> ColumnChoice {
    let greater = |order: Option<Ordering>| match order {
        Some(Ordering::Greater) => ColumnChoice::Client,
        _ => ColumnChoice::Server,
    };
    match policy {
        ColumnPolicy::Server => ColumnChoice::Server,
        ColumnPolicy::Client => ColumnChoice::Client,
        ColumnPolicy::Newest(stamp) => {
            let stamp = fold(stamp);
            let of = |row: &Row<'_>| row.get(&stamp).map(|value| value.raw.to_owned());
            greater(newer(
                of(sides.mine).as_deref(),
                of(sides.theirs).as_deref(),
            ))
        }
        ColumnPolicy::Max => greater(compare(mine.raw, theirs.raw)),
        ColumnPolicy::Min => greater(compare(theirs.raw, mine.raw)),
        ColumnPolicy::Add => sides
            .base(column)
            .and_then(|base| number::add(base.raw, mine.raw, theirs.raw))
            .map_or(ColumnChoice::Server, ColumnChoice::Value),
        ColumnPolicy::Custom(rule) => {
            let choice = rule(&ColumnConflict {
                column,
                base: sides.base(column).map(|value| value.raw),
                mine: mine.raw,
                theirs: theirs.raw,
            });
            match choice {
                ColumnChoice::Value(text)
                    if json::canonicalise(&text, &mut Vec::new()).is_err() =>
                {
                    ColumnChoice::Server
                }
                choice => choice,
            }
        }
    }
}

/// The value of a column, as JSON text; none when the row does not carry it.
pub fn value<'a>(row: &'a str, column: &str) -> Option<&'a str> {
    let column = fold(column);
    read(row).ok()?.get(&column).map(|value| value.raw)
}

/// Compares two stamps: a value is newer than NULL and than none at all.
pub fn newer(mine: Option<&str>, theirs: Option<&str>) -> Option<Ordering> {
    let present = |stamp: Option<&str>| stamp.filter(|text| text.trim() != "null").is_some();
    match (present(mine), present(theirs)) {
        (true, true) => compare(mine?, theirs?),
        (here, there) => Some(here.cmp(&there)),
    }
}
