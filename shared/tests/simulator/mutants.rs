//! Small wrong variants of the core and of the shell around it. Each one must
//! be caught: a checker that misses one would miss the same mistake in earnest.
//!
//! The simulated shell asks [`Rules`] where it could go wrong; the core itself
//! is never touched: [`Rules::decide`] changes what goes in or what comes out.

use crate::model::{Spelt, Words};
use oversync_shared::upload::{
    Base, Change, CurrentRow, Decision, Fault, Link, LogEntry, Recorded, RowAt, RowWrite, Verdict,
    View, decide,
};
use oversync_shared::{RowVersion, ServerId};
use std::collections::{HashMap, HashSet};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name,)* }
        impl Mutant {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutants! {
    // The core: idempotency.
    /// A repeated change is answered applied, without its version.
    ReplayWithoutVersion,
    /// A repeated change is answered with the version the row has now.
    ReplayWithCurrentVersion,
    /// The same id with other content is answered applied.
    FingerprintIgnored,
    /// Key order and white space count as content.
    FingerprintOfRawText,
    /// The id of a change that was not applied is remembered as used.
    RejectedIdUsedUp,
    /// Change ids are looked up without their user.
    IdsOfAnyUser,
    // The core: version gate.
    /// A conflicting change stays in the stream.
    ConflictLeftInLog,
    /// The new version is counted from the request, not from the row.
    VersionFromRequest,
    /// A tombstone counts as never seen.
    TombstoneForgotten,
    /// Several changes of one row are decided against the same state.
    RowDecidedOnce,
    // The core: foreign keys and order.
    /// A parent in the batch counts whether it is applied or not.
    ParentCountedBeforeApplied,
    /// A parent that the batch deletes counts.
    DoomedParentCounted,
    /// A deleted parent counts.
    TombstoneParentCounted,
    /// A row that has moved on is told so before that its parent, refused in
    /// the same batch, is missing.
    GateBeforeParents,
    /// A member of a ring stands although another one fell.
    RingUnchecked,
    /// Every change of a ring is decided alone.
    RingTornApart,
    /// Deletes are executed before upserts.
    DeletesFirst,
    /// Changes are executed as they were sent.
    RequestOrder,
    // The shell: answers and commits.
    /// What writes nothing is answered from the cache, unguarded.
    AnswerUnguarded,
    /// `applied` is answered before the commit.
    AnsweredBeforeCommit,
    /// A commit that was left out is answered as if it were done.
    LeftOutAnswered,
    /// A commit of unknown outcome is taken for done.
    UnknownTakenForDone,
    /// Server ids come from a sequence, before the commit.
    IdsBeforeCommit,
    /// A conflict shows the entry before the current one.
    ShowsOlderPayload,
    // The shell: cache.
    /// Rows taken for new need not be written.
    AssumptionsUnproven,
    /// Rows taken for new are not proven new by the commit.
    NewRowsUnproven,
    /// The cache survives a commit that was left out.
    KeptWhenLeftOut,
    /// What is read joins what was remembered of another revision.
    RevisionsMixed,
    /// "Never seen" survives the commit that creates the row.
    NegativeEntryKept,
    /// A device's watermark is not raised by its own commits.
    WatermarkNotRaised,
    /// A device's watermark outlives the cache: ids above it are not looked up.
    WatermarkStale,
    // The server as a writer.
    /// Its change ids start anew with every upload.
    ServerIdsFromOne,
    /// They are those of the first round, whoever was faster.
    ServerIdsOfFirstRound,
    /// "Whatever it is" means a row never seen.
    CurrentTakenForNew,
    // Business rows as parents.
    /// They are not asked for.
    BusinessForgotten,
    /// Other users' count.
    BusinessOfAnyUser,
    /// Those that are missed only once others are found are not asked for.
    BusinessAskedOnce,
    // Pages.
    /// The cursor moves to the highest id, not to the last one returned.
    CursorFromMax,
    /// The device's own entries are taken out after the page was cut.
    OwnSkippedByPosition,
    /// Later pages look beyond the frozen window.
    WindowIgnored,
    /// A full page promises more.
    HasMoreWhenFull,
}

/// The right rules, or one mutant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules(pub Option<Mutant>);

impl Rules {
    pub fn is(self, mutant: Mutant) -> bool {
        self.0 == Some(mutant)
    }

    /// The core, or a mutant of it.
    pub fn decide(self, words: &Words, view: &View, upload: &Spelt) -> Decision {
        let changes = &upload.checked;
        let catalog = &words.catalog;
        let Some(mutant) = self.0 else {
            return decide(catalog, view, changes);
        };
        let sound = || changes.iter().flatten();
        match mutant {
            Mutant::ReplayWithoutVersion | Mutant::ReplayWithCurrentVersion => {
                let mut decision = decide(catalog, view, changes);
                for (change, verdict) in changes.iter().zip(&mut decision.verdicts) {
                    if let (Ok(change), Verdict::Applied(version)) = (change, verdict)
                        && view.recorded.contains_key(&change.id)
                    {
                        *version = view
                            .rows
                            .get(&row_of(change))
                            .map(|now| now.version)
                            .filter(|_| mutant == Mutant::ReplayWithCurrentVersion);
                    }
                }
                decision
            }
            Mutant::FingerprintIgnored => {
                let mut view = view.clone();
                for change in sound() {
                    if let Some(recorded) = view.recorded.get_mut(&change.id) {
                        recorded.fingerprint = change.fingerprint;
                    }
                }
                decide(catalog, &view, changes)
            }
            Mutant::ConflictLeftInLog => with_conflicts_logged(words, view, changes),
            Mutant::VersionFromRequest => {
                let mut view = view.clone();
                for change in sound() {
                    if let Some(now) = view.rows.get_mut(&row_of(change))
                        && let Some(version) = change.base.version()
                    {
                        now.version = version;
                    }
                }
                decide(catalog, &view, changes)
            }
            Mutant::TombstoneForgotten => {
                let mut view = view.clone();
                view.rows.retain(|_, now| !now.deleted);
                decide(catalog, &view, changes)
            }
            Mutant::RowDecidedOnce => in_parts(words, view, changes, &singly(changes), false),
            Mutant::ParentCountedBeforeApplied => {
                let rows: HashSet<RowAt> = sound()
                    .filter(|change| change.op.is_upsert())
                    .map(row_of)
                    .collect();
                let changes = without_links(changes, |_, parent| rows.contains(&parent));
                decide(catalog, view, &changes)
            }
            Mutant::DoomedParentCounted => {
                let is_live =
                    |parent: RowAt| view.rows.get(&parent).is_some_and(|now| !now.deleted);
                let changes = without_links(changes, |_, parent| is_live(parent));
                decide(catalog, view, &changes)
            }
            Mutant::TombstoneParentCounted => {
                let changes = without_links(changes, |_, parent| view.rows.contains_key(&parent));
                decide(catalog, view, &changes)
            }
            Mutant::GateBeforeParents => {
                let mut decision = decide(catalog, view, changes);
                let upserts: HashSet<RowAt> = sound()
                    .filter(|change| change.op.is_upsert())
                    .map(row_of)
                    .collect();
                let are_in_batch = |change: &Change| {
                    without_links(&[Ok(change.clone())], |_, parent| upserts.contains(&parent))
                        .iter()
                        .flatten()
                        .all(|change| change.links.is_empty())
                };
                let verdicts = decision.verdicts.iter_mut().zip(changes);
                for (verdict, change) in verdicts {
                    if let (Verdict::Invalid(Fault::ForeignKeyMissing(_)), Ok(change)) =
                        (&*verdict, change)
                        && are_in_batch(change)
                        && let Some(state) = view.rows.get(&row_of(change)).copied()
                        && change.base != Base::Version(state.version)
                    {
                        let row = row_of(change);
                        *verdict = Verdict::Conflict(CurrentRow { row, state });
                    }
                }
                decision
            }
            Mutant::RingUnchecked => {
                let rows: HashSet<RowAt> = sound().map(row_of).collect();
                let changes = without_links(changes, |change, parent| {
                    let rank = |table| catalog.table(table).rank;
                    rank(change.table) == rank(parent.table) && rows.contains(&parent)
                });
                decide(catalog, view, &changes)
            }
            Mutant::RingTornApart => {
                let mut parts = singly(changes);
                parts.sort_by_key(|part| match &changes[part[0]] {
                    Ok(change) if change.op.is_upsert() => {
                        (0, catalog.table(change.table).rank as i64)
                    }
                    Ok(change) => (1, -(catalog.table(change.table).rank as i64)),
                    Err(_) => (2, 0),
                });
                in_parts(words, view, changes, &parts, true)
            }
            Mutant::DeletesFirst => {
                let is_upsert =
                    |place: &usize| !matches!(&changes[*place], Ok(c) if !c.op.is_upsert());
                let (upserts, deletes) = (0..changes.len()).partition(is_upsert);
                in_parts(words, view, changes, &[deletes, upserts], true)
            }
            Mutant::CurrentTakenForNew => {
                let mut changes = changes.clone();
                for change in changes.iter_mut().flatten() {
                    if change.base == Base::Current {
                        change.base = Base::NEW;
                    }
                }
                decide(catalog, view, &changes)
            }
            Mutant::RequestOrder => in_parts(words, view, changes, &singly(changes), true),
            _ => decide(catalog, view, changes),
        }
    }
}

fn row_of(change: &Change) -> RowAt {
    RowAt {
        table: change.table,
        key: change.key,
    }
}

fn singly(changes: &[Result<Change, Fault>]) -> Vec<Vec<usize>> {
    (0..changes.len()).map(|place| vec![place]).collect()
}

fn without_links(
    changes: &[Result<Change, Fault>],
    drop: impl Fn(&Change, RowAt) -> bool,
) -> Vec<Result<Change, Fault>> {
    let mut changes = changes.to_vec();
    for change in changes.iter_mut().flatten() {
        let links = std::mem::take(&mut change.links);
        change.links = links
            .iter()
            .filter(|link| match link {
                Link::Key { parent, .. } => !drop(change, *parent),
                Link::NotKey | Link::Column { .. } | Link::TooLong { .. } => true,
            })
            .cloned()
            .collect();
    }
    changes
}

/// Decides part after part; with `advance`, each against what the earlier did.
fn in_parts(
    words: &Words,
    view: &View,
    changes: &[Result<Change, Fault>],
    parts: &[Vec<usize>],
    advance: bool,
) -> Decision {
    let mut now = view.clone();
    let mut verdicts: Vec<Option<Verdict>> = vec![None; changes.len()];
    let mut log: Vec<LogEntry> = Vec::new();
    let mut rows: HashMap<RowAt, RowWrite> = HashMap::new();
    for part in parts {
        let sub: Vec<_> = part.iter().map(|&place| changes[place].clone()).collect();
        let decision = decide(&words.catalog, &now, &sub);
        for (place, verdict) in part.iter().zip(decision.verdicts) {
            verdicts[*place] = Some(verdict);
        }
        now.head = decision.plan.head;
        for mut entry in decision.plan.log {
            let version = entry.version;
            let fingerprint = entry.fingerprint;
            now.recorded.insert(
                entry.change_id,
                Recorded {
                    fingerprint,
                    version,
                },
            );
            entry.position = part[entry.position];
            log.push(entry);
        }
        for write in decision.plan.rows {
            if advance {
                now.rows.insert(write.row, write.state);
            }
            let state = write.state;
            rows.entry(write.row).or_insert(write).state = state;
        }
    }
    let mut rows: Vec<RowWrite> = rows.into_values().collect();
    rows.sort_by_key(|write| write.state.at);
    Decision {
        verdicts: verdicts
            .into_iter()
            .map(|verdict| verdict.expect("every change is in a part"))
            .collect(),
        plan: oversync_shared::upload::Plan {
            head: now.head,
            log,
            rows,
        },
    }
}

fn with_conflicts_logged(
    words: &Words,
    view: &View,
    changes: &[Result<Change, Fault>],
) -> Decision {
    let mut decision = decide(&words.catalog, view, changes);
    for (position, verdict) in decision.verdicts.iter().enumerate() {
        if let (Verdict::Conflict(current), Ok(change)) = (verdict, &changes[position])
            && !view.recorded.contains_key(&change.id)
            && decision
                .plan
                .log
                .iter()
                .all(|entry| entry.change_id != change.id)
        {
            decision.plan.head = decision.plan.head.next();
            decision.plan.log.push(LogEntry {
                server_id: ServerId::new(decision.plan.head.get()),
                position,
                row: current.row,
                op: change.op,
                version: RowVersion::new(current.state.version.get() + 1),
                change_id: change.id,
                fingerprint: change.fingerprint,
            });
        }
    }
    decision
}
