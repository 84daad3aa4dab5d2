//! One history: a function of its seed.

use super::judge::{
    Checked, Violated, Written, all_are_equal, difference, every_write_has_its_fate, is_known,
    rows_are_as_told,
};
use super::mutants::{Moment, Mutant};
use super::phone::{Phone, Request};
use super::server::Server;
use crate::key::RowRef;
use crate::tests::uuid;
use oversync_shared::ChangeId;
use oversync_shared::wire::{DownloadReply, Op};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashMap;
use std::path::PathBuf;

/// Keys of `p`, then of `c`.
const PARENTS: u32 = 3;
const CHILDREN: u32 = 3;

/// Rounds after the faults have stopped; each moves every device on.
const CALM_ROUNDS: usize = 60;

struct World {
    rng: StdRng,
    mutant: Option<Mutant>,
    server: Server,
    phones: Vec<Phone>,
    /// What each application has written, in order.
    written: Vec<Vec<Written>>,
    /// A copy of a device's file, and how much it had written by then.
    backups: Vec<Option<(PathBuf, usize)>>,
    /// Whether such a copy was put back.
    restored: Vec<bool>,
    /// What each device has sent under each number.
    sent: HashMap<(usize, ChangeId), (RowRef, Op, Option<String>)>,
    /// Requests that will still arrive, though nobody waits for the answer.
    late: Vec<(usize, Request)>,
    value: i64,
    keys: Vec<(&'static str, String)>,
    /// Whether files are put back and the server is restored in this history.
    is_rough: bool,
    loud: bool,
}

macro_rules! say {
    ($world:expr, $($what:tt)*) => {
        if $world.loud {
            println!($($what)*);
        }
    };
}

/// Plays the history of a seed to its end; with `loud`, tells it.
pub(super) fn play(seed: u64, mutant: Option<Mutant>, loud: bool) -> Checked {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = rng.random_range(2..=3);
    let parents = (0..PARENTS).map(|n| ("p", uuid(n)));
    let children = (0..CHILDREN).map(|n| ("c", uuid(100 + n)));
    let mut world = World {
        mutant,
        server: Server::new(),
        phones: (0..count).map(Phone::new).collect(),
        written: vec![Vec::new(); count],
        backups: (0..count).map(|_| None).collect(),
        restored: vec![false; count],
        sent: HashMap::new(),
        late: Vec::new(),
        value: 0,
        keys: parents.chain(children).collect(),
        is_rough: rng.random_bool(0.2),
        loud,
        rng,
    };
    for _ in 0..world.rng.random_range(20..90) {
        world.step()?;
    }
    world.calm()
}

impl World {
    fn luck(&mut self, chance: f64) -> bool {
        self.rng.random_bool(chance)
    }

    fn strike(&self, phone: usize, moment: Moment<'_>) {
        if let Some(mutant) = self.mutant {
            mutant.strike(&self.phones[phone], moment);
        }
    }

    fn step(&mut self) -> Checked {
        let phone = self.rng.random_range(0..self.phones.len());
        match self.rng.random_range(0..100) {
            0..35 => self.edit(phone),
            35..58 => self.upload(phone)?,
            58..88 => self.download(phone)?,
            88..93 => self.restart(phone),
            93..96 => self.late_arrival(),
            96..98 if self.is_rough => self.copy(phone),
            98 if self.is_rough => self.restore(),
            _ => self.edit(phone),
        }
        Ok(())
    }

    fn parent(&mut self) -> String {
        uuid(self.rng.random_range(0..PARENTS))
    }

