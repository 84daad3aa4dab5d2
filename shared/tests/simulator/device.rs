//! Devices: they edit rows as they believe them to be, freeze edits into
//! batches with change ids, and send a batch until it is answered.
//!
//! Most of the time they behave. Now and then one uses a change id again for
//! something else, names a version it cannot know, or sends nonsense: the
//! server has to stand all of it.

use crate::answers::{Answer, Status};
use crate::chance::Chance;
use crate::checker::Reference;
use crate::database::SERVER;
use crate::model::{
    Batch, CHICKENS, Content, EGGS, Flaw, KEYS, LinkTo, NOTES, REFERENCES, ROWS, Row, Sent, Spelt,
    TABLES, draw_number, row, table_of,
};
use crate::world::{World, say};
use oversync_shared::wire::Op;
use std::rc::Rc;

#[derive(Debug)]
pub struct Device {
    pub user: usize,
    /// Which of the user's devices.
    pub name: usize,
    /// Row versions as far as it has heard.
    believed: [i64; ROWS],
    live: [bool; ROWS],
    hot: [Row; 3],
    first_id: i64,
    next_id: i64,
    serial: usize,
    /// Batches it will still write.
    pub to_write: usize,
    pub current: Option<Rc<Batch>>,
    /// The current batch as it was spelt last, and how.
    spelt: Option<(usize, Rc<Spelt>)>,
}

impl Device {
    pub fn new(user: usize, name: usize, hot: [Row; 3], chance: &mut Chance) -> Self {
        let first_id = chance.pick(&[1, 1, 1, 1, -2, 0, 1 << 40]);
        Self {
            user,
            name,
            believed: [0; ROWS],
            live: [false; ROWS],
            hot,
            first_id,
            next_id: first_id,
            serial: 0,
            to_write: chance.between(1, 5),
            current: None,
            spelt: None,
        }
    }

    fn write(&mut self, chance: &mut Chance) -> Rc<Batch> {
        let mut changes: Vec<Sent> = Vec::new();
        if chance.percent(15) {
            self.ring(chance, &mut changes);
        }
        for _ in 0..chance.pick(&[1, 1, 2, 2, 3, 4, 5]) {
            // Often a row again that the batch has touched already.
            let again = !changes.is_empty() && chance.percent(20);
            let row = if again {
                changes[chance.below(changes.len())].content.row
            } else if chance.percent(50) {
                chance.pick(&self.hot)
            } else {
                chance.below(ROWS)
            };
            let content = self.content(row, chance);
            self.push(content, chance, &mut changes);
        }
        if chance.percent(20) {
            let (a, b) = (chance.below(changes.len()), chance.below(changes.len()));
            changes.swap(a, b);
        }
        self.freeze(changes)
    }

    /// Its first rows: one of every table, parents first, or some of them.
    fn begin(&mut self, chance: &mut Chance) -> Rc<Batch> {
        let mut changes = Vec::new();
        for table in 0..TABLES {
            let mut links = [LinkTo::Absent; 2];
            if table != 0 {
                links[0] = LinkTo::Key(0, 0);
            }
            let content = Content {
                row: row(table, 0),
                op: Op::Insert,
                links,
                number: draw_number(chance),
                note: chance.below(3),
            };
            if table == 0 || chance.percent(80) {
                self.push(content, chance, &mut changes);
            }
        }
        self.freeze(changes)
    }

    fn freeze(&mut self, mut changes: Vec<Sent>) -> Rc<Batch> {
        self.serial += 1;
        if self.name == SERVER {
            // Only different from each other, until the real ones are given out.
            for (id, sent) in (1..).zip(&mut changes) {
                sent.id = id;
            }
        }
        Rc::new(Batch {
            user: self.user,
            device: self.name,
            serial: self.serial,
            changes,
        })
    }

    /// Rows that need each other.
    fn ring(&mut self, chance: &mut Chance, changes: &mut Vec<Sent>) {
        let (a, b) = (chance.below(KEYS), chance.below(KEYS));
        let members = if chance.percent(60) {
            [(CHICKENS, a, 0, b), (EGGS, b, 0, a)]
        } else {
            [(NOTES, a, 1, b), (NOTES, b, 1, a)]
        };
        for (table, key, column, parent) in members {
            let mut content = Content {
                row: row(table, key),
                op: chance.pick(&[Op::Insert, Op::Update]),
                links: [LinkTo::Absent; 2],
                number: draw_number(chance),
                note: chance.below(3),
            };
            content.links[column] = LinkTo::Key(parent, chance.below(5));
            self.push(content, chance, changes);
        }
    }

    fn push(&mut self, content: Content, chance: &mut Chance, changes: &mut Vec<Sent>) {
        let base = self.version_of(content.row, chance, changes);
        let id = self.id(chance, changes);
        let flaw = chance.percent(3).then(|| {
            chance.pick(&[
                Flaw::UnknownTable,
                Flaw::BadKey,
                Flaw::BadOperation,
                Flaw::BadPayload,
            ])
        });
        changes.push(Sent {
            id,
            content,
            base,
            current: self.name == SERVER && chance.percent(50),
            flaw,
        });
    }

