//! Keys (a secret, certificates) in files, read again when one changes, so that they
//! rotate without a restart.
//!
//! The files are looked at when tokens or connections come, at most once a second,
//! however many there are and whatever they say. Files that cannot be used leave the
//! keys as they were: so does a new certificate whose key is not written yet.

use crate::settings::SettingsError;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at, and how often an unknown `kid` may have it
/// read: anybody can make one up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the files' text, one after the other; the error says what the file should hold.
pub(crate) type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// Files and what was last read from them.
pub(crate) struct KeyFile<T> {
    setting: &'static str,
    paths: Vec<PathBuf>,
    parse: Parse<T>,
    loaded: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    keys: Arc<T>,
    /// Of the text they were read from.
    digest: Digest,
    /// Times and sizes of what was read last; `None` to read it again.
    stamps: Option<Stamps>,
    looked: Instant,
    read: Instant,
}

/// SHA-256.
type Digest = [u8; 32];

/// Time and size of each file.
type Stamps = Vec<(SystemTime, u64)>;

/// Why key files cannot be used.
enum Problem {
    Io(PathBuf, std::io::Error),
    Content(String),
}

impl<T> KeyFile<T> {
    /// Reads the file that `setting` names for the first time; an error names
    /// both.
    pub(crate) fn open(
        setting: &'static str,
        path: &Path,
        parse: Parse<T>,
    ) -> Result<Self, SettingsError> {
        Self::open_all(setting, vec![path.to_owned()], parse)
    }

    /// The same with several files, whose texts are put together.
    pub(crate) fn open_all(
        setting: &'static str,
        paths: Vec<PathBuf>,
        parse: Parse<T>,
    ) -> Result<Self, SettingsError> {
        // Before the text: what is written in between is read again.
        let stamps = stamps(&paths).ok();
        let (digest, keys) = read(&paths, &parse).map_err(|problem| match problem {
            Problem::Io(path, error) => SettingsError::File {
                setting,
                path: path.display().to_string(),
                error,
            },
            Problem::Content(problem) => SettingsError::Value {
                setting,
                problem: format!("{}: {problem}", names(&paths)),
            },
        })?;
        let now = Instant::now();
        Ok(Self {
            setting,
            paths,
            parse,
            loaded: Mutex::new(Loaded {
                keys: Arc::new(keys),
                digest,
                stamps,
                looked: now,
                read: now,
            }),
        })
    }

    /// The keys of now.
    pub(crate) fn keys(&self) -> Arc<T> {
        let mut loaded = self.loaded.lock().expect("BUG: no panic under this lock");
        if loaded.looked.elapsed() >= LOOK_EVERY {
            loaded.looked = Instant::now();
            let stamps = stamps(&self.paths).ok();
            if stamps.is_none() || stamps != loaded.stamps {
                self.read_again(&mut loaded, stamps);
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
        let stamps = stamps(&self.paths).ok();
        self.read_again(&mut loaded, stamps);
        Some(loaded.keys.clone())
    }

    fn read_again(&self, loaded: &mut Loaded<T>, stamps: Option<Stamps>) {
        loaded.read = Instant::now();
        match read(&self.paths, &self.parse) {
            Ok((digest, keys)) => {
                // The same text: what was checked with the keys of before stands.
                if digest != loaded.digest {
                    loaded.keys = Arc::new(keys);
                    loaded.digest = digest;
                }
                loaded.stamps = stamps;
            }
            Err(problem) => {
                loaded.stamps = None;
                let problem = match problem {
                    Problem::Io(_, error) => error.to_string(),
                    Problem::Content(problem) => problem,
                };
                tracing::warn!(
                    setting = self.setting,
                    path = names(&self.paths),
                    problem,
                    "the keys stay as they were"
                );
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> std::io::Result<Stamps> {
    let stamp = |path: &PathBuf| {
        let data = std::fs::metadata(path)?;
        Ok((data.modified()?, data.len()))
    };
    paths.iter().map(stamp).collect()
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

fn read<T>(paths: &[PathBuf], parse: &Parse<T>) -> Result<(Digest, T), Problem> {
    let mut text = String::new();
    for path in paths {
        let part = std::fs::read_to_string(path);
        text += &part.map_err(|error| Problem::Io(path.clone(), error))?;
        text.push('\n');
    }
    let keys = parse(&text).map_err(Problem::Content)?;
    Ok((Sha256::digest(&text).into(), keys))
}
