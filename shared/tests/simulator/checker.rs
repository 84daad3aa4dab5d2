//! The judge of a history: a reference log, written independently of the core.
//!
//! Sees every commit, every answer and every page at the moment it happens,
//! each once, and keeps what it has seen as contents, never as fingerprints.
//! Commits are checked here, answers in `answers.rs`, readers in `reader.rs`.

use crate::database::{Entry, RowNow, SERVER, UserData, WRITERS};
use crate::model::{Content, NOTES, PEOPLE, ROWS, Row, Sent, Spelt, TEAMS, name_of, table_of};
use std::collections::HashMap;
use std::rc::Rc;

/// A promise that a history broke.
#[derive(Debug, Clone)]
pub struct Violated {
    pub rule: &'static str,
    pub what: String,
}

pub type Checked = Result<(), Violated>;

pub fn violation<T>(rule: &'static str, what: impl FnOnce() -> String) -> Result<T, Violated> {
    Err(Violated { rule, what: what() })
}

pub fn holds(is_true: bool, rule: &'static str, what: impl FnOnce() -> String) -> Checked {
    if is_true {
        Ok(())
    } else {
        violation(rule, what)
    }
}

/// One entry of the reference log.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub visit: usize,
    pub position: usize,
    pub content: Content,
    pub device: usize,
    pub version: i64,
}

/// One user's reference log and what follows from it. An entry's server id is
/// its place, from 1.
#[derive(Debug, Default)]
pub struct Reference {
    pub log: Vec<Known>,
    rows: [Vec<RowNow>; ROWS],
    ids: HashMap<(usize, i64), usize>,
    highest: [Vec<(i64, i64)>; WRITERS],
    business: [bool; ROWS],
}

/// One arrival of an upload at a server process.
#[derive(Debug)]
pub struct Visit {
    pub upload: Rc<Spelt>,
    /// The user's head when it arrived.
    pub arrived: i64,
    /// The first and last server id it wrote.
    pub wrote: Option<(i64, i64)>,
}

#[derive(Debug, Default)]
pub struct Checker {
    /// Entries that stand before a parent they need, in a ring.
    pub entries_of_rings: u64,
    pub users: Vec<Reference>,
    pub visits: Vec<Visit>,
}

impl Reference {
    /// Of a user for whom other programs have written these business rows.
    pub fn new(business: &[bool; ROWS]) -> Self {
        Self {
            business: *business,
            ..Self::default()
        }
    }

    pub fn head(&self) -> i64 {
        self.log.len() as i64
    }

    /// A row as it was when the head was `head`.
    pub fn row(&self, row: Row, head: i64) -> Option<RowNow> {
        self.rows[row]
            .iter()
            .rev()
            .find(|now| now.at <= head)
            .copied()
    }

    /// The entry of a device's change id, if it stood when the head was `head`.
    pub fn recorded(&self, device: usize, id: i64, head: i64) -> Option<&Known> {
        let at = *self.ids.get(&(device, id))?;
        (at as i64 <= head).then(|| &self.log[at - 1])
    }

    /// The device's highest change id when the head was `head`.
    pub fn highest(&self, device: usize, head: i64) -> Option<i64> {
        let steps = &self.highest[device];
        let found = steps.iter().rev().find(|(at, _)| *at <= head);
        found.map(|(_, highest)| *highest)
    }
}

impl Checker {
    /// An upload reaches a server.
    pub fn arrives(&mut self, upload: &Rc<Spelt>) -> usize {
        let arrived = self.users[upload.batch.user].head();
        self.visits.push(Visit {
            upload: upload.clone(),
            arrived,
            wrote: None,
        });
        self.visits.len() - 1
    }

