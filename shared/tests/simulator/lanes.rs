//! Commits on their way: a lane of a process sends what is ready of many users,
//! the database executes it, the outcome travels back, or nobody hears of it.
//!
//! The algorithm of the shell's `commit.rs`, and what can go wrong around it.

use crate::cache::UserCache;
use crate::checker::{Checked, Violated};
use crate::database::{Commit, Outcome};
use crate::mutants::Mutant;
use crate::server::Stage;
use crate::world::{World, say};

/// A group commit on its way.
#[derive(Debug)]
pub struct Group {
    process: usize,
    /// `None`: nobody waits for its outcome any more.
    incarnation: Option<usize>,
    jobs: Vec<(usize, Commit)>,
    outcomes: Option<Vec<Outcome>>,
}

impl World<'_> {
    /// A lane takes what is ready, at most one upload of each user.
    pub fn group(&mut self, p: usize) -> bool {
        let process = &mut self.processes[p];
        let mut jobs: Vec<(usize, Commit)> = Vec::new();
        for work in &mut process.works {
            let Stage::Ready(_, commit) = &mut work.stage else {
                continue;
            };
            let user = work.upload.batch.user;
            if jobs.iter().any(|(_, commit)| commit.user == user) {
                continue;
            }
            let commit = commit.take().expect("a ready work has its commit");
            jobs.push((work.id, commit));
            if let Stage::Ready(decided, _) = std::mem::replace(&mut work.stage, Stage::Open) {
                work.stage = Stage::Sent(decided);
            }
        }
        if jobs.is_empty() {
            return false;
        }
        self.tally.commits_of_two_users += u64::from(jobs.len() > 1);
        self.groups.push(Group {
            process: p,
            incarnation: Some(process.incarnation),
            jobs,
            outcomes: None,
        });
        true
    }

    /// The database executes a group: one transaction.
    pub fn execute(&mut self, group: usize) -> Result<bool, Violated> {
        if self.groups[group].outcomes.is_some() {
            return Ok(false);
        }
        let jobs = std::mem::take(&mut self.groups[group].jobs);
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (_, commit) in &jobs {
            // The head row is held by somebody else: skipped.
            let is_held = self.luck(self.weather.held);
            let outcome = if is_held {
                Outcome::LeftOut
            } else {
                self.database.users[commit.user].commit(commit, self.rules)?
            };
            say!(
                self,
                "the database: user {} revision {} entries {:?}: {outcome:?}",
                commit.user,
                commit.revision,
                commit
                    .entries
                    .iter()
                    .map(|e| (e.server_id, e.position))
                    .collect::<Vec<_>>()
            );
            if outcome == Outcome::Done {
                self.tally.entries += commit.entries.len() as u64;
                self.checker.committed(commit.user, &commit.entries)?;
            }
            outcomes.push(outcome);
        }
        self.groups[group].jobs = jobs;
        self.groups[group].outcomes = Some(outcomes);
        Ok(true)
    }

    /// An outcome reaches its process.
    pub fn hear(&mut self, group: usize) -> Result<bool, Violated> {
        if self.groups[group].outcomes.is_none() {
            return Ok(false);
        }
        let group = self.groups.swap_remove(group);
        let outcomes = group.outcomes.expect("it was just looked at");
        if group.incarnation != Some(self.processes[group.process].incarnation) {
            let done = outcomes.iter().filter(|one| **one == Outcome::Done);
            self.tally.executed_unheard += done.count() as u64;
            return Ok(true);
        }
        for ((id, _), outcome) in group.jobs.iter().zip(outcomes) {
            self.outcome(group.process, *id, outcome)?;
        }
        Ok(true)
    }

    /// The connection breaks: the process does not know the outcome, and what
    /// it sent may still be executed, now or later.
    pub fn cut(&mut self, group: usize) -> Checked {
        let Some(incarnation) = self.groups[group].incarnation.take() else {
            return Ok(());
        };
        let p = self.groups[group].process;
        let ids: Vec<usize> = self.groups[group].jobs.iter().map(|(id, _)| *id).collect();
        if self.groups[group].outcomes.is_some() || self.chance.percent(50) {
            self.groups.swap_remove(group);
        }
        if incarnation != self.processes[p].incarnation {
            return Ok(());
        }
        for id in ids {
            self.tally.outcomes_unknown += 1;
            say!(self, "process {p} does not hear what became of its commit");
            if self.rules.is(Mutant::UnknownTakenForDone) {
                self.outcome(p, id, Outcome::Done)?;
                continue;
            }
            let works = &mut self.processes[p].works;
            let place = works.iter().position(|work| work.id == id);
            let work = works.remove(place.expect("a sent work waits"));
            self.fail(&work);
        }
        Ok(())
    }

    /// The process and what it has not committed are gone; what it sent may
    /// still be executed.
    pub fn crash(&mut self, p: usize) {
        self.tally.crashes += 1;
        say!(self, "process {p} crashes");
        let process = &mut self.processes[p];
        process.incarnation += 1;
        process.works.clear();
        for cache in &mut process.caches {
            *cache = UserCache::default();
        }
        for group in (0..self.groups.len()).rev() {
            if self.groups[group].process == p {
                self.groups[group].incarnation = None;
                if self.chance.percent(50) {
                    self.groups.swap_remove(group);
                }
            }
        }
    }
}
