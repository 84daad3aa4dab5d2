//! Bounded storage: a user's log below the floor becomes one entry per row.
//!
//! A pass goes from user to user, those first that have waited longest. Of each it folds what lies up to the ceiling,
//! which no device needs that counts, writes the fold's places where nobody reads
//! them yet, puts them in place in one small transaction, and then removes what
//! they replace, oldest first. It may be cut off at any point: a new pass clears
//! what was half written, or removes what is left. Uploads do not notice: versions,
//! row states and the entries that they point to stay as they are.

mod readers;

pub use readers::Readers;

use crate::store::retention::{Moment, Part, Removed, Retention, Ripe, Rules, STEP};
use crate::store::{DeviceKey, FoldNumber, Store, StoreError, UserKey};
use oversync_shared::upload::{Fold, Folded, Leaves};
use oversync_shared::{Catalog, ServerId, TableIx, UserId};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Before the first user.
pub const BEFORE_ALL: (Moment, UserKey) = (Moment::FIRST, UserKey(i64::MIN));

/// Devices written down at a time.
const HEARD_STEP: usize = 1_000;

/// A fold is written anew only when what could be folded is at least this part of
/// it: what is written in all stays in proportion to what is uploaded.
const PART: i64 = 4;

/// After a failure indexes are left alone for so long.
const UNTIDY: Duration = Duration::from_secs(3_600);

/// What a pass has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Users whose log has been folded.
    pub users: u64,
    /// Entries removed.
    pub removed: u64,
    /// Devices forgotten that had been silent.
    pub forgotten: u64,
}

/// Told of a user before its next fold is put in place.
pub type BeforeFold = Box<dyn Fn(&UserId) + Send + Sync>;

/// The job in the background; it ends with this.
pub struct Job {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Job {
    /// Starts it: what was heard of devices is written down, a pass where there are
    /// rules for it, a pause, and again. How far devices have read is known from the
    /// beginning, so that folding may be switched on later.
    pub fn start(
        store: Arc<dyn Store>,
        catalog: Arc<Catalog>,
        readers: Arc<Readers>,
        rules: Option<Rules>,
        pause: Duration,
        before_fold: BeforeFold,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut is_going = true;
            let mut next_tidy = Instant::now();
            while is_going {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = end_of(stopped.clone()) => is_going = false,
                }
                // Each process knows devices that no other does. Not cut off: what is
                // half written down would be lost.
                if let Err(error) = write_down(&*store, &readers).await {
                    tracing::warn!(%error, "how far devices have read is not written down yet");
                    continue;
                }
                let Some(rules) = rules.filter(|_| is_going) else {
                    continue;
                };
                // Every step is a transaction: it may end between any two.
                let done = tokio::select! {
                    done = pass(&*store, &catalog, rules, &before_fold) => done,
                    () = end_of(stopped.clone()) => continue,
                };
                match done {
                    Ok(Some(done)) if done != Done::default() => {
                        let Done {
                            users,
                            removed,
                            forgotten,
                        } = done;
                        tracing::info!(users, removed, forgotten, "folded");
                        if rules.reindexes && removed > 0 && next_tidy <= Instant::now() {
                            let tidied = tokio::select! {
                                tidied = tidy(&*store, &readers) => tidied,
                                () = end_of(stopped.clone()) => continue,
                            };
                            if let Err(error) = tidied {
                                tracing::warn!(%error, "indexes are not built anew; it is tried again in an hour");
                                next_tidy = Instant::now() + UNTIDY;
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "folding stopped; it goes on later"),
                }
            }
        });
        Self { task, stop }
    }

    /// Ends it, waits until it has written down what was heard last and has let go of
    /// the store, which could not close before.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "folding ended by itself");
        }
    }
}

/// When the job is to end.
async fn end_of(mut stopped: watch::Receiver<bool>) {
    // An error means that it is let go of.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Every step is a transaction: it may end between any two.
        self.task.abort();
    }
}

async fn write_down(store: &dyn Store, readers: &Readers) -> Result<(), StoreError> {
    let mut unwritten = readers.take();
    while !unwritten.is_empty() {
        let step = unwritten[..unwritten.len().min(HEARD_STEP)].to_vec();
        let written = step.len();
        if let Err(error) = store.heard(step).await {
            readers.put_back(unwritten);
            return Err(error);
        }
        unwritten.drain(..written);
    }
    readers.written();
    Ok(())
}

/// Makes what has become too large small again, while nobody folds.
async fn tidy(store: &dyn Store, readers: &Readers) -> Result<(), StoreError> {
    let Some(mut retention) = store.retention().await? else {
        return Ok(());
    };
    let tidied = retention.tidy().await;
    // It may have taken hours: who folds next must know how far devices have read.
    write_down(store, readers).await?;
    tidied
}

/// Goes over all users once; `None` while another process does. `before_fold` is told of
/// each user whose fold is about to be replaced.
pub async fn pass(
    store: &dyn Store,
    catalog: &Arc<Catalog>,
    rules: Rules,
    before_fold: &BeforeFold,
) -> Result<Option<Done>, StoreError> {
    let Some(mut retention) = store.retention().await? else {
        return Ok(None);
    };
    let done = pass_with(&mut *retention, catalog, rules, before_fold).await?;
    Ok(Some(done))
}

