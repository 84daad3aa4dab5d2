//! The sync service: everything behind the routes, without HTTP.
//!
//! Owns the store, the users' actors, the notifier. The routes call it; a host
//! application that mounts them holds one too.

mod access;
mod write;

pub use write::RowError;

use crate::admission::{Admission, Class, DownloadError};
use crate::auth::{AdminToken, Authenticator, Gate, Revoked};
use crate::clock::Clock;
use crate::commit::Lanes;
use crate::live::{
    Announcer, Board, Heads, LookAtRevoked, NatsBus, NatsError, Notifier, Quiet, Relay, ShutDown,
    Watch,
};
use crate::meters;
use crate::outbox::Outbox;
use crate::projection::{Failure, Retried};
use crate::rates::Rates;
use crate::registration::{self, RegistrationError, register};
use crate::retention::{self, Readers};
use crate::settings::{LimitSettings, MAX_PAGE, RateSettings, Settings, SettingsError};
use crate::storage::Storage;
use crate::store::handler::Handlers;
use crate::store::{
    self, Bus, FailureFilter, InFold, MeteredStore, OpenError, Page, PageQuery, RevokedDevices,
    Store, StoreError,
};
use crate::upload::{self, Applied, ReadError, Upload, UploadError};
use crate::user::{UploadContext, Users};
use actix::{Actor as _, Addr};
use bytestring::ByteString;
use oversync_shared::wire::{Capabilities, UploadReply, feature};
use oversync_shared::{Catalog, DeviceId, ServerId, UserId};
use std::pin::pin;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The tables.
    #[error("{0}")]
    Registration(#[from] RegistrationError),
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The way to other processes.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A file that a setting names.
    #[error("schema_file: {path}: {error}")]
    SchemaFile {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

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
    admission: Admission,
    /// As they were last loaded.
    limits: RwLock<Arc<LimitSettings>>,
    rates: RwLock<Arc<Rates>>,
    /// Who reads, and how far; kept so that logs can be kept short.
    readers: Arc<Readers>,
    folding: Mutex<Option<retention::Job>>,
    outbox: Arc<Outbox>,
    auth: Arc<dyn Authenticator>,
    revoked: Revoked,
    admin_token: AdminToken,
    clock: Clock,
    epoch: Arc<str>,
    in_flight: Arc<Semaphore>,
    max_in_flight: usize,
    storage: Storage,
}

impl SyncService {
    /// Opens the database, registers the tables, starts the actors. Call it on
    /// a thread with an actix system; the actors live there.
    pub async fn start(
        settings: Settings,
        auth: Arc<dyn Authenticator>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        Self::start_with(settings, Handlers::new(), auth, clock).await
    }

    /// Starts like [`start`](Self::start), with handlers of the host's own for
    /// the rows of some tables.
    pub async fn start_with(
        settings: Settings,
        handlers: Handlers,
        auth: Arc<dyn Authenticator>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        meters::describe();
        let admin_token = AdminToken::from_settings(&settings)?;
        let schema_sql = match &settings.schema_file {
            None => None,
            Some(path) => {
                Some(
                    std::fs::read_to_string(path).map_err(|error| StartError::SchemaFile {
                        path: path.display().to_string(),
                        error,
                    })?,
                )
            }
        };
        let store =
            store::open(&settings.database_url, schema_sql.as_deref(), clock.clone()).await?;
        let store = MeteredStore::around(store);
        let wanted = registration::Wanted::of(&settings);
        let catalog = Arc::new(register(wanted, &handlers, &*store).await?);
        let epoch = store.epoch().await?;
        let lanes = Lanes::start(&store);
        let board = Board::default();
        let heads = Heads::new(store.clone(), epoch.clone());
        let notifier = Notifier::new(heads.clone(), board.clone()).start();
        let revoked = Revoked::start(store.clone()).await?;
        tokio::spawn(tell_of_revoked(revoked.subscribe(), notifier.clone()));
        let auth = Arc::new(Gate {
            authenticator: auth,
            revoked: revoked.clone(),
        });
        let nats = NatsBus::start(&settings.nats, &epoch).await?;
        let bus = match nats {
            Some(nats) => Some(Arc::new(nats) as Arc<dyn Bus>),
            None => store.bus(),
        };
        let relay = bus.map(|bus| {
            let relay = Relay::default();
            relay.start(bus, heads.clone(), board.clone(), notifier.clone());
            relay
        });
        let announcer = Announcer {
            heads: heads.clone(),
            board,
            notifier: notifier.clone(),
            relay,
        };
        let context = UploadContext {
            store: store.clone(),
            lanes,
            catalog: catalog.clone(),
            announcer,
        };
        let users = Users::new(context, settings.bypass_actors);
        let readers = Arc::<Readers>::default();
        let folding = retention::Job::start(
            store.clone(),
            catalog.clone(),
            readers.clone(),
            settings
                .retention
                .enabled
                .then(|| settings.retention.rules()),
            settings.retention.pause(),
        );
        let max_in_flight = settings
            .limits
            .max_in_flight_bytes
            .min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            limits: RwLock::new(Arc::new(settings.limits.clone())),
            rates: RwLock::new(Arc::new(Rates::new(
                &settings.rates,
                settings.max_sockets(),
            ))),
            outbox: Outbox::new(settings.limits.max_answer_bytes),
            settings,
            store,
            catalog,
            users,
            notifier,
            quiet: Quiet::new(heads.clone()),
            heads,
            admission: Admission::default(),
            readers,
            folding: Mutex::new(Some(folding)),
            auth,
            revoked,
            admin_token,
            clock,
            epoch,
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            storage: Storage::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

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

    pub(crate) fn take_over(&self, limits: LimitSettings, rates: &RateSettings) {
        let inner = &self.inner;
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

    /// The clock it runs with.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The notifier, for sessions.
    pub fn notifier(&self) -> &Addr<Notifier> {
        &self.inner.notifier
    }

    /// The database's history.
    pub fn epoch(&self) -> &Arc<str> {
        &self.inner.epoch
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
        let applied: Applied = applied?;
        if upload.device != DeviceId::server() {
            self.inner.readers.wrote(&upload.user, &upload.device);
        }
        Ok(upload::reply(&applied, &self.inner.catalog))
    }

    /// Reads a page. With `wait`, an empty page is answered when something for
    /// the caller arrives, the time has passed, or the device is revoked, which
    /// the route then refuses. A device that has everything is answered from
    /// memory, or with one question to the database for many such devices.
    pub async fn download(&self, query: PageQuery, wait: Duration) -> Result<Page, DownloadError> {
        let deadline = Instant::now() + wait;
        let page = self.page(query.clone()).await?;
        if !page.entries.is_empty() || wait.is_zero() || page.answers_at_once(&query) {
            return Ok(page);
        }
        let watch = Watch {
            user: query.user.clone(),
        };
        let Ok(Ok(mut heads)) = timeout_at(deadline, self.inner.notifier.send(watch)).await else {
            return Ok(page);
        };
        let _poll = meters::poll();
        let mut seen = page.head;
        let mut revoked = self.inner.revoked.subscribe();
        let (user, device) = (query.user.clone(), query.device.clone());
        let mut is_revoked = pin!(revoked.wait_for(|list| list.contains(&user, &device)));
        loop {
            let newer = heads.wait_for(|head| *head > seen);
            let newer = tokio::select! {
                newer = timeout_at(deadline, newer) => newer,
                _ = &mut is_revoked => return Ok(page),
            };
            match newer {
                Ok(Ok(head)) => seen = *head,
                // The time has passed, or the server stops: the truth as it is now.
                Ok(Err(_)) | Err(_) => return self.page(query).await,
            }
            let page = self.page(query.clone()).await?;
            // A floor may have passed it while it waited.
            if !page.entries.is_empty() || page.answers_at_once(&query) {
                return Ok(page);
            }
            seen = seen.max(page.head);
        }
    }

    async fn page(&self, query: PageQuery) -> Result<Page, DownloadError> {
        let page = match self.inner.quiet.answer(&query).await? {
            Some(page) => page,
            None => {
                let class = self.class_of(&query);
                self.read_page(query.clone(), class).await?
            }
        };
        self.note(&query, &page).await?;
        Ok(page)
    }

    /// Before a device has a page. What it asks from next inside of a fold means
    /// something only there: that is written down at once. Who is refused has got
    /// nothing, and holds nothing up.
    async fn note(&self, query: &PageQuery, page: &Page) -> Result<(), StoreError> {
        let (user, device, after) = (&query.user, &query.device, query.after);
        let is_other = query
            .epoch
            .as_deref()
            .is_some_and(|epoch| epoch != &*page.epoch);
        if is_other || page.is_pruned_for(after) {
            return Ok(());
        }
        // Nothing is folded, nor will be: the cursor is one of the log's, as ever, and a
        // page does not wait for a write.
        let may_fold = page.floor > ServerId::ZERO || self.inner.settings.retention.enabled;
        if let Some(at) = page.leaves_inside(after).filter(|_| may_fold) {
            let store = &self.inner.store;
            store.reads_fold(user, device, at, page.floor).await?;
        }
        let (readers, stand) = (&self.inner.readers, page.stand(query));
        readers.read(user, device, after, stand);
        Ok(())
    }

    /// Reads the next piece of a page whose answer has begun: it is not cut off for
    /// those who only begin. `asked` is the cursor that the page was asked from.
    pub(crate) async fn next_piece(
        &self,
        query: PageQuery,
        asked: ServerId,
    ) -> Result<Page, DownloadError> {
        let page = self.read_page(query.clone(), Class::Download).await?;
        let (user, device, after) = (&query.user, &query.device, query.after);
        // The whole page has one end, and may be asked for again as a whole.
        if let Some(at) = page.leaves_inside(after).filter(|_| page.began.is_some()) {
            let at = InFold { asked, ..at };
            let store = &self.inner.store;
            store.reads_fold(user, device, at, page.floor).await?;
        }
        if !page.is_cut {
            let stand = page.stand(&query);
            self.inner.readers.read(user, device, asked, stand);
        }
        Ok(page)
    }

    async fn read_page(&self, query: PageQuery, class: Class) -> Result<Page, DownloadError> {
        let _in_flight = meters::download_in_flight();
        let start = Instant::now();
        let _place = self.inner.admission.enter(class).await?;
        meters::admitted(start.elapsed());
        let mark = self.inner.heads.mark();
        let start = Instant::now();
        let page = self.inner.store.page(query.clone()).await;
        meters::page(page.is_ok(), start.elapsed());
        let page = page?;
        self.inner.quiet.learn(mark, &query, &page);
        Ok(page)
    }

    /// How far behind its reader is, as far as this process knows.
    fn class_of(&self, query: &PageQuery) -> Class {
        let is_far = match self.inner.heads.remembered(&query.user) {
            Some(head) => head.get().saturating_sub(query.after.get()) > MAX_PAGE as i64,
            None => query.after == ServerId::ZERO,
        };
        if is_far {
            Class::Hydrate
        } else {
            Class::Download
        }
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
        Ok(self.inner.heads.now_of(user).await?.1)
    }

    /// What this server can do.
    pub fn capabilities(&self) -> Capabilities {
        let settings = &self.inner.settings;
        Capabilities {
            protocol: "v1".to_owned(),
            app_name: settings.app_name.clone(),
            epoch: self.inner.epoch.to_string(),
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

/// Has sessions look at every new list of revoked devices.
async fn tell_of_revoked(
    mut lists: watch::Receiver<Arc<RevokedDevices>>,
    notifier: Addr<Notifier>,
) {
    while lists.changed().await.is_ok() {
        let list = lists.borrow_and_update().clone();
        if notifier.send(LookAtRevoked(list)).await.is_err() {
            return;
        }
    }
}
