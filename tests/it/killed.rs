//! kill -9 of a device process at every named step of opening, uploading,
//! applying and leaving: nothing lost, nothing doubled.
//!
//! Each story is played once without a kill; that tells how often it passes each
//! step. Then for every step, the first and the last time it is passed (every time,
//! with more effort), a process is killed there, another one takes the file and goes on, and the ending must be the same
//! to the last row, list and log entry. What the second process does on its way is
//! killed as well, for a sample. All stories together pass every step there is.

use futures_util::StreamExt as _;
use oversqlite::Step;
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::server::binary;
use oversync_tests::story::acts::{FRESH, STORIES};
use oversync_tests::story::ending::{Ending, folder};
use oversync_tests::story::play::connect;
use oversync_tests::story::{DEVICE, Do, Story, TABLES, Which, settings};
use oversync_tests::target::fresh_user;
use oversync_tests::{Backend, Database, Seed, Server, Target, on_both_stores};
use rand::seq::IndexedRandom as _;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use tempfile::TempDir;

on_both_stores!(a_device_killed_at_any_step_loses_and_doubles_nothing);

/// Processes at a time.
const AT_ONCE: usize = 4;

/// Second kills per story.
const SECOND_KILLS: usize = 4;

/// Which times that a step of a story is passed get a kill: the first ones, and
/// the last one. `OVERSYNC_TEST_EFFORT=100` makes it every time, on both stores.
const EACH_STEP: usize = 1;

/// SIGKILL.
const KILLED: i32 = 9;

/// How often each step is passed.
type Counts = BTreeMap<String, usize>;

/// The two servers, and the way to the second.
struct World {
    first: Server,
    second: Server,
    targets: [Target; 2],
    proxy: Proxy,
    /// The one certificate that the devices trust: they have no use for any, and
    /// reading all of a system's would be most of what a process costs here.
    certificates: TempDir,
    _databases: [Database; 2],
}

/// Nobody can ask the second server what it takes.
fn without_capabilities(line: &str) -> Verdict {
    match line.contains("/sync/capabilities") {
        true => Verdict::Refuse(404),
        false => Verdict::Pass,
    }
}

impl World {
    async fn new(backend: Backend) -> Self {
        let databases = [backend.database().await, backend.database().await];
        let first = Server::answering(&databases[0], settings(Which::First)).await;
        let second = Server::answering(&databases[1], settings(Which::Second)).await;
        let proxy = Proxy::start(second.address(), without_capabilities).await;
        let certificates = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
        let any = rcgen::generate_simple_self_signed(["device.example".to_owned()]);
        let any = any.expect("a certificate").cert.pem();
        std::fs::write(certificates.path().join("one.pem"), any).expect("written");
        Self {
            targets: [first.target(), second.target()],
            first,
            second,
            proxy,
            certificates,
            _databases: databases,
        }
    }

    /// One process, to its end.
    async fn process(&self, who: &Who<'_>, story: &str, kill: Option<&Kill>) -> Output {
        let [first, second] = &self.targets;
        let proxied = self.proxy.base();
        let servers = match who.at {
            Which::First => [first.base(), &proxied, second.base()],
            Which::Second => [&proxied, &proxied, second.base()],
        };
        let mut phone = tokio::process::Command::new(binary("phone"));
        phone
            .arg("--file")
            .arg(who.file)
            .args(["--user", who.user, "--device", who.device])
            .args(["--story", story, "--servers"])
            .args(servers)
            .env("SSL_CERT_FILE", self.certificates.path().join("one.pem"))
            .env("SSL_CERT_DIR", self.certificates.path().join("none"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(kill) = kill {
            phone.args(["--kill", &kill.to_string()]);
        }
        phone.output().await.expect("the device runs")
    }

    /// A story with these kills, one after the other; the last process lives.
    /// Tells how it ended, and what each process but the last passed.
    async fn play(&self, story: &Story, kills: &[Kill], expected: Option<&Ending>) -> Played {
        let (folder, user) = (folder(), fresh_user());
        let [file, other] = ["app.db", "other.db"].map(|name| folder.path().join(name));
        for file in [&file, &other] {
            connect(file).execute_batch(TABLES).expect("made");
        }
        let who = Who {
            user: &user,
            device: DEVICE,
            file: &file,
            at: Which::First,
        };
        let mut all_killed = true;
        for kill in kills {
            let output = self.process(&who, story.name, Some(kill)).await;
            let killed = output.status.signal() == Some(KILLED);
            assert!(
                killed || output.status.success(),
                "{} killed at {kill}: {output:?}",
                story.name
            );
            all_killed &= killed;
        }
        let output = self.process(&who, story.name, None).await;
        let what = format!("{} killed at {kills:?}", story.name);
        assert!(output.status.success(), "{what}: {output:?}");
        let passed = String::from_utf8(output.stdout).expect("text");
        let at = last(story);
        let target = match at {
            Which::First => &self.targets[0],
            Which::Second => &self.targets[1],
        };
        let mut ending = Ending::read(&file, target, &user).await;
        match expected {
            // The same log shows the same on every other device.
            Some(expected) if expected.log == ending.log => {
                ending.elsewhere.clone_from(&expected.elsewhere);
                ending
                    .parked_elsewhere
                    .clone_from(&expected.parked_elsewhere);
            }
            _ => {
                let fresh = Who {
                    device: "fresh",
                    file: &other,
                    at,
                    ..who
                };
                let output = self.process(&fresh, FRESH.name, None).await;
                assert!(output.status.success(), "{what}, elsewhere: {output:?}");
                ending = ending.and_elsewhere(&other);
            }
        }
        Played {
            what,
            all_killed,
            ending,
            passed: passed.lines().map(count).collect(),
        }
    }
}

/// A device and where it begins.
#[derive(Clone, Copy)]
struct Who<'a> {
    user: &'a str,
    device: &'a str,
    file: &'a Path,
    at: Which,
}

/// The server that a story ends at.
fn last(story: &Story) -> Which {
    let moves = story.acts.iter().flat_map(|act| act.then);
    moves.fold(Which::First, |at, then| match then {
        Do::At(which) => *which,
        _ => at,
    })
}

fn count(line: &str) -> (String, usize) {
    let (step, count) = line.split_once(' ').expect("a step and a number");
    (step.to_owned(), count.parse().expect("a number"))
}

/// When a step is passed for the n-th time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kill {
    step: String,
    count: usize,
}