    /// One or a few statements of the application.
    fn edit(&mut self, phone: usize) {
        let before = self.phones[phone].contents();
        let is_known_there =
            |(table, key): &&(&'static str, String)| is_known(&self.phones[phone], table, key);
        let known: Vec<_> = self.keys.iter().filter(is_known_there).cloned().collect();
        let sql = self.statements();
        self.phones[phone].run(&sql);
        let after = self.phones[phone].contents();
        let mut written = difference(&before, &after);
        for one in &mut written {
            one.is_known = known.contains(&(one.table, one.key.clone()));
        }
        say!(self, "device {phone} writes: {sql}");
        self.written[phone].extend(written);
    }

    fn statements(&mut self) -> String {
        self.value += 2;
        let (n, m) = (self.value, self.value + 1);
        let p = self.parent();
        let c = uuid(100 + self.rng.random_range(0..CHILDREN));
        let to = match self.rng.random_range(0..5) {
            0 => "NULL".to_owned(),
            _ => format!("'{}'", self.parent()),
        };
        match self.rng.random_range(0..12) {
            0 | 1 => format!("INSERT INTO p VALUES ('{p}', {n}, {m}) ON CONFLICT DO UPDATE SET a = {n}"),
            2 => format!("UPDATE p SET a = {n} WHERE id = '{p}'"),
            3 => format!("UPDATE p SET b = {n} WHERE id = '{p}'"),
            4 => format!("DELETE FROM p WHERE id = '{p}'"),
            5 => format!("REPLACE INTO p VALUES ('{p}', {n}, {m})"),
            6 | 7 => format!("INSERT INTO c VALUES ('{c}', {to}, {n}, {m}) ON CONFLICT DO UPDATE SET b = {m}"),
            8 => format!("UPDATE c SET a = {n}, p_id = {to} WHERE id = '{c}'"),
            9 => format!("DELETE FROM c WHERE id = '{c}'"),
            10 => format!(
                "BEGIN; DELETE FROM c WHERE id = '{c}'; INSERT INTO c VALUES ('{c}', NULL, {n}, {m});
                 DELETE FROM c WHERE id = '{c}'; COMMIT"
            ),
            _ => format!(
                "BEGIN; INSERT OR IGNORE INTO p VALUES ('{p}', {n}, NULL);
                 REPLACE INTO c VALUES ('{c}', '{p}', {m}, NULL); COMMIT"
            ),
        }
    }

    /// Freezes what there is to send. ID-INTEGRITY: a number is never used for
    /// other content, unless the file is an older one of itself.
    fn freeze(&mut self, phone: usize) -> Result<Option<Request>, Violated> {
        if self.phones[phone].must_ask() {
            self.ask(phone);
        }
        let Some(request) = self.phones[phone].freeze() else {
            return Ok(None);
        };
        say!(self, "device {phone} sends {request:?}");
        for (_, one) in &request.sent {
            let content = (one.row, one.op, one.payload.clone());
            let before = self.sent.insert((phone, one.id), content.clone());
            if before.is_some_and(|before| before != content) && !self.restored[phone] {
                return Err(Violated {
                    promise: "ID-INTEGRITY",
                    what: format!("device {phone} uses number {} again", one.id),
                });
            }
        }
        self.strike(phone, Moment::Sending);
        Ok(Some(request))
    }

    /// An upload of nothing.
    fn ask(&mut self, phone: usize) {
        let epoch = self.server.epoch();
        let known = self.phones[phone].state().epoch;
        if known.is_some_and(|known| known != epoch) {
            return self.phones[phone].start_over(&epoch);
        }
        let reply = self.server.upload(phone, &[]);
        say!(
            self,
            "device {phone} asks, and hears {:?}",
            reply.highest_source_change_id
        );
        let request = Request {
            sent: Vec::new(),
            epoch: None,
        };
        self.phones[phone].acknowledge(&request, &reply);
    }

    fn upload(&mut self, phone: usize) -> Checked {
        let Some(request) = self.freeze(phone)? else {
            return Ok(());
        };
        // Edits in flight.
        for _ in 0..self.rng.random_range(0..3_u32) {
            if self.luck(0.4) {
                self.edit(phone);
            }
        }
        if self.luck(0.1) {
            // Lost on its way; or only delayed.
            say!(self, "… which does not arrive");
            if self.luck(0.5) {
                self.late.push((phone, request));
            }
            return Ok(());
        }
        if request
            .epoch
            .as_ref()
            .is_some_and(|known| *known != self.server.epoch())
        {
            let epoch = self.server.epoch();
            self.phones[phone].start_over(&epoch);
            return Ok(());
        }
        let mut reply = self.server.upload(phone, &request.sent);
        if self.luck(0.1) {
            reply = self.server.upload(phone, &request.sent);
        }
        if self.luck(0.15) {
            say!(self, "… whose answer is lost: {:?}", reply.statuses);
            if self.luck(0.3) {
                self.restart(phone);
            }
            return Ok(());
        }
        say!(self, "device {phone} hears {:?}", reply.statuses);
        self.phones[phone].acknowledge(&request, &reply);
        let head = reply.highest_server_seq.get();
        self.strike(phone, Moment::Acknowledged(&request, head));
        self.check(phone)
    }

    fn download(&mut self, phone: usize) -> Checked {
        let limit = self.rng.random_range(1..6);
        let Some(page) = self.phones[phone].ask(&self.server, limit) else {
            let epoch = self.server.epoch();
            self.phones[phone].start_over(&epoch);
            return Ok(());
        };
        if self.luck(0.3) {
            self.edit(phone);
        }
        if self.luck(0.1) {
            return Ok(());
        }
        self.strike(phone, Moment::Applying);
        if self.luck(0.05) {
            self.strike(phone, Moment::Killed(page.next_after.get()));
            self.restart(phone);
            return Ok(());
        }
        self.apply(phone, page);
        self.strike(phone, Moment::Applied);
        self.check(phone)
    }

    fn apply(&mut self, phone: usize, page: DownloadReply) {
        say!(self, "device {phone} applies {:?}", page.changes);
        self.phones[phone].apply(page);
    }

    fn check(&mut self, phone: usize) -> Checked {
        // In another history than the server's, or with a log to be read, the
        // device is not done yet.
        let state = self.phones[phone].state();
        let is_current = state.epoch.is_none_or(|known| known == self.server.epoch());
        let log = self.phones[phone].count("SELECT count(*) FROM _sync_touched");
        if !is_current || log > 0 || !state.hydrated {
            return Ok(());
        }
        rows_are_as_told(&self.phones[phone], &self.server, &self.keys)
    }

    fn restart(&mut self, phone: usize) {
        say!(self, "device {phone} restarts");
        self.phones[phone].restart();
        self.strike(phone, Moment::Restarted);
    }

    fn late_arrival(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let place = self.rng.random_range(0..self.late.len());
        let (phone, request) = self.late.swap_remove(place);
        if request
            .epoch
            .as_ref()
            .is_none_or(|known| *known == self.server.epoch())
        {
            say!(self, "a late request of device {phone} arrives");
            self.server.upload(phone, &request.sent);
        }
    }

    /// A backup of the device's file is made, or put back: what was written in
    /// between and not sent is gone, and its user knows.
    fn copy(&mut self, phone: usize) {
        match self.backups[phone].take() {
            None => {
                let copy = self.phones[phone].backup();
                self.backups[phone] = Some((copy, self.written[phone].len()));
            }
            Some((copy, written)) => {
                say!(self, "device {phone}'s backup is put back");
                self.phones[phone].put_back(&copy);
                self.written[phone].truncate(written);
                self.restored[phone] = true;
            }
        }
    }

    fn restore(&mut self) {
        let head = self.rng.random_range(0..=self.server.log.len());
        say!(self, "the server is restored to {head}");
        self.server.restore(head);
    }

    /// No more edits and no more faults.
    fn calm(mut self) -> Checked {
        say!(self, "calm");
        while !self.late.is_empty() {
            self.late_arrival();
        }
        for _ in 0..CALM_ROUNDS {
            let mut moved = false;
            for phone in 0..self.phones.len() {
                moved |= self.quiet_download(phone)?;
                moved |= self.quiet_upload(phone)?;
            }
            if !moved {
                all_are_equal(&self.phones, &self.server, &self.keys)?;
                for (phone, written) in self.phones.iter().zip(&self.written) {
                    let is_restored = self.restored[phone.number];
                    every_write_has_its_fate(phone, &self.server, written, is_restored)?;
                }
                return Ok(());
            }
        }
        Err(Violated {
            promise: "LIVENESS",
            what: format!("not quiet after {CALM_ROUNDS} rounds"),
        })
    }

    fn quiet_upload(&mut self, phone: usize) -> Result<bool, Violated> {
        let Some(request) = self.freeze(phone)? else {
            return Ok(false);
        };
        if request
            .epoch
            .as_ref()
            .is_some_and(|known| *known != self.server.epoch())
        {
            let epoch = self.server.epoch();
            self.phones[phone].start_over(&epoch);
            return Ok(true);
        }
        let reply = self.server.upload(phone, &request.sent);
        say!(self, "device {phone} hears {:?}", reply.statuses);
        self.phones[phone].acknowledge(&request, &reply);
        let head = reply.highest_server_seq.get();
        self.strike(phone, Moment::Acknowledged(&request, head));
        self.check(phone)?;
        Ok(true)
    }

    fn quiet_download(&mut self, phone: usize) -> Result<bool, Violated> {
        let before = self.phones[phone].state();
        let Some(page) = self.phones[phone].ask(&self.server, 100) else {
            let epoch = self.server.epoch();
            self.phones[phone].start_over(&epoch);
            return Ok(true);
        };
        self.strike(phone, Moment::Applying);
        self.apply(phone, page);
        self.strike(phone, Moment::Applied);
        self.check(phone)?;
        let after = self.phones[phone].state();
        Ok((before.cursor, before.hydrated) != (after.cursor, after.hydrated))
    }
}
