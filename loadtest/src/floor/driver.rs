//! The same requests against ours and against the floors: a closed loop per
//! device over a kept connection, round after round, so that both are warm.

use super::NewRow;
use super::serve::SECRET;
use crate::http::{Endpoint, Http};
use crate::target::Target;
use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// A token's end that no bench outlives.
const FAR: i64 = 4_000_000_000;

/// What a round came to.
#[derive(Debug, Clone)]
pub struct Round {
    /// Requests per second.
    pub requests: f64,
    /// Changes, or rows, per second.
    pub changes: f64,
    /// Latencies of requests, in microseconds.
    pub times: Histogram<u64>,
}

impl Round {
    /// A percentile in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Who the devices are at a server.
#[derive(Clone)]
pub enum Names {
    /// Users of a server of ours.
    Ours(Arc<Target>),
    /// Users of the floor: their numbers.
    Numbers,
    /// Users of the reference style: tokens that it checks.
    Signed,
}

impl Names {
    async fn token(&self, user: usize) -> anyhow::Result<String> {
        #[derive(Serialize)]
        struct Claims {
            sub: String,
            exp: i64,
        }
        match self {
            Self::Ours(target) => {
                let name = format!("bench-{user}");
                Ok(target.sign_in(&name, "device").await?.token)
            }
            Self::Numbers => Ok(user.to_string()),
            Self::Signed => {
                let claims = Claims {
                    sub: user.to_string(),
                    exp: FAR,
                };
                let key = EncodingKey::from_secret(SECRET);
                Ok(encode(&Header::default(), &claims, &key)?)
            }
        }
    }
}

struct Device {
    http: Http,
    token: String,
    next_id: i64,
}

/// Devices that upload new rows, each of its own user.
pub struct Uploaders {
    devices: Vec<Device>,
    batch: usize,
}

impl Uploaders {
    /// Signs them in. User numbers begin at 1.
    pub async fn open(
        endpoint: &Arc<Endpoint>,
        names: &Names,
        devices: usize,
        batch: usize,
    ) -> anyhow::Result<Self> {
        Self::open_from(endpoint, names, 1, (devices, batch)).await
    }

    /// The same, with users numbered from `first`.
    pub async fn open_from(
        endpoint: &Arc<Endpoint>,
        names: &Names,
        first: usize,
        (devices, batch): (usize, usize),
    ) -> anyhow::Result<Self> {
        let mut all = Vec::with_capacity(devices);
        for user in first..first + devices {
            all.push(Device {
                http: Http::new(Arc::clone(endpoint), None),
                token: names.token(user).await?,
                next_id: 1,
            });
        }
        Ok(Self {
            devices: all,
            batch,
        })
    }

    /// As many uploads as are answered in this time; at this rate per second of
    /// all devices when given, with latencies from when they were due.
    pub async fn round(&mut self, length: Duration, rate: Option<f64>) -> anyhow::Result<Round> {
        let began = Instant::now();
        let end = began + length;
        let of = self.devices.len();
        let batch = self.batch;
        let mut tasks = JoinSet::new();
        for (index, mut device) in std::mem::take(&mut self.devices).into_iter().enumerate() {
            tasks.spawn(async move {
                let mut times = new_histogram();
                for arrival in 0_usize.. {
                    let due = match rate {
                        Some(rate) => {
                            let number = (arrival * of + index) as f64;
                            let due = began + Duration::from_secs_f64(number / rate);
                            if due < end {
                                crate::due::wait_until(due).await;
                            }
                            due
                        }
                        None => Instant::now(),
                    };
                    if due >= end {
                        break;
                    }
                    device.upload(batch).await?;
                    times.saturating_record(due.elapsed().as_micros() as u64);
                }
                anyhow::Ok((index, device, times))
            });
        }
        let mut back = Vec::with_capacity(of);
        let mut times = new_histogram();
        while let Some(done) = tasks.join_next().await {
            let (index, device, some) = done??;
            times.add(&some)?;
            back.push((index, device));
        }
        let seconds = began.elapsed().as_secs_f64();
        back.sort_by_key(|(index, _)| *index);
        self.devices = back.into_iter().map(|(_, device)| device).collect();
        let requests = times.len() as f64 / seconds;
        Ok(Round {
            requests,
            changes: requests * batch as f64,
            times,
        })
    }

