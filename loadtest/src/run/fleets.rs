//! All devices of a run: opened many at a time, spread over source addresses
//! and server processes, and closed at the end.

use crate::devices::{Lean, LeanUser, Real, RealUser, Surroundings, lean, real};
use crate::life::Phone;
use crate::scenario::{Fleet, Kind, Listen, Pacing, Phase, Scenario};
use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Devices that sign in and connect at a time.
const AT_A_TIME: usize = 64;

/// A real device has several connections to its file, each with a log, and two
/// to the server.
const FILES_REAL: usize = 16;

/// At most, at a time.
const DEVICES_OF_A_STORY: usize = 2;

/// Everything else that is open.
const FILES_SPARE: usize = 256;

/// A device of either kind.
pub enum Device {
    /// See [`Real`].
    Real(Box<Real>),
    /// See [`Lean`].
    Lean(Box<Lean>),
}

impl Device {
    /// Goes away.
    pub async fn go_offline(&mut self) {
        match self {
            Self::Real(device) => device.go_offline().await,
            Self::Lean(device) => device.go_offline(),
        }
    }

    /// A real one leaves its file to another program, which will be killed; a
    /// lean one goes away.
    pub async fn go_into_another_program(&mut self) {
        match self {
            Self::Real(device) => device.go_into_another_program().await,
            Self::Lean(device) => device.go_offline(),
        }
    }

    /// Comes back.
    pub async fn go_online(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Real(device) => device.go_online().await,
            Self::Lean(device) => {
                device.go_online();
                Ok(())
            }
        }
    }

    /// The same, patiently: a server that has just started may refuse at first.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        for _ in 0..50 {
            if self.go_online().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.go_online().await
    }

    /// Whether it can tell that it has caught up.
    pub fn listens(&self) -> bool {
        match self {
            Self::Real(_) => true,
            Self::Lean(device) => device.listens(),
        }
    }

    /// Waits until it has.
    pub async fn caught_up(&self) {
        match self {
            Self::Real(device) => device.caught_up().await,
            Self::Lean(device) => device.caught_up().await,
        }
    }
}

/// A fleet with its devices.
pub struct Crew {
    /// Its part of the scenario.
    pub fleet: Arc<Fleet>,
    /// Its devices, user by user.
    pub devices: Vec<Device>,
}

/// All of them.
pub struct Fleets {
    /// As in the scenario.
    pub crews: Vec<Crew>,
    /// Devices that stories have left.
    pub phones: Vec<Phone>,
    /// Stories that did not end as they should.
    pub broken: Vec<String>,
    /// Where files of real devices are.
    pub folder: TempDir,
}

/// Raises the limit of open files for this process and the servers it starts.
pub fn make_room(scenario: &Scenario) -> anyhow::Result<()> {
    let per_fleet = |fleet: &Fleet| match fleet.device {
        Kind::Lean => fleet.total() * connections(fleet),
        Kind::Real => fleet.total() * FILES_REAL,
    };
    let fleets: usize = scenario.fleets.iter().map(per_fleet).sum();
    let lives = |phase: &Phase| phase.users * DEVICES_OF_A_STORY * FILES_REAL;
    let stories: usize = scenario.phases.iter().map(lives).sum();
    // A server of ours, with the same limit, gives three quarters of it to sockets.
    let needed = (fleets + stories) * 4 / 3;
    let needed = (needed + FILES_SPARE) as u64;
    // Failing to raise is told below, with the number that matters.
    let allowed = rlimit::increase_nofile_limit(needed)
        .unwrap_or_else(|_| rlimit::Resource::NOFILE.get_soft().unwrap_or_default());
    ensure!(
        allowed >= needed,
        "this scenario needs {needed} open files and the system allows {allowed}: raise it \
         (ulimit -Hn, LimitNOFILE), or use fewer --users or --devices"
    );
    Ok(())
}

/// What a lean device keeps open: one connection to hear, one to download what
/// it hears of, one to upload.
fn connections(fleet: &Fleet) -> usize {
    let listening = match fleet.listen {
        Listen::Nothing => 0,
        Listen::Hints | Listen::Polls => 1,
        Listen::Downloads => 2,
    };
    listening + usize::from(fleet.pacing != Pacing::Idle)
}

