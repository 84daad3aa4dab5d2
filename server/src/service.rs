//! The sync service: everything behind the routes, without HTTP.
//!
//! Owns the store, the users' actors, the notifier. The routes call it; a host
//! application that mounts them holds one too.

mod access;
mod download;
mod operators;
mod start;
mod write;

pub use start::StartError;
pub use write::RowError;

use crate::admission::Admission;
use crate::auth::{AdminToken, Authenticator, Revoked};
use crate::clock::Clock;
use crate::drift::Shape;
use crate::epoch::Epoch;
use crate::live::{Feed, Heads, Newest, Notifier, Quiet, ShutDown};
use crate::meters;
use crate::outbox::Outbox;
use crate::projection::{Failure, Retried};
use crate::quotas::Quotas;
use crate::rates::Rates;
use crate::retention::{self, Readers};
use crate::settings::{LimitSettings, QuotaSettings, RateSettings, Settings};
use crate::storage::Storage;
use crate::store::{FailureFilter, Store, StoreError};
use crate::trace::Traces;
use crate::upload::{self, Applied, ReadError, Upload, UploadError};
use crate::user::Users;
use actix::Addr;
use bytestring::ByteString;
use oversync_shared::wire::{Capabilities, UploadReply, feature};
use oversync_shared::{Catalog, DeviceId, ServerId, UserId};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Everything behind the routes. Cheap to clone.
#[derive(Clone)]
pub struct SyncService {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    users: Users,
    notifier: Addr<Notifier>,
    heads: Heads,
    quiet: Quiet,
    newest: Newest,
    admission: Admission,
    /// As they were last loaded.
    limits: RwLock<Arc<LimitSettings>>,
    rates: RwLock<Arc<Rates>>,
    quotas: Arc<Quotas>,
    /// Who reads, and how far; kept so that logs can be kept short.
    readers: Arc<Readers>,
    folding: Mutex<Option<retention::Job>>,
    outbox: Arc<Outbox>,
    auth: Arc<dyn Authenticator>,
    revoked: Revoked,
    admin_token: AdminToken,
    traces: Traces,
    clock: Clock,
    epoch: Epoch,
    in_flight: Arc<Semaphore>,
    max_in_flight: usize,
    storage: Storage,
    feed: Arc<Feed>,
    started: OffsetDateTime,
    shapes: Vec<Shape>,
}

impl SyncService {
    /// The settings it was started with; see [`limits`](Self::limits) for those that
    /// may have been loaded again.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// What one request may carry, as of now.
    pub fn limits(&self) -> Arc<LimitSettings> {
        let limits = self.inner.limits.read();
        Arc::clone(&limits.expect("BUG: no panic under this lock"))
    }

    pub(crate) fn take_over(
        &self,
        limits: LimitSettings,
        quotas: &QuotaSettings,
        rates: &RateSettings,
    ) {
        let inner = &self.inner;
        inner.quotas.take_over(quotas);
        *inner.limits.write().expect("BUG: no panic under this lock") = Arc::new(limits);
        let mut current = inner.rates.write().expect("BUG: no panic under this lock");
        *current = Arc::new(current.renewed(rates));
    }

    /// Who decides who is calling: what [`Self::start`] was given, and a refusal
    /// of revoked devices behind it.
    pub fn auth(&self) -> &Arc<dyn Authenticator> {
        &self.inner.auth
    }

    /// Who may not come in.
    pub(crate) fn revoked(&self) -> &Revoked {
        &self.inner.revoked
    }

    /// A device says up to where it has applied changes, and how long ago: told to the
    /// metrics.
    pub(crate) fn applied(&self, user: &UserId, device: &DeviceId, place: ServerId, age: Duration) {
        if let Some(taken) = self.inner.newest.taken_at(user, device, place)
            && let Ok(since) = Duration::try_from(self.clock().now() - taken)
        {
            // By two clocks of which one may run faster.
            meters::visible(since.saturating_sub(age));
        }
    }

    /// Where spans are written.
    pub(crate) fn traces(&self) -> &Traces {
        &self.inner.traces
    }

    /// The clock it runs with.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The notifier, for sessions.
    pub fn notifier(&self) -> &Addr<Notifier> {
        &self.inner.notifier
    }

    /// The database's history, as it was read last.
    pub fn epoch(&self) -> Arc<str> {
        self.inner.epoch.now()
    }

