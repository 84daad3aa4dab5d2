//! Server processes: the algorithm of the shell's `upload/mod.rs` and `user.rs`,
//! cut into the steps between which others can act.
//!
//! A process takes one upload of a user at a time (or, with actors bypassed,
//! any number, without a cache). It decides against a snapshot, hands its commit
//! to `lanes.rs`, and answers when the outcome is known.

use crate::answers::{Answer, Status};
use crate::cache::{Snapshot, Trust, UserCache};
use crate::checker::{Checked, Violated, holds};
use crate::database::{Commit, Entry, KnownDevice, Outcome, RowNow, SERVER, Write};
use crate::model::Spelt;
use crate::mutants::{Mutant, Rules};
use crate::world::{World, say};
use oversync_shared::ChangeId;
use oversync_shared::upload::{Change, Decision, Fault, Link, RowAt, Verdict};
use std::collections::HashSet;
use std::rc::Rc;

/// As in the shell.
const MAX_ROUNDS: u32 = 50;

#[derive(Debug)]
pub struct Process {
    pub bypass: bool,
    /// Changes with every crash: what was on its way to the old one is not heard.
    pub incarnation: usize,
    pub works: Vec<Work>,
    pub caches: Vec<UserCache>,
}

/// One upload inside a process.
#[derive(Debug)]
pub struct Work {
    pub id: usize,
    visit: usize,
    pub upload: Rc<Spelt>,
    pub stage: Stage,
    round: u32,
    trust: Trust,
    cache: UserCache,
    /// Only for [`Mutant::ServerIdsOfFirstRound`].
    highest: Option<i64>,
}

#[derive(Debug)]
pub enum Stage {
    /// In the mailbox.
    Waiting,
    /// Its turn: to be decided.
    Open,
    /// Decided, waiting for a lane.
    Ready(Box<Decided>, Option<Commit>),
    /// On its way to the database.
    Sent(Box<Decided>),
}

#[derive(Debug)]
pub struct Decided {
    decision: Decision,
    head: i64,
    revision: i64,
    device: Option<KnownDevice>,
    writer: KnownDevice,
    rows: Vec<Write>,
}

impl Process {
    pub fn new(bypass: bool, users: usize) -> Self {
        Self {
            bypass,
            incarnation: 0,
            works: Vec::new(),
            caches: (0..users).map(|_| UserCache::default()).collect(),
        }
    }

    fn is_busy_with(&self, user: usize) -> bool {
        self.works
            .iter()
            .any(|work| work.upload.batch.user == user && !matches!(work.stage, Stage::Waiting))
    }

    /// The next work that can be decided.
    fn decidable(&self) -> Option<usize> {
        self.works.iter().position(|work| match work.stage {
            Stage::Open => true,
            Stage::Waiting => self.bypass || !self.is_busy_with(work.upload.batch.user),
            _ => false,
        })
    }
}