impl Fleets {
    /// Opens every device.
    pub async fn open(
        around: &Surroundings,
        scenario: &Scenario,
        run: &str,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut crews = Vec::with_capacity(scenario.fleets.len());
        let mut first = 0;
        for fleet in &scenario.fleets {
            let fleet = Arc::new(fleet.clone());
            let opening = Opening {
                around,
                fleet: &fleet,
                run,
                seed,
                first,
                folder: &folder,
            };
            let devices = match fleet.device {
                Kind::Lean => opening.lean().await,
                Kind::Real => opening.real().await,
            };
            let devices = devices.with_context(|| format!("fleet {:?}", fleet.name))?;
            first += fleet.total();
            crews.push(Crew { fleet, devices });
        }
        Ok(Self {
            crews,
            phones: Vec::new(),
            broken: Vec::new(),
            folder,
        })
    }

    /// Real devices.
    pub fn real(&self) -> impl Iterator<Item = &Real> {
        self.devices().filter_map(|device| match device {
            Device::Real(device) => Some(device.as_ref()),
            Device::Lean(_) => None,
        })
    }

    /// Lean devices.
    pub fn lean(&self) -> impl Iterator<Item = &Lean> {
        self.devices().filter_map(|device| match device {
            Device::Lean(device) => Some(device.as_ref()),
            Device::Real(_) => None,
        })
    }

    fn devices(&self) -> impl Iterator<Item = &Device> {
        self.crews.iter().flat_map(|crew| &crew.devices)
    }

    /// Brings everybody back, and gets an answer to what was sent last.
    pub async fn settle(&mut self) {
        let all = self.crews.iter_mut().flat_map(|crew| &mut crew.devices);
        stream::iter(all)
            .for_each_concurrent(AT_A_TIME, |device| async move {
                // What does not work here shows as a difference.
                let _ = device.come_back().await;
                if let Device::Lean(device) = device {
                    let _ = device.settle().await;
                }
            })
            .await;
    }

    /// Ends them.
    pub async fn close(self) {
        for device in self.crews.into_iter().flat_map(|crew| crew.devices) {
            if let Device::Real(device) = device {
                device.close().await;
            }
        }
        for phone in self.phones {
            phone.end().await;
        }
    }
}

struct Opening<'a> {
    around: &'a Surroundings,
    fleet: &'a Arc<Fleet>,
    run: &'a str,
    seed: u64,
    /// The number of the fleet's first device among all devices.
    first: usize,
    folder: &'a TempDir,
}

impl Opening<'_> {
    fn username(&self, user: usize) -> String {
        // Names of fleets may hold anything.
        let name: String = self
            .fleet
            .name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        format!("{name}-{}-{user}", self.run)
    }

    fn seed_of(&self, number: usize) -> u64 {
        self.seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(number as u64)
    }

    async fn lean(&self) -> anyhow::Result<Vec<Device>> {
        let users: Vec<Arc<LeanUser>> = (0..self.fleet.users)
            .map(|user| {
                let recorder = &self.around.recorder;
                Arc::new(LeanUser::new(self.username(user), recorder))
            })
            .collect();
        let all = (0..self.fleet.total()).map(|index| {
            let number = self.first + index;
            let place = lean::Place {
                number,
                source: self.around.target.source(number),
                seed: self.seed_of(number),
            };
            let user = &users[index / self.fleet.devices];
            let device = format!("device-{}", index % self.fleet.devices);
            async move {
                let lean = Lean::open(self.around, self.fleet, user, device, place).await?;
                anyhow::Ok(Device::Lean(Box::new(lean)))
            }
        });
        stream::iter(all).buffered(AT_A_TIME).try_collect().await
    }

    async fn real(&self) -> anyhow::Result<Vec<Device>> {
        let mut users = Vec::with_capacity(self.fleet.users);
        for user in 0..self.fleet.users {
            let name = self.username(user);
            users.push(RealUser::open(self.around, name, self.first + user).await?);
        }
        let all = (0..self.fleet.total()).map(|index| {
            let number = self.first + index;
            let user = &users[index / self.fleet.devices];
            let device = format!("device-{}", index % self.fleet.devices);
            let place = (number, self.seed_of(number));
            let folder = self.folder.path();
            async move {
                let real =
                    real::Real::open(self.around, self.fleet, user, device, folder, place).await?;
                anyhow::Ok(Device::Real(Box::new(real)))
            }
        });
        stream::iter(all)
            .buffered(AT_A_TIME.min(8))
            .try_collect()
            .await
    }
}
