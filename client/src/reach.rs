//! What foreign-key actions do to other rows while a page is applied.
//!
//! They are this device's own edits, but the capture triggers are silent: the rows
//! that a delete or an update reaches, through tables that are not synchronised as
//! well, are noted in the logs before the statement runs. Called by `place.rs`. A
//! row that is noted and not reached after all drops out when the log is collected.
//! A row whose own key is carried along is gone under the old one, and is there under
//! the new one once the statement has run.

use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::log;
use crate::payload::Cell;
use crate::row;
use crate::schema::{Action, End, ForeignKey, Table, quote};
use crate::shadow;
use crate::step::Step;
use crate::store::Txn;
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
    /// What updated columns get, where that is known.
    values: Vec<(String, New)>,
}

/// What an updated column gets.
#[derive(Debug, Clone)]
enum New {
    /// An action writes all columns of its key, also those that stay as they are.
    Same,
    Value(Value),
}

impl Reached<'_> {
    /// What one of its columns gets; nothing where that is not known, or the row goes.
    fn gets(&self, column: &str) -> Option<New> {
        let Fate::Updated(columns) = self.fate else {
            return None;
        };
        let is_it = |name: &String| name.eq_ignore_ascii_case(column);
        if !columns.iter().any(is_it) {
            return Some(New::Same);
        }
        let known = self.values.iter().find(|(name, _)| is_it(name));
        known.map(|(_, new)| new.clone())
    }

    /// Whether an update reaches the rows that refer to this one by a key.
    fn moves(&self, key: &ForeignKey) -> bool {
        let mut columns = key.parent_columns.iter();
        key.follows() && columns.any(|name| !matches!(self.gets(name), Some(New::Same)))
    }

    /// What a child's column gets, if it is this row's value.
    fn carries(&self, key: &ForeignKey, column: &str) -> Option<New> {
        if key.on_update != Action::Cascade {
            return None;
        }
        let mut pairs = key.columns.iter().zip(&key.parent_columns);
        let (_, from) = pairs.find(|(to, _)| to.eq_ignore_ascii_case(column))?;
        self.gets(from)
    }
}

/// Rows that will be there under another key, by their tables' numbers.
pub(crate) type Moved = Vec<(i64, LocalKey)>;

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
        values: Vec::new(),
    })?;
    if let Some(why) = walk.hindrance() {
        return Ok(Some(why));
    }
    for (child, key) in &walk.changed {
        note(txn, child, key)?;
    }
    Ok(None)
}

/// Notes what these new values of a row do to others; never those of its key. Tells
/// which rows [`note_moved`] is to be told of when they are written, or why they must
/// not be.
pub(crate) fn note_update(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    values: &[(usize, Value)],
) -> Result<Result<Moved, String>, Error> {
    let is_followed = |index: usize| {
        let name = &table.columns[index].name;
        let mut keys = table.children.iter().filter(|key| key.follows());
        index != table.key && keys.any(|key| key.refers_to(name))
    };
    if !table.children.iter().any(|key| key.follows()) {
        return Ok(Ok(Vec::new()));
    }
    let new: Vec<_> = values.iter().filter(|(i, _)| is_followed(*i)).collect();
    if new.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let Some(old) = row::read(txn.conn, table, key)? else {
        return Ok(Ok(Vec::new()));
    };
    let is_other = |(i, new): &&&(usize, Value)| old[*i] != Cell::Plain(new.clone());
    let changed: Vec<(String, New)> = new
        .iter()
        .filter(is_other)
        .map(|(i, new)| (table.columns[*i].name.clone(), New::Value(new.clone())))
        .collect();
    if changed.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let names: Vec<String> = changed.iter().map(|(name, _)| name.clone()).collect();
    let mut walk = Walk::new(txn);
    walk.go(Reached {
        end: End::Listed(table),
        identity: vec![key.clone()],
        fate: Fate::Updated(&names),
        values: changed,
    })?;
    if let Some(why) = walk.stopped {
        return Ok(Err(why));
    }
    for (child, key) in &walk.changed {
        note(txn, child, key)?;
    }
    Ok(Ok(walk.moved))
}

/// Notes the rows that have got another key.
pub(crate) fn note_moved(txn: &Txn<'_>, moved: &Moved) -> Result<(), Error> {
    for (n, key) in moved {
        if let Some(table) = txn.tables.by_number(*n) {
            note(txn, table, key)?;
        }
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
    moved: Moved,
}

impl<'a> Walk<'a> {
    fn new(txn: &'a Txn<'a>) -> Self {
        Self {
            txn,
            seen: HashSet::new(),
            refuse: Vec::new(),
            stopped: None,
            changed: Vec::new(),
            moved: Vec::new(),
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
                (Fate::Deleted, Action::Refuse) => None,
                (Fate::Deleted, Action::Cascade) => Some(Fate::Deleted),
                (Fate::Deleted, Action::Set) => Some(Fate::Updated(&key.columns)),
                (Fate::Updated(_), _) if !row.moves(key) => continue,
                (Fate::Updated(_), _) => Some(Fate::Updated(&key.columns)),
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
                    let (by, key) = (key, &identity[0]);
                    let own = &child.key_column().name;
                    let is_own = |name: &String| name.eq_ignore_ascii_case(own);
                    if matches!(fate, Fate::Updated(columns) if columns.iter().any(is_own)) {
                        let Some(new) = row.carries(by, own) else {
                            let shown = key.display();
                            self.stopped =
                                Some(format!("row {shown} of {} would lose its key", child.name));
                            return Ok(Vec::new());
                        };
                        if let New::Value(new) = new
                            && new != key.0
                        {
                            self.moved.push((child.n, LocalKey(new)));
                        }
                    }
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
                let values = key
                    .columns
                    .iter()
                    .filter_map(|column| Some((column.clone(), row.carries(key, column)?)));
                next.push(Reached {
                    end,
                    identity,
                    fate,
                    values: values.collect(),
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
