//! The one database: rows, stream, devices and head rows of every user.
//!
//! Reads see one committed state; a commit is atomic and guarded by the user's
//! revision, as `commit.sql` and the embedded store do it. What a constraint of
//! the real schema would refuse is a violation here.

use crate::checker::{Violated, violation};
use crate::model::{NAMES, ROWS, Row, table_of};
use crate::mutants::{Mutant, Rules};
use oversync_shared::upload::Fingerprint;
use oversync_shared::wire::Op;
use std::rc::Rc;

/// Devices per user; the same names for every user.
pub const DEVICES: usize = 3;

/// The server itself, after the user's devices.
pub const SERVER: usize = DEVICES;
pub const WRITERS: usize = DEVICES + 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowNow {
    pub version: i64,
    pub deleted: bool,
    pub at: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownDevice {
    pub key: usize,
    pub highest: i64,
}

/// An entry of a stream. `visit` and `position` are for the checker: which
/// arrival of which change wrote it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub server_id: i64,
    pub device_key: usize,
    pub change_id: i64,
    pub row: Row,
    pub op: Op,
    pub version: i64,
    pub fingerprint: Fingerprint,
    pub payload: Option<Rc<str>>,
    pub visit: usize,
    pub position: usize,
}

#[derive(Debug, Clone, Default)]
pub struct UserData {
    pub head: i64,
    pub revision: i64,
    /// In commit order.
    pub log: Vec<Entry>,
    pub rows: [Option<RowNow>; ROWS],
    pub devices: [Option<KnownDevice>; WRITERS],
    /// Business rows of this user that nobody synchronised.
    pub business: [bool; ROWS],
    /// Only for [`Mutant::IdsBeforeCommit`].
    pub sequence: i64,
    /// Only for [`Mutant::RejectedIdUsedUp`].
    pub rejected: Vec<(usize, i64)>,
}

/// One row's new state.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub row: Row,
    /// 0: new.
    pub base: i64,
    pub now: RowNow,
}

#[derive(Debug)]
pub struct Commit {
    pub user: usize,
    pub revision: i64,
    pub head: i64,
    pub device: usize,
    pub writer: KnownDevice,
    pub entries: Vec<Entry>,
    pub rows: Vec<Write>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    LeftOut,
}

/// What a reader asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub user: usize,
    pub device: usize,
    pub include_self: bool,
    /// Only this schema.
    pub schema: Option<&'static str>,
    pub after: i64,
    pub until: Option<i64>,
    pub limit: usize,
}

#[derive(Debug, Clone)]
pub struct Page {
    pub ids: Vec<i64>,
    pub head: i64,
    pub has_more: bool,
    pub next_after: i64,
    pub window: i64,
    pub highest: Option<i64>,
}

#[derive(Debug, Default)]
pub struct Database {
    pub users: Vec<UserData>,
}

impl UserData {
    pub fn next_device(&self) -> usize {
        let last = self.devices.iter().flatten().map(|device| device.key).max();
        last.unwrap_or(0) + 1
    }

    /// The device's change with this id: fingerprint and version.
    pub fn recorded(&self, device_key: usize, id: i64) -> Option<(Fingerprint, i64)> {
        self.log
            .iter()
            .find(|entry| entry.device_key == device_key && entry.change_id == id)
            .map(|entry| (entry.fingerprint, entry.version))
    }

    pub fn payload_at(&self, server_id: i64) -> Option<Rc<str>> {
        self.log
            .iter()
            .find(|entry| entry.server_id == server_id)
            .and_then(|entry| entry.payload.clone())
    }

