//! Keys in a file, read again when it changes, so that keys rotate without a
//! restart.
//!
//! The file is looked at when tokens come, at most once a second, however many
//! there are and whatever they say. A file that cannot be used leaves the keys
//! as they were.

use super::jwks::KeySet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at, and how often an unknown `kid` may have it
/// read: anybody can make one up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads a file's text.
pub(super) type Parse = Box<dyn Fn(&str) -> Result<KeySet, String> + Send + Sync>;

pub(super) struct KeyFile {
    setting: &'static str,
    path: PathBuf,
    parse: Parse,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    keys: Arc<KeySet>,
    /// Time and size of what was read last; `None` to read it again.
    stamp: Option<(SystemTime, u64)>,
    looked: Instant,
    read: Instant,
}

/// Why a key file cannot be used.
pub(super) enum Problem {
    Io(std::io::Error),
    Content(String),
}

impl KeyFile {
    /// Reads the file that `setting` names for the first time.
    pub(super) fn open(setting: &'static str, path: &Path, parse: Parse) -> Result<Self, Problem> {
        // Before the text: what is written in between is read again.
        let stamp = stamp(path).ok();
        let keys = read(path, &parse)?;
        let now = Instant::now();
        Ok(Self {
            setting,
            path: path.to_owned(),
            parse,
            loaded: Mutex::new(Loaded {
                keys: Arc::new(keys),
                stamp,
                looked: now,
                read: now,
            }),
        })
    }

    /// The keys of now.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        let mut loaded = self.loaded.lock().expect("BUG: no panic under this lock");
        if loaded.looked.elapsed() >= LOOK_EVERY {
            loaded.looked = Instant::now();
            let stamp = stamp(&self.path).ok();
            if stamp.is_none() || stamp != loaded.stamp {
                self.read_again(&mut loaded, stamp);
            }
        }
        loaded.keys.clone()
    }

    /// The keys after a look into the file, for a `kid` that is not among them;
    /// `None` when it has been read just now.
    pub(super) fn keys_read_again(&self) -> Option<Arc<KeySet>> {
        let mut loaded = self.loaded.lock().expect("BUG: no panic under this lock");
        if loaded.read.elapsed() < LOOK_EVERY {
            return None;
        }
        let stamp = stamp(&self.path).ok();
        self.read_again(&mut loaded, stamp);
        Some(loaded.keys.clone())
    }

    fn read_again(&self, loaded: &mut Loaded, stamp: Option<(SystemTime, u64)>) {
        loaded.read = Instant::now();
        match read(&self.path, &self.parse) {
            Ok(keys) => {
                loaded.keys = Arc::new(keys);
                loaded.stamp = stamp;
            }
            Err(problem) => {
                loaded.stamp = None;
                let problem = match problem {
                    Problem::Io(error) => error.to_string(),
                    Problem::Content(problem) => problem,
                };
                tracing::warn!(setting = self.setting, path = %self.path.display(), problem, "the keys stay as they were");
            }
        }
    }
}

fn stamp(path: &Path) -> std::io::Result<(SystemTime, u64)> {
    let data = std::fs::metadata(path)?;
    Ok((data.modified()?, data.len()))
}

fn read(path: &Path, parse: &Parse) -> Result<KeySet, Problem> {
    let text = std::fs::read_to_string(path).map_err(Problem::Io)?;
    parse(&text).map_err(Problem::Content)
}