/// Goes over all users once, by who has the right to.
pub async fn pass_with(
    retention: &mut dyn Retention,
    catalog: &Arc<Catalog>,
    rules: Rules,
    before_fold: &BeforeFold,
) -> Result<Done, StoreError> {
    let mut done = Done::default();
    loop {
        let forgotten = retention.forget_silent(rules).await?;
        crate::meters::forgotten_devices(forgotten);
        done.forgotten += forgotten;
        if forgotten < STEP as u64 {
            break;
        }
    }
    let started = retention.now().await?;
    let mut after = BEFORE_ALL;
    loop {
        let users = retention.ripe(after, started, rules).await?;
        let Some(last) = users.last() else {
            return Ok(done);
        };
        after = (last.folded_at, last.user);
        for ripe in &users {
            done.removed += if ripe.is_swept {
                let folded = fold(retention, catalog, ripe, rules, before_fold).await?;
                done.users += u64::from(folded.is_some());
                folded.unwrap_or(0)
            } else {
                // Somebody was cut off here.
                let kept = read_kept(retention, ripe).await?;
                let sweeping = (ripe.fold, ripe.floor);
                sweep(retention, ripe.user, sweeping, &kept, rules.removed).await?
            };
        }
    }
}

/// Whether folding a user is worth what it writes.
pub fn is_worth_it(ripe: &Ripe) -> bool {
    ripe.entries > 0 && ripe.entries >= ripe.size / PART
}

/// Folds one user's log up to the ceiling: how many entries were removed; `None`
/// when nothing was folded.
async fn fold(
    retention: &mut dyn Retention,
    catalog: &Arc<Catalog>,
    ripe: &Ripe,
    rules: Rules,
    before_fold: &BeforeFold,
) -> Result<Option<u64>, StoreError> {
    if !is_worth_it(ripe) {
        return Ok(None);
    }
    let order = read(retention, catalog, ripe).await?;
    while retention.clear_all_but(ripe.user, ripe.fold).await? {}
    let next = FoldNumber(ripe.fold.0 + 1);
    // The last row stands at the floor: who has read them all is there.
    let first = ripe.ceiling.get() - order.len() as i64 + 1;
    for (step, entries) in order.chunks(STEP as usize).enumerate() {
        let place = ServerId::new(first + step as i64 * STEP);
        retention.write(ripe.user, next, place, entries).await?;
    }
    before_fold(&ripe.user_id);
    if !retention.put_in_place(ripe, ripe.ceiling, rules).await? {
        return Ok(None);
    }
    crate::meters::folded_user();
    let kept: HashSet<ServerId> = order.into_iter().collect();
    let sweeping = (next, ripe.ceiling);
    let removed = sweep(retention, ripe.user, sweeping, &kept, rules.removed).await?;
    Ok(Some(removed))
}

/// Reads what the log is folded to, up to the ceiling, in its order.
async fn read(
    retention: &mut dyn Retention,
    catalog: &Arc<Catalog>,
    ripe: &Ripe,
) -> Result<Vec<ServerId>, StoreError> {
    let numbers = retention.table_numbers();
    let places: HashMap<i64, TableIx> = numbers
        .into_iter()
        .zip(catalog.tables().map(|(place, _)| place))
        .collect();
    let payloads_of: Vec<i64> = places
        .iter()
        .filter(|(_, table)| Fold::needs_payload(catalog, **table))
        .map(|(number, _)| *number)
        .collect();
    // Asked for after the ceiling was set: who wrote below it is among them.
    let unmoved = retention.unmoved(ripe.user).await?;
    let leaves = |lives: bool, by: DeviceKey| match lives {
        true => Leaves::Row,
        false if unmoved.iter().any(|device| *device != by) => Leaves::Tombstone,
        false => Leaves::Nothing,
    };
    let mut fold = Fold::new(catalog);
    for (part, after, until) in [
        (Part::Folded, ServerId::ZERO, ripe.floor),
        (Part::Logged, ripe.floor, ripe.ceiling),
    ] {
        let mut after = after;
        loop {
            let entries = retention
                .scan(ripe, part, after, until, &payloads_of)
                .await?;
            let Some(last) = entries.last() else { break };
            after = last.place;
            for entry in &entries {
                fold.take(Folded {
                    at: entry.at,
                    number: entry.table,
                    table: places.get(&entry.table).copied(),
                    key: entry.key,
                    leaves: leaves(entry.lives, entry.device),
                    payload: entry.payload.as_deref(),
                });
            }
        }
    }
    Ok(fold.end())
}

/// The entries that the fold which is read consists of.
async fn read_kept(
    retention: &mut dyn Retention,
    ripe: &Ripe,
) -> Result<HashSet<ServerId>, StoreError> {
    let mut kept = HashSet::new();
    let mut after = ServerId::ZERO;
    loop {
        let entries = retention
            .scan(ripe, Part::Folded, after, ripe.floor, &[])
            .await?;
        let Some(last) = entries.last() else {
            return Ok(kept);
        };
        after = last.place;
        kept.extend(entries.iter().map(|entry| entry.at));
    }
}

/// Removes what a fold has replaced, oldest first: of a row's entries that are left
/// there is never one missing in between.
async fn sweep(
    retention: &mut dyn Retention,
    user: UserKey,
    (fold, floor): (FoldNumber, ServerId),
    kept: &HashSet<ServerId>,
    replaced_are: Removed,
) -> Result<u64, StoreError> {
    let (mut removed, mut after) = (0, ServerId::ZERO);
    loop {
        let entries = retention.entries(user, after, floor).await?;
        let Some(last) = entries.last() else { break };
        after = *last;
        let replaced: Vec<ServerId> = entries
            .into_iter()
            .filter(|entry| !kept.contains(entry))
            .collect();
        if !replaced.is_empty() {
            let gone = retention
                .remove(user, fold, &replaced, replaced_are)
                .await?;
            crate::meters::folded_entries(gone);
            removed += gone;
        }
    }
    while retention.clear_all_but(user, fold).await? {}
    retention.swept(user, fold).await?;
    Ok(removed)
}
