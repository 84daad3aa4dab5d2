//! A disk under SQLite whose power can be cut: what has been written and not synced
//! is lost, all of it or any part.
//!
//! The files are real ones, and so is all of SQLite above them: a layer of its file
//! system interface (`shim.rs`) notes what is written to the files of one folder and
//! what is synced, and refuses everything once the power is off. What the disk holds
//! then is rebuilt elsewhere, for whoever comes back when the power does.

mod shim;

use rand::Rng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes at once, or not at all, in bytes.
const SECTOR: usize = 512;

/// What becomes of the writes that were not synced when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// All are lost.
    Lost,
    /// Those up to some moment are kept, file by file.
    Prefix,
    /// Any are kept, sector by sector, in no order.
    Any,
    /// All are kept: as if only the process had died.
    Kept,
}

/// What happens to a file, in order.
#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
    Delete,
}

/// One file: what is safe, and what has happened to it since.
#[derive(Debug, Default, Clone)]
struct Content {
    /// `None` while there is no such file.
    safe: Option<Vec<u8>>,
    since: Vec<Op>,
}

#[derive(Debug, Default)]
struct State {
    /// Writes, cuts, syncs and deletes up to now.
    events: usize,
    cut_at: Option<usize>,
    is_off: bool,
    files: BTreeMap<PathBuf, Content>,
}

/// The files of one folder, as SQLite writes them; ends with its value.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
}

/// The power is off.
#[derive(Debug, Clone, Copy)]
struct Off;

impl State {
    /// Something is about to happen; not once the power is off.
    fn event(&mut self) -> Result<(), Off> {
        if self.is_off || self.cut_at == Some(self.events) {
            self.is_off = true;
            return Err(Off);
        }
        self.events += 1;
        Ok(())
    }

    fn note(&mut self, file: &Path, op: Op) -> Result<(), Off> {
        self.event()?;
        self.file(file).since.push(op);
        Ok(())
    }

    /// What a file system with a journal does: the file is safe, and so is every
    /// delete before, of whatever file.
    fn sync(&mut self, file: &Path) -> Result<(), Off> {
        self.event()?;
        let synced = self.file(file);
        let all = synced.since.len();
        synced.settle(all);
        for other in self.files.values_mut() {
            let deleted = other.since.iter().rposition(|op| matches!(op, Op::Delete));
            other.settle(deleted.map_or(0, |last| last + 1));
        }
        Ok(())
    }

    /// Durable at once where SQLite syncs the folder.
    fn delete(&mut self, file: &Path, is_synced: bool) -> Result<(), Off> {
        self.note(file, Op::Delete)?;
        if is_synced {
            *self.file(file) = Content::default();
        }
        Ok(())
    }

    fn file(&mut self, file: &Path) -> &mut Content {
        self.files.entry(file.to_owned()).or_default()
    }

    /// What stands in a file that has not been seen before is safe.
    fn opened(&mut self, file: &Path) {
        if !self.files.contains_key(file) {
            let safe = std::fs::read(file).ok();
            let content = Content {
                safe,
                since: Vec::new(),
            };
            self.files.insert(file.to_owned(), content);
        }
    }
}

impl Op {
    fn apply(&self, content: &mut Option<Vec<u8>>) {
        match self {
            Self::Write { at, bytes } => {
                let content = content.get_or_insert_default();
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.get_or_insert_default().truncate(*length),
            Self::Delete => *content = None,
        }
    }

    /// The same in pieces that come through or not, each by itself.
    fn sectors(&self) -> Vec<Self> {
        let Self::Write { at, bytes } = self else {
            return vec![self.clone()];
        };
        let (mut pieces, mut at, mut rest) = (Vec::new(), *at, bytes.as_slice());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            pieces.push(Self::Write {
                at,
                bytes: piece.to_vec(),
            });
            (at, rest) = (at + piece.len(), behind);
        }
        pieces
    }
}