    /// One upload's entries are committed.
    pub fn committed(&mut self, user: usize, entries: &[Entry]) -> Checked {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let before = self.users[user].head();
        let visit = &mut self.visits[first.visit];
        let batch = visit.upload.batch.clone();
        holds(visit.wrote.is_none(), "EFFECT-ONCE", || {
            "one upload was written twice".to_owned()
        })?;
        visit.wrote = Some((before + 1, before + entries.len() as i64));
        holds(batch.user == user, "USER-ISOLATION", || {
            format!("an upload of user {} in the stream of {user}", batch.user)
        })?;
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            self.entry(user, entry)?;
            written.push(entry.position);
        }
        order(&batch.changes, &written)?;
        let batch = Batch {
            reference: &self.users[user],
            device: batch.device,
            changes: &batch.changes,
            before,
            written: &written,
        };
        for &position in &written {
            let missing = batch.missing_parents(position);
            holds(missing.is_empty(), "FOREIGN-KEY", || {
                format!("change {position} was applied without its parent")
            })?;
        }
        self.entries_of_rings += batch.parents_first()?;
        Ok(())
    }

    fn entry(&mut self, user: usize, entry: &Entry) -> Checked {
        let upload = &self.visits[entry.visit].upload;
        let sent = upload.batch.changes[entry.position];
        let device = upload.batch.device;
        let reference = &mut self.users[user];
        let at = reference.head() + 1;
        holds(entry.server_id == at, "PREFIX-ORDER", || {
            format!("id {} committed when {at} was next", entry.server_id)
        })?;
        // The server numbers its own changes, one after the other.
        let id = if device == SERVER {
            reference.highest(device, at).unwrap_or(0) + 1
        } else {
            sent.id
        };
        let is_the_change = entry.change_id == id
            && entry.row == sent.content.row
            && entry.op == sent.content.op
            && entry.payload == upload.payloads[entry.position]
            && sent.flaw.is_none();
        holds(is_the_change, "ID-INTEGRITY", || {
            format!("entry {at} is not the change {sent:?}")
        })?;
        let before = reference
            .row(sent.content.row, at)
            .map_or(0, |now| now.version);
        let is_next = entry.version == before + 1 && (sent.current || sent.base == before);
        holds(is_next, "ROW-CHAIN", || {
            format!(
                "{} goes from version {before} to {} by a change for {}",
                name_of(sent.content.row),
                entry.version,
                sent.base
            )
        })?;
        reference.rows[sent.content.row].push(RowNow {
            version: entry.version,
            deleted: !sent.content.op.is_upsert(),
            at,
        });
        let earlier = reference.ids.insert((device, id), at as usize);
        holds(earlier.is_none(), "EFFECT-ONCE", || {
            format!("device {device} change {id} is in the stream twice")
        })?;
        let steps = &mut reference.highest[device];
        let highest = steps.last().map_or(id, |(_, highest)| id.max(*highest));
        steps.push((at, highest));
        reference.log.push(Known {
            visit: entry.visit,
            position: entry.position,
            content: sent.content,
            device,
            version: entry.version,
        });
        Ok(())
    }

    /// The database holds what the log says.
    pub fn database_agrees(&self, user: usize, data: &UserData) -> Checked {
        let reference = &self.users[user];
        let head = reference.head();
        holds(
            data.head == head && data.log.len() as i64 == head,
            "SELF-CHECKING",
            || format!("head {}, {} entries", data.head, data.log.len()),
        )?;
        for row in 0..ROWS {
            holds(
                data.rows[row] == reference.row(row, head),
                "SELF-CHECKING",
                || format!("{} is not the fold of the log", name_of(row)),
            )?;
        }
        for device in 0..WRITERS {
            let known = data.devices[device].map(|known| known.highest);
            holds(
                known == reference.highest(device, head),
                "SELF-CHECKING",
                || format!("device {device}'s highest change id is {known:?}"),
            )?;
        }
        Ok(())
    }
}

/// One batch against the state it met.
pub struct Batch<'a> {
    pub reference: &'a Reference,
    pub device: usize,
    pub changes: &'a [Sent],
    /// The head it met.
    pub before: i64,
    /// Positions it wrote, in stream order.
    pub written: &'a [usize],
}

