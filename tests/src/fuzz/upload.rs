//! Upload bodies: read by the service and compared with a plain reading of them,
//! applied twice, read back; and sent to a server process.

use super::Target;
use super::body::{body, plainly, strict};
use crate::backend::{Backend, Database};
use crate::config::Config;
use crate::server::{self, SECRET, Server};
use crate::target::Target as Remote;
use actix_web::rt::{System, SystemRunner};
use bytestring::ByteString;
use oversync::auth::TokenAuthenticator;
use oversync::{Clock, ReadError, Settings, SyncService, UploadError};
use oversync_shared::wire::{StatusKind, UploadReply};
use oversync_shared::{DeviceId, UserId};
use rand::rngs::StdRng;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// One in so many bodies is applied, not only read: a commit waits for the disk.
const APPLIED: u64 = 8;

/// A service in this process, on a file of its own.
pub(super) struct Service {
    pub(super) system: SystemRunner,
    pub(super) service: SyncService,
    folder: TempDir,
}

impl Service {
    pub(super) fn start() -> Self {
        let folder = TempDir::with_prefix("oversync-fuzz.").expect("a temporary folder");
        let url = format!("sqlite://{}/server.db", folder.path().display());
        let text = Config::default()
            .set("database_url", url.as_str())
            .to_toml();
        std::fs::write(folder.path().join("oversync.toml"), &text)
            .expect("the settings are written");
        let settings: Settings = toml::from_str(&text).expect("settings");
        let system = System::new();
        let auth = Arc::new(TokenAuthenticator::new(SECRET.as_bytes()));
        let service = system
            .block_on(SyncService::start(settings, auth, Clock::system()))
            .expect("the service starts");
        Self {
            system,
            service,
            folder,
        }
    }

    pub(super) fn verify(&self) -> Result<(), String> {
        verify(&self.folder.path().join("oversync.toml"))
    }
}

/// What the stored data say of themselves.
fn verify(config: &Path) -> Result<(), String> {
    let output = server::command()
        .args(["verify", "--config"])
        .arg(config)
        .output()
        .expect("verify runs");
    if output.status.success() {
        return Ok(());
    }
    let (said, errors) = (&output.stdout, &output.stderr);
    Err(format!(
        "oversync verify: {}{}",
        String::from_utf8_lossy(said),
        String::from_utf8_lossy(errors)
    ))
}

/// Bodies by the service itself.
pub(super) struct InProcess {
    service: Service,
}

impl InProcess {
    pub(super) fn start() -> Self {
        Self {
            service: Service::start(),
        }
    }

    fn apply(&self, body: &ByteString, user: &UserId, device: &DeviceId) -> Option<UploadReply> {
        let upload = self.service.service.read_upload(body, user, device);
        let upload = upload.expect("it was read before");
        let applied = self
            .service
            .system
            .block_on(self.service.service.upload(upload));
        match applied {
            Ok(reply) => Some(reply),
            Err(UploadError::EpochMismatch(_) | UploadError::AnswerTooLarge) => None,
            Err(UploadError::Store(error)) => panic!("the store failed: {error}"),
        }
    }
}

impl Target for InProcess {
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8> {
        body(rng)
    }

