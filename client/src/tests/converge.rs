//! Three real files and a server of a few lines: random edits, pages, uploads
//! and lost answers. In the end all are equal, every device's own column and
//! every step of a counter has survived, and whatever else lost is listed.
//!
//! `OVERSQLITE_HISTORIES` sets how many histories run, `OVERSQLITE_SEED` the
//! first seed; a failure names its seed.

use super::words::conflict;
use super::{Device, applied, entry, uuid};
use crate::conflicts;
use crate::field_merge::DeletePolicy;
use crate::outbox::Frozen;
use oversync_shared::merge::ColumnPolicy;
use oversync_shared::wire::ChangeStatus;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, HashMap};

const TABLE: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, a0 INTEGER, a1 INTEGER,
    a2 INTEGER, s TEXT)";

const DEVICES: usize = 3;

/// Rounds after the last edit within which everything must be quiet.
const ROUNDS: usize = 12;

struct Entry {
    device: usize,
    key: String,
    version: i64,
    payload: Option<String>,
}

#[derive(Default)]
struct Server {
    rows: BTreeMap<String, (i64, Option<String>)>,
    log: Vec<Entry>,
    /// What was applied, by device and change id.
    done: HashMap<(usize, i64), ChangeStatus>,
}

impl Server {
    fn upload(&mut self, device: usize, frozen: &Frozen) -> ChangeStatus {
        let id = (device, frozen.id.get());
        if let Some(before) = self.done.get(&id) {
            return before.clone();
        }
        let key = frozen.row.key.to_string();
        let (version, row) = self.rows.entry(key.clone()).or_default();
        if *version != frozen.version.get() {
            return conflict(&key, *version, row.as_deref());
        }
        *version += 1;
        row.clone_from(&frozen.payload);
        self.log.push(Entry {
            device,
            key,
            version: *version,
            payload: frozen.payload.clone(),
        });
        self.done.insert(id, applied(frozen));
        applied(frozen)
    }
}

struct Peer {
    device: Device,
    number: usize,
    /// Entries of the log that it has seen.
    cursor: usize,
}

impl Peer {
    fn new(number: usize, deletes: DeletePolicy) -> Self {
        let device = Device::with(TABLE, |config| {
            config
                .table("t")
                .merge_column("t", "n", ColumnPolicy::Add)
                .merge_deletes("t", deletes)
        });
        Self {
            device: device.expect("opens"),
            number,
            cursor: 0,
        }
    }

    /// Tells whether there was anything to send. The answer may be lost.
    fn upload(&mut self, server: &mut Server, lost: bool) -> bool {
        let sent = self.device.freeze();
        let statuses: Vec<ChangeStatus> = sent
            .iter()
            .map(|frozen| server.upload(self.number, frozen))
            .collect();
        if !lost && !sent.is_empty() {
            self.device.settle(&sent, statuses);
        }
        !sent.is_empty()
    }

    /// Tells whether there was anything to fetch.
    fn download(&mut self, server: &Server, limit: usize) -> bool {
        let end = server.log.len().min(self.cursor + limit);
        let page = &server.log[self.cursor..end];
        self.cursor = end;
        let changes: Vec<_> = page
            .iter()
            .filter(|found| found.device != self.number)
            .map(|found| entry("t", &found.key, found.version, found.payload.as_deref()))
            .collect();
        let any = !changes.is_empty();
        self.device.apply_page(changes, end < server.log.len());
        any
    }

    fn rows(&self) -> Vec<String> {
        let sql = "SELECT quote(id) || quote(n) || quote(a0) || quote(a1) || quote(a2) || quote(s)
                   FROM t ORDER BY id";
        let mut statement = self.device.app.prepare(sql).expect("prepares");
        let rows = statement.query_map([], |row| row.get(0)).expect("queries");
        rows.collect::<Result<_, _>>().expect("reads")
    }
}

fn history(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let deletes = match rng.random_bool(0.5) {
        true => DeletePolicy::DeleteWins,
        false => DeletePolicy::EditWins,
    };
    let mut server = Server::default();
    let mut peers: Vec<Peer> = (0..DEVICES).map(|n| Peer::new(n, deletes)).collect();
    // One row that stays, one that comes and goes.
    let (stays, goes) = (uuid(1), uuid(2));
    peers[0].device.run(&format!(
        "INSERT INTO t VALUES ('{stays}', 0, 0, 0, 0, 's')"
    ));
    peers[0].upload(&mut server, false);
    for peer in &mut peers {
        peer.download(&server, 10);
    }
    let (mut sum, mut own) = (0, [0; DEVICES]);
    for step in 1..rng.random_range(5..60_i64) {
        let number = rng.random_range(0..DEVICES);
        let peer = &mut peers[number];
        match rng.random_range(0..10) {
            0 | 1 => {
                let by = rng.random_range(-3..9);
                sum += by;
                peer.device
                    .run(&format!("UPDATE t SET n = n + {by} WHERE id = '{stays}'"));
            }
            2 | 3 => {
                own[number] = step;
                peer.device.run(&format!(
                    "UPDATE t SET a{number} = {step} WHERE id = '{stays}'"
                ));
            }
            4 => peer.device.run(&format!(
                "INSERT INTO t (id, s) VALUES ('{goes}', 'by {number} at {step}')
                 ON CONFLICT (id) DO UPDATE SET s = excluded.s"
            )),
            5 => peer
                .device
                .run(&format!("DELETE FROM t WHERE id = '{goes}'")),
            6 | 7 => {
                let lost = rng.random_bool(0.3);
                peer.upload(&mut server, lost);
            }
            _ => {
                let limit = rng.random_range(1..5);
                peer.download(&server, limit);
            }
        }
    }
    for round in 0.. {
        assert!(round < ROUNDS, "seed {seed}: never quiet");
        let mut moved = false;
        for peer in &mut peers {
            moved |= peer.upload(&mut server, false);
            moved |= peer.download(&server, usize::MAX / 2);
        }
        if !moved {
            break;
        }
    }
    for peer in &mut peers {
        let row: String = peer
            .device
            .text(&format!(
                "SELECT n || ' ' || a0 || ' ' || a1 || ' ' || a2 FROM t WHERE id = '{stays}'"
            ))
            .expect("the row");
        let expected = format!("{sum} {} {} {}", own[0], own[1], own[2]);
        assert_eq!(row, expected, "seed {seed}: device {}", peer.number);
        let listed = peer.device.write(|txn| conflicts::list(txn.conn));
        assert!(
            listed.iter().all(|record| record.key == goes),
            "seed {seed}: {listed:?}"
        );
    }
    let rows: Vec<Vec<String>> = peers.iter().map(Peer::rows).collect();
    assert!(
        rows.iter().all(|other| *other == rows[0]),
        "seed {seed}: {rows:#?}"
    );
    let live = server.rows.values().filter(|(_, row)| row.is_some());
    assert_eq!(live.count(), rows[0].len(), "seed {seed}");
}

#[test]
fn random_histories() {
    let number = |name: &str, default| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first: u64 = number("OVERSQLITE_SEED", 0);
    for seed in first..first + number("OVERSQLITE_HISTORIES", 25) {
        history(seed);
    }
}
