//! What foreign-key actions do to other rows while a page is applied.
//!
//! They are this device's own edits, but the capture triggers are silent: the rows
//! that a delete or an update reaches, through tables that are not synchronised as
//! well, are noted in the logs before the statement runs. Called by `place.rs`. A
//! row that is noted and not reached after all drops out when the log is collected.

use crate::db::Txn;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::log;
use crate::payload::Cell;
use crate::row;
use crate::schema::{End, ForeignKey, OnDelete, Table, quote};
use crate::shadow;
use crate::step::Step;
use oversync_shared::reconcile::Unsent;
use rusqlite::params_from_iter;
use rusqlite::types::Value;
use std::collections::HashSet;

/// Rows that refuse a delete and are looked at one by one, whether they go themselves;
/// more of them stop it.
const MOST_REFUSING: usize = 1_000;

/// What happens to a row.
#[derive(Debug, Clone, Copy)]
enum Fate<'a> {
    Deleted,
    /// These columns get other values.
    Updated(&'a [String]),
}

/// A row on the way.
struct Reached<'a> {
    end: End<'a>,
    identity: Vec<LocalKey>,
    fate: Fate<'a>,
}

/// Notes what the delete of a row does to others, unless it must not run: then it
/// says why. What is settled for rows that were refused holds only if it does run.
pub(crate) fn note_delete(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
) -> Result<Option<String>, Error> {
    if table.children.is_empty() {
        return Ok(None);
    }
    let mut walk = Walk::new(txn);
    walk.go(Reached {
        end: End::Listed(table),
        identity: vec![key.clone()],
        fate: Fate::Deleted,
    })?;
    if let Some(why) = walk.hindrance() {
        return Ok(Some(why));
    }
    for (child, key) in &walk.changed {
        note(txn, child, key)?;
    }
    Ok(None)
}