    fn check(&mut self, case: u64, input: &[u8]) -> Result<(), String> {
        let user = UserId::new(format!("user-{case}-{}", input.len())).expect("a user");
        let device = DeviceId::new("ada").expect("a device");
        // Bytes that are no text are refused before the body is read.
        let text = String::from_utf8_lossy(input).into_owned();
        let body = ByteString::from(text.clone());
        let read = self.service.service.read_upload(&body, &user, &device);
        let plain = plainly(&text);
        let upload = match (read, &plain) {
            (Err(ReadError::NotAnUpload(_)), None) => return Ok(()),
            (Err(ReadError::Absurd), Some(ids)) if ids.len() > 16_000 => return Ok(()),
            (Ok(upload), Some(_)) => upload,
            (read, plain) => return Err(format!("read as {read:?}, which is {plain:?}")),
        };
        let ids: Vec<i64> = upload.ids.iter().map(|id| id.get()).collect();
        if Some(&ids) != plain.as_ref() || upload.changes.len() != ids.len() {
            return Err(format!("ids {ids:?}, and they are {plain:?}"));
        }
        // A payload that passed the checks is the sender's own text, and is good.
        for (change, payload) in upload.changes.iter().zip(&upload.payloads) {
            if let (Ok(_), Some(payload)) = (change, payload) {
                let is_object = payload.starts_with('{') && text.contains(&**payload);
                if !is_object || strict(payload, 0).is_none() {
                    return Err(format!("this payload passed: {payload}"));
                }
            }
        }
        if !case.is_multiple_of(APPLIED) {
            return Ok(());
        }
        let Some(first) = self.apply(&body, &user, &device) else {
            return Ok(());
        };
        explained(
            &serde_json::to_value(&first).expect("a reply is JSON"),
            ids.len(),
        )?;
        // What was applied under an id is answered the same for ever.
        let again = self
            .apply(&body, &user, &device)
            .expect("it was taken before");
        for (first, again) in first.statuses.iter().zip(&again.statuses) {
            let is_recorded =
                first.status == StatusKind::Applied && first.new_server_version.is_some();
            if is_recorded && first.new_server_version != again.new_server_version {
                return Err(format!("{first:?}, and the second time {again:?}"));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.service.verify()
    }
}

/// One status per change, each of the three kinds, each saying why.
fn explained(reply: &Value, changes: usize) -> Result<(), String> {
    let statuses = reply["statuses"].as_array().ok_or("no statuses")?;
    if statuses.len() != changes {
        return Err(format!("{} statuses for {changes} changes", statuses.len()));
    }
    for status in statuses {
        let is_plain = status.get("server_row").is_none() && status.get("invalid").is_none();
        let is_explained = match status["status"].as_str() {
            Some("applied") => is_plain,
            Some("conflict") => status["server_row"]["server_version"].is_i64(),
            Some("invalid") => status["invalid"]["reason"].is_string(),
            _ => false,
        };
        if !is_explained {
            return Err(format!("a status without its reason: {status}"));
        }
    }
    Ok(())
}

/// Bodies to a server process on the embedded store.
pub(super) struct OverHttp {
    runtime: tokio::runtime::Runtime,
    remote: Remote,
    // Dropped in this order.
    server: Server,
    _database: Database,
}

impl OverHttp {
    pub(super) fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (server, database) = runtime.block_on(async {
            let database = Backend::Embedded.database().await;
            (Server::start(&database, Config::default()).await, database)
        });
        Self {
            runtime,
            remote: server.target(),
            server,
            _database: database,
        }
    }
}

impl Target for OverHttp {
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8> {
        body(rng)
    }

    fn check(&mut self, case: u64, input: &[u8]) -> Result<(), String> {
        // A few cases share a user, and meet what the others left.
        let device = self.remote.device(&format!("user-{}", case / 4), "ada");
        let plain = std::str::from_utf8(input).ok().and_then(plainly);
        let request = device
            .request(reqwest::Method::POST, "/sync/upload")
            .body(input.to_vec());
        let reply = self.runtime.block_on(crate::HttpDevice::try_send(request));
        let reply = reply.map_err(|error| format!("no answer: {error}"))?;
        match (reply.status, plain) {
            (200, Some(ids)) => explained(&reply.json(), ids.len()),
            (400, None) => {
                reply.bad_request("Failed to parse upload request");
                Ok(())
            }
            (409, Some(_)) => {
                reply.refused(409, "epoch_mismatch");
                Ok(())
            }
            (413, Some(_)) => {
                reply.refused(413, "request_too_large");
                Ok(())
            }
            (status, plain) => Err(format!("{status} for {plain:?}: {}", reply.text)),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let device = self.remote.one_device();
        let reply = self.runtime.block_on(device.upload(&[]));
        if reply["accepted"] != true {
            return Err(format!("an empty upload afterwards: {reply}"));
        }
        verify(self.server.config())?;
        self.runtime.block_on(self.server.terminate());
        Ok(())
    }
}
