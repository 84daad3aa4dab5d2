//! One history: users, devices, server processes, a database and a network
//! that loses, doubles, delays and reorders; then calm, and everything drains.
//!
//! Single-threaded and a function of its seed.

use crate::answers::Answer;
use crate::chance::Chance;
use crate::checker::{Checked, Checker, Reference, Violated, violation};
use crate::database::{Ask, DEVICES, Database, Page, SERVER, UserData};
use crate::device::Device;
use crate::lanes::Group;
use crate::model::{ROWS, Spelt, Words};
use crate::mutants::Rules;
use crate::reader::Reader;
use crate::server::Process;
use crate::tally::Tally;
use std::rc::Rc;

/// Rounds after which everything must have drained: each brings a message one
/// station further.
const MAX_CALM_ROUNDS: usize = 120;

/// How bad it is, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    lost: usize,
    doubled: usize,
    cut: usize,
    crash: usize,
    pub held: usize,
    calm: bool,
}

impl Weather {
    const CALM: Self = Self {
        lost: 0,
        doubled: 0,
        cut: 0,
        crash: 0,
        held: 0,
        calm: true,
    };

    pub fn is_calm(self) -> bool {
        self.calm
    }
}

pub struct World<'w> {
    pub words: &'w Words,
    pub rules: Rules,
    pub chance: Chance,
    /// Whether to print what happens.
    pub loud: bool,
    pub weather: Weather,
    pub database: Database,
    pub processes: Vec<Process>,
    pub devices: Vec<Device>,
    pub readers: Vec<Reader>,
    /// Uploads on their way to a server.
    pub requests: Vec<Rc<Spelt>>,
    pub answers: Vec<Answer>,
    pub pages: Vec<(usize, Ask, Page)>,
    pub groups: Vec<Group>,
    pub checker: Checker,
    pub next_work: usize,
    pub tally: Tally,
}

macro_rules! say {
    ($world:expr, $($what:tt)*) => {
        if $world.loud {
            println!($($what)*);
        }
    };
}
pub(crate) use say;

/// Plays the history of a seed to its end.
pub fn play(words: &Words, rules: Rules, seed: u64, loud: bool) -> Result<Tally, Violated> {
    let mut world = World::new(words, rules, seed, loud);
    for _ in 0..world.chance.between(10, 60) {
        world.step()?;
    }
    world.calm()
}

impl<'w> World<'w> {
    fn new(words: &'w Words, rules: Rules, seed: u64, loud: bool) -> Self {
        let mut chance = Chance::new(seed);
        let users = chance.between(1, 2);
        let weather = Weather {
            lost: chance.pick(&[0, 10, 30]),
            doubled: chance.pick(&[0, 10, 30]),
            cut: chance.pick(&[0, 10, 40]),
            crash: chance.pick(&[0, 0, 2, 6]),
            held: chance.pick(&[0, 10]),
            calm: false,
        };
        let processes = (0..chance.between(1, 3))
            .map(|_| Process::new(chance.percent(20), users))
            .collect();
        // Rows that every device likes to write: chains grow, edits collide.
        let hot = [0; 3].map(|_| chance.below(ROWS));
        let mut devices = Vec::new();
        let mut readers = Vec::new();
        for user in 0..users {
            let count = chance.between(1, DEVICES);
            for name in 0..count {
                devices.push(Device::new(user, name, hot, &mut chance));
                readers.push(Reader::new(user, name, &mut chance));
            }
            if chance.percent(40) {
                devices.push(Device::new(user, SERVER, hot, &mut chance));
            }
        }
        // Rows that other programs have written, in half of the histories.
        let share = chance.pick(&[0, 15]);
        let business: Vec<[bool; ROWS]> = (0..users)
            .map(|_| [false; ROWS].map(|_| share > 0 && chance.percent(share)))
            .collect();
        let of_database = |business: &[bool; ROWS]| UserData {
            business: *business,
            ..UserData::default()
        };
        Self {
            words,
            rules,
            chance,
            loud,
            weather,
            database: Database {
                users: business.iter().map(of_database).collect(),
            },
            processes,
            devices,
            readers,
            requests: Vec::new(),
            answers: Vec::new(),
            pages: Vec::new(),
            groups: Vec::new(),
            checker: Checker {
                entries_of_rings: 0,
                users: business.iter().map(Reference::new).collect(),
                visits: Vec::new(),
            },
            next_work: 0,
            tally: Tally::default(),
        }
    }

    pub fn luck(&mut self, percent: usize) -> bool {
        percent > 0 && self.chance.percent(percent)
    }

    /// Something happens somewhere.
    fn step(&mut self) -> Checked {
        // What was drawn may find nothing to do; then something else happens.
        for _ in 0..4 {
            let done = match self.chance.below(100) {
                0..20 => {
                    let device = self.chance.below(self.devices.len());
                    self.device_acts(device)
                }
                20..38 => self.request_moves(),
                38..56 => {
                    let process = self.chance.below(self.processes.len());
                    self.decide(process)?
                }
                56..66 => {
                    let process = self.chance.below(self.processes.len());
                    self.group(process)
                }
                66..84 => self.group_moves()?,
                84..90 => self.answer_moves(),
                90..94 => {
                    let reader = self.chance.below(self.readers.len());
                    self.reader_asks(reader)?
                }
                94..98 => self.page_moves(),
                _ => self.process_suffers(),
            };
            if done {
                break;
            }
        }
        Ok(())
    }

