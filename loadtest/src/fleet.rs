//! Real devices: SQLite files, capture, the background engine, WebSockets.

use crate::edits::{Edit, Editor, SCHEMA};
use crate::lean::{LeanDevice, sign_in};
use crate::report::{Latency, Live};
use crate::scenario::{Scenario, bar};
use hdrhistogram::Histogram;
use oversqlite::{Changed, Client, Config, DeviceId, TokenError, UserId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long after the last edit stragglers are still measured.
const LINGER: Duration = Duration::from_millis(500);

/// When each new row was committed, and on which device.
type Commits = Arc<Mutex<HashMap<String, (Instant, usize)>>>;

/// All devices of one user.
pub struct UserFleet {
    /// The sign-in name.
    pub username: String,
    /// The devices.
    pub devices: Vec<Device>,
    /// A device without SQLite that sees what the server has.
    pub observer: LeanDevice,
}

/// One real device.
pub struct Device {
    /// Its client.
    pub client: Client,
    /// Its file.
    pub path: PathBuf,
}

/// The devices of all users, engines running.
pub struct Fleet {
    /// By user.
    pub users: Vec<UserFleet>,
    scenario: Scenario,
    seed: u64,
    _folder: TempDir,
}

impl Fleet {
    /// Makes the files, signs in, starts the engines.
    pub async fn open(
        scenario: &Scenario,
        url: &str,
        run: &str,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut users = Vec::with_capacity(scenario.users);
        for user in 0..scenario.users {
            let username = format!("fleet-{run}-{user}");
            let mut devices = Vec::with_capacity(scenario.devices);
            for device in 0..scenario.devices {
                let path = folder.path().join(format!("{user}-{device}.db"));
                rusqlite::Connection::open(&path)?.execute_batch(SCHEMA)?;
                let client =
                    open_client(&path, url, &username, &format!("device-{device}")).await?;
                client.sync().await?;
                client.start()?;
                devices.push(Device { client, path });
            }
            let observer = LeanDevice::sign_in(url, &username, "observer").await?;
            users.push(UserFleet {
                username,
                devices,
                observer,
            });
        }
        Ok(Self {
            users,
            scenario: scenario.clone(),
            seed,
            _folder: folder,
        })
    }

    /// Edits on all devices at the scenario's rate, measured from each local
    /// commit to the row's commit on every other device of the user.
    pub async fn run(&self) -> anyhow::Result<Live> {
        let total: usize = self.users.iter().map(|user| user.devices.len()).sum();
        let pause = Duration::from_secs_f64(total as f64 / self.scenario.rate);
        let progress = bar("devices", self.scenario.seconds);
        let started = Instant::now();
        let deadline = started + self.scenario.seconds;
        let mut listeners = Vec::new();
        let mut editors = Vec::new();
        for (number, (user, device)) in self
            .users
            .iter()
            .flat_map(|user| user.devices.iter().map(move |device| (user, device)))
            .enumerate()
        {
            // Each device spreads its first edit, and keeps its own beat: a slow
            // server does not slow the edits down.
            let first = started + pause.mul_f64(number as f64 / total as f64);
            let editor = Editor::new(device.client.connection()?, self.seed ^ number as u64);
            let commits = self.commits_of(&user.username);
            listeners.push(tokio::spawn(listen(
                device.client.changes(),
                number,
                commits.clone(),
                deadline + LINGER,
            )));
            editors.push(tokio::spawn(edit(
                editor, number, commits, first, pause, deadline,
            )));
        }
        while Instant::now() < deadline {
            progress.set_position(started.elapsed().as_secs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut edits = 0;
        for editor in editors {
            edits += editor.await??;
        }
        let mut times = Histogram::<u64>::new(3)?;
        for listener in listeners {
            times.add(listener.await??)?;
        }
        progress.finish_and_clear();
        Ok(Live {
            users: self.users.len(),
            devices: total,
            edits,
            edits_per_second: edits as f64 / self.scenario.seconds.as_secs_f64(),
            commit_to_remote_row: Latency::from(&times),
        })
    }

    fn commits_of(&self, username: &str) -> Commits {
        // One map per user, shared by its devices.
        static ALL: Mutex<Option<HashMap<String, Commits>>> = Mutex::new(None);
        let mut all = ALL.lock().expect("BUG: no panic under this lock");
        all.get_or_insert_default()
            .entry(username.to_owned())
            .or_default()
            .clone()
    }

    /// Stops the engines and closes the files.
    pub async fn close(self) {
        for device in self.users.iter().flat_map(|user| &user.devices) {
            device.client.stop().await;
        }
    }
}

async fn open_client(
    path: &std::path::Path,
    url: &str,
    username: &str,
    device: &str,
) -> anyhow::Result<Client> {
    let http = reqwest::Client::new();
    let signed_in = sign_in(&http, url, username, device).await?;
    let (url_again, username, device_again) =
        (url.to_owned(), username.to_owned(), device.to_owned());
    let token = move || {
        let (http, url, username, device) = (
            http.clone(),
            url_again.clone(),
            username.clone(),
            device_again.clone(),
        );
        async move {
            let reply = sign_in(&http, &url, &username, &device).await;
            reply
                .map(|reply| reply.token)
                .map_err(|error| TokenError::new(error.to_string()))
        }
    };
    let config = Config::new(path, url, UserId::new(signed_in.user_id)?, token)
        .device(DeviceId::new(device)?)
        .schema("business")
        .table("users")
        .table("posts")
        // Hints or nothing: a slow poll must not make a lost hint look fast.
        .poll_interval(Duration::from_secs(3_600));
    Ok(Client::open(config).await?)
}

async fn edit(
    mut editor: Editor,
    device: usize,
    commits: Commits,
    first: Instant,
    pause: Duration,
    deadline: Instant,
) -> anyhow::Result<u64> {
    let mut edits = 0;
    let mut next = first;
    while next < deadline {
        tokio::time::sleep_until(next.into()).await;
        if let Edit::Inserted(id) = tokio::task::block_in_place(|| editor.next())? {
            commits
                .lock()
                .expect("BUG: no panic under this lock")
                .insert(id, (Instant::now(), device));
        }
        edits += 1;
        next += pause;
    }
    Ok(edits)
}

async fn listen(
    mut changes: oversqlite::Changes,
    device: usize,
    commits: Commits,
    deadline: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new(3)?;
    let mut seen = std::collections::HashSet::new();
    while let Ok(Some(change)) = tokio::time::timeout_at(deadline.into(), changes.next()).await {
        let now = Instant::now();
        let Changed::Rows { keys, .. } = change else {
            continue;
        };
        for key in keys {
            let committed = commits
                .lock()
                .expect("BUG: no panic under this lock")
                .get(&key)
                .copied();
            // A device hears of its own row, too, when others have changed it.
            if let Some((committed, origin)) = committed
                && origin != device
                && seen.insert(key)
            {
                times.record(now.saturating_duration_since(committed).as_micros() as u64)?;
            }
        }
    }
    Ok(times)
}
