//! PostgreSQL's own programs: found on PATH, of a version that knows the server, and
//! told where to connect by their environment. A password is never an argument, which
//! everybody on the machine could read.

use super::apart::Stop;
use super::listing::Listing;
use super::{Progress, RecoveryError, script};
use crate::store::recovery::Far;
use percent_encoding::percent_decode_str;
use std::cell::Cell;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::{AbortHandle, JoinHandle};
use url::Url;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// Makes a dump.
    Dump,
    /// Reads one.
    Restore,
    /// Runs SQL.
    Sql,
}

/// Bytes of a script carried at a time.
const PIECE: usize = 256 * 1024;

/// How psql ends where the database has refused a statement: nothing is left of the
/// transaction then.
const REFUSED: i32 = 3;

/// How long one that was killed is waited for: longer only where a disk does not answer.
const DYING: Duration = Duration::from_secs(1);

/// Bytes of a program's complaint that are told.
const SAID: usize = 2_000;

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Dump => "pg_dump",
            Self::Restore => "pg_restore",
            Self::Sql => "psql",
        }
    }

    fn bare(self) -> Command {
        let mut command = Command::new(self.name());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// The program, told of a database.
    pub(super) fn command(self, url: &str) -> Result<Command, RecoveryError> {
        let mut command = self.bare();
        command.envs(environment(url)?);
        Ok(command)
    }
}

