//! One restore: the backup comes in whole or not at all, and always as a new history.
//!
//! Devices of the lost history notice the epoch and offer again what the server lacks;
//! whoever knows no epochs goes on with its cursor, which no stream will use again.
//! The embedded store: everything is done to a copy, which is then renamed. PostgreSQL:
//! the dump is played in one transaction that ends with a mark under which no server
//! starts; the new history takes the mark away. One that is stopped before anything is in
//! its place leaves nothing behind; later it goes on to its end, which is near.

use super::apart::{Stop, Waiting, apart};
use super::backup::{Existing, beside, checked, label_of, put};
use super::programs;
use super::{Manifest, Progress, RecoveryError};
use crate::clock::Clock;
use crate::store::Place;
use crate::store::recovery::{Begun, HIGHEST_PLACE, embedded, postgres};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::macros::format_description;

/// How far every stream goes up unless something else is asked for: more than one user
/// could commit in a year at 30,000 changes a second without a pause; and there is room
/// for 9,000 restores.
pub(crate) const STEP: i64 = 1_000_000_000_000;

/// The furthest that is taken.
pub(crate) const MAX_STEP: i64 = HIGHEST_PLACE / 4;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Restored {
    /// The history that has begun.
    #[serde(flatten)]
    pub(crate) begun: Begun,
    /// What the backup said of itself.
    pub(crate) backup: Option<Manifest>,
    /// Where the file is that was replaced.
    pub(crate) kept: Option<PathBuf>,
    /// Whether the list of refused devices of the database that was replaced still
    /// counts, beside the backup's.
    pub(crate) kept_revocations: bool,
}

impl Restored {
    fn in_place(begun: Begun) -> Self {
        Self {
            begun,
            backup: None,
            kept: None,
            kept_revocations: false,
        }
    }
}

/// What is restored from, and over what.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A backup of `oversync backup`, into an empty place or in place of what is there.
    Backup(PathBuf, Existing),
    /// What is there was put there by other means: only the new history is begun.
    InPlace,
}

/// Restores the database behind a URL. No server may run on it. A backup that is put back
/// ends early when `stop` comes in time.
pub(crate) async fn restore(
    url: &str,
    source: &Source,
    step: i64,
    clock: &Clock,
    progress: Progress<'_>,
    stop: Stop<'_>,
) -> Result<Restored, RecoveryError> {
    match (Place::of(url)?, source) {
        (Place::Embedded(path), Source::InPlace) => {
            if !path.exists() {
                return Err(RecoveryError::NoDatabase(path));
            }
            let _lock = embedded::lock(&path)?;
            let begun = embedded::begin_new_history(&path, step, &[], clock.micros())?;
            Ok(Restored::in_place(begun))
        }
        (Place::Embedded(path), Source::Backup(from, existing)) => {
            let (from, existing, clock) = (from.clone(), *existing, clock.clone());
            let work = move |waiting: &Waiting| file(&path, &from, existing, step, &clock, waiting);
            apart(progress, stop, work).await
        }
        (Place::Postgres(url), Source::InPlace) => {
            let mut target = postgres::Target::open(&url).await?;
            let begun = target.begin_new_history(step, &[]).await?;
            Ok(Restored::in_place(begun))
        }
        (Place::Postgres(url), Source::Backup(from, existing)) => {
            dump(&url, from, *existing, step, progress, stop).await
        }
    }
}

fn must_exist(from: &Path) -> Result<(), RecoveryError> {
    match from.exists() {
        true => Ok(()),
        false => Err(RecoveryError::NoBackup(from.to_owned())),
    }
}

/// The embedded store.
fn file(
    path: &Path,
    from: &Path,
    existing: Existing,
    step: i64,
    clock: &Clock,
    waiting: &Waiting,
) -> Result<Restored, RecoveryError> {
    must_exist(from)?;
    if let Some(folder) = path.parent().filter(|at| !at.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(RecoveryError::file(folder))?;
    }
    let _lock = embedded::lock(path)?;
    let is_there = path.exists();
    let log = with_suffix(path, "-wal");
    if existing == Existing::Keep && (is_there || log.exists()) {
        return Err(RecoveryError::Occupied(path.display().to_string()));
    }
    let copy = beside(path)?;
    if embedded::copy(from, &copy, |far| waiting.told(far))?.is_break() {
        return Err(RecoveryError::Stopped);
    }
    checked(&copy, waiting)?;
    let backup = read(embedded::manifest(&copy)?);
    // A device that was refused after the backup must not come in again.
    let (refused, kept_revocations) = match is_there.then(|| embedded::refused(path)) {
        None => (Vec::new(), false),
        Some(Ok(list)) => (list, true),
        Some(Err(error)) => {
            tracing::warn!(%error, "the list of refused devices of the file that is replaced cannot be read");
            (Vec::new(), false)
        }
    };
    let begun = embedded::begin_new_history(&copy, step, &refused, clock.micros())?;
    // Before anything is in its place: the server may run as somebody else.
    if let Err(error) = embedded::succeed(&copy, path) {
        tracing::warn!(%error, "the restored file keeps its owner: give it to the server's user");
    }
    let kept = match is_there || log.exists() {
        true => Some(set_aside(path, clock.now())?),
        false => None,
    };
    put(copy, path, Existing::Replace)?;
    Ok(Restored {
        begun,
        backup,
        kept,
        kept_revocations,
    })
}