impl std::fmt::Display for Kill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.step, self.count)
    }
}

struct Played {
    what: String,
    /// Every kill has met its step.
    all_killed: bool,
    ending: Ending,
    /// By the last process.
    passed: Counts,
}

/// The first times, and the last one.
fn kills(passed: &Counts, each: usize) -> Vec<Kill> {
    let mut kills = Vec::new();
    for (step, count) in passed {
        let times = (1..=*count).filter(|time| *time <= each || time == count);
        kills.extend(times.map(|count| Kill {
            step: step.clone(),
            count,
        }));
    }
    kills
}

async fn a_device_killed_at_any_step_loses_and_doubles_nothing(backend: Backend) {
    let seed = Seed::from_env();
    let world = World::new(backend).await;
    let each = oversync_tests::seed::cases(EACH_STEP);
    let mut reached = BTreeSet::new();
    let (mut runs, mut points) = (0, 0);
    for (part, story) in (0..).zip(STORIES) {
        let whole = world.play(story, &[], None).await;
        let expected = &whole.ending;
        expected.devices_are_equal();
        expected.nothing_is_doubled();
        let mut once = kills(&whole.passed, each);
        let mut second_kills = SECOND_KILLS;
        if backend == Backend::Postgres && each == EACH_STEP {
            // To a device the stores look the same: each step once, in any story.
            once.retain(|kill| kill.count == 1 && !reached.contains(&kill.step));
            second_kills = 1;
        }
        reached.extend(whole.passed.keys().cloned());
        let mut rng = seed.rng(part);
        let all = kills(&whole.passed, 1);
        let mut plans: Vec<Vec<Kill>> = once.iter().map(|kill| vec![kill.clone()]).collect();
        for _ in 0..second_kills {
            let two = [(); 2].map(|()| all.choose(&mut rng).expect("a step").clone());
            plans.push(two.to_vec());
        }
        runs += plans.len();
        points += once.len();
        let world = &world;
        futures_util::stream::iter(plans)
            .map(|plan| async move {
                // Where two were killed, another device is asked in any case.
                let known = Some(expected).filter(|_| plan.len() == 1);
                (plan.len(), world.play(story, &plan, known).await)
            })
            .buffer_unordered(AT_ONCE)
            .for_each(|(kills, played)| async move {
                // The second kill may name a step that is not passed again.
                assert!(played.all_killed || kills > 1, "{} lived", played.what);
                let (found, what) = (&played.ending, &played.what);
                assert_eq!(found, expected, "{what}");
                found.devices_are_equal();
                found.nothing_is_doubled();
            })
            .await;
    }
    let missed: Vec<&str> = Step::ALL
        .iter()
        .map(|step| step.name())
        .filter(|name| !reached.contains(*name))
        .collect();
    assert!(missed.is_empty(), "no story passes {missed:?}");
    println!("{points} points, {runs} runs with kills");
    world.first.verified().await;
    world.second.verified().await;
}
