//! What a host application holds: the service without HTTP, in its own process.

use actix_web::rt::System;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, web};
use oversync::auth::{Authenticator, Identity, TokenAuthenticator, Unauthenticated};
use oversync::settings::{Secret, TableSettings};
use oversync::store::StoreError;
use oversync::{
    Base, Clock, MetricsText, RowError, ServerChange, Settings, SyncService, UploadError,
    admin_routes,
};
use oversync_shared::wire::{Op, StatusKind};
use oversync_shared::{DeviceId, RowVersion, UserId};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Database};
use serde_json::json;
use serde_json::value::to_raw_value;
use sqlx::Connection as _;
use std::any::Any;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

async fn service(database: &Database) -> SyncService {
    service_with(database, Arc::new(TokenAuthenticator::new(&[7; 32]))).await
}

async fn service_with(database: &Database, auth: Arc<dyn Authenticator>) -> SyncService {
    SyncService::start(settings(database), auth, Clock::system())
        .await
        .expect("the service starts")
}

async fn a_host_application_writes(backend: Backend) {
    let database = backend.database().await;
    let service = service(&database).await;
    let user = UserId::new(fresh_user()).expect("a user");
    let key = fresh_key();
    let row = |name: &str| to_raw_value(&json!({ "name": name })).expect("JSON");
    let set = |base, name: &str| ServerChange::set("business", "users", &key, base, row(name));

    assert!(
        service
            .row(&user, "business", "users", &key)
            .await
            .expect("read")
            .is_none()
    );
    let changes = [
        set(Base::NEW, "a"),
        set(Base::NEW, "b"),
        set(Base::Current, "c"),
    ];
    let reply = service.write(&user, &changes).await.expect("an answer");
    let kinds: Vec<StatusKind> = reply.statuses.iter().map(|status| status.status).collect();
    let expected = [
        StatusKind::Applied,
        StatusKind::Conflict,
        StatusKind::Applied,
    ];
    assert_eq!(kinds, expected);
    let ids: Vec<i64> = reply
        .statuses
        .iter()
        .map(|status| status.source_change_id.get())
        .collect();
    assert_eq!(ids, [1, 0, 2]);

    let found = service
        .row(&user, "business", "users", &key)
        .await
        .expect("read");
    let found = found.expect("the row");
    assert_eq!(found.server_version, RowVersion::new(2));
    assert_eq!(found.payload.expect("a payload").get(), r#"{"name":"c"}"#);
    // From a thread that has no actix system, for a user never seen.
    let (elsewhere, other, theirs) = (service.clone(), fresh_user(), set(Base::NEW, "d"));
    let written = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let other = UserId::new(other).expect("a user");
        runtime
            .expect("a runtime")
            .block_on(elsewhere.write(&other, &[theirs]))
    });
    let reply = written.await.expect("no panic").expect("an answer");
    assert_eq!(reply.statuses[0].status, StatusKind::Applied);

    let base = Base::Version(found.server_version);
    let reply = service
        .write(
            &user,
            &[ServerChange::delete("business", "users", &key, base)],
        )
        .await
        .expect("an answer");
    assert_eq!(
        reply.statuses[0].new_server_version,
        Some(RowVersion::new(3))
    );
    assert_eq!(service.head(&user).await.expect("a head").get(), 3);

    let mut wrong = set(Base::Current, "d");
    wrong.payload = Some(to_raw_value(&json!(["no object"])).expect("JSON"));
    let mut missing = set(Base::Current, "d");
    missing.payload = None;
    assert_eq!(missing.op, Op::Update);
    let reply = service
        .write(&user, &[wrong, missing])
        .await
        .expect("an answer");
    let says = |n: usize| reply.statuses[n].message.as_deref();
    assert_eq!(says(0), Some("invalid JSON payload"));
    assert_eq!(says(1), Some("payload required for UPDATE operation"));
    let unknown = service.row(&user, "business", "nothing", &key).await;
    assert!(matches!(unknown, Err(RowError::Invalid(_))));
    service.close().await;
}

fn settings(database: &Database) -> Settings {
    Settings {
        database_url: database.url().to_owned(),
        tables: vec![TableSettings {
            schema: "business".to_owned(),
            table: "users".to_owned(),
            ..TableSettings::default()
        }],
        ..Settings::default()
    }
}

