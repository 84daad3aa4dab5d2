//! Writes rows of the server into the application's tables, one after the other.
//!
//! What is the same for many rows of a page is done once: statements stay prepared
//! from row to row, rows with an unsent edit are read at the beginning, versions are
//! recorded many at a time. Nobody may look into `_sync_row` for a row of the page
//! before [`Hand::flush`]; [`Hand::known`] does.

use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::payload;
use crate::place::{self, Placed, Told};
use crate::reach;
use crate::row::{self, Known};
use crate::schema::Table;
use crate::store::Txn;
use oversync_shared::reconcile::{Held, Unsent};
use oversync_shared::{RowKey, RowVersion};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, ToSql, params, params_from_iter};
use std::collections::HashSet;

/// Versions that one statement records: more make it no faster.
const BLOCK: usize = 64;

/// Pages below this have nothing to gain from reading all unsent rows.
const LEAST_PAGE: usize = 16;

/// More unsent rows than this are asked for one by one.
const MOST_UNSENT: usize = 4096;

const UNSENT: &str = include_str!("../../migrations/device/unsent_rows.sql");

/// The statements of one table.
struct Kept<'a> {
    n: i64,
    exists: CachedStatement<'a>,
    /// One for each foreign key.
    parents: Vec<CachedStatement<'a>>,
    /// For the columns that the last row carried.
    insert: Option<(Vec<usize>, CachedStatement<'a>)>,
    update: Option<(Vec<usize>, CachedStatement<'a>)>,
}

/// The version of a row that has just been written.
struct Version {
    row: RowRef,
    spelling: Option<LocalKey>,
    version: RowVersion,
}

/// Writes rows inside one transaction.
pub(crate) struct Hand<'a> {
    txn: &'a Txn<'a>,
    kept: Vec<Kept<'a>>,
    held: Option<CachedStatement<'a>>,
    record: Option<CachedStatement<'a>>,
    /// Written, and not recorded yet.
    versions: Vec<Version>,
    unrecorded: HashSet<RowRef>,
    /// All rows with an unsent edit, perhaps some more; none where they were too many
    /// to read.
    unsent: Option<HashSet<RowRef>>,
    /// Whether any row has columns that this application does not know.
    has_extra: Option<bool>,
}

impl<'a> Hand<'a> {
    /// For one row, or a few.
    pub(crate) fn new(txn: &'a Txn<'a>) -> Self {
        Self {
            txn,
            kept: Vec::new(),
            held: None,
            record: None,
            versions: Vec::new(),
            unrecorded: HashSet::new(),
            unsent: None,
            has_extra: None,
        }
    }

    /// For a page of so many rows. The log must have been collected.
    pub(crate) fn for_page(txn: &'a Txn<'a>, rows: usize) -> Result<Self, Error> {
        let mut hand = Self::new(txn);
        if rows >= LEAST_PAGE {
            let mut statement = txn.conn.prepare_cached(UNSENT)?;
            let found = statement.query_map([MOST_UNSENT as i64 + 1], |row| {
                Ok(RowRef {
                    tbl: row.get(0)?,
                    key: RowKey::new(row.get(1)?),
                })
            })?;
            let found: Vec<RowRef> = found.collect::<Result<_, _>>()?;
            hand.unsent = (found.len() <= MOST_UNSENT).then(|| found.into_iter().collect());
        }
        Ok(hand)
    }

    /// The row has got an unsent edit since.
    pub(crate) fn now_unsent(&mut self, row: RowRef) {
        if let Some(unsent) = &mut self.unsent {
            unsent.insert(row);
        }
    }

    /// Somebody else has written rows.
    pub(crate) fn look_again(&mut self) {
        self.has_extra = None;
    }

    /// What is known of a row, this transaction's writes included.
    pub(crate) fn known(&mut self, table: &Table, row: RowRef) -> Result<Known, Error> {
        if self.unrecorded.contains(&row) {
            self.flush()?;
        }
        let may_be_unsent = self.unsent.as_ref().is_none_or(|all| all.contains(&row));
        if may_be_unsent {
            return row::known(self.txn.conn, table, row);
        }
        let held = match &mut self.held {
            Some(held) => held,
            held => held.insert(self.txn.conn.prepare_cached(
                "SELECT version, deleted, lost_version, local_key FROM _sync_row
                 WHERE tbl = ?1 AND pk = ?2",
            )?),
        };
        let mut rows = held.query(params![row.tbl, row.pk()])?;
        let Some(found) = rows.next()? else {
            return Ok(Known {
                held: Held::NOTHING,
                unsent: Unsent::None,
                key: LocalKey::usual(row.key, table.key_kind),
                lost_version: RowVersion::NEVER_SEEN,
            });
        };
        let spelling: LocalKey = found.get(3)?;
        Ok(Known {
            held: Held {
                version: RowVersion::new(found.get(0)?),
                deleted: found.get(1)?,
            },
            unsent: Unsent::None,
            key: match spelling.0 {
                Value::Null => LocalKey::usual(row.key, table.key_kind),
                _ => spelling,
            },
            lost_version: RowVersion::new(found.get(2)?),
        })
    }