    fn id(&mut self, chance: &mut Chance, changes: &[Sent]) -> i64 {
        if chance.percent(3) && !changes.is_empty() {
            return changes[chance.below(changes.len())].id;
        }
        if chance.percent(5) && self.next_id > self.first_id {
            let used = (self.next_id - self.first_id) as usize;
            return self.first_id + chance.below(used) as i64;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn version_of(&self, row: Row, chance: &mut Chance, changes: &[Sent]) -> i64 {
        let before = changes
            .iter()
            .filter(|sent| sent.content.row == row)
            .count() as i64;
        let believed = self.believed[row];
        match chance.below(100) {
            0..80 => believed + before,
            80..87 => 0,
            87..93 => believed - 1,
            93..97 => believed,
            _ => believed + chance.between(1, 3) as i64,
        }
    }

    fn content(&self, row: Row, chance: &mut Chance) -> Content {
        let deletes = if self.live[row] { 30 } else { 8 };
        if chance.percent(deletes) {
            return Content::delete(row);
        }
        let mut links = [LinkTo::Absent; 2];
        for (place, link) in links.iter_mut().enumerate() {
            if let Some((_, parent)) = REFERENCES[table_of(row)][place] {
                *link = self.link(parent, chance);
            }
        }
        let op = if self.believed[row] == 0 {
            Op::Insert
        } else {
            Op::Update
        };
        Content {
            row,
            op: if chance.percent(10) { Op::Update } else { op },
            links,
            number: draw_number(chance),
            note: chance.below(3),
        }
    }

    fn link(&self, parent: usize, chance: &mut Chance) -> LinkTo {
        let key = chance.below(KEYS);
        let mut live = (0..KEYS).map(|offset| (key + offset) % KEYS);
        match (
            live.find(|key| self.live[row(parent, *key)]),
            chance.below(100),
        ) {
            (_, 0..2) => LinkTo::Nonsense,
            // Mostly to a row that it believes to be there.
            (Some(live), 2..60) => LinkTo::Key(live, chance.below(5)),
            (Some(_), 60..80) | (None, 2..40) => LinkTo::Key(key, chance.below(5)),
            (_, 80..85) => LinkTo::Null,
            (_, 85..90) => LinkTo::Empty,
            _ => LinkTo::Absent,
        }
    }

    /// Back-end code reads a row before it changes it.
    fn look(&mut self, reference: &Reference) {
        for row in 0..ROWS {
            let now = reference.row(row, reference.head());
            self.believed[row] = now.map_or(0, |now| now.version);
            self.live[row] = now.is_some_and(|now| !now.deleted);
        }
    }

    fn learn(&mut self, batch: &Batch, statuses: &[Status]) {
        for (sent, status) in batch.changes.iter().zip(statuses) {
            match status {
                Status::Applied(Some(version)) => {
                    self.hear(sent.content.row, *version, sent.content.op.is_upsert());
                }
                Status::Conflict {
                    row,
                    version,
                    deleted,
                    ..
                } => self.hear(*row, *version, !deleted),
                Status::Applied(None) | Status::Invalid(_) => {}
            }
        }
    }

    fn hear(&mut self, row: Row, version: i64, live: bool) {
        if version >= self.believed[row] {
            self.believed[row] = version;
            self.live[row] = live;
        }
    }
}

impl World<'_> {
    /// A device writes its next batch, or sends its current one again.
    pub fn device_acts(&mut self, device: usize) -> bool {
        // Back-end code writes one thing after the other.
        if self.devices[device].name == SERVER && self.server_is_heard(device) {
            return false;
        }
        let one = &mut self.devices[device];
        // Mostly it waits for its answer.
        if one.current.is_some() && !self.weather.is_calm() && self.chance.percent(60) {
            return false;
        }
        if one.current.is_none() {
            if one.to_write == 0 {
                return false;
            }
            one.to_write -= 1;
            if one.name == SERVER {
                one.look(&self.checker.users[one.user]);
            }
            let begins = one.serial == 0 && one.name != SERVER && self.chance.percent(60);
            one.current = Some(if begins {
                one.begin(&mut self.chance)
            } else {
                one.write(&mut self.chance)
            });
            one.spelt = None;
        }
        let Some(batch) = one.current.clone() else {
            return false;
        };
        // Frozen is what it says; the spelling may differ.
        let style = if self.chance.percent(70) {
            0
        } else {
            self.chance.below(8)
        };
        let upload = match &one.spelt {
            Some((as_before, upload)) if *as_before == style => upload.clone(),
            _ => Rc::new(self.words.spell(&batch, style, self.rules)),
        };
        one.spelt = Some((style, upload.clone()));
        if one.name == SERVER {
            // A host that hears nothing looks, and writes anew.
            one.current = None;
        }
        say!(self, "device {device} sends {batch:?}");
        self.requests.push(upload);
        true
    }

    /// Whether something that the server writes is on its way.
    fn server_is_heard(&self, device: usize) -> bool {
        let user = self.devices[device].user;
        let is_its =
            |upload: &Rc<Spelt>| upload.batch.user == user && upload.batch.device == SERVER;
        self.requests.iter().any(is_its)
            || self
                .processes
                .iter()
                .any(|process| process.works.iter().any(|work| is_its(&work.upload)))
    }

    pub fn device_hears(&mut self, device: usize, answer: &Answer) {
        let one = &mut self.devices[device];
        let Some(batch) = one.current.clone() else {
            return;
        };
        if batch.serial == answer.serial
            && let Some(statuses) = &answer.statuses
        {
            one.learn(&batch, statuses);
            one.current = None;
        }
    }

    /// A device reads in the stream what others did.
    pub fn device_reads(&mut self, user: usize, name: usize, ids: &[i64]) {
        let found = self
            .devices
            .iter_mut()
            .find(|one| one.user == user && one.name == name);
        let Some(one) = found else { return };
        for id in ids {
            if let Some(entry) = self.checker.users[user].log.get(*id as usize - 1) {
                one.hear(
                    entry.content.row,
                    entry.version,
                    entry.content.op.is_upsert(),
                );
            }
        }
    }
}
