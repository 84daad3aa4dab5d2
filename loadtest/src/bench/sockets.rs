//! Rows with thousands of lean devices on their sockets: what one costs that does
//! nothing, and how all of them come back at once.

use super::ground::Ground;
use super::row::{Role, Row};
use super::whole::{scenario_on, stage};
use crate::floor::{Rounds, Served, Style};
use crate::http::Endpoint;
use crate::measure::machine::Machine;
use crate::measure::process::Watch;
use crate::report::{Phase, Report, Second};
use crate::server::Store;
use crate::sources::Sources;
use anyhow::Context as _;
use std::collections::BTreeMap;
use tokio::net::TcpStream;

/// Sockets of the floor before its memory counts: the first ones make room for
/// others.
const FIRST: usize = 8;

/// What the server's allocator has given out, and questions to its database, as it
/// tells of itself.
const LIVE: &str = "live_bytes";
const QUESTIONS: &str = "store_questions";

/// Seconds of work before a storm: what is usual.
const BEFORE: u32 = 6;

/// B9: the memory of a device that is connected and silent, and the hints to the
/// devices of one user meanwhile.
pub async fn idle(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let devices = ground.effort().devices;
    let seconds = ground.length().as_secs_f64();
    let toml = |idle: usize| {
        format!(
            "[[phases]]\nname='idle'\nkind='hold'\nseconds={seconds}\n\
             [[fleets]]\nname='idle'\ndevice='lean'\nusers={idle}\nloop='idle'\nlisten='hints'\n\
             [[fleets]]\nname='busy'\ndevice='lean'\nusers=1\ndevices=5\nrate=20\nlisten='hints'\n",
        )
    };
    let what = format!("{devices} idle WebSocket devices");
    let mut memory = Row::new("B9 memory", &what, "KiB each");
    let mut hints = Row::new(
        "B9 hints",
        &format!("hint to the 5 devices of one user while {what}"),
        "ms, 99 of 100",
    );
    for row in [&mut memory, &mut hints] {
        row.machine = Some(Machine::here());
        row.facts(ground).await;
    }
    let (mut rss, mut live, mut floor) = (vec![], vec![], vec![]);
    let (mut p50, mut p99, mut uploads) = (vec![], vec![], vec![]);
    for round in 0..ground.rounds() {
        let before = ground.look().await?;
        let without = scenario_on(ground, round, &toml(1), None).await?;
        let with = scenario_on(ground, round, &toml(1 + devices), None).await?;
        let each = |of: fn(&Second) -> Option<f64>| {
            (most(&with, of) - most(&without, of)) / 1_024.0 / devices as f64
        };
        rss.push(each(|second| Some(second.server?.rss as f64)));
        live.push(each(|second| second.told.get(LIVE).copied()));
        let latency = &stage(&with, "hint received")?.latency;
        p50.push(latency.p50_ms);
        p99.push(latency.p99_ms);
        uploads.push(stage(&with, "acknowledged")?.latency.p99_ms);
        // A process for each round: memory that was given back is not what it was.
        let (empty, _) = ground.floor(Served::Empty, Style::Set).await?;
        floor.push(bare_sockets(&empty.endpoint, empty.pid, devices).await?);
        for row in [&mut memory, &mut hints] {
            row.before.push(before);
        }
        eprintln!("B9 round {}: {:.1} KiB each", round + 1, rss[round]);
    }
    for (name, role, values) in [
        ("ours, resident", Role::Ours, rss),
        ("ours, allocated", Role::Aside, live),
        ("the bare actor stack, resident", Role::Floor, floor),
    ] {
        memory.add(name, role, Rounds { values });
    }
    memory.at_most("KiB", memory.median(Role::Ours), 16.0);
    memory.note("embedded store; allocated: counted by the server's allocator; the kernel's own memory for a socket is in neither");
    for (name, role, values) in [
        ("ours", Role::Ours, p99),
        ("ours, median", Role::Aside, p50),
        ("the upload itself, 99 of 100", Role::Aside, uploads),
    ] {
        hints.add(name, role, Rounds { values });
    }
    hints.at_most("ms", hints.median(Role::Ours), 25.0);
    hints.note("from when the upload was due to the hint on each of the other devices' sockets");
    Ok(vec![memory, hints])
}

/// The highest of a run's seconds.
fn most(report: &Report, of: fn(&Second) -> Option<f64>) -> f64 {
    let all = report.timeline.iter().filter_map(of);
    all.max_by(f64::total_cmp).unwrap_or_default()
}

/// KiB of resident memory per socket of a server that only echoes.
async fn bare_sockets(endpoint: &Endpoint, pid: u32, count: usize) -> anyhow::Result<f64> {
    let sources = Sources::new();
    let mut watch = Watch::default();
    let mut rss = || watch.sample(&[pid]).map(|usage| usage.rss as f64);
    let mut sockets = Vec::with_capacity(count + FIRST);
    let mut before = 0.0;
    for number in 0..count + FIRST {
        if number == FIRST {
            before = rss().context("the floor is gone")?;
        }
        let stream = match endpoint.connect(Some(sources.of(number))).await {
            Some(stream) => stream?,
            None => TcpStream::connect(&endpoint.authority).await?,
        };
        let url = endpoint.url.replacen("http", "ws", 1) + "/ws";
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        sockets.push(socket);
    }
    let after = rss().context("the floor is gone")?;
    Ok((after - before) / 1_024.0 / count.max(1) as f64)
}

