//! After the load: every device of a user equals the server, and nothing that
//! was acknowledged is missing from the stream.

use crate::devices::lean::{Seen, payload_hash};
use crate::devices::{Lean, Real};
use crate::life::Phone;
use crate::report::Convergence;
use crate::target::Target;
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oversqlite::Client;
use oversync_shared::ServerId;
use oversync_shared::json::canonicalise;
use oversync_shared::wire::{DownloadChange, DownloadReply};
use rusqlite::types::ValueRef;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// More differences say nothing new.
const MOST_DIFFERENCES: usize = 20;

/// A user's live rows: table and key to the row in one canonical form.
type Rows = BTreeMap<(String, String), Vec<u8>>;

/// All devices, by user.
#[derive(Default)]
pub struct Everybody<'a> {
    /// Real ones.
    pub real: BTreeMap<&'a str, Vec<&'a Real>>,
    /// Lean ones.
    pub lean: BTreeMap<&'a str, Vec<&'a Lean>>,
    /// Those that stories have left.
    pub phones: BTreeMap<&'a str, Vec<&'a Phone>>,
}

/// What a server hands out of what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Every change.
    Whole,
    /// Of what every device has read, the rows as they are.
    Folded,
}

/// A device with a file: its name, its client, its file.
type Filed<'a> = (&'a str, &'a Client, &'a Path);