impl Batch<'_> {
    pub fn row_before(&self, row: Row) -> Option<RowNow> {
        self.reference.row(row, self.before)
    }

    /// Nothing that the server writes has been written before.
    pub fn recorded(&self, position: usize) -> Option<&Known> {
        let id = self.changes[position].id;
        let known = self.reference.recorded(self.device, id, self.before);
        known.filter(|_| self.device != SERVER)
    }

    /// Whether the batch holds a delete of the row that is not a repetition.
    fn dooms(&self, row: Row) -> bool {
        self.changes.iter().enumerate().any(|(position, sent)| {
            sent.flaw.is_none()
                && sent.content.row == row
                && !sent.content.op.is_upsert()
                && self.recorded(position).is_none()
        })
    }

    pub fn was_live(&self, row: Row) -> bool {
        self.row_before(row).is_some_and(|now| !now.deleted)
    }

    pub fn upserts(&self, row: Row) -> bool {
        self.written.iter().any(|&position| {
            let content = &self.changes[position].content;
            content.row == row && content.op.is_upsert()
        })
    }

    /// The parents of a change that do not count, with their columns.
    pub fn missing_parents(&self, position: usize) -> Vec<(Row, usize)> {
        let content = &self.changes[position].content;
        content
            .parents()
            .filter(|&(parent, _)| {
                let there = self.was_live(parent)
                    || self.upserts(parent)
                    || self.reference.business[parent];
                parent != content.row && (self.dooms(parent) || !there)
            })
            .collect()
    }

    /// A parent that this batch brings to life stands before its children,
    /// unless they need each other; how often they do.
    fn parents_first(&self) -> Result<u64, Violated> {
        let mut rings = 0;
        for (place, &position) in self.written.iter().enumerate() {
            let content = &self.changes[position].content;
            for (parent, _) in content.parents() {
                let in_business = self.reference.business[parent] && !self.upserts(parent);
                if parent == content.row || self.was_live(parent) || in_business {
                    continue;
                }
                let stands_before = self.written[..place]
                    .iter()
                    .any(|&earlier| self.changes[earlier].content.row == parent);
                holds(
                    stands_before || self.refers(parent, content.row),
                    "BATCH-ORDER",
                    || format!("{} before its parent", name_of(content.row)),
                )?;
                rings += u64::from(!stands_before);
            }
        }
        Ok(rings)
    }

    /// Whether a row and its parent stand or fall together: the parent refers
    /// back to the row by what this batch makes of both.
    pub fn are_a_ring(&self, row: Row, parent: Row) -> bool {
        !self.dooms(parent) && self.refers(parent, row)
    }

    /// Whether one row of the batch refers to another, directly or through others.
    fn refers(&self, from: Row, to: Row) -> bool {
        let mut seen = [false; ROWS];
        let mut open = vec![from];
        while let Some(row) = open.pop() {
            if row == to {
                return true;
            }
            if std::mem::replace(&mut seen[row], true) {
                continue;
            }
            let is_sound = |sent: &&Sent| sent.content.row == row && sent.flaw.is_none();
            let changes = self.changes.iter().filter(is_sound);
            open.extend(changes.flat_map(|sent| sent.content.parents().map(|(parent, _)| parent)));
        }
        false
    }
}

/// Whether rows of one table can hang below rows of the other.
fn is_ancestor(table: usize, of: usize) -> bool {
    matches!((table, of), (TEAMS, PEOPLE | NOTES) | (PEOPLE, NOTES))
}

/// Upserts, parents first; then deletes, children first; otherwise as sent.
fn order(changes: &[Sent], written: &[usize]) -> Checked {
    for (place, &later) in written.iter().enumerate() {
        for &earlier in &written[..place] {
            let (a, b) = (&changes[earlier].content, &changes[later].content);
            let (first, second) = (table_of(a.row), table_of(b.row));
            let is_right = match (a.op.is_upsert(), b.op.is_upsert()) {
                (true, false) => true,
                (false, true) => false,
                (true, true) => !is_ancestor(second, first),
                (false, false) => !is_ancestor(first, second),
            };
            let same = a.op.is_upsert() == b.op.is_upsert()
                && (a.row == b.row || (first == second && first < NOTES));
            holds(
                is_right && (!same || earlier < later),
                "BATCH-ORDER",
                || format!("change {later} was executed after {earlier}"),
            )?;
        }
    }
    Ok(())
}
