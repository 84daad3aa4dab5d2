//! What a server process remembers of a user: the algorithm of the shell's
//! `upload/cache.rs`, step by step, over small arrays.

use crate::database::{Database, KnownDevice, RowNow, SERVER, WRITERS, Write};
use crate::model::{ROWS, Row, Spelt, Words};
use crate::mutants::{Mutant, Rules};
use oversync_shared::upload::{Base, Needs, Recorded, RowState, View, needs};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, RowVersion, ServerId};
use std::collections::HashMap;

#[derive(Debug, Clone, Copy)]
enum Slot {
    Unread,
    /// `None`: has never been seen.
    Read(Option<RowNow>),
}

#[derive(Debug, Clone)]
struct Known {
    head: i64,
    revision: i64,
    next_device: usize,
    /// Outer `None`: not read; inner: has never uploaded.
    devices: [Option<Option<KnownDevice>>; WRITERS],
    rows: [Slot; ROWS],
}

#[derive(Debug, Default)]
pub struct UserCache {
    known: Option<Known>,
    /// Only for [`Mutant::WatermarkStale`].
    watermarks: [Option<i64>; WRITERS],
}

#[derive(Debug)]
pub struct Snapshot {
    pub view: View,
    pub head: i64,
    pub revision: i64,
    pub device: Option<KnownDevice>,
    pub next_device: usize,
    pub assumed_new: Vec<Row>,
    pub is_fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    NewRows,
    Nothing,
}

impl UserCache {
    pub fn clear(&mut self, rules: Rules) {
        if !rules.is(Mutant::KeptWhenLeftOut) {
            self.known = None;
        }
    }

    /// A full cache makes room.
    pub fn forget_rows(&mut self) {
        if let Some(known) = &mut self.known {
            known.rows = [Slot::Unread; ROWS];
        }
    }

    /// A full cache makes room.
    pub fn forget_devices(&mut self) {
        if let Some(known) = &mut self.known {
            known.devices = [None; WRITERS];
        }
    }

    pub fn snapshot(
        &mut self,
        database: &Database,
        words: &Words,
        upload: &Spelt,
        trust: Trust,
        rules: Rules,
    ) -> Snapshot {
        let user = upload.batch.user;
        let mut needs = needs(&upload.checked);
        if upload.batch.device == SERVER {
            needs.ids.clear();
        }
        let wanted: Vec<Row> = needs.rows.iter().map(|at| words.row_of(*at)).collect();
        let assumed = if trust == Trust::NewRows {
            taken_for_new(words, upload)
        } else {
            [false; ROWS]
        };
        let mut is_fresh = false;
        let mut recorded = HashMap::new();
        while let Some((rows, ids)) =
            self.missing(&wanted, &needs, &assumed, upload.batch.device, rules)
        {
            is_fresh = self.absorb(database, user, upload.batch.device, &rows, rules);
            if is_fresh {
                recorded = load_recorded(database, user, upload.batch.device, &ids, rules);
                break;
            }
        }
        let known = self.known.as_ref().expect("a missing head is read");
        let rows = wanted
            .iter()
            .filter_map(|&row| match known.rows[row] {
                Slot::Read(Some(now)) => Some((words.rows[row], state(now))),
                _ => None,
            })
            .collect();
        Snapshot {
            view: View {
                head: ServerId::new(known.head),
                rows,
                recorded,
                in_business: Default::default(),
                holders: Default::default(),
                room: Default::default(),
            },
            head: known.head,
            revision: known.revision,
            device: known.devices[upload.batch.device].flatten(),
            next_device: known.next_device,
            assumed_new: (0..ROWS)
                .filter(|&row| assumed[row] && matches!(known.rows[row], Slot::Unread))
                .collect(),
            is_fresh,
        }
    }

