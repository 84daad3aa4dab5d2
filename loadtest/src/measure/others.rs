//! Whether the machine is busy with something else: processor time of all
//! processes but our own and their children, over a second. The load average would
//! not do: it remembers what we did ourselves a minute ago.

use super::process::children_of_all;
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long to look.
const WHILE: Duration = Duration::from_secs(1);

/// A part of the machine that others may use without a figure becoming doubtful.
const LITTLE: f64 = 0.1;

/// What others used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Others {
    /// Cores kept busy.
    pub cores: f64,
}

impl Others {
    /// Looks for a second. `own` and their children, and theirs, do not count.
    pub async fn look(own: &[u32]) -> Self {
        let before = processes();
        let since = Instant::now();
        tokio::time::sleep(WHILE).await;
        let after = processes();
        let ours = children_of_all(own, &parents(&after));
        let ticks: u64 = after
            .iter()
            .filter(|(pid, _)| !ours.contains(pid))
            // Who is new has used all of it meanwhile.
            .map(|(pid, now)| {
                let then = before.get(pid).map_or(0, |then| then.ticks);
                now.ticks.saturating_sub(then)
            })
            .sum();
        let ticks_per_second = super::process::TICKS_PER_SECOND;
        Self {
            cores: ticks as f64 / ticks_per_second / since.elapsed().as_secs_f64(),
        }
    }

    /// Whether that was too much of a machine with so many cores.
    pub fn are_busy(self, cores: usize) -> bool {
        self.cores > cores as f64 * LITTLE
    }
}

/// A process, from `/proc/PID/stat`.
struct Process {
    parent: u32,
    ticks: u64,
}

fn parents(all: &HashMap<u32, Process>) -> HashMap<u32, u32> {
    all.iter().map(|(pid, one)| (*pid, one.parent)).collect()
}

fn processes() -> HashMap<u32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, read(pid)?))).collect()
}

fn read(pid: u32) -> Option<Process> {
    let (parent, ticks) = super::process::stat(pid)?;
    Some(Process { parent, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn spin() -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        command.spawn().expect("it starts")
    }

    #[tokio::test]
    async fn only_others_count() {
        let mut busy = spin();
        // This process does not count, and so its child does not.
        let own = std::process::id();
        let without = Others::look(&[own]).await;
        // To nobody's child it is another.
        let with = Others::look(&[]).await;
        // Other tests run beside this one, so much more than ours may be busy.
        assert!(with.cores > 0.1, "{with:?}");
        let all = processes();
        let ours = children_of_all(&[own], &parents(&all));
        assert!(ours.contains(&own) && ours.contains(&busy.id()));
        assert!(!ours.contains(&1), "{without:?}");
        assert!(Others { cores: 0.5 }.are_busy(2) && !Others { cores: 0.1 }.are_busy(2));
        busy.kill().expect("it ends");
        busy.wait().expect("it ends");
    }
}