    /// Fills the log up to this many changes, a thousand at a time.
    pub async fn fill(&mut self, changes: usize) -> anyhow::Result<()> {
        let share = changes.div_ceil(self.devices.len());
        let mut tasks = JoinSet::new();
        for (index, mut device) in std::mem::take(&mut self.devices).into_iter().enumerate() {
            tasks.spawn(async move {
                let mut left = share;
                while left > 0 {
                    let batch = left.min(1_000);
                    device.upload(batch).await?;
                    left -= batch;
                }
                anyhow::Ok((index, device))
            });
        }
        let mut back = Vec::new();
        while let Some(done) = tasks.join_next().await {
            back.push(done??);
        }
        back.sort_by_key(|(index, _)| *index);
        self.devices = back.into_iter().map(|(_, device)| device).collect();
        Ok(())
    }
}

impl Device {
    async fn upload(&mut self, batch: usize) -> anyhow::Result<()> {
        let mut body = String::with_capacity(32 + batch * 340);
        body.push_str("{\"changes\":[");
        for index in 0..batch {
            let row = NewRow::make(self.next_id);
            self.next_id += 1;
            let comma = if index == 0 { "" } else { "," };
            write!(
                body,
                "{comma}{{\"source_change_id\":{},\"schema\":\"business\",\"table\":\"users\",\
                 \"op\":\"INSERT\",\"pk\":\"{}\",\"server_version\":0,\"payload\":{}}}",
                row.change_id, row.key, row.payload
            )
            .expect("BUG: a String takes any text");
        }
        body.push_str("]}");
        let answer = self
            .http
            .post("/sync/upload", &self.token, body.as_bytes())
            .await?;
        ensure!(answer.is_success(), "upload: HTTP {}", answer.status);
        let text = std::str::from_utf8(&answer.body).context("a reply")?;
        ensure!(
            text.matches("\"applied\"").count() == batch,
            "an upload of new rows was not applied: {}",
            text.get(..400).unwrap_or(text)
        );
        Ok(())
    }
}

/// What is asked for again and again.
pub struct Asked<'a> {
    /// Where.
    pub endpoint: &'a Arc<Endpoint>,
    /// Who.
    pub names: &'a Names,
    /// How many ask.
    pub devices: usize,
    /// The user of all of them; each its own when `None`.
    pub user: Option<usize>,
    /// Rows in an answer.
    pub rows: usize,
}

/// The same GET, as often as it is answered. `path` is told the number of the
/// request of that device.
pub async fn gets(
    asked: &Asked<'_>,
    length: Duration,
    path: impl Fn(usize) -> String + Clone + Send + 'static,
) -> anyhow::Result<Round> {
    let mut devices = Vec::with_capacity(asked.devices);
    for number in 1..=asked.devices {
        let token = asked.names.token(asked.user.unwrap_or(number)).await?;
        devices.push((Http::new(Arc::clone(asked.endpoint), None), token));
    }
    let began = Instant::now();
    let end = began + length;
    let mut tasks = JoinSet::new();
    for (mut http, token) in devices {
        let path = path.clone();
        tasks.spawn(async move {
            let mut times = new_histogram();
            let mut number = 0;
            while Instant::now() < end {
                let sent = Instant::now();
                let answer = http.get(&path(number), &token).await?;
                ensure!(answer.is_success(), "GET: HTTP {}", answer.status);
                times.saturating_record(sent.elapsed().as_micros() as u64);
                number += 1;
            }
            anyhow::Ok(times)
        });
    }
    let mut times = new_histogram();
    while let Some(done) = tasks.join_next().await {
        times.add(done??)?;
    }
    let requests = times.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Round {
        requests,
        changes: requests * asked.rows as f64,
        times,
    })
}

/// Round trips over one WebSocket.
pub async fn echoes(endpoint: &Endpoint, length: Duration) -> anyhow::Result<Round> {
    use futures_util::{SinkExt as _, StreamExt as _};
    let url = endpoint.url.replacen("http", "ws", 1) + "/ws";
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await?;
    let began = Instant::now();
    let mut times = new_histogram();
    while began.elapsed() < length {
        let sent = Instant::now();
        socket
            .send(Message::text(
                "{\"type\":\"changes\",\"after\":1,\"head\":2}",
            ))
            .await?;
        socket.next().await.context("an echo")??;
        times.saturating_record(sent.elapsed().as_micros() as u64);
    }
    let requests = times.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Round {
        requests,
        changes: requests,
        times,
    })
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_max(600_000_000, 3).expect("BUG: constants that a histogram takes")
}