    /// Rows and ids to read; `None` when everything is remembered.
    fn missing(
        &self,
        wanted: &[Row],
        needs: &Needs,
        assumed: &[bool; ROWS],
        device: usize,
        rules: Rules,
    ) -> Option<(Vec<Row>, Vec<ChangeId>)> {
        let known = self.known.as_ref();
        let Some((known, device)) = known.and_then(|known| Some((known, known.devices[device]?)))
        else {
            let rows = wanted.iter().filter(|&&row| !assumed[row]).copied();
            let mut ids: Vec<ChangeId> = needs.ids.iter().copied().collect();
            if rules.is(Mutant::WatermarkStale)
                && let Some(highest) = self.watermarks[device]
            {
                ids.retain(|id| id.get() <= highest);
            }
            return Some((rows.collect(), ids));
        };
        let rows: Vec<Row> = wanted
            .iter()
            .filter(|&&row| matches!(known.rows[row], Slot::Unread) && !assumed[row])
            .copied()
            .collect();
        let ids: Vec<ChangeId> = match device {
            Some(device) => needs
                .ids
                .iter()
                .filter(|id| id.get() <= device.highest)
                .copied()
                .collect(),
            None => Vec::new(),
        };
        (!rows.is_empty() || !ids.is_empty()).then_some((rows, ids))
    }

    /// Reads from one committed state. False when the rest was of another one.
    fn absorb(
        &mut self,
        database: &Database,
        user: usize,
        device: usize,
        rows: &[Row],
        rules: Rules,
    ) -> bool {
        let data = &database.users[user];
        let fits = self
            .known
            .as_ref()
            .is_none_or(|known| known.revision == data.revision);
        if !fits && !rules.is(Mutant::RevisionsMixed) {
            self.known = None;
            return false;
        }
        let known = self.known.get_or_insert(Known {
            head: 0,
            revision: 0,
            next_device: 0,
            devices: [None; WRITERS],
            rows: [Slot::Unread; ROWS],
        });
        known.head = data.head;
        known.revision = data.revision;
        known.next_device = data.next_device();
        known.devices[device] = Some(data.devices[device]);
        for &row in rows {
            known.rows[row] = Slot::Read(data.rows[row]);
        }
        true
    }

    /// Takes in what this process has committed.
    pub fn committed(
        &mut self,
        head: i64,
        revision: i64,
        device: usize,
        now: KnownDevice,
        rows: &[Write],
        rules: Rules,
    ) {
        self.watermarks[device] = Some(now.highest);
        let Some(known) = &mut self.known else { return };
        known.head = head;
        known.revision = revision;
        known.next_device = known.next_device.max(now.key + 1);
        if !rules.is(Mutant::WatermarkNotRaised) || known.devices[device].is_none() {
            known.devices[device] = Some(Some(now));
        }
        for write in rows {
            let never = matches!(known.rows[write.row], Slot::Read(None));
            if !(never && rules.is(Mutant::NegativeEntryKept)) {
                known.rows[write.row] = Slot::Read(Some(write.now));
            }
        }
    }
}

pub fn state(now: RowNow) -> RowState {
    RowState {
        version: RowVersion::new(now.version),
        deleted: now.deleted,
        at: ServerId::new(now.at),
    }
}

fn load_recorded(
    database: &Database,
    user: usize,
    device: usize,
    ids: &[ChangeId],
    rules: Rules,
) -> HashMap<ChangeId, Recorded> {
    let everyone = rules.is(Mutant::IdsOfAnyUser);
    let mut recorded = HashMap::new();
    for (owner, data) in database.users.iter().enumerate() {
        let Some(known) = data.devices[device].filter(|_| owner == user || everyone) else {
            continue;
        };
        for id in ids {
            if let Some((fingerprint, version)) = data.recorded(known.key, id.get()) {
                let version = RowVersion::new(version);
                recorded.insert(
                    *id,
                    Recorded {
                        fingerprint,
                        version,
                    },
                );
            }
        }
    }
    recorded
}

/// Rows of which every change of the upload says that they are new.
fn taken_for_new(words: &Words, upload: &Spelt) -> [bool; ROWS] {
    let mut new = [false; ROWS];
    let mut otherwise = [false; ROWS];
    for change in upload.checked.iter().flatten() {
        let row = words.row_of(oversync_shared::upload::RowAt {
            table: change.table,
            key: change.key,
        });
        if change.base == Base::NEW && change.op != Op::Delete {
            new[row] = true;
        } else {
            otherwise[row] = true;
        }
    }
    for row in 0..ROWS {
        new[row] &= !otherwise[row];
    }
    new
}
