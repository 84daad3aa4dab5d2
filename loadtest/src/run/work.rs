//! One device through one phase: operations at its pace, and going away and
//! coming back in between.

use super::fleets::Device;
use crate::due;
use crate::measure::Recorder;
use crate::scenario::{Churn, Fleet, Pacing, Profile};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a resting device of a closed loop looks whether it may work.
const LOOK: Duration = Duration::from_millis(50);

/// What a device needs to know of the phase.
#[derive(Clone)]
pub struct Shift {
    /// When it began.
    pub began: Instant,
    /// How long it lasts.
    pub length: Duration,
    /// Its level over time.
    pub profile: Arc<Profile>,
    /// Whether the fleet works, or is only there.
    pub works: bool,
    /// Where errors go.
    pub recorder: Arc<Recorder>,
    /// Turns true with Ctrl-C.
    pub stop: watch::Receiver<bool>,
    /// Chance.
    pub seed: u64,
}

/// Which of how many a device is.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// From 0.
    pub index: usize,
    /// In the fleet.
    pub of: usize,
}

/// Works until the phase ends, and gives the device back.
pub async fn work(mut device: Device, fleet: Arc<Fleet>, seat: Seat, mut shift: Shift) -> Device {
    let end = shift.began + shift.length;
    let mut random = StdRng::seed_from_u64(shift.seed ^ seat.index as u64);
    let mut arrivals = 0_usize;
    let mut free_at = shift.began;
    let mut churn_at = fleet
        .churn
        .map(|churn| shift.began + stays(&churn, &mut random));
    let mut back_at: Option<Instant> = None;
    let is_real = matches!(device, Device::Real(_));
    loop {
        let due = if !shift.works {
            None
        } else {
            match fleet.pacing {
                Pacing::Idle => None,
                Pacing::Open => nth_due(&shift, &fleet, seat, arrivals),
                Pacing::Closed => Some(free_at),
            }
        };
        let moved = back_at.or(churn_at);
        let next = [due, moved, Some(end)].into_iter().flatten().min();
        let next = next.unwrap_or(end).min(end);
        tokio::select! {
            () = due::wait_until(next) => {}
            _ = shift.stop.wait_for(|stop| *stop) => break,
        }
        // What is due in the past may still be below the end of the phase.
        if next >= end || Instant::now() >= end {
            break;
        }
        if moved == Some(next) {
            match (&fleet.churn, back_at.take()) {
                (Some(churn), None) => {
                    if churn.killed {
                        device.go_into_another_program().await;
                    } else {
                        device.go_offline().await;
                    }
                    let seconds = churn.offline_seconds.draw(&mut random);
                    back_at = Some(Instant::now() + Duration::from_secs(seconds as u64));
                }
                (churn, _) => {
                    if let Err(error) = device.go_online().await {
                        shift.recorder.error(format!("opening again: {error}"));
                        back_at = Some(Instant::now() + Duration::from_secs(1));
                    }
                    churn_at = churn
                        .as_ref()
                        .map(|churn| Instant::now() + stays(churn, &mut random));
                }
            }
            continue;
        }
        arrivals += 1;
        let resting = fleet.pacing == Pacing::Closed
            && seat.index as f64 >= shift.profile.level(shift.began.elapsed()) * seat.of as f64;
        // A lean device that is away does nothing; a real one goes on editing.
        if resting || (back_at.is_some() && !is_real) {
            free_at = Instant::now() + LOOK;
            continue;
        }
        let due = if fleet.pacing == Pacing::Open {
            next
        } else {
            Instant::now()
        };
        match &mut device {
            Device::Lean(device) => device.operate(due).await,
            Device::Real(device) => device.operate(due),
        }
        free_at = Instant::now() + Duration::from_millis(fleet.think_ms.draw(&mut random) as u64);
        if is_real {
            // Local transactions do not wait for anything else.
            tokio::task::yield_now().await;
        }
    }
    if shift.works && fleet.pacing == Pacing::Open && back_at.is_none() && !*shift.stop.borrow() {
        let late = (arrivals..)
            .take_while(|arrival| nth_due(&shift, &fleet, seat, *arrival).is_some())
            .count();
        // Leaving them out would make a slow server look fast.
        shift
            .recorder
            .errors("due, but not begun in time", late as u64);
    }
    device
}

/// The fleet's arrivals are dealt to its devices in turn.
fn nth_due(shift: &Shift, fleet: &Fleet, seat: Seat, arrival: usize) -> Option<Instant> {
    let number = arrival * seat.of + seat.index;
    let due = shift.profile.due(number as f64, fleet.rate)?;
    Some(shift.began + due)
}

/// How long a device stays until it goes away: exponential.
fn stays(churn: &Churn, random: &mut StdRng) -> Duration {
    let part: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
    Duration::from_secs_f64((-part.ln() * churn.every_seconds).clamp(0.1, 1e6))
}