async fn started(settings: Settings) -> SyncService {
    SyncService::start(settings, Arc::new(Names), Clock::system())
        .await
        .expect("the service starts")
}

fn named(key: &str, base: Base, name: &str) -> ServerChange {
    let row = to_raw_value(&json!({ "name": name })).expect("JSON");
    ServerChange::set("business", "users", key, base, row)
}

/// The actor that has a write in hand ends with its thread: nobody knows whether it
/// was written, and it must not be written twice.
async fn a_write_is_not_repeated_when_its_actor_ends(backend: Backend) {
    let database = backend.database().await;
    let service = started(settings(&database)).await;
    let (user, key) = (UserId::new(fresh_user()).expect("a user"), fresh_key());
    let (first, written) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (there, whose, change) = (service.clone(), user.clone(), named(&key, Base::NEW, "a"));
    let thread = std::thread::spawn(move || {
        System::new().block_on(async move {
            let _ = first.send(there.write(&whose, &[change]).await);
            let _ = ended.await;
        });
    });
    written.await.expect("no panic").expect("an answer");

    let held = hold(&database).await;
    let changes = [named(&key, Base::Current, "b")];
    let mut write = pin!(service.write(&user, &changes));
    // It is in the actor's mailbox from here on.
    let first = poll_fn(|context| Poll::Ready(write.as_mut().poll(context)));
    assert!(first.await.is_pending());
    drop(end);
    thread.join().expect("the thread ends");
    let ended = tokio::time::timeout(Duration::from_secs(30), write).await;
    let ended = ended.expect("it is not tried again");
    assert!(matches!(ended, Err(UploadError::Store(_))), "{ended:?}");
    drop(held);

    // The next one has an actor of its own; before it there was at most one.
    let reply = service
        .write(&user, &[named(&key, Base::Current, "c")])
        .await;
    let version = reply.expect("an answer").statuses[0].new_server_version;
    assert!(version <= Some(RowVersion::new(3)), "{version:?}");
    service.close().await;
}

/// Keeps everybody from writing until it is dropped.
async fn hold(database: &Database) -> Box<dyn Any> {
    match database.backend() {
        Backend::Postgres => {
            let connection = sqlx::PgConnection::connect(database.url()).await;
            let mut connection = connection.expect("it connects");
            let lock = "BEGIN; LOCK TABLE oversync.log IN SHARE MODE";
            let locked = sqlx::raw_sql(lock).execute(&mut connection).await;
            locked.expect("the table is locked");
            Box::new(connection)
        }
        Backend::Embedded => {
            let path = database.url().strip_prefix("sqlite://").expect("a file");
            let connection = rusqlite::Connection::open(path).expect("the file opens");
            let locked = connection.execute_batch("BEGIN IMMEDIATE");
            locked.expect("the file is locked");
            Box::new(connection)
        }
    }
}

/// A host's own threads need no actix system, also where there are no actors.
async fn a_host_writes_from_any_thread_without_actors(backend: Backend) {
    let database = backend.database().await;
    let service = started(Settings {
        bypass_actors: true,
        ..settings(&database)
    })
    .await;
    let elsewhere = service.clone();
    let written = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let user = UserId::new(fresh_user()).expect("a user");
        let change = named(&fresh_key(), Base::NEW, "a");
        let write = elsewhere.write(&user, std::slice::from_ref(&change));
        runtime.expect("a runtime").block_on(write)
    });
    let reply = written.await.expect("no panic").expect("an answer");
    assert_eq!(reply.statuses[0].status, StatusKind::Applied);
    service.close().await;
}

/// A host's payloads are in memory as devices' bodies are, and take from the same room.
async fn a_write_takes_room(backend: Backend) {
    let database = backend.database().await;
    let mut small = settings(&database);
    small.limits.max_in_flight_bytes = 1_000;
    let service = started(small).await;
    let user = UserId::new(fresh_user()).expect("a user");
    // With its braces and the column's name a payload has 11 bytes more.
    for (bytes, fits) in [(489, true), (490, false), (489, true)] {
        let text = "x".repeat(bytes);
        let changes = [0, 1].map(|_| named(&fresh_key(), Base::NEW, &text));
        match service.write(&user, &changes).await {
            Ok(reply) => assert!(fits && reply.statuses.len() == 2, "{bytes}"),
            Err(UploadError::Store(StoreError::Overloaded)) => assert!(!fits, "{bytes}"),
            Err(other) => panic!("{bytes}: {other}"),
        }
    }
    service.close().await;
}

