//! One backup: written beside its final name, checked, flushed, then renamed.
//!
//! Whoever finds the file finds a whole one. The server, if one runs, is not asked and
//! does not wait. One that is stopped leaves nothing behind.

use super::apart::{Stop, Waiting, apart};
use super::programs::{self, Program};
use super::{Kind, Manifest, Progress, RecoveryError};
use crate::clock::Clock;
use crate::store::Place;
use crate::store::recovery::{Contents, Far, embedded, postgres};
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};
use time::format_description::well_known::Rfc3339;

/// How often the size of a dump is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and there is no backup.
    Keep,
    /// It is replaced by the whole new one.
    Replace,
}

/// Makes a backup of the database behind a URL, or ends early when `stop` comes.
pub(crate) async fn backup(
    url: &str,
    to: &Path,
    existing: Existing,
    clock: &Clock,
    progress: Progress<'_>,
    stop: Stop<'_>,
) -> Result<Manifest, RecoveryError> {
    if existing == Existing::Keep && to.exists() {
        return Err(RecoveryError::Exists(to.to_owned()));
    }
    let taken_at = clock.now().format(&Rfc3339);
    let manifest = move |store, contents: Contents, bytes| Manifest {
        store,
        taken_at: taken_at.unwrap_or_default(),
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        contents,
        bytes,
    };
    match Place::of(url)? {
        Place::Embedded(from) => {
            if !from.exists() {
                return Err(RecoveryError::NoDatabase(from));
            }
            if is_same(&from, to) {
                return Err(RecoveryError::Itself(from));
            }
            let to = to.to_owned();
            let work = move |waiting: &Waiting| {
                let copy = beside(&to)?;
                let copied = embedded::copy(&from, &copy, |far| waiting.told(far))?;
                let ControlFlow::Continue(contents) = copied else {
                    return Err(RecoveryError::Stopped);
                };
                let manifest = manifest(Kind::Embedded, contents, None);
                embedded::label(&copy, &text(&manifest))?;
                checked(&copy, waiting)?;
                put(copy, &to, existing)?;
                Ok(manifest)
            };
            apart(progress, stop, work).await
        }
        Place::Postgres(url) => {
            // What is dropped ends its programs, and removes its files.
            let dumped = tokio::select! {
                dumped = dumped(&url, to, progress) => dumped,
                () = stop => Err(RecoveryError::Stopped),
            };
            let Dumped {
                copy,
                contents,
                bytes,
            } = dumped?;
            let manifest = manifest(Kind::Postgres, contents, Some(bytes));
            // First: a dump that is there has its manifest.
            let label = label_of(to);
            let beside_label = beside(&label)?;
            File::create(&beside_label)
                .and_then(|mut file| file.write_all(text(&manifest).as_bytes()))
                .map_err(RecoveryError::file(&label))?;
            put(beside_label, &label, Existing::Replace)?;
            put(copy, to, existing)?;
            Ok(manifest)
        }
    }
}

/// Has a copy looked through.
pub(super) fn checked(copy: &Path, waiting: &Waiting) -> Result<(), RecoveryError> {
    let waiting = waiting.clone();
    match embedded::check(copy, move || waiting.goes_on())? {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RecoveryError::Stopped),
    }
}

/// A dump that is whole, beside where it goes.
struct Dumped {
    copy: TempPath,
    contents: Contents,
    bytes: u64,
}

async fn dumped(url: &str, to: &Path, progress: Progress<'_>) -> Result<Dumped, RecoveryError> {
    let moment = postgres::Moment::of(url).await?;
    if moment.has_large_objects {
        return Err(RecoveryError::LargeObjects("the database".to_owned()));
    }
    programs::at_least(Program::Dump, moment.major).await?;
    let copy = beside(to)?;
    dump(url, &moment, &copy, progress).await?;
    let contents = moment.contents.clone();
    moment.end().await?;
    programs::list(&copy).await?;
    let size = std::fs::metadata(&copy).map_err(RecoveryError::file(&copy))?;
    Ok(Dumped {
        copy,
        contents,
        bytes: size.len(),
    })
}

/// Whether two names are one file's.
fn is_same(one: &Path, other: &Path) -> bool {
    let found = (one.canonicalize(), other.canonicalize());
    matches!(found, (Ok(one), Ok(other)) if one == other)
}

async fn dump(
    url: &str,
    moment: &postgres::Moment,
    copy: &Path,
    progress: Progress<'_>,
) -> Result<(), RecoveryError> {
    let mut command = Program::Dump.command(url)?;
    command
        .args(["--format=custom", "--no-password", "--snapshot"])
        .arg(&moment.snapshot)
        .arg("--file")
        .arg(copy);
    let mut run = std::pin::pin!(programs::finish(Program::Dump, command));
    loop {
        tokio::select! {
            done = &mut run => return done,
            () = tokio::time::sleep(LOOK) => {}
        }
        let done = std::fs::metadata(copy).map_or(0, |data| data.len());
        progress(Far {
            done,
            of: moment.bytes,
        });
    }
}

/// Where the manifest of a dump stands.
pub(super) fn label_of(dump: &Path) -> PathBuf {
    let mut name = dump.as_os_str().to_owned();
    name.push(".manifest.json");
    name.into()
}

fn text(manifest: &Manifest) -> String {
    serde_json::to_string_pretty(manifest).expect("BUG: a manifest serialises")
}

/// An empty file in the folder of another one, that only its owner may read; gone with
/// the value.
pub(super) fn beside(path: &Path) -> Result<TempPath, RecoveryError> {
    let folder = folder_of(path);
    tempfile::Builder::new()
        .prefix(".oversync-")
        .tempfile_in(folder)
        .map(NamedTempFile::into_temp_path)
        .map_err(RecoveryError::file(folder))
}

fn folder_of(path: &Path) -> &Path {
    let named = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// Flushes a finished file and gives it its name.
pub(super) fn put(file: TempPath, to: &Path, existing: Existing) -> Result<(), RecoveryError> {
    File::open(&file)
        .and_then(|open| open.sync_all())
        .map_err(RecoveryError::file(to))?;
    match existing {
        Existing::Replace => file.persist(to),
        Existing::Keep => file.persist_noclobber(to),
    }
    .map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => RecoveryError::Exists(to.to_owned()),
        _ => RecoveryError::file(to)(error.error),
    })?;
    let folder = folder_of(to);
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(RecoveryError::file(folder))
}
