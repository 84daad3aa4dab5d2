//! No token in any log: every token that this process mints is remembered by its
//! signature, and every server's log is looked through at the end of its life. So are
//! what clients in this process log, line by line, and what programs print.
//!
//! A token of somebody else is known by its looks: the base64url of a JSON object.

use crate::admin::ADMIN_TOKEN;
use crate::server::SECRET;
use std::collections::HashSet;
use std::io;
use std::process::Output;
use std::sync::{LazyLock, Mutex, Once};
use tracing_subscriber::EnvFilter;

/// What a server says of a token in an address.
pub const TOKEN_IN_ADDRESS: &str = "a request carries a token in its address";

/// Shorter texts are no signature: those of tokens have 43 characters or more.
const SHORTEST: usize = 20;

static SIGNATURES: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Remembers a token that a test hands out.
pub fn minted(token: &str) {
    if let Some((_, signature)) = token.rsplit_once('.') {
        let mut signatures = SIGNATURES.lock().expect("no panic under this lock");
        signatures.insert(signature.to_owned());
    }
}

/// What of a secret stands in a log: the first line with it, if any.
pub fn leak(log: &str) -> Option<&str> {
    let signatures = SIGNATURES.lock().expect("no panic under this lock");
    log.lines().find(|line| {
        line.contains(ADMIN_TOKEN)
            || line.contains(SECRET)
            || words(line).any(|word| signatures.contains(word) || word.starts_with("eyJ"))
    })
}

/// Looks through what a program has printed.
///
/// # Panics
/// When a secret stands there.
#[track_caller]
pub fn look_through(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        if let Some(line) = leak(&String::from_utf8_lossy(text)) {
            panic!("a token in the output of a program: {line}");
        }
    }
}

/// The first line with a secret that a client in this process has logged.
static LOGGED: Mutex<Option<String>> = Mutex::new(None);

/// From now on, whatever clients in this process log is looked at, and then dropped.
pub fn watch_own_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(
                "oversqlite=trace,reqwest=debug,tungstenite=debug",
            ))
            .with_ansi(false)
            .with_writer(|| Watcher)
            .init();
    });
}

/// What [`watch_own_logs`] has found.
pub fn logged() -> Option<String> {
    LOGGED.lock().expect("no panic under this lock").clone()
}

/// Takes a line of a log at a time.
struct Watcher;

impl io::Write for Watcher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(line) = leak(&String::from_utf8_lossy(bytes)) {
            let mut logged = LOGGED.lock().expect("no panic under this lock");
            logged.get_or_insert_with(|| line.to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs of base64url that are long enough.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| word.len() >= SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use std::time::Duration;

    #[test]
    fn a_token_and_its_signature_are_found_and_nothing_else() {
        let target = Target::new("http://localhost", SECRET);
        let token = target.token("ann", "phone", Duration::from_secs(60));
        let (_, signature) = token.rsplit_once('.').expect("three parts");
        for line in [
            format!("GET /sync/ws?token={token}"),
            format!("signature: \"{signature}\""),
            "Bearer eyJhbGciOiJSUzI1NiJ9.x.y".to_owned(),
            format!("admin_token={ADMIN_TOKEN}"),
        ] {
            let log = format!("first\n{line}\nlast");
            assert_eq!(leak(&log), Some(line.as_str()));
        }
        let request =
            "request_id=0f8fad5b-d9cb-469f-a165-70867728950e user-0f8fad5bd9cb469fa16570867728950e";
        assert_eq!(leak(request), None);
    }
}
