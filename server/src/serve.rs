//! Running a server from start to end: `serve(settings, listener, shutdown)`.

use crate::auth::{Authenticator, TokenAuthenticator};
use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::http::{self, MetricsText};
use crate::requests::Requests;
use crate::service::{StartError, SyncService};
use crate::settings::{Settings, SettingsError, open_files};
use actix_cors::Cors;
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Condition;
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpMessage as _, HttpServer, web};
use oversync_shared::wire::SCHEMA_VERSION_HEADER;
use std::any::Any;
use std::future::Future;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing_actix_web::{RequestId, TracingLogger};

/// How long a connection may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept: above the 60 s of common proxies, so
/// that they close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a browser may remember what another origin's page may send.
const PREFLIGHT_SECONDS: usize = 3_600;

/// Names a request in its answer and in the logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Connections of operators at a time: people and a few scrapers. More wait to be
/// accepted, and take nothing from devices meanwhile.
const OPERATORS_AT_A_TIME: usize = 64;

/// How long an idle connection of an operator is kept: it holds one of few places,
/// and scrapers that come every 15 s may keep theirs.
const OPERATORS_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long sockets have to take their `bye` before the listener closes.
const BYE_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The keys that check tokens.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A socket.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The operators' listener.
pub struct Operators {
    /// Where they connect.
    pub listener: TcpListener,
    /// What they are shown at `/metrics`.
    pub metrics: Option<MetricsText>,
}

/// Runs a server on `listener` until `shutdown` is ready; settings that come through
/// `changes` meanwhile are taken over ([`SyncService::reload`]). In the end running
/// requests are answered, sockets get their `bye`, and the database is let go of. Needs
/// an actix system on this thread.
pub async fn serve(
    settings: Settings,
    listener: TcpListener,
    operators: Option<Operators>,
    mut changes: mpsc::Receiver<Settings>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let clock = Clock::system();
    let auth: Arc<dyn Authenticator> = Arc::new(TokenAuthenticator::from_settings(&settings)?);
    let certificates = Certificates::from_settings(&settings.tls)?;
    let service = SyncService::start(settings, auth, clock).await?;
    if operators.is_some() && !service.admin_token().is_set() {
        return Err(SettingsError::Value {
            setting: "admin_token",
            problem: "is not set, and operators cannot do without".to_owned(),
        }
        .into());
    }
    let grace = service.settings().shutdown_seconds;
    let stall = Duration::from_secs(service.settings().limits.stall_seconds);

    let app_service = service.clone();
    let mut server = HttpServer::new(move || {
        App::new()
            .wrap(cross_origin(&app_service.settings().allowed_origins))
            .wrap(from_fn(name_request))
            .wrap(TracingLogger::<Requests>::new())
            .configure(http::routes(&app_service))
            .configure(http::docs_routes(&app_service))
            .default_service(web::to(http::not_found))
    })
    .on_connect(move |connection, _| bound_connection(connection, stall))
    // Else 256 handshakes per worker that are not finished keep everybody out.
    .max_connection_rate(open_files())
    .tls_handshake_timeout(HEAD_TIMEOUT)
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    // Sockets have a limit with an answer; at this one, connections would wait
    // without a word. Files end before.
    .max_connections(open_files())
    .shutdown_timeout(grace)
    .disable_signals();
    if let Some(workers) = service.settings().workers {
        server = server.workers(workers);
    }
    let server = match certificates {
        None => server.listen(listener)?,
        Some(all) => server.listen_rustls_0_23(listener, all.server_config())?,
    };
    let server = server.run();
    let handle = server.handle();
    let mut running = actix_web::rt::spawn(server);

    let mut admin_handle = None;
    if let Some(Operators { listener, metrics }) = operators {
        let admin_service = service.clone();
        let admin_server = HttpServer::new(move || {
            let metrics = metrics.clone().map(web::Data::new);
            App::new()
                .wrap(from_fn(name_request))
                .wrap(TracingLogger::<Requests>::new())
                .configure(|config| {
                    if let Some(metrics) = metrics {
                        config.app_data(metrics);
                    }
                })
                .configure(http::admin_routes(&admin_service))
                .default_service(web::to(http::not_found))
        })
        .workers(1)
        .on_connect(move |connection, _| bound_connection(connection, stall))
        .max_connections(OPERATORS_AT_A_TIME)
        .client_request_timeout(HEAD_TIMEOUT)
        .keep_alive(OPERATORS_KEEP_ALIVE)
        .shutdown_timeout(grace)
        .disable_signals()
        .listen(listener)?
        .run();
        admin_handle = Some(admin_server.handle());
        actix_web::rt::spawn(admin_server);
    }

    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            ended = &mut running => {
                ended.map_err(std::io::Error::other)??;
                return Ok(());
            }
            Some(wanted) = changes.recv() => {
                let restart = service.reload(&wanted);
                tracing::info!(needs_restart = restart.join(", "), "settings were read again");
            }
            () = &mut shutdown => break,
        }
    }
    tracing::info!("shutting down: answering what is running");
    service.say_bye().await;
    tokio::time::sleep(BYE_PAUSE).await;
    handle.stop(true).await;
    running.await.map_err(std::io::Error::other)??;
    if let Some(admin) = admin_handle {
        admin.stop(true).await;
    }
    service.close().await;
    tracing::info!("shut down");
    Ok(())
}