    /// Writes a row that is no tombstone. Rows in `assumed` count as present parents.
    pub(crate) fn upsert(
        &mut self,
        table: &Table,
        told: Told<'_>,
        text: &str,
        known: Known,
        assumed: &HashSet<RowRef>,
    ) -> Result<Placed, Error> {
        let incoming = match payload::read_row(table, told.row.key, text) {
            Ok(incoming) => incoming,
            Err(why) => return Ok(Placed::Refused(why.to_string())),
        };
        let values = &incoming.known;
        let txn = self.txn;
        let kept = Kept::of(&mut self.kept, txn, table)?;
        for (foreign_key, probe) in table.parents.iter().zip(&mut kept.parents) {
            let missing = place::missing_parent(txn, table, foreign_key, probe, values, assumed)?;
            if let Some(missing) = missing {
                return Ok(missing);
            }
        }
        let present = kept.exists.exists([&known.key])?;
        let moved = match present {
            true => match reach::note_update(txn, table, &known.key, values)? {
                Ok(moved) => moved,
                Err(why) => return Ok(Placed::Blocked(why)),
            },
            false => Vec::new(),
        };
        let key = if present {
            known.key
        } else {
            let spelt = values.iter().find(|(index, _)| *index == table.key);
            let (_, value) = spelt.expect("BUG: a payload that was read names its key");
            LocalKey(value.clone())
        };
        let written = place::whole(txn.conn, table, || match present {
            true => kept.update(txn, table, &key, values),
            false => kept.insert(txn, table, values),
        });
        if let Some(refused) = place::judge(txn, written)? {
            return Ok(refused);
        }
        reach::note_moved(txn, &moved)?;
        let is_usual = key.is_usual(told.row.key, table.key_kind);
        self.versions.push(Version {
            row: told.row,
            spelling: (!is_usual).then(|| key.clone()),
            version: told.version,
        });
        self.unrecorded.insert(told.row);
        self.keep_extra(told.row, incoming.extra.as_deref())?;
        if self.versions.len() >= BLOCK {
            self.flush()?;
        }
        Ok(Placed::Done(key))
    }

    fn keep_extra(&mut self, row: RowRef, extra: Option<&str>) -> Result<(), Error> {
        let conn = self.txn.conn;
        let has_extra = match self.has_extra {
            Some(has_extra) => has_extra,
            None => row::any_extra(conn)?,
        };
        self.has_extra = Some(has_extra || extra.is_some());
        if has_extra || extra.is_some() {
            row::set_extra(conn, row, extra)?;
        }
        Ok(())
    }

    /// Records the versions of what has been written.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.unrecorded.clear();
        let conn = self.txn.conn;
        for block in self.versions.chunks(BLOCK) {
            if block.len() < BLOCK {
                for one in block {
                    let held = Held {
                        version: one.version,
                        deleted: false,
                    };
                    row::hold_as_spelt(conn, one.row, one.spelling.as_ref(), held)?;
                }
                continue;
            }
            let record = match &mut self.record {
                Some(record) => record,
                record => record.insert(conn.prepare_cached(&row::hold_sql(BLOCK))?),
            };
            for (index, one) in block.iter().enumerate() {
                let values: [&dyn ToSql; row::HOLD_COLUMNS] = [
                    &one.row.tbl,
                    &one.row.pk(),
                    &one.spelling,
                    &one.version.get(),
                    &false,
                ];
                for (column, value) in values.into_iter().enumerate() {
                    let at = index * row::HOLD_COLUMNS + column + 1;
                    record.raw_bind_parameter(at, value)?;
                }
            }
            record.raw_execute()?;
        }
        self.versions.clear();
        Ok(())
    }
}

impl<'a> Kept<'a> {
    fn of<'k>(
        all: &'k mut Vec<Self>,
        txn: &'a Txn<'a>,
        table: &Table,
    ) -> Result<&'k mut Self, Error> {
        let at = match all.iter().position(|kept| kept.n == table.n) {
            Some(at) => at,
            None => {
                let probe = |foreign_key| place::parent_probe(txn, foreign_key);
                all.push(Self {
                    n: table.n,
                    exists: row::presence(txn.conn, table)?,
                    parents: table.parents.iter().map(probe).collect::<Result<_, _>>()?,
                    insert: None,
                    update: None,
                });
                all.len() - 1
            }
        };
        Ok(&mut all[at])
    }

    /// Inserts a row with these columns.
    fn insert(
        &mut self,
        txn: &'a Txn<'a>,
        table: &Table,
        values: &[(usize, Value)],
    ) -> rusqlite::Result<usize> {
        let bound = values.iter().map(|(_, value)| value);
        let kept = statement(&mut self.insert, txn, values, || {
            place::insert_sql(table, values)
        })?;
        place::judged_at_commit(txn, || kept.execute(params_from_iter(bound.clone())))
    }

    /// Writes columns of a row that is here; never its key.
    fn update(
        &mut self,
        txn: &'a Txn<'a>,
        table: &Table,
        key: &LocalKey,
        values: &[(usize, Value)],
    ) -> rusqlite::Result<usize> {
        let Some(bound) = place::update_values(table, key, values) else {
            return Ok(1);
        };
        let kept = statement(&mut self.update, txn, values, || {
            place::update_sql(table, values)
        })?;
        place::judged_at_commit(txn, || kept.execute(params_from_iter(&bound)))
    }
}

/// The statement for these columns: the last one, where it was for the same.
fn statement<'k, 'a>(
    last: &'k mut Option<(Vec<usize>, CachedStatement<'a>)>,
    txn: &'a Txn<'a>,
    values: &[(usize, Value)],
    sql: impl FnOnce() -> String,
) -> rusqlite::Result<&'k mut CachedStatement<'a>> {
    let columns = || values.iter().map(|(index, _)| *index);
    let is_it = |known: &[usize]| known.iter().copied().eq(columns());
    if !last.as_ref().is_some_and(|(known, _)| is_it(known)) {
        *last = Some((columns().collect(), txn.conn.prepare_cached(&sql())?));
    }
    let (_, statement) = last.as_mut().expect("BUG: it was just put there");
    Ok(statement)
}