impl World<'_> {
    pub fn arrives(&mut self, process: usize, upload: Rc<Spelt>) {
        let visit = self.checker.arrives(&upload);
        say!(
            self,
            "process {process} takes batch {} of user {} device {} as visit {visit}",
            upload.batch.serial,
            upload.batch.user,
            upload.batch.device
        );
        self.next_work += 1;
        self.processes[process].works.push(Work {
            id: self.next_work,
            visit,
            upload,
            stage: Stage::Waiting,
            round: 0,
            trust: Trust::NewRows,
            cache: UserCache::default(),
            highest: None,
        });
    }

    /// One upload is decided: against what is remembered and read now.
    pub fn decide(&mut self, p: usize) -> Result<bool, Violated> {
        let process = &mut self.processes[p];
        let Some(place) = process.decidable() else {
            return Ok(false);
        };
        let mut work = process.works.remove(place);
        let user = work.upload.batch.user;
        if matches!(work.stage, Stage::Waiting) && !process.bypass {
            work.cache = std::mem::take(&mut process.caches[user]);
        }
        let (snapshot, decision) = loop {
            if work.round >= MAX_ROUNDS {
                // Overloaded: an answer of no meaning.
                self.fail(&work);
                return Ok(true);
            }
            work.round += 1;
            self.tally.decided_again += u64::from(work.round > 1);
            let mut snapshot = work.cache.snapshot(
                &self.database,
                self.words,
                &work.upload,
                work.trust,
                self.rules,
            );
            let mut view = None;
            if self.rules.is(Mutant::RejectedIdUsedUp) {
                view = Some(self.with_rejected(&work, &snapshot));
            }
            let mut decision = self.rules.decide(
                self.words,
                view.as_ref().unwrap_or(&snapshot.view),
                &work.upload,
            );
            let mut missing = missing_parents(&decision, &work.upload);
            for asks_for_all in [false, true] {
                if missing.is_empty() || self.rules.is(Mutant::BusinessForgotten) {
                    break;
                }
                snapshot.is_fresh = false;
                let found = self.in_business(user, &missing);
                if found.is_empty() {
                    break;
                }
                self.tally.parents_in_business += 1;
                self.tally.parents_asked_for_again += u64::from(asks_for_all);
                let view = view.get_or_insert_with(|| snapshot.view.clone());
                view.in_business.extend(found);
                decision = self.rules.decide(self.words, view, &work.upload);
                let unasked = |row: &RowAt| !missing.contains(row);
                let more = missing_parents(&decision, &work.upload);
                let is_all = asks_for_all || self.rules.is(Mutant::BusinessAskedOnce);
                missing = if is_all || !more.iter().any(unasked) {
                    Vec::new()
                } else {
                    parents(&work.upload.checked).filter(unasked).collect()
                };
            }
            if work.upload.batch.device == SERVER {
                let highest = snapshot.device.map_or(0, |device| device.highest);
                let first = *work.highest.get_or_insert(highest);
                give_ids(&mut decision, self.rules, highest, first);
            }
            if self.proves_assumptions(&decision, &snapshot) {
                break (snapshot, decision);
            }
            self.tally.assumptions_withdrawn += 1;
            work.trust = Trust::Nothing;
        };
        say!(
            self,
            "process {p} decides visit {} at head {} (fresh: {}): {:?}",
            work.visit,
            snapshot.head,
            snapshot.is_fresh,
            decision.verdicts
        );
        let again = |change: &&Change| snapshot.view.recorded.contains_key(&change.id);
        let again = work.upload.checked.iter().flatten().filter(again);
        self.tally.repeated += again.count() as u64;
        let writes = !decision.plan.log.is_empty();
        let shows = decision.verdicts.iter().any(|verdict| {
            matches!(verdict, Verdict::Conflict(current)
                if !current.state.deleted && current.state.at.get() <= snapshot.head)
        });
        let unguarded = self.rules.is(Mutant::AnswerUnguarded);
        let at_once = !writes && (unguarded || (!shows && snapshot.is_fresh));
        let (decided, commit) = self.plan(&work, decision, &snapshot);
        if at_once {
            self.tally.answered_without_guard += 1;
            self.answer(&work, &decided, false)?;
            self.remember(p, work);
            return Ok(true);
        }
        if writes && self.rules.is(Mutant::AnsweredBeforeCommit) {
            self.answer(&work, &decided, true)?;
        }
        work.stage = Stage::Ready(Box::new(decided), Some(commit));
        self.processes[p].works.push(work);
        Ok(true)
    }

    /// Which of these rows the business tables have for this user.
    fn in_business(&self, user: usize, rows: &[RowAt]) -> HashSet<RowAt> {
        let everyone = self.rules.is(Mutant::BusinessOfAnyUser);
        let has = |row: &RowAt| {
            let mut users = self.database.users.iter().enumerate();
            users.any(|(owner, data)| {
                (owner == user || everyone) && data.business[self.words.row_of(*row)]
            })
        };
        rows.iter().copied().filter(has).collect()
    }

    fn proves_assumptions(&self, decision: &Decision, snapshot: &Snapshot) -> bool {
        let written: HashSet<usize> = decision
            .plan
            .rows
            .iter()
            .map(|write| self.words.row_of(write.row))
            .collect();
        self.rules.is(Mutant::AssumptionsUnproven)
            || snapshot.assumed_new.iter().all(|row| written.contains(row))
    }

    fn plan(
        &mut self,
        work: &Work,
        mut decision: Decision,
        snapshot: &Snapshot,
    ) -> (Decided, Commit) {
        let batch = &work.upload.batch;
        if self.rules.is(Mutant::IdsBeforeCommit) {
            let data = &mut self.database.users[batch.user];
            for entry in &mut decision.plan.log {
                data.sequence += 1;
                let old = entry.server_id;
                entry.server_id = oversync_shared::ServerId::new(data.sequence);
                for write in &mut decision.plan.rows {
                    if write.state.at == old {
                        write.state.at = entry.server_id;
                    }
                }
                decision.plan.head = entry.server_id;
            }
        }
        let highest_here = decision.plan.log.iter().map(|entry| entry.change_id.get());
        let highest_before = snapshot.device.map(|device| device.highest);
        let writer = KnownDevice {
            key: match snapshot.device {
                Some(device) => device.key,
                None if batch.device == SERVER => 0,
                None => snapshot.next_device,
            },
            highest: highest_here.max().max(highest_before).unwrap_or_default(),
        };
        let rows: Vec<Write> = decision
            .plan
            .rows
            .iter()
            .map(|write| Write {
                row: self.words.row_of(write.row),
                base: write.base.get(),
                now: RowNow {
                    version: write.state.version.get(),
                    deleted: write.state.deleted,
                    at: write.state.at.get(),
                },
            })
            .collect();
        let entries = decision
            .plan
            .log
            .iter()
            .map(|entry| Entry {
                server_id: entry.server_id.get(),
                device_key: writer.key,
                change_id: entry.change_id.get(),
                row: self.words.row_of(entry.row),
                op: entry.op,
                version: entry.version.get(),
                fingerprint: entry.fingerprint,
                payload: work.upload.payloads[entry.position].clone(),
                visit: work.visit,
                position: entry.position,
            })
            .collect();
        let commit = Commit {
            user: batch.user,
            revision: snapshot.revision,
            head: decision.plan.head.get(),
            device: batch.device,
            writer,
            entries,
            rows: rows.clone(),
        };
        let decided = Decided {
            decision,
            head: snapshot.head,
            revision: snapshot.revision,
            device: snapshot.device,
            writer,
            rows,
        };
        (decided, commit)
    }

    pub fn outcome(&mut self, p: usize, id: usize, outcome: Outcome) -> Checked {
        let works = &mut self.processes[p].works;
        let place = works.iter().position(|work| work.id == id);
        let mut work = works.remove(place.expect("a sent work waits"));
        let Stage::Sent(decided) = std::mem::replace(&mut work.stage, Stage::Open) else {
            unreachable!("only sent works have outcomes");
        };
        let batch = work.upload.batch.clone();
        let writes = !decided.decision.plan.log.is_empty();
        match outcome {
            Outcome::LeftOut if self.rules.is(Mutant::LeftOutAnswered) => {
                self.answer(&work, &decided, writes)?;
            }
            Outcome::LeftOut => {
                self.tally.left_out += 1;
                work.cache.clear(self.rules);
                work.trust = Trust::Nothing;
                self.processes[p].works.push(work);
            }
            Outcome::Done => {
                if writes {
                    work.cache.committed(
                        decided.decision.plan.head.get(),
                        decided.revision + 1,
                        batch.device,
                        decided.writer,
                        &decided.rows,
                        self.rules,
                    );
                }
                if !(writes && self.rules.is(Mutant::AnsweredBeforeCommit)) {
                    self.answer(&work, &decided, writes)?;
                }
                self.tally.proven_without_writing += u64::from(!writes);
                self.remember(p, work);
            }
        }
        Ok(())
    }

    /// The actor keeps what it knows for the user's next upload.
    fn remember(&mut self, p: usize, work: Work) {
        if self.processes[p].bypass {
            return;
        }
        let mut cache = work.cache;
        if self.chance.percent(5) {
            cache.forget_rows();
        }
        if self.chance.percent(5) {
            cache.forget_devices();
        }
        self.processes[p].caches[work.upload.batch.user] = cache;
    }

    pub fn fail(&mut self, work: &Work) {
        self.answers.push(Answer {
            user: work.upload.batch.user,
            device: work.upload.batch.device,
            serial: work.upload.batch.serial,
            statuses: None,
            head: 0,
            highest: None,
        });
    }

    fn answer(&mut self, work: &Work, decided: &Decided, wrote: bool) -> Checked {
        let batch = work.upload.batch.clone();
        let plan = &decided.decision.plan;
        let data = &self.database.users[batch.user];
        let payload_at = |at: i64| {
            let own = plan.log.iter().find(|entry| entry.server_id.get() == at);
            match own {
                Some(entry) => work.upload.payloads[entry.position].clone(),
                None if self.rules.is(Mutant::ShowsOlderPayload) => {
                    let row = data.log.iter().find(|entry| entry.server_id == at);
                    let older = |entry: &&Entry| {
                        entry.server_id < at && row.is_some_and(|row| row.row == entry.row)
                    };
                    let older = data.log.iter().rev().find(older).or(row);
                    older.and_then(|entry| entry.payload.clone())
                }
                None => data.payload_at(at),
            }
        };
        let statuses: Vec<Status> = decided
            .decision
            .verdicts
            .iter()
            .map(|verdict| match verdict {
                Verdict::Applied(version) => Status::Applied(version.map(|v| v.get())),
                Verdict::Conflict(current) => Status::Conflict {
                    row: self.words.row_of(current.row),
                    version: current.state.version.get(),
                    deleted: current.state.deleted,
                    payload: if current.state.deleted {
                        None
                    } else {
                        payload_at(current.state.at.get())
                    },
                },
                Verdict::Invalid(fault) => Status::Invalid(fault.clone()),
            })
            .collect();
        let device = if wrote {
            Some(decided.writer)
        } else {
            decided.device
        };
        let answer = Answer {
            user: batch.user,
            device: batch.device,
            serial: batch.serial,
            head: plan.head.get(),
            highest: device.map(|device| device.highest),
            statuses: Some(statuses),
        };
        say!(self, "visit {} is answered {answer:?}", work.visit);
        holds(
            plan.head.get() == decided.head + plan.log.len() as i64
                || self.rules.is(Mutant::IdsBeforeCommit),
            "TRUE-HEAD",
            || "the plan's head is not the view's plus its entries".to_owned(),
        )?;
        self.checker.answered(self.words, work.visit, &answer)?;
        self.tally.answer(&answer);
        if self.rules.is(Mutant::RejectedIdUsedUp) {
            self.remember_rejected(&answer, &work.upload);
        }
        self.answers.push(answer);
        Ok(())
    }

    /// An actor without work ends.
    pub fn idle(&mut self, p: usize) {
        for user in 0..self.processes[p].caches.len() {
            if !self.processes[p].is_busy_with(user) {
                self.processes[p].caches[user] = UserCache::default();
            }
        }
    }

    fn remember_rejected(&mut self, answer: &Answer, upload: &Spelt) {
        let statuses = answer.statuses.iter().flatten();
        for (sent, status) in upload.batch.changes.iter().zip(statuses) {
            if !matches!(status, Status::Applied(_)) {
                let data = &mut self.database.users[answer.user];
                data.rejected.push((answer.device, sent.id));
            }
        }
    }

    fn with_rejected(&self, work: &Work, snapshot: &Snapshot) -> oversync_shared::upload::View {
        let mut view = snapshot.view.clone();
        let batch = &work.upload.batch;
        for change in work.upload.checked.iter().flatten() {
            let used = (batch.device, change.id.get());
            if self.database.users[batch.user].rejected.contains(&used) {
                let recorded = oversync_shared::upload::Recorded {
                    fingerprint: change.fingerprint,
                    version: change.base.version().unwrap_or_default().next(),
                };
                view.recorded.entry(change.id).or_insert(recorded);
            }
        }
        view
    }
}