/// Runs a program to its end. One that is cut off has ended, too, when this is dropped:
/// a moment later it might make a file again that its caller removes.
pub(super) async fn finish(program: Program, mut command: Command) -> Result<(), RecoveryError> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = Running(child.map_err(|error| not_started(program, error))?);
    let mut stderr = Vec::new();
    let mut said = child.0.stderr.take().expect("BUG: asked for above");
    let ended = async {
        said.read_to_end(&mut stderr).await?;
        child.0.wait().await
    };
    let status = ended.await.map_err(|error| not_started(program, error))?;
    if status.success() {
        return Ok(());
    }
    let output = Output {
        status,
        stdout: Vec::new(),
        stderr,
    };
    Err(failed(program, &output))
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended.
        if self.0.start_kill().is_err() {
            return;
        }
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && began.elapsed() < DYING {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(super) fn not_started(program: Program, error: std::io::Error) -> RecoveryError {
    match error.kind() {
        std::io::ErrorKind::NotFound => RecoveryError::NoProgram(program.name()),
        _ => RecoveryError::Program {
            program: program.name(),
            said: error.to_string(),
        },
    }
}

fn failed(program: Program, output: &Output) -> RecoveryError {
    let said = &output.stderr[output.stderr.len().saturating_sub(SAID)..];
    let said = String::from_utf8_lossy(said).trim().to_owned();
    RecoveryError::Program {
        program: program.name(),
        said: match said.is_empty() {
            // One that was killed has no last words.
            true => output.status.to_string(),
            false => said,
        },
    }
}

/// Makes sure that a program is here and knows servers of this major version.
pub(super) async fn at_least(program: Program, server: u32) -> Result<(), RecoveryError> {
    let output = program.bare().arg("--version").output().await;
    let output = output.map_err(|error| not_started(program, error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match major(&text) {
        Some(found) if found >= server => Ok(()),
        Some(found) => Err(RecoveryError::OldProgram {
            program: program.name(),
            found,
            server,
        }),
        None => Err(RecoveryError::Program {
            program: program.name(),
            said: format!("its version cannot be read: {}", text.trim()),
        }),
    }
}

/// "pg_dump (PostgreSQL) 15.18 (Debian …)": 15.
fn major(version: &str) -> Option<u32> {
    let number = version
        .split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Reads a dump's table of contents.
pub(super) async fn list(dump: &Path) -> Result<Listing, RecoveryError> {
    let mut command = Program::Restore.bare();
    let output = command.arg("--list").arg(dump).output().await;
    let output = output.map_err(|error| not_started(Program::Restore, error))?;
    match output.status.success() {
        true => Ok(Listing(
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )),
        false => Err(failed(Program::Restore, &output)),
    }
}

/// What is run around a dump, in its transaction.
pub(super) struct Frame {
    /// SQL before it; begins the transaction.
    pub(super) before: String,
    /// SQL after it; ends the transaction. Never run when the dump could not be read
    /// to its end.
    pub(super) after: String,
    /// Whether what the dump names is dropped first.
    pub(super) cleans: bool,
    /// The list of what is restored; all where there is none.
    pub(super) only: Option<String>,
    /// The major version of the server.
    pub(super) server: u32,
}

/// Plays a dump into a database: all of it or nothing. Nothing when `stop` comes before
/// the end of the dump.
pub(super) async fn replay(
    dump: &Path,
    url: &str,
    frame: Frame,
    progress: Progress<'_>,
    stop: Stop<'_>,
) -> Result<(), RecoveryError> {
    let mut reader = Program::Restore.bare();
    reader.arg("--file=-");
    if frame.cleans {
        reader.args(["--clean", "--if-exists"]);
    }
    let only = frame.only.as_ref().map(|list| written(list));
    let only = only.transpose().map_err(RecoveryError::file(dump))?;
    if let Some(list) = &only {
        reader.arg("--use-list").arg(list.path());
    }
    reader
        .arg(dump)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut writer = Program::Sql.command(url)?;
    writer
        .args(["--no-psqlrc", "--quiet", "--no-password"])
        .args(["--set=ON_ERROR_STOP=1", "--file=-"])
        .env(
            "PGOPTIONS",
            "-c client_min_messages=warning -c synchronous_commit=on",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let start = |program, command: &mut Command| {
        let child = command.spawn();
        child.map_err(|error| not_started(program, error))
    };
    let mut reader = start(Program::Restore, &mut reader)?;
    let mut writer = start(Program::Sql, &mut writer)?;
    let mut script = reader.stdout.take().expect("BUG: it is piped");
    let mut sink = writer.stdin.take().expect("BUG: it is piped");
    // Both may complain while the script goes from one to the other.
    let (reader, writer) = (
        tokio::spawn(reader.wait_with_output()),
        tokio::spawn(writer.wait_with_output()),
    );
    let both = [reader.abort_handle(), writer.abort_handle()];
    let ends = Cell::new(false);
    let played = async {
        let pumped = pump(&frame, &mut script, &mut sink, progress).await;
        // Where the pump has stopped, so does who fills it.
        drop(script);
        let reader = ended(Program::Restore, reader).await?;
        let is_whole = pumped.is_ok() && reader.status.success();
        ends.set(is_whole);
        let finished = match is_whole {
            true => sink.write_all(frame.after.as_bytes()).await,
            // The end of its input without a COMMIT: nothing has happened.
            false => Ok(()),
        };
        drop(sink);
        let writer = ended(Program::Sql, writer).await?;
        let error = if !writer.status.success() {
            failed(Program::Sql, &writer)
        } else if !reader.status.success() {
            failed(Program::Restore, &reader)
        } else {
            match pumped.and(finished) {
                Ok(()) => return Ok(()),
                Err(error) => not_started(Program::Sql, error),
            }
        };
        Err(match is_whole && writer.status.code() != Some(REFUSED) {
            true => RecoveryError::CutLate(Box::new(error)),
            false => RecoveryError::NotReplayed(Box::new(error)),
        })
    };
    tokio::select! {
        done = played => done,
        () = stop => {
            // They are killed: the database takes back what was not ended.
            both.iter().for_each(AbortHandle::abort);
            Err(match ends.get() {
                true => RecoveryError::StoppedLate,
                false => RecoveryError::Stopped,
            })
        }
    }
}

async fn ended(
    program: Program,
    run: JoinHandle<std::io::Result<Output>>,
) -> Result<Output, RecoveryError> {
    let output = run.await.expect("BUG: waiting does not panic");
    output.map_err(|error| not_started(program, error))
}

/// Brings a script from one program to the other.
async fn pump(
    frame: &Frame,
    script: &mut ChildStdout,
    sink: &mut ChildStdin,
    progress: Progress<'_>,
) -> std::io::Result<()> {
    sink.write_all(frame.before.as_bytes()).await?;
    let mut piece = vec![0; PIECE];
    // All of it before it is looked at: however it comes in pieces, no line is cut.
    let mut filled = 0;
    while filled < script::BEGINNING {
        match script.read(&mut piece[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    let beginning = script::understood(&piece[..filled], frame.server);
    sink.write_all(&beginning).await?;
    let mut done = filled as u64;
    progress(Far { done, of: 0 });
    loop {
        let read = script.read(&mut piece).await?;
        if read == 0 {
            return sink.flush().await;
        }
        sink.write_all(&piece[..read]).await?;
        done += read as u64;
        progress(Far { done, of: 0 });
    }
}

/// A file that holds a text, as long as it is known.
fn written(text: &str) -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// A URL as libpq's environment. What it does not say, the environment that this
/// program was started with may: PGPASSWORD, PGPASSFILE and the like.
fn environment(url: &str) -> Result<Vec<(&'static str, String)>, RecoveryError> {
    let url = Url::parse(url).map_err(|error| RecoveryError::Url(error.to_string()))?;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let mut set = |name: &'static str, value: String| {
        found.retain(|(known, _)| *known != name);
        found.push((name, value));
    };
    for (name, value) in [
        ("PGUSER", url.username()),
        ("PGPASSWORD", url.password().unwrap_or_default()),
        ("PGHOST", url.host_str().unwrap_or_default()),
        ("PGDATABASE", url.path().trim_start_matches('/')),
    ] {
        // What is empty is not said.
        if !value.is_empty() {
            set(name, decoded(value)?);
        }
    }
    if let Some(port) = url.port() {
        set("PGPORT", port.to_string());
    }
    for (name, value) in url.query_pairs() {
        let name = match &*name {
            "host" => "PGHOST",
            "hostaddr" => "PGHOSTADDR",
            "port" => "PGPORT",
            "user" => "PGUSER",
            "password" => "PGPASSWORD",
            "dbname" => "PGDATABASE",
            "sslmode" | "ssl-mode" => "PGSSLMODE",
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => "PGSSLROOTCERT",
            "sslcert" | "ssl-cert" => "PGSSLCERT",
            "sslkey" | "ssl-key" => "PGSSLKEY",
            // Of the server's own connections.
            _ => continue,
        };
        set(name, value.into_owned());
    }
    Ok(found)
}

/// Without percent signs, as the server's own connections read it.
fn decoded(text: &str) -> Result<String, RecoveryError> {
    let bytes = percent_decode_str(text).decode_utf8();
    // Never the text itself: it may be a password.
    let text = bytes.map_err(|_| RecoveryError::Url("a part of it is not UTF-8".to_owned()))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_an_environment() {
        let url = "postgres://ann:p%40ss+%3D%26word@db.example:5433/the%20app?sslmode=require&statement-cache-capacity=3";
        let expected = [
            ("PGUSER", "ann"),
            ("PGPASSWORD", "p@ss+=&word"),
            ("PGHOST", "db.example"),
            ("PGDATABASE", "the app"),
            ("PGPORT", "5433"),
            ("PGSSLMODE", "require"),
        ];
        let found = environment(url).expect("a URL");
        let found: Vec<(&str, &str)> = found.iter().map(|(n, v)| (*n, &**v)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_a_url_need_not_escape_is_taken_as_it_is() {
        let found = environment("postgres://a&b:p&q+r=s%26@h/x&y").expect("a URL");
        let found: Vec<(&str, &str)> = found.iter().map(|(n, v)| (*n, &**v)).collect();
        let expected = [
            ("PGUSER", "a&b"),
            ("PGPASSWORD", "p&q+r=s&"),
            ("PGHOST", "h"),
            ("PGDATABASE", "x&y"),
        ];
        assert_eq!(found, expected);
        assert!(environment("postgres://a:%FF@h/x").is_err());
    }

    #[test]
    fn a_socket_in_the_query_wins_over_the_host() {
        let found = environment("postgres://oversync@localhost/x?host=%2Ftmp%2Fpg").expect("a URL");
        assert!(
            found.contains(&("PGHOST", "/tmp/pg".to_owned())),
            "{found:?}"
        );
        assert_eq!(
            found.iter().filter(|(name, _)| *name == "PGHOST").count(),
            1
        );
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0)"),
            Some(15)
        );
        assert_eq!(major("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("nonsense"), None);
    }
}