    fn request_moves(&mut self) -> bool {
        if self.requests.is_empty() {
            return false;
        }
        let place = self.chance.below(self.requests.len());
        let request = if self.luck(self.weather.doubled) {
            self.requests[place].clone()
        } else {
            self.requests.swap_remove(place)
        };
        if !self.luck(self.weather.lost) {
            let process = self.chance.below(self.processes.len());
            self.arrives(process, request);
        }
        true
    }

    fn answer_moves(&mut self) -> bool {
        if self.answers.is_empty() {
            return false;
        }
        let place = self.chance.below(self.answers.len());
        let answer = if self.luck(self.weather.doubled) {
            self.answers[place].clone()
        } else {
            self.answers.swap_remove(place)
        };
        if !self.luck(self.weather.lost) {
            self.answer_arrives(&answer);
        }
        true
    }

    fn answer_arrives(&mut self, answer: &Answer) {
        let is_it = |one: &Device| one.user == answer.user && one.name == answer.device;
        if let Some(device) = self.devices.iter().position(is_it) {
            self.device_hears(device, answer);
        }
    }

    fn page_moves(&mut self) -> bool {
        if self.pages.is_empty() {
            return false;
        }
        let place = self.chance.below(self.pages.len());
        let (reader, ask, page) = if self.luck(self.weather.doubled) {
            self.pages[place].clone()
        } else {
            self.pages.swap_remove(place)
        };
        if !self.luck(self.weather.lost) {
            self.reader_hears(reader, &ask, &page);
        }
        true
    }

    fn group_moves(&mut self) -> Result<bool, Violated> {
        if self.groups.is_empty() {
            return Ok(false);
        }
        let group = self.chance.below(self.groups.len());
        if self.luck(self.weather.cut) {
            self.cut(group)?;
            return Ok(true);
        }
        Ok(self.execute(group)? || self.hear(group)?)
    }

    fn process_suffers(&mut self) -> bool {
        let process = self.chance.below(self.processes.len());
        if self.luck(self.weather.crash * 10) {
            self.crash(process);
            return true;
        }
        if self.chance.percent(20) {
            self.idle(process);
            return true;
        }
        false
    }

    /// No more faults, no more edits: everything must find its end.
    fn calm(mut self) -> Result<Tally, Violated> {
        say!(self, "the faults stop");
        self.weather = Weather::CALM;
        for device in &mut self.devices {
            device.to_write = 0;
        }
        for _ in 0..MAX_CALM_ROUNDS {
            if self.is_quiet() {
                self.verdict()?;
                self.tally.entries_of_rings = self.checker.entries_of_rings;
                return Ok(self.tally);
            }
            self.calm_round()?;
        }
        violation("LIVENESS", || {
            "a queue or a reader is stuck after the faults stopped".to_owned()
        })
    }

    fn is_quiet(&self) -> bool {
        self.devices.iter().all(|device| device.current.is_none())
            && self.requests.is_empty()
            && self.groups.is_empty()
            && self
                .processes
                .iter()
                .all(|process| process.works.is_empty())
            && self
                .readers
                .iter()
                .all(|reader| reader.is_at_head(&self.checker.users[reader.user()]))
    }

    fn calm_round(&mut self) -> Checked {
        for device in 0..self.devices.len() {
            if self.devices[device].current.is_some() && !self.is_under_way(device) {
                self.device_acts(device);
            }
        }
        while self.request_moves() {}
        for process in 0..self.processes.len() {
            while self.decide(process)? {}
            self.group(process);
        }
        for group in (0..self.groups.len()).rev() {
            self.execute(group)?;
            self.hear(group)?;
        }
        while self.answer_moves() {}
        for reader in 0..self.readers.len() {
            let one = &self.readers[reader];
            if !one.is_at_head(&self.checker.users[one.user()]) {
                self.reader_asks(reader)?;
            }
        }
        while self.page_moves() {}
        Ok(())
    }

    /// Whether a device's batch is anywhere on its way.
    fn is_under_way(&self, device: usize) -> bool {
        let one = &self.devices[device];
        let is_its = |upload: &Spelt| {
            upload.batch.user == one.user
                && upload.batch.device == one.name
                && Some(upload.batch.serial) == one.current.as_ref().map(|batch| batch.serial)
        };
        self.requests.iter().any(|upload| is_its(upload))
            || self
                .processes
                .iter()
                .any(|process| process.works.iter().any(|work| is_its(&work.upload)))
    }

    fn verdict(&self) -> Checked {
        for (user, data) in self.database.users.iter().enumerate() {
            self.checker.database_agrees(user, data)?;
        }
        for reader in &self.readers {
            reader.has_seen_all(&self.checker.users[reader.user()])?;
        }
        Ok(())
    }
}
