//! Keys (or a secret) in a file, read again when it changes, so that they rotate
//! without a restart.
//!
//! The file is looked at when tokens come, at most once a second, however many
//! there are and whatever they say. A file that cannot be used leaves the keys
//! as they were.

use crate::settings::SettingsError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at, and how often an unknown `kid` may have it
/// read: anybody can make one up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads a file's text; the error says what the file should hold.
pub(super) type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// A file and what was last read from it.
pub(crate) struct KeyFile<T> {
    setting: &'static str,
    path: PathBuf,
    parse: Parse<T>,
    loaded: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    keys: Arc<T>,
    /// Time and size of what was read last; `None` to read it again.
    stamp: Option<(SystemTime, u64)>,
    looked: Instant,
    read: Instant,
}

/// Why a key file cannot be used.
enum Problem {
    Io(std::io::Error),
    Content(String),
}

impl<T> KeyFile<T> {
    /// Reads the file that `setting` names for the first time; an error names
    /// both.
    pub(super) fn open(
        setting: &'static str,
        path: &Path,
        parse: Parse<T>,
    ) -> Result<Self, SettingsError> {
        // Before the text: what is written in between is read again.
        let stamp = stamp(path).ok();
        let keys = read(path, &parse).map_err(|problem| match problem {
            Problem::Io(error) => SettingsError::File {
                setting,
                path: path.display().to_string(),
                error,
            },
            Problem::Content(problem) => SettingsError::Value {
                setting,
                problem: format!("{}: {problem}", path.display()),
            },
        })?;
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
    pub(super) fn keys(&self) -> Arc<T> {
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
    pub(super) fn keys_read_again(&self) -> Option<Arc<T>> {
        let mut loaded = self.loaded.lock().expect("BUG: no panic under this lock");
        if loaded.read.elapsed() < LOOK_EVERY {
            return None;
        }
        let stamp = stamp(&self.path).ok();
        self.read_again(&mut loaded, stamp);
        Some(loaded.keys.clone())
    }

    fn read_again(&self, loaded: &mut Loaded<T>, stamp: Option<(SystemTime, u64)>) {
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

fn read<T>(path: &Path, parse: &Parse<T>) -> Result<T, Problem> {
    let text = std::fs::read_to_string(path).map_err(Problem::Io)?;
    parse(&text).map_err(Problem::Content)
}
