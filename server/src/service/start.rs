//! How the service comes to be: the database is opened, the tables are registered,
//! the actors are started.
//!
//! Called once per process, or by tests, on a thread with an actix system. What fails
//! is a [`StartError`], which names the setting.

use super::{Inner, SyncService};
use crate::admission::Admission;
use crate::auth::{AdminToken, Authenticator, Gate, Revoked};
use crate::clock::Clock;
use crate::commit::Lanes;
use crate::epoch::Epoch;
use crate::live::{
    Announcer, Board, Feed, Heads, LookAtRevoked, NatsBus, NatsError, Newest, Notifier, Quiet,
    Relay,
};
use crate::meters;
use crate::outbox::Outbox;
use crate::quotas::Quotas;
use crate::rates::Rates;
use crate::registration::{RegistrationError, Wanted, Writing, register};
use crate::retention::{self, Readers};
use crate::settings::{Settings, SettingsError};
use crate::storage::Storage;
use crate::store::handler::Handlers;
use crate::store::{self, Bus, MeteredStore, OpenError, RevokedDevices, StoreError};
use crate::trace::Traces;
use crate::user::{UploadContext, Users};
use actix::{Actor as _, Addr};
use oversync_shared::UserId;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

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
        let writing = Writing::Handlers(&handlers);
        let registered = register(Wanted::of(&settings), writing, &*store).await?;
        let (catalog, shapes) = (Arc::new(registered.catalog), registered.shapes);
        let epoch = Epoch::new(store.epoch().await?);
        let board = Board::default();
        let heads = Heads::new(store.clone(), epoch.clone());
        let newest = Newest::new(heads.clone(), &catalog);
        let lanes = Lanes::start(&store, &newest);
        let quiet = Quiet::new(heads.clone());
        let feed = Arc::new(Feed::new(clock.clone()));
        let notifier = Notifier::new(
            heads.clone(),
            quiet.clone(),
            newest.clone(),
            board.clone(),
            feed.clone(),
        )
        .start();
        let revoked = Revoked::start(store.clone()).await?;
        tokio::spawn(tell_of_revoked(revoked.subscribe(), notifier.clone()));
        let auth = Arc::new(Gate {
            authenticator: auth,
            revoked: revoked.clone(),
        });
        let nats = NatsBus::start(&settings.nats, epoch.clone()).await?;
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
        let quotas = Arc::new(Quotas::new(&settings.quotas));
        let context = UploadContext {
            store: store.clone(),
            lanes,
            catalog: catalog.clone(),
            quotas: quotas.clone(),
            announcer,
            feed: feed.clone(),
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
            Box::new({
                let newest = newest.clone();
                move |user: &UserId| newest.forget(user)
            }),
        );
        let max_in_flight = settings
            .limits
            .max_in_flight_bytes
            .min(Semaphore::MAX_PERMITS);
        let traces = Traces::new(&settings.trace, clock.clone());
        let inner = Inner {
            limits: RwLock::new(Arc::new(settings.limits.clone())),
            rates: RwLock::new(Arc::new(Rates::new(
                &settings.rates,
                settings.max_sockets(),
            ))),
            quotas,
            outbox: Outbox::new(settings.limits.max_answer_bytes),
            settings,
            store,
            catalog,
            users,
            notifier,
            quiet,
            newest,
            heads,
            admission: Admission::default(),
            readers,
            folding: Mutex::new(Some(folding)),
            auth,
            revoked,
            admin_token,
            traces,
            started: clock.now(),
            clock,
            epoch,
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            storage: Storage::default(),
            feed,
            shapes,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
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
