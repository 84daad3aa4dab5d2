//! What processes use, from `/proc`: processor time, resident memory, open
//! files. Where there is no `/proc`, or the process is not ours to look at,
//! there is no figure rather than a wrong one.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Instant;

/// Clock ticks per second in `/proc/PID/stat`: part of the kernel's interface on
/// every architecture that Rust's standard library runs on.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// What a group of processes used within a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Cores kept busy: 1.5 is one and a half.
    pub cores: f64,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Open file descriptors.
    pub files: u64,
}

/// Watches a group of processes.
#[derive(Debug, Default)]
pub struct Watch {
    ticks: HashMap<u32, u64>,
    last: Option<Instant>,
}

struct Counters {
    ticks: u64,
    rss: u64,
    files: u64,
}

impl Watch {
    /// What these processes used since the last call; `None` when none of them
    /// can be looked at. A process that was not there at the last call counts
    /// with its memory, and with its time from now on.
    pub fn sample(&mut self, pids: &[u32]) -> Option<Usage> {
        let now = Instant::now();
        let seconds = self
            .last
            .replace(now)
            .map(|last| now.duration_since(last).as_secs_f64());
        let mut usage = Usage::default();
        let mut ticks = HashMap::with_capacity(pids.len());
        for &pid in pids {
            let Some(counters) = read(pid) else { continue };
            usage.rss += counters.rss;
            usage.files += counters.files;
            if let (Some(seconds), Some(before)) = (seconds, self.ticks.get(&pid)) {
                let used = counters.ticks.saturating_sub(*before) as f64 / TICKS_PER_SECOND;
                usage.cores += used / seconds.max(0.001);
            }
            ticks.insert(pid, counters.ticks);
        }
        self.ticks = ticks;
        (!self.ticks.is_empty()).then_some(usage)
    }
}

fn read(pid: u32) -> Option<Counters> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything, brackets too.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let tick = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())?;
    Some(Counters {
        ticks: tick(11)? + tick(12)?,
        rss: rss_kib * 1024,
        files: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64),
    })
}

/// The children of a process: a database's back ends, when given its first one.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    Some(stat(pid)?.0)
}

/// The parent of a process, and the ticks it has used.
pub fn stat(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

/// These processes, their children, and theirs, by everybody's parent.
pub fn children_of_all(first: &[u32], parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let belongs = |pid: u32| {
        let mut above = Some(pid);
        // A process is never its own ancestor; a bound all the same, for numbers
        // that were read at different moments.
        for _ in 0..parents.len() {
            match above {
                Some(pid) if first.contains(&pid) => return true,
                Some(pid) => above = parents.get(&pid).copied(),
                None => return false,
            }
        }
        false
    };
    let all = parents.keys().copied().chain(first.iter().copied());
    all.filter(|pid| belongs(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let own = [std::process::id()];
        let mut watch = Watch::default();
        let first = watch.sample(&own).expect("this process can be looked at");
        assert!(first.rss > 100_000 && first.files > 2, "{first:?}");
        let started = Instant::now();
        let mut number = 1_u64;
        while started.elapsed().as_millis() < 300 {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let second = watch.sample(&own).expect("still there");
        assert!(second.cores > 0.05, "{second:?}");
        assert!(watch.sample(&[u32::MAX]).is_none());
    }

    #[test]
    fn a_child_knows_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("it starts");
        assert_eq!(parent_of(child.id()), Some(std::process::id()));
        assert!(children(std::process::id()).contains(&child.id()));
        child.kill().expect("it ends");
        child.wait().expect("it ends");
    }
}