/// Bytes that the system keeps for a connection before anything more is written to
/// it. Without this a client that does not read costs the system 4 MiB.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// Bounds what a client that does not read what is sent to it costs, in memory and
/// time (on Linux), and has everything sent at once: a hint, or the next chunk of an
/// answer, never waits until the one before has been acknowledged. For
/// `HttpServer::on_connect` of a host application; [`serve()`] does it itself. Does
/// nothing for what is no TCP connection.
pub fn bound_connection(connection: &dyn Any, stall: Duration) {
    let Some(stream) = tcp_stream(connection) else {
        return;
    };
    let socket = socket2::SockRef::from(stream);
    let set = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    let set = set
        .and_then(|()| socket.set_tcp_user_timeout(Some(stall)))
        .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT));
    #[cfg(not(target_os = "linux"))]
    let _ = stall;
    if let Err(error) = set {
        // It has just closed.
        tracing::debug!(%error, "a connection could not be bounded");
    }
}

/// The TCP connection, also below TLS.
fn tcp_stream(connection: &dyn Any) -> Option<&TcpStream> {
    let plain = connection.downcast_ref::<TcpStream>();
    plain.or_else(|| {
        let tls = connection.downcast_ref::<TlsStream<TcpStream>>()?;
        Some(tls.get_ref().0)
    })
}

/// Browsers let pages of these origins read our answers; without any, only our own.
fn cross_origin(allowed: &[String]) -> Condition<Cors> {
    let cors = allowed
        .iter()
        .fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    let cors = cors
        .allowed_methods(["GET", "POST"])
        .allowed_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
        ])
        .allowed_header(SCHEMA_VERSION_HEADER)
        .expose_headers([header::RETRY_AFTER, REQUEST_ID])
        .max_age(PREFLIGHT_SECONDS);
    Condition::new(!allowed.is_empty(), cors)
}

/// Names the request in the answer as in the logs.
async fn name_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let id = request.extensions().get::<RequestId>().copied();
    let mut response = next.call(request).await?;
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::rt::net::TcpStream;

    #[tokio::test]
    async fn a_connection_is_bounded_and_waits_for_no_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("connects");
        let socket = socket2::SockRef::from(&stream);
        assert!(!socket.tcp_nodelay().expect("known"), "as systems begin");
        bound_connection(&stream, Duration::from_secs(7));
        assert!(socket.tcp_nodelay().expect("known"));
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().expect("known"),
            Some(Duration::from_secs(7))
        );
        // What is no TCP connection is left alone.
        bound_connection(&"a socket of another kind", Duration::ZERO);
    }
}