macro_rules! on_actix_and_both_stores {
    ($($story:ident),+ $(,)?) => {$(
        mod $story {
            #[actix_web::test]
            async fn embedded() {
                super::$story(oversync_tests::Backend::Embedded).await;
            }

            #[actix_web::test]
            async fn postgres() {
                super::$story(oversync_tests::Backend::Postgres).await;
            }
        }
    )+};
}

on_actix_and_both_stores!(
    a_host_application_writes,
    a_write_is_not_repeated_when_its_actor_ends,
    a_host_writes_from_any_thread_without_actors,
    a_write_takes_room,
);

/// Lets anybody in whose token is a name.
struct Names;

#[async_trait::async_trait]
impl Authenticator for Names {
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated> {
        Ok(Identity {
            user: UserId::new("u").map_err(|_| Unauthenticated)?,
            device: DeviceId::new(token).map_err(|_| Unauthenticated)?,
            expires_at: None,
        })
    }
}

#[actix_web::test]
async fn revocation_stands_behind_any_authenticator() {
    let database = Backend::Embedded.database().await;
    let service = service_with(&database, Arc::new(Names)).await;
    let (user, device) = (
        UserId::new("u").expect("a user"),
        DeviceId::new("d").expect("a device"),
    );
    assert!(service.auth().authenticate("d").await.is_ok());
    service.revoke(&user, &device).await.expect("revoked");
    assert!(service.auth().authenticate("d").await.is_err());
    assert!(service.auth().authenticate("e").await.is_ok());
    let listed = service.devices(&user).await.expect("a list");
    assert!(listed.len() == 1 && listed[0].revoked_at.is_some());
    service.reinstate(&user, &device).await.expect("reinstated");
    assert!(service.auth().authenticate("d").await.is_ok());
    service.close().await;
}

/// The operators' routes in somebody's own application: closed without a token,
/// and without metrics unless the application brings them.
#[actix_web::test]
async fn operators_routes_are_mounted_by_a_host() {
    let database = Backend::Embedded.database().await;
    let mut service = service(&database).await;
    for configured in [
        None,
        Some("a token for operators, long enough".replace(' ', "-")),
    ] {
        if let Some(token) = &configured {
            service.close().await;
            let settings = Settings {
                admin_token: Some(Secret::new(token)),
                ..service.settings().clone()
            };
            service = SyncService::start(settings, Arc::new(Names), Clock::system())
                .await
                .expect("the service starts");
        }
        let text = MetricsText::new(|| "some_metric 1\n".to_owned());
        let with = App::new()
            .app_data(web::Data::new(text))
            .configure(admin_routes(&service));
        let with = init_service(with).await;
        let without = init_service(App::new().configure(admin_routes(&service))).await;
        let shown = configured.clone().unwrap_or_default();
        let get = || {
            TestRequest::get()
                .uri("/metrics")
                .insert_header(("authorization", format!("Bearer {shown}")))
                .to_request()
        };
        let expected = if configured.is_some() {
            (200, 404)
        } else {
            (401, 401)
        };
        let (there, not) = (
            call_service(&with, get()).await,
            call_service(&without, get()).await,
        );
        assert_eq!((there.status().as_u16(), not.status().as_u16()), expected);
        if configured.is_some() {
            assert_eq!(read_body(there).await, "some_metric 1\n");
        }
        let open = TestRequest::get().uri("/ready").to_request();
        assert_eq!(call_service(&with, open).await.status(), 200);
    }
    service.close().await;
    let short = Settings {
        admin_token: Some(Secret::new("short")),
        ..service.settings().clone()
    };
    let refused = SyncService::start(short, Arc::new(Names), Clock::system()).await;
    let error = refused.err().expect("refused").to_string();
    assert!(
        error.contains("admin_token") && !error.contains("\"short"),
        "{error}"
    );
}