/// Notes what these new values of a row do to others; never those of its key.
pub(crate) fn note_update(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    values: &[(usize, Value)],
) -> Result<(), Error> {
    let is_followed = |index: usize| {
        let name = &table.columns[index].name;
        let mut keys = table.children.iter().filter(|key| key.follows);
        index != table.key && keys.any(|key| key.refers_to(name))
    };
    if !table.children.iter().any(|key| key.follows) {
        return Ok(());
    }
    let new: Vec<_> = values.iter().filter(|(i, _)| is_followed(*i)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let Some(old) = row::read(txn.conn, table, key)? else {
        return Ok(());
    };
    let is_other = |(i, new): &&&(usize, Value)| old[*i] != Cell::Plain(new.clone());
    let names = new.iter().filter(is_other);
    let names: Vec<String> = names.map(|(i, _)| table.columns[*i].name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut walk = Walk::new(txn);
    walk.go(Reached {
        end: End::Listed(table),
        identity: vec![key.clone()],
        fate: Fate::Updated(&names),
    })?;
    for (child, key) in &walk.changed {
        note(txn, child, key)?;
    }
    Ok(())
}

/// One walk along foreign keys.
struct Walk<'a> {
    txn: &'a Txn<'a>,
    /// Rows and what happens to them, as [`mark`] writes it.
    seen: HashSet<Vec<u8>>,
    /// Rows that refuse the delete of their parent, and the table of each.
    refuse: Vec<(Vec<u8>, &'a str)>,
    /// Why it must not run whatever else happens.
    stopped: Option<String>,
    changed: Vec<(&'a Table, LocalKey)>,
}

impl<'a> Walk<'a> {
    fn new(txn: &'a Txn<'a>) -> Self {
        Self {
            txn,
            seen: HashSet::new(),
            refuse: Vec::new(),
            stopped: None,
            changed: Vec::new(),
        }
    }

    /// From one row as far as actions reach; ends early where one must not run.
    fn go(&mut self, first: Reached<'a>) -> Result<(), Error> {
        self.seen
            .insert(mark(&first.end, &first.identity, first.fate));
        let mut todo = vec![first];
        while let Some(row) = todo.pop() {
            todo.extend(self.from(&row)?);
            if self.stopped.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The rows that the actions on one row change.
    fn from(&mut self, row: &Reached<'a>) -> Result<Vec<Reached<'a>>, Error> {
        let mut next = Vec::new();
        for key in row.end.children() {
            let Some(end) = self.txn.tables.end(&key.child) else {
                continue;
            };
            let fate = match (row.fate, key.on_delete) {
                (Fate::Deleted, OnDelete::Refuse) => None,
                (Fate::Deleted, OnDelete::Cascade) => Some(Fate::Deleted),
                (Fate::Deleted, OnDelete::Set) => Some(Fate::Updated(&key.columns)),
                (Fate::Updated(columns), _) => {
                    if !key.follows || !columns.iter().any(|name| key.refers_to(name)) {
                        continue;
                    }
                    Some(Fate::Updated(&key.columns))
                }
            };
            if fate.is_some() && end.is_last() {
                continue;
            }
            let found = children(self.txn, row, key, &end, fate)?;
            if fate.is_none() && found.len() > MOST_REFUSING {
                self.stopped = Some(refers(&key.child));
                return Ok(Vec::new());
            }
            for identity in found {
                let Some(fate) = fate else {
                    let gone = mark(&end, &identity, Fate::Deleted);
                    self.refuse.push((gone, &key.child));
                    continue;
                };
                if !self.seen.insert(mark(&end, &identity, fate)) {
                    continue;
                }
                if let End::Listed(child) = end {
                    let key = &identity[0];
                    if matches!(row.fate, Fate::Deleted) && !self.gives_way(child, key, fate)? {
                        let shown = key.display();
                        self.stopped = Some(format!(
                            "row {shown} of {} refers to it and has an unsent edit",
                            child.name
                        ));
                        return Ok(Vec::new());
                    }
                    self.changed.push((child, key.clone()));
                }
                next.push(Reached {
                    end,
                    identity,
                    fate,
                });
            }
        }
        Ok(next)
    }

    /// Whether a row that refers to one that goes has no unsent edit to lose by it.
    fn gives_way(&self, child: &Table, key: &LocalKey, fate: Fate<'_>) -> Result<bool, Error> {
        let Some(canonical) = key.canonical(child.key_kind) else {
            return Ok(true);
        };
        let row = RowRef::new(child, canonical);
        let known = row::known(self.txn.conn, child, row)?;
        match (known.unsent, fate) {
            (Unsent::None, _) => Ok(true),
            // It stays, without its parent, and is sent again.
            (Unsent::Rejected, Fate::Updated(_)) => Ok(true),
            (Unsent::Rejected, Fate::Deleted) => shadow::gives_way(self.txn, child, row, &known),
            (Unsent::Pending | Unsent::InFlight, _) => Ok(false),
        }
    }

    /// Why the delete must not run: a row refuses it that does not go itself.
    fn hindrance(&self) -> Option<String> {
        let stays = |(gone, _): &&(Vec<u8>, &str)| !self.seen.contains(gone);
        let refusing = self.refuse.iter().find(stays);
        let refused = refusing.map(|(_, child)| refers(child));
        self.stopped.clone().or(refused)
    }
}

fn refers(child: &str) -> String {
    format!("rows of {child} refer to it")
}

/// Names a row and what happens to it.
fn mark(end: &End<'_>, identity: &[LocalKey], fate: Fate<'_>) -> Vec<u8> {
    let mut mark = end.name().to_lowercase().into_bytes();
    mark.push(0);
    if let Fate::Updated(columns) = fate {
        mark.extend(columns.join("\u{1}").into_bytes());
    }
    for part in identity {
        let (kind, bytes) = match &part.0 {
            Value::Null => (1, Vec::new()),
            Value::Integer(n) => (2, n.to_be_bytes().to_vec()),
            Value::Real(x) => (3, x.to_bits().to_be_bytes().to_vec()),
            Value::Text(text) => (4, text.clone().into_bytes()),
            Value::Blob(bytes) => (5, bytes.clone()),
        };
        mark.extend([0, kind]);
        mark.extend((bytes.len() as u64).to_be_bytes());
        mark.extend(bytes);
    }
    mark
}

/// What identifies the rows that refer to a row by this key.
fn children(
    txn: &Txn<'_>,
    row: &Reached<'_>,
    key: &ForeignKey,
    child: &End<'_>,
    fate: Option<Fate<'_>>,
) -> Result<Vec<Vec<LocalKey>>, Error> {
    let pairs = key.columns.iter().zip(&key.parent_columns);
    let joins = pairs.map(|(from, to)| format!("p.{} = c.{}", quote(to), quote(from)));
    let named = child.identity();
    let wanted = named.iter().map(|name| format!("c.{}", quote(name)));
    let of_parent = row.end.identity();
    let is_it = of_parent
        .iter()
        .map(|name| format!("p.{} = ?", quote(name)));
    let sql = format!(
        "SELECT {} FROM {} AS p JOIN {} AS c ON {} WHERE {}{}",
        wanted.collect::<Vec<_>>().join(", "),
        quote(row.end.name()),
        quote(child.name()),
        joins.collect::<Vec<_>>().join(" AND "),
        is_it.collect::<Vec<_>>().join(" AND "),
        match fate {
            Some(_) => String::new(),
            None => format!(" LIMIT {}", MOST_REFUSING + 1),
        },
    );
    let mut statement = txn.conn.prepare_cached(&sql)?;
    let found = statement.query_map(params_from_iter(&row.identity), |found| {
        (0..named.len()).map(|i| found.get(i)).collect()
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Does what the silent triggers would have done for a row that a foreign-key
/// action is about to change.
fn note(txn: &Txn<'_>, table: &Table, key: &LocalKey) -> Result<(), Error> {
    let images = 0..table.columns.len();
    let images: Vec<usize> = images
        .filter(|i| *i == table.key || table.has_images())
        .collect();
    let logged: Vec<String> = images.iter().map(|i| log::column(table, *i)).collect();
    let columns: Vec<String> = images
        .iter()
        .map(|i| quote(&table.columns[*i].name))
        .collect();
    let sql = format!(
        "INSERT INTO {} (op, {}) SELECT 3, {} FROM {} WHERE {} = ?1",
        log::name(table.n),
        logged.join(", "),
        columns.join(", "),
        table.quoted(),
        table.quoted_key(),
    );
    txn.conn.prepare_cached(&sql)?.execute([key])?;
    Step::CascadeNoted.reached();
    Ok(())
}
