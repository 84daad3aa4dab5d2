//! Lean devices: they speak the protocol and have no SQLite. For the upload
//! phase: each uploads new rows as fast as it is answered (closed loop).

use crate::report::{Latency, Uploads};
use crate::scenario::{Scenario, bar};
use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use oversync_shared::wire::{
    DownloadReply, Op, SignInReply, SignInRequest, StatusKind, UploadChange, UploadReply,
    UploadRequest,
};
use oversync_shared::{ChangeId, RowVersion, ServerId};
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// About what a row of an application weighs; BENCH uses the same.
const CONTENT_BYTES: usize = 120;

/// A device that speaks HTTP and nothing else.
pub struct LeanDevice {
    http: reqwest::Client,
    url: String,
    token: String,
    next_id: i64,
}

impl LeanDevice {
    /// Signs in and connects.
    pub async fn sign_in(url: &str, username: &str, device: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()?;
        let token = sign_in(&http, url, username, device).await?.token;
        Ok(Self {
            http,
            url: url.to_owned(),
            token,
            next_id: 1,
        })
    }

    /// Uploads `count` new rows; all must be applied.
    async fn upload_new(&mut self, count: usize) -> anyhow::Result<()> {
        let changes = (0..count)
            .map(|_| self.new_row())
            .collect::<anyhow::Result<_>>()?;
        let request = UploadRequest {
            changes,
            ..UploadRequest::default()
        };
        let answer = self
            .http
            .post(format!("{}/sync/upload", self.url))
            .bearer_auth(&self.token)
            .json(&request)
            .send()
            .await?
            .error_for_status()?;
        let reply: UploadReply = answer.json().await?;
        ensure!(
            reply
                .statuses
                .iter()
                .all(|status| status.status == StatusKind::Applied),
            "an upload of new rows was not applied"
        );
        Ok(())
    }

    fn new_row(&mut self) -> anyhow::Result<UploadChange> {
        // Version 7: neighbours in time are neighbours in the index, as
        // applications are advised to do.
        let id = Uuid::now_v7();
        let content = "x".repeat(CONTENT_BYTES);
        let payload = format!(r#"{{"id":"{id}","name":"load","email":"{content}"}}"#);
        let change = UploadChange {
            source_change_id: ChangeId::new(self.next_id),
            schema: "business".to_owned(),
            table: "users".to_owned(),
            op: Op::Insert,
            pk: id.to_string(),
            server_version: RowVersion::NEVER_SEEN,
            payload: Some(RawValue::from_string(payload)?),
        };
        self.next_id += 1;
        Ok(change)
    }

    /// The whole stream.
    pub async fn download_all(&self) -> anyhow::Result<Vec<oversync_shared::wire::DownloadChange>> {
        let mut all = Vec::new();
        let (mut after, mut until) = (ServerId::ZERO, ServerId::ZERO);
        loop {
            let query = format!("after={after}&until={until}&limit=1000&include_self=true");
            let reply: DownloadReply = self
                .http
                .get(format!("{}/sync/download?{query}", self.url))
                .bearer_auth(&self.token)
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            all.extend(reply.changes);
            if !reply.has_more {
                return Ok(all);
            }
            (after, until) = (reply.next_after, reply.window_until);
        }
    }
}

/// Asks a development server for a token.
pub async fn sign_in(
    http: &reqwest::Client,
    url: &str,
    username: &str,
    device: &str,
) -> anyhow::Result<SignInReply> {
    let asked = SignInRequest {
        username: username.to_owned(),
        password: String::new(),
        device_id: device.to_owned(),
    };
    let answer = http
        .post(format!("{url}/signin"))
        .json(&asked)
        .send()
        .await?;
    ensure!(
        answer.status().is_success(),
        "sign-in: {}; the server must run with --dev",
        answer.status()
    );
    Ok(answer.json().await?)
}

/// The upload phase: as many uploads as are answered within the time.
pub async fn run(scenario: &Scenario, url: &str, run: &str) -> anyhow::Result<Uploads> {
    let mut devices = Vec::with_capacity(scenario.uploaders);
    for index in 0..scenario.uploaders {
        let device = LeanDevice::sign_in(url, &format!("lean-{run}-{index}"), "uploader").await;
        devices.push(device.context("upload phase")?);
    }
    let progress = bar("uploads", scenario.seconds);
    let started = Instant::now();
    let deadline = started + scenario.seconds;
    let ticker = tokio::spawn({
        let progress = progress.clone();
        async move {
            while Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(500)).await;
                progress.set_position(started.elapsed().as_secs());
            }
        }
    });
    let batch = scenario.batch;
    let loops: Vec<_> = devices
        .into_iter()
        .map(|mut device| {
            tokio::spawn(async move {
                let mut times = Histogram::<u64>::new(3)?;
                while Instant::now() < deadline {
                    let sent = Instant::now();
                    device.upload_new(batch).await?;
                    times.record(sent.elapsed().as_micros() as u64)?;
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut times = Histogram::<u64>::new(3)?;
    for one in loops {
        times.add(one.await??)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    ticker.await?;
    progress.finish_and_clear();
    let uploads = times.len();
    Ok(Uploads {
        devices: scenario.uploaders,
        batch,
        uploads,
        uploads_per_second: uploads as f64 / seconds,
        changes_per_second: (uploads as usize * batch) as f64 / seconds,
        latency: Latency::from(&times),
    })
}