impl Content {
    /// The first few of what has happened are safe.
    fn settle(&mut self, count: usize) {
        for op in self.since.drain(..count) {
            op.apply(&mut self.safe);
        }
    }

    /// What is found when the power is back.
    fn after(&self, unsynced: Unsynced, rng: &mut impl Rng) -> Option<Vec<u8>> {
        let mut content = self.safe.clone();
        let kept: Vec<Op> = match unsynced {
            Unsynced::Lost => Vec::new(),
            Unsynced::Kept => self.since.clone(),
            Unsynced::Prefix => {
                let count = rng.random_range(0..=self.since.len());
                self.since[..count].to_vec()
            }
            Unsynced::Any => {
                let pieces = self.since.iter().flat_map(Op::sectors);
                pieces.filter(|_| rng.random()).collect()
            }
        };
        for op in kept {
            op.apply(&mut content);
        }
        content
    }
}

impl Disk {
    /// Watches what SQLite writes to the files of this folder, in this process, from
    /// now on. Connections that are open already are not seen.
    ///
    /// # Panics
    /// When there is no such folder.
    pub fn watch(folder: &Path) -> Self {
        // As SQLite spells it.
        let folder = folder.canonicalize().expect("a folder");
        let state = Arc::default();
        shim::watch(&folder, &state);
        Self { folder, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How many things have happened: writes, cuts, syncs, deletes.
    pub fn events(&self) -> usize {
        self.state().events
    }

    /// The power goes when this many things have happened.
    pub fn cut_at(&self, event: usize) {
        self.state().cut_at = Some(event);
    }

    /// The power goes now.
    pub fn cut(&self) {
        self.state().is_off = true;
    }

    /// Whether it has gone.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// Writes the files, as they are found when the power is back, into another
    /// folder. What processes share in memory (`-shm`) is gone.
    ///
    /// # Panics
    /// When that folder cannot be written, or the power is still on.
    pub fn rebuild(&self, unsynced: Unsynced, rng: &mut impl Rng, into: &Path) {
        let state = self.state();
        assert!(state.is_off, "the power is on");
        for (path, content) in &state.files {
            let name = path.file_name().expect("a file has a name");
            if let Some(content) = content.after(unsynced, rng) {
                std::fs::write(into.join(name), content).expect("written");
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        shim::leave(&self.folder);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds the lock can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use rusqlite::Connection;
    use tempfile::TempDir;

    /// How many rows are left of three that were committed one by one.
    fn left(synchronous: &str, unsynced: Unsynced) -> i64 {
        let [before, after] = [(); 2].map(|()| TempDir::new().expect("a folder"));
        let (name, mut rng) = ("app.db", StdRng::seed_from_u64(1));
        let open = |folder: &TempDir| Connection::open(folder.path().join(name)).expect("opens");
        let made = "PRAGMA journal_mode = wal; CREATE TABLE t (n)";
        open(&before).execute_batch(made).expect("made");
        let disk = Disk::watch(before.path());
        let file = open(&before);
        file.pragma_update(None, "synchronous", synchronous)
            .expect("set");
        for n in 0..3 {
            file.execute("INSERT INTO t VALUES (?1)", [n]).expect("in");
        }
        assert!(disk.events() > 3, "the disk sees what is written");
        disk.cut();
        file.execute("INSERT INTO t VALUES (4)", [])
            .expect_err("the power is off");
        disk.rebuild(unsynced, &mut rng, after.path());
        let file = open(&after);
        file.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .expect("a number")
    }

    #[test]
    fn what_is_synced_stays_and_the_rest_goes() {
        assert_eq!(left("full", Unsynced::Lost), 3);
        assert_eq!(left("full", Unsynced::Any), 3);
        // The first frames of a log are synced with its header.
        assert!(left("normal", Unsynced::Lost) < 3);
        assert_eq!(left("normal", Unsynced::Kept), 3);
        assert_eq!(left("off", Unsynced::Lost), 0);
    }
}