/// Waits until all devices equal the server, at most this long, and says which
/// do not.
pub async fn converge(
    target: &Target,
    all: &Everybody<'_>,
    handed_out: Stream,
    patience: Duration,
) -> anyhow::Result<Convergence> {
    let started = Instant::now();
    let mut found = Convergence {
        equal: true,
        rows: 0,
        acknowledged: 0,
        seconds: 0.0,
        differences: Vec::new(),
    };
    let real = all.real.keys().chain(all.phones.keys());
    let names: HashSet<&str> = real.chain(all.lean.keys()).copied().collect();
    for name in names {
        let none = Vec::new();
        let lean = all.lean.get(name).unwrap_or(&none);
        let mut real: Vec<Filed<'_>> = Vec::new();
        for device in all.real.get(name).into_iter().flatten() {
            real.push((&device.device, device.client(), &device.path));
        }
        for phone in all.phones.get(name).into_iter().flatten() {
            real.push((&phone.device, phone.client()?, &phone.path));
        }
        // Thousands of idle users have nothing to compare.
        let did_something = |device: &&Lean| !device.acknowledged.is_empty();
        if real.is_empty() && !lean.iter().any(did_something) {
            continue;
        }
        loop {
            let problem = match compare(target, name, &real, lean, handed_out).await {
                Ok((rows, acknowledged)) => {
                    found.rows += rows;
                    found.acknowledged += acknowledged;
                    break;
                }
                Err(problem) => problem,
            };
            if started.elapsed() > patience {
                found.equal = false;
                if found.differences.len() < MOST_DIFFERENCES {
                    found.differences.push(format!("{name}: {problem:#}"));
                }
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    found.seconds = started.elapsed().as_secs_f64();
    Ok(found)
}

/// Live rows and acknowledged changes of a user, all of them right.
async fn compare(
    target: &Target,
    name: &str,
    real: &[Filed<'_>],
    lean: &[&Lean],
    handed_out: Stream,
) -> anyhow::Result<(usize, u64)> {
    for (device, client, _) in real {
        let status = client.status().await?;
        ensure!(
            status.unsent == 0 && status.rejected == 0 && status.parked == 0,
            "{device}: {status:?}"
        );
    }
    let stream = download_all(target, name).await?;
    check_stream(&stream, handed_out)?;
    let (live, states) = fold(&stream)?;
    for (device, _, path) in real {
        let here = read_file(path)?;
        if here != live {
            let first = here
                .iter()
                .find(|(key, row)| live.get(*key) != Some(*row))
                .or_else(|| live.iter().find(|(key, _)| !here.contains_key(*key)));
            anyhow::bail!(
                "{device}: first difference at {:?}",
                first.map(|(key, _)| key)
            );
        }
    }
    let mut of_device: HashMap<&str, HashSet<i64>> = HashMap::new();
    for change in &stream {
        let ids = of_device.entry(change.source_id.as_str()).or_default();
        ensure!(
            ids.insert(change.source_change_id.get()),
            "{}: change {} is in the stream twice",
            change.source_id,
            change.source_change_id
        );
    }
    let mut acknowledged = 0;
    for device in lean {
        let nothing = HashSet::new();
        let there = of_device.get(device.device.as_str()).unwrap_or(&nothing);
        match handed_out {
            Stream::Whole => {
                let missing = device.acknowledged.iter().find(|id| !there.contains(id));
                ensure!(
                    missing.is_none(),
                    "{}: change {missing:?} was acknowledged and is missing",
                    device.device
                );
            }
            Stream::Folded => check_rows(device, &states)?,
        }
        acknowledged += device.acknowledged.len() as u64;
        if let Some(image) = device.image() {
            let image = image.lock().expect("BUG: no panic under this lock");
            // What was deleted before it came, it may not have heard of.
            let counts = |state: &Seen| handed_out == Stream::Whole || state.1.is_some();
            let differs = states
                .iter()
                .filter(|(_, state)| counts(state))
                .find(|(key, state)| image.rows().get(*key) != Some(*state));
            let number = |states: &HashMap<Uuid, Seen>| {
                states.values().filter(|state| counts(state)).count()
            };
            ensure!(
                differs.is_none() && number(image.rows()) == number(&states),
                "{}: {} rows here, {} there, cursor {}; first difference {differs:?}",
                device.device,
                image.rows().len(),
                states.len(),
                device.cursor()
            );
        }
    }
    Ok((live.len(), acknowledged))
}

/// Each acknowledged change has moved its row by one version, and nobody else changes a
/// lean device's rows: where the last one is, all of them are.
fn check_rows(device: &Lean, states: &HashMap<Uuid, Seen>) -> anyhow::Result<()> {
    for (key, version) in device.rows() {
        let there = states.get(&key).filter(|(_, payload)| payload.is_some());
        let there = there.map(|(version, _)| *version);
        ensure!(
            there == Some(version),
            "{}: version {version} of {key} was acknowledged, and {there:?} is there",
            device.device
        );
    }
    let lives = |key: &&Uuid| {
        states
            .get(*key)
            .is_some_and(|(_, payload)| payload.is_some())
    };
    let back = device.deleted.iter().find(lives);
    ensure!(
        back.is_none(),
        "{}: the deletion of {back:?} was acknowledged, and it lives",
        device.device
    );
    Ok(())
}

/// Places ascend, and versions of a row follow on each other.
fn check_stream(stream: &[DownloadChange], handed_out: Stream) -> anyhow::Result<()> {
    let mut versions: HashMap<(&str, &str), i64> = HashMap::new();
    let mut last = ServerId::ZERO;
    for change in stream {
        ensure!(
            change.server_id > last,
            "server ids do not ascend: {} after {last}",
            change.server_id
        );
        last = change.server_id;
        let first = match handed_out {
            Stream::Whole => 1,
            Stream::Folded => change.server_version.get(),
        };
        let version = versions
            .entry((change.table.as_str(), change.pk.as_str()))
            .and_modify(|version| *version += 1)
            .or_insert(first);
        ensure!(
            change.server_version.get() == *version,
            "{} {}: version {} where {version} must be",
            change.table,
            change.pk,
            change.server_version
        );
    }
    Ok(())
}

/// The live rows that the stream adds up to, and the state of every row as lean
/// devices keep it.
fn fold(stream: &[DownloadChange]) -> anyhow::Result<(Rows, HashMap<Uuid, Seen>)> {
    let mut live = Rows::new();
    let mut states = HashMap::new();
    for change in stream {
        let payload = change.payload.as_ref().map(|payload| payload.get());
        let hash = payload.map(payload_hash);
        states.insert(
            Uuid::parse_str(&change.pk)?,
            (change.server_version.get(), hash),
        );
        let key = (change.table.clone(), change.pk.clone());
        match payload {
            Some(payload) => live.insert(key, canonical(payload)?),
            None => live.remove(&key),
        };
    }
    Ok((live, states))
}

/// The stream of a user, as it is handed out to a device that has nothing. Any error is
/// the server's, or the way to it.
pub async fn download_all(target: &Target, name: &str) -> anyhow::Result<Vec<DownloadChange>> {
    let token = target.sign_in(name, "comparison").await?.token;
    let mut http = target.http(0);
    let mut all = Vec::new();
    let (mut after, mut until) = (ServerId::ZERO, ServerId::ZERO);
    loop {
        let path =
            format!("/sync/download?after={after}&until={until}&limit=1000&include_self=true");
        let answer = http.get(&path, &token).await?;
        ensure!(answer.is_success(), "download: HTTP {}", answer.status);
        let reply: DownloadReply = serde_json::from_slice(&answer.body).context("a page")?;
        all.extend(reply.changes);
        if !reply.has_more {
            return Ok(all);
        }
        (after, until) = (reply.next_after, reply.window_until);
    }
}

fn read_file(path: &Path) -> anyhow::Result<Rows> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let mut rows = Rows::new();
    for (table, columns) in [
        ("users", "id, name, email"),
        ("posts", "id, title, content, author_id"),
    ] {
        let names: Vec<&str> = columns.split(", ").collect();
        let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table}"))?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let mut object = serde_json::Map::new();
            for (index, name) in names.iter().enumerate() {
                object.insert((*name).to_owned(), value(row.get_ref(index)?, index == 0)?);
            }
            let key = object["id"].as_str().context("a key")?.to_owned();
            rows.insert(
                (table.to_owned(), key),
                canonical(&serde_json::to_string(&object)?)?,
            );
        }
    }
    Ok(rows)
}

/// A value as it stands in a payload (PROTOCOL.md, section 6a).
fn value(value: ValueRef<'_>, is_key: bool) -> anyhow::Result<serde_json::Value> {
    Ok(match value {
        ValueRef::Blob(key) if is_key => Uuid::from_slice(key)?.to_string().into(),
        ValueRef::Blob(bytes) => STANDARD.encode(bytes).into(),
        value => value.as_str_or_null()?.into(),
    })
}

fn canonical(payload: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    canonicalise(payload, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stream(versions: &[(i64, i64)]) -> Vec<DownloadChange> {
        let changes = versions.iter().map(|(place, version)| {
            json!({
                "server_id": place, "schema": "s", "table": "t", "op": "UPDATE", "pk": "a",
                "payload": {}, "server_version": version, "deleted": false, "source_id": "d",
                "source_change_id": place,
            })
        });
        serde_json::from_value(changes.collect()).expect("changes")
    }

    #[test]
    fn versions_begin_at_1_where_nothing_is_folded_and_never_leave_one_out() {
        let is_right =
            |versions: &[_], handed_out| check_stream(&stream(versions), handed_out).is_ok();
        for (versions, whole, folded) in [
            (&[(1, 1), (4, 2)][..], true, true),
            (&[(4, 7), (5, 8)], false, true),
            (&[(4, 7), (5, 9)], false, false),
            (&[(4, 7), (5, 7)], false, false),
            (&[(5, 7), (4, 8)], false, false),
        ] {
            assert_eq!(is_right(versions, Stream::Whole), whole, "{versions:?}");
            assert_eq!(is_right(versions, Stream::Folded), folded, "{versions:?}");
        }
    }
}