    /// Room for upload bodies, in bytes.
    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.inner.in_flight
    }

    /// Measures what is measured only when somebody asks.
    pub(crate) async fn measure(&self) {
        let free = self.inner.in_flight.available_permits();
        meters::bytes_in_flight(self.inner.max_in_flight.saturating_sub(free));
        meters::pool(self.inner.store.pool());
        self.inner.storage.measure(&self.inner.store).await;
    }

    /// Room for large answers.
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.inner.outbox
    }

    /// How much one user and one address may ask for.
    pub(crate) fn rates(&self) -> Arc<Rates> {
        let rates = self.inner.rates.read();
        Arc::clone(&rates.expect("BUG: no panic under this lock"))
    }

    /// What operators must show.
    pub(crate) fn admin_token(&self) -> &AdminToken {
        &self.inner.admin_token
    }

    /// Reads an upload's body.
    pub fn read_upload(
        &self,
        body: &ByteString,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Upload, ReadError> {
        let start = Instant::now();
        let limits = self.limits().for_devices();
        let upload = upload::read(body, user, device, &self.inner.catalog, &limits);
        meters::checked(start.elapsed());
        upload
    }

    /// Applies an upload; the user's devices are told of the new head.
    pub async fn upload(&self, upload: Upload) -> Result<UploadReply, UploadError> {
        let upload = Arc::new(upload);
        let _in_flight = meters::upload_in_flight();
        let start = Instant::now();
        let applied = self.inner.users.apply(upload.clone()).await;
        let verdicts = applied.as_ref().map(|applied| &*applied.verdicts);
        meters::upload(verdicts, start.elapsed());
        if let Err(UploadError::EpochMismatch(epoch)) = &applied {
            self.inner.epoch.saw(epoch);
        }
        let applied: Applied = applied?;
        self.inner.epoch.saw(&applied.epoch);
        if upload.device != DeviceId::server() {
            self.inner.readers.wrote(&upload.user, &upload.device);
        }
        Ok(upload::reply(&applied, &self.inner.catalog))
    }

    /// The user's rows that could not be projected, newest first: a piece of the
    /// list, at most `limit` of them, of bounded size; go on with `before`.
    pub async fn failures(
        &self,
        user: &UserId,
        only: FailureFilter,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError> {
        self.inner.store.failures(user, only, limit).await
    }

    /// Projects the current state of a failed row again.
    pub async fn retry(&self, user: &UserId, failure: i64) -> Result<Retried, StoreError> {
        self.inner.store.retry(user, failure).await
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner.store.ping().await
    }

    /// A user's head; 0 for one never seen.
    pub async fn head(&self, user: &UserId) -> Result<ServerId, StoreError> {
        Ok(self.inner.heads.now_of(user).await?.head)
    }

    /// What this server can do.
    pub fn capabilities(&self) -> Capabilities {
        let settings = &self.inner.settings;
        Capabilities {
            protocol: "v1".to_owned(),
            app_name: settings.app_name.clone(),
            epoch: self.epoch().to_string(),
            schema_version: settings.schema_version,
            min_schema_version: settings.min_schema_version,
            limits: self.limits().for_devices(),
            features: [
                feature::WS,
                feature::WAIT,
                feature::EPOCH,
                feature::ORDERED_FEED,
            ]
            .map(str::to_owned)
            .to_vec(),
            quotas: self
                .inner
                .quotas
                .limits()
                .map(|limits| limits.for_devices()),
        }
    }

    /// Whether a device's schema version is one this server takes.
    pub fn takes_schema_version(&self, version: i64) -> bool {
        let settings = &self.inner.settings;
        (settings.min_schema_version..=settings.schema_version).contains(&version)
    }

    /// The registered tables.
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// Says `bye` to every session; requests are still answered.
    pub async fn say_bye(&self) {
        self.inner.feed.close();
        // An error means that the notifier has ended with its system.
        let _ = self.inner.notifier.send(ShutDown).await;
    }

    /// Finishes what is running and lets go of the database. Call it last.
    pub async fn close(&self) {
        let folding = self.inner.folding.lock();
        let folding = folding.expect("BUG: no panic under this lock").take();
        if let Some(job) = folding {
            job.end().await;
        }
        self.inner.store.close().await;
    }
}