/// Gives the file that is replaced another name as well; it goes from its own when the
/// new one comes, so that there is a database at every moment.
fn set_aside(path: &Path, now: OffsetDateTime) -> Result<PathBuf, RecoveryError> {
    let stamp = format_description!("[year][month][day]T[hour][minute][second]");
    let stamp = now.format(stamp).unwrap_or_default();
    let aside = with_suffix(path, &format!(".replaced-{stamp}"));
    if aside.exists() {
        return Err(RecoveryError::Occupied(aside.display().to_string()));
    }
    // Where only the log is left, SQLite would make an empty file and throw the log away.
    if path.exists()
        && let Err(error) = embedded::settle(path)
    {
        // What is damaged goes as it is.
        tracing::warn!(%error, "the log of the file that is replaced stays beside it");
    }
    if path.exists() && fs::hard_link(path, &aside).is_err() {
        // No such links on this file system.
        fs::rename(path, &aside).map_err(RecoveryError::file(path))?;
    }
    // A log beside the new file would be taken for its own.
    for suffix in ["-wal", "-shm", "-journal"] {
        let log = with_suffix(path, suffix);
        if log.exists() {
            fs::rename(&log, with_suffix(&aside, suffix)).map_err(RecoveryError::file(&log))?;
        }
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// PostgreSQL.
async fn dump(
    url: &str,
    from: &Path,
    existing: Existing,
    step: i64,
    progress: Progress<'_>,
    mut stop: Stop<'_>,
) -> Result<Restored, RecoveryError> {
    must_exist(from)?;
    let replaces = existing == Existing::Replace;
    let prepared = async {
        let listing = programs::list(from).await?;
        if listing.has_large_objects() {
            return Err(RecoveryError::LargeObjects(from.display().to_string()));
        }
        let mut target = postgres::Target::open(url).await?;
        target.refuse_servers().await?;
        if !replaces && !target.is_empty().await? {
            return Err(RecoveryError::Occupied("the database".to_owned()));
        }
        let refused = target.refused().await?;
        let frame = programs::Frame {
            before: postgres::before_replay(replaces),
            after: postgres::after_replay(&refused),
            cleans: replaces,
            // Who does not own an extension may neither drop it nor comment on it.
            only: listing.without(&target.extensions_of_others().await?),
            server: target.major().await?,
        };
        Ok((target, refused, frame))
    };
    // The database may not answer, or be locked by somebody.
    let (mut target, refused, frame) = tokio::select! {
        prepared = prepared => prepared?,
        () = stop.as_mut() => return Err(RecoveryError::Stopped),
    };
    programs::replay(from, url, frame, progress, stop.as_mut()).await?;
    let begun = tokio::select! {
        begun = target.begin_new_history(step, &refused) => begun,
        () = stop => return Err(RecoveryError::StoppedLate),
    };
    Ok(Restored {
        begun: begun.map_err(RecoveryError::HalfDone)?,
        backup: read_label(from),
        kept: None,
        kept_revocations: replaces,
    })
}

/// The manifest beside a dump, where it is this dump's.
fn read_label(dump: &Path) -> Option<Manifest> {
    let manifest = read(fs::read_to_string(label_of(dump)).ok())?;
    let bytes = fs::metadata(dump).ok()?.len();
    Some(manifest).filter(|manifest| manifest.bytes == Some(bytes))
}

/// A backup says of itself what it likes; without it, it is one all the same.
fn read(manifest: Option<String>) -> Option<Manifest> {
    let text = manifest?;
    let read = serde_json::from_str(&text);
    read.inspect_err(|error| tracing::warn!(%error, "the manifest of the backup cannot be read"))
        .ok()
}

/// Whether a step may be asked for.
pub(crate) fn step(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(step) if (1..=MAX_STEP).contains(&step) => Ok(step),
        _ => Err(format!("must be between 1 and {MAX_STEP}")),
    }
}