/// B11, on the embedded store and, where there is one, on PostgreSQL.
pub async fn storm(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![storm_on(ground, Store::Embedded).await?];
    if ground.effort().database_url.is_some() {
        rows.push(storm_on(ground, Store::Postgres).await?);
    }
    Ok(rows)
}

async fn storm_on(ground: &mut Ground, store: Store) -> anyhow::Result<Row> {
    let database = match store {
        Store::Embedded => None,
        Store::Postgres => Some(ground.database().await?),
    };
    let devices = ground.effort().devices.min(5_000);
    // One user in ten works; more would need a third connection for each device.
    let users = devices.div_ceil(5).max(2);
    let busy = users.div_ceil(10);
    let idle = users - busy;
    let toml = format!(
        "[[phases]]\nname='before'\nkind='hold'\nseconds={BEFORE}\n\
         [[phases]]\nname='storm'\nkind='storm'\nseconds=60\nrestart=true\n\
         [[phases]]\nname='after'\nkind='hold'\nseconds=2\n\
         [[fleets]]\nname='idle'\ndevice='lean'\nusers={idle}\ndevices=5\nloop='idle'\nlisten='downloads'\n\
         [[fleets]]\nname='busy'\ndevice='lean'\nusers={busy}\ndevices=5\nrate=50\nlisten='downloads'\nphases=['before']\n"
    );
    let what = format!(
        "{} devices at once after the server was killed, {} store",
        users * 5,
        store.name()
    );
    let mut row = Row::new("B11", &what, "s until the last has caught up");
    row.machine = Some(Machine::here());
    row.facts(ground).await;
    let (mut values, mut usual, mut in_storm) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors = BTreeMap::new();
    for round in 0..ground.rounds() {
        row.before.push(ground.look().await?);
        let report = scenario_on(ground, round, &toml, database.as_deref()).await?;
        let took = stage(&report, "caught up")?.latency.max_ms / 1_000.0;
        values.push(took);
        let (before, storm) = questions(&report)?;
        usual.push(before);
        in_storm.push(storm);
        for (kind, count) in report.errors {
            *errors.entry(kind).or_insert(0_u64) += count;
        }
        eprintln!(
            "B11 {} round {}: {took:.2} s, {storm:.0} questions a second to the database, {before:.0} before",
            store.name(),
            round + 1
        );
    }
    row.add("ours", Role::Ours, Rounds { values });
    row.at_most("s", row.median(Role::Ours), 15.0);
    let (storm, before) = (Rounds { values: in_storm }, Rounds { values: usual });
    row.at_most(
        "database questions, storm/before",
        storm.median() / before.median(),
        2.0,
    );
    row.add("questions/s in the storm", Role::Aside, storm);
    row.add("questions/s before", Role::Aside, before);
    let others: u64 = errors
        .iter()
        .filter(|(kind, _)| !is_asked_to_wait(kind))
        .map(|(_, count)| *count)
        .sum();
    row.at_most("other errors than 429/503", others as f64, 0.0);
    for (kind, count) in errors {
        row.note(&format!("{count} × {kind}"));
    }
    row.note("questions as the server counts them: of its store, at 50 uploads a second and their downloads before, of the returning devices alone in the storm");
    Ok(row)
}

/// An answer that says when to come again; without `Retry-After` it is counted under
/// another name.
fn is_asked_to_wait(kind: &str) -> bool {
    kind.ends_with("HTTP 429") || kind.ends_with("HTTP 503")
}

/// Questions to the database per second: before the storm, and in its seconds, the
/// server's start included.
fn questions(report: &Report) -> anyhow::Result<(f64, f64)> {
    let phase = |name: &str| {
        let found = report.phases.iter().find(|phase| phase.name == name);
        found.with_context(|| format!("no phase {name}"))
    };
    let told = |second: &Second| second.told.get(QUESTIONS).copied();
    let within = |phase: &Phase| -> Vec<f64> {
        let (start, end) = (phase.start, phase.start + phase.seconds);
        let of = |second: &&Second| second.at > start && second.at <= end;
        report.timeline.iter().filter(of).filter_map(told).collect()
    };
    let before = within(phase("before")?);
    let mean = before.iter().sum::<f64>() / before.len() as f64;
    anyhow::ensure!(mean > 0.0, "the server tells nothing of its questions");
    let storm = phase("storm")?;
    // What is told is the rate since the server was heard of last: while it is away it
    // tells nothing, and what comes then is of all that time. The last second has begun
    // within the storm.
    let (mut all, mut last) = (0.0, None);
    for second in &report.timeline {
        let Some(rate) = told(second) else { continue };
        let covers = last.map_or(1.0, |last| second.at - last);
        last = Some(second.at);
        if second.at > storm.start && second.at <= storm.start + storm.seconds + 1.0 {
            all += rate * covers;
        }
    }
    Ok((mean, all / storm.seconds.max(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_say_when_are_no_errors() {
        for kind in ["socket: HTTP 503", "download: HTTP 429"] {
            assert!(is_asked_to_wait(kind), "{kind}");
        }
        for kind in [
            "socket: HTTP 503 without Retry-After",
            "socket: HTTP 500",
            "download: connection lost",
        ] {
            assert!(!is_asked_to_wait(kind), "{kind}");
        }
    }
}