/// The rows that some change was refused for not being there.
fn missing_parents(decision: &Decision, upload: &Spelt) -> Vec<RowAt> {
    let refused =
        |verdict: &Verdict| matches!(verdict, Verdict::Invalid(Fault::ForeignKeyMissing(_)));
    let changes = decision.verdicts.iter().zip(&upload.checked);
    let refused = changes.filter(|(verdict, _)| refused(verdict));
    refused
        .flat_map(|(_, change)| parents(std::slice::from_ref(change)))
        .collect()
}

fn parents(changes: &[Result<Change, Fault>]) -> impl Iterator<Item = RowAt> {
    let links = changes.iter().flatten().flat_map(|change| &change.links);
    links.filter_map(|link| match link {
        Link::Key { parent, .. } => Some(*parent),
        Link::NotKey | Link::Column { .. } | Link::TooLong { .. } => None,
    })
}

/// What follows the highest on record, in every round anew.
fn give_ids(decision: &mut Decision, rules: Rules, highest: i64, first: i64) {
    let above = match rules.0 {
        Some(Mutant::ServerIdsFromOne) => 0,
        Some(Mutant::ServerIdsOfFirstRound) => first,
        _ => highest,
    };
    for (id, entry) in (above + 1..).zip(&mut decision.plan.log) {
        entry.change_id = ChangeId::new(id);
    }
}