    fn guard(&self, commit: &Commit, rules: Rules) -> Outcome {
        if rules.is(Mutant::IdsBeforeCommit) {
            // Right about rows and ids, only not about the order of the stream.
            let rows_hold = commit
                .rows
                .iter()
                .all(|write| self.rows[write.row].map_or(0, |now| now.version) == write.base);
            let ids_hold = commit
                .entries
                .iter()
                .all(|entry| self.recorded(commit.writer.key, entry.change_id).is_none());
            let device_holds = self.devices[commit.device]
                .map_or(self.next_device(), |device| device.key)
                == commit.writer.key;
            return if rows_hold && ids_hold && device_holds {
                Outcome::Done
            } else {
                Outcome::LeftOut
            };
        }
        if self.revision != commit.revision {
            return Outcome::LeftOut;
        }
        let mut new = commit.rows.iter().filter(|write| write.base == 0);
        if new.any(|write| self.rows[write.row].is_some()) && !rules.is(Mutant::NewRowsUnproven) {
            return Outcome::LeftOut;
        }
        Outcome::Done
    }

    pub fn commit(&mut self, commit: &Commit, rules: Rules) -> Result<Outcome, Violated> {
        if self.guard(commit, rules) == Outcome::LeftOut {
            return Ok(Outcome::LeftOut);
        }
        if commit.entries.is_empty() {
            return Ok(Outcome::Done);
        }
        self.head = self.head.max(commit.head);
        self.revision += 1;
        let device = self.devices[commit.device].get_or_insert(commit.writer);
        if device.key != commit.writer.key {
            return violation("CONSTRAINT", || "a device has two keys".to_owned());
        }
        device.highest = device.highest.max(commit.writer.highest);
        for entry in &commit.entries {
            let clashes = |old: &Entry| {
                old.server_id == entry.server_id
                    || (old.device_key == entry.device_key && old.change_id == entry.change_id)
            };
            if self.log.iter().any(clashes) {
                return violation("CONSTRAINT", || {
                    format!("server id or change id twice: {entry:?}")
                });
            }
            self.log.push(entry.clone());
        }
        for write in &commit.rows {
            if (write.base == 0) != self.rows[write.row].is_none() {
                return violation("CONSTRAINT", || {
                    format!("a row created twice, or changed before it was created: {write:?}")
                });
            }
            self.rows[write.row] = Some(write.now);
        }
        Ok(Outcome::Done)
    }

    /// `page.sql` and what the route adds to it.
    pub fn page(&self, ask: &Ask, rules: Rules) -> Page {
        let device = self.devices[ask.device];
        let own = device.filter(|_| !ask.include_self);
        let is_visible = |entry: &Entry| {
            own.is_none_or(|own| own.key != entry.device_key)
                && ask
                    .schema
                    .is_none_or(|schema| NAMES[table_of(entry.row)].0 == schema)
        };
        let window = ask.until.unwrap_or(self.head);
        let reach = if rules.is(Mutant::WindowIgnored) {
            self.head
        } else {
            window
        };
        let mut inside: Vec<&Entry> = self
            .log
            .iter()
            .filter(|entry| entry.server_id > ask.after && entry.server_id <= reach)
            .collect();
        if rules.is(Mutant::IdsBeforeCommit) {
            inside.sort_by_key(|entry| entry.server_id);
        }
        let more_inside = inside.len() > ask.limit;
        if rules.is(Mutant::OwnSkippedByPosition) {
            inside.truncate(ask.limit);
        }
        inside.retain(|entry| is_visible(entry));
        let mut has_more = inside.len() > ask.limit;
        inside.truncate(ask.limit);
        if rules.is(Mutant::HasMoreWhenFull) {
            has_more = inside.len() == ask.limit;
        }
        if rules.is(Mutant::OwnSkippedByPosition) {
            has_more = more_inside && !inside.is_empty();
        }
        let last = inside.last().map(|entry| entry.server_id);
        let next_after = if rules.is(Mutant::CursorFromMax) {
            window.max(ask.after)
        } else {
            last.unwrap_or(ask.after)
        };
        Page {
            ids: inside.iter().map(|entry| entry.server_id).collect(),
            head: self.head,
            has_more,
            next_after,
            window,
            highest: device.map(|device| device.highest),
        }
    }
}
