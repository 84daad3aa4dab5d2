//! HTTP to the server: one method per endpoint, and the only place that reads
//! HTTP statuses.
//!
//! Holds no state but connections and the token in use. A refused token is
//! replaced once per request.

use crate::config::Config;
use crate::error::{Error, NetworkError, SetupError};
use crate::tls;
use crate::token::Tokens;
use crate::trace::{self, Traces};
use oversync_shared::wire::{
    APPLIED_HEADER, Capabilities, DownloadReply, ErrorBody, SCHEMA_VERSION_HEADER, SignInReply,
    SignInRequest, UploadReply, UploadRequest, error_code,
};
use oversync_shared::{DeviceId, ServerId};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};
use url::Url;

/// How long a request may take as a whole: 8 MiB over a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// No `Retry-After` is honoured for longer: a slip of the server's, or of
/// something in between, must not keep a device away for days.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Talks to one server.
pub(crate) struct Transport {
    http: reqwest::Client,
    base: Url,
    /// For the WebSocket.
    pub(crate) tls: Arc<ClientConfig>,
    schema_version: Option<i64>,
    traces: Traces,
    /// What has been applied, and when, until the server has been told.
    applied: Mutex<Option<(ServerId, Instant)>>,
    pub(crate) tokens: Arc<Tokens>,
    /// The `Date` of the last answer, in seconds since 1970; 0 before.
    server_time: AtomicI64,
}

/// The parameters of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageRequest {
    pub(crate) after: ServerId,
    pub(crate) limit: usize,
    pub(crate) schema: String,
    pub(crate) until: Option<ServerId>,
    pub(crate) include_self: bool,
    pub(crate) epoch: Option<String>,
}

/// The answer to a knock.
pub(crate) struct Knock {
    /// Its `Date`, in seconds since 1970.
    pub(crate) date: Option<i64>,
}

/// Checks a server's address and makes it a base that paths can be added to.
pub(crate) fn base_url(text: &str) -> Result<Url, SetupError> {
    let bad = |why: &str| SetupError::Url {
        url: text.to_owned(),
        why: why.to_owned(),
    };
    let needed = "it must start with http:// or https://";
    let mut url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return Err(bad(needed)),
        Err(error) => return Err(bad(&error.to_string())),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad(needed));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn http_client(mut tls: ClientConfig) -> Result<reqwest::Client, NetworkError> {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .tcp_nodelay(true)
        .build()
        .map_err(|error| NetworkError::Unreachable(error.to_string()))
}

impl Transport {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let tokens = Arc::new(Tokens::new(Arc::clone(&config.tokens)));
        let tls = tls::config(&config.certificates);
        Ok(Self {
            http: http_client(tls.clone())?,
            base: base_url(&config.server)?,
            tls: Arc::new(tls),
            schema_version: config.schema_version,
            traces: Traces::new(config.traces),
            applied: Mutex::new(None),
            tokens,
            server_time: AtomicI64::new(0),
        })
    }

    /// What time it is by the server's clock, in seconds since 1970, as of its last
    /// answer; none when it does not say.
    pub(crate) fn server_time(&self) -> Option<i64> {
        Some(self.server_time.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    fn note_time(&self, response: &Response) {
        let date = response.headers().get(DATE);
        let time = date
            .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_secs()).ok());
        if let Some(time) = time {
            self.server_time.store(time, Ordering::Relaxed);
        }
    }

    /// The address of the WebSocket.
    pub(crate) fn socket_url(&self) -> Url {
        let mut url = self.endpoint("sync/ws");
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .expect("BUG: http and ws are both special schemes");
        url
    }

    fn endpoint(&self, path: &str) -> Url {
        self.base.join(path).expect("BUG: a constant path")
    }

    pub(crate) async fn upload(
        &self,
        request: &UploadRequest,
    ) -> Result<UploadReply, NetworkError> {
        let body = serde_json::to_vec(request)
            .map_err(|error| NetworkError::Protocol(error.to_string()))?;
        let span = self.traces.request("oversqlite.upload");
        self.send(|| {
            let request = self
                .http
                .request(Method::POST, self.endpoint("sync/upload"))
                .header("content-type", "application/json")
                .body(body.clone());
            part_of(span.as_ref(), request)
        })
        .await
    }

    /// Changes up to this place stand in the file now: the next request says so.
    pub(crate) fn has_applied(&self, place: ServerId) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        *applied = Some((place, Instant::now()));
    }

    fn take_applied(&self) -> Option<String> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, at) = applied.take()?;
        Some(format!("{place}; age={}", at.elapsed().as_millis()))
    }

    /// Where spans are written.
    pub(crate) fn traces(&self) -> &Traces {
        &self.traces
    }

    pub(crate) async fn download(&self, page: &PageRequest) -> Result<DownloadReply, NetworkError> {
        let mut url = self.endpoint("sync/download");
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("after", &page.after.to_string());
            query.append_pair("limit", &page.limit.to_string());
            query.append_pair("schema", &page.schema);
            if let Some(until) = page.until {
                query.append_pair("until", &until.to_string());
            }
            if page.include_self {
                query.append_pair("include_self", "true");
            }
            if let Some(epoch) = &page.epoch {
                query.append_pair("epoch", epoch);
            }
        }
        let span = self.traces.request("oversqlite.download");
        self.send(|| part_of(span.as_ref(), self.http.request(Method::GET, url.clone())))
            .await
    }

    /// Waits at the server for anything behind `after`, `wait` at most: a page of
    /// one entry, or an empty one.
    pub(crate) async fn news(
        &self,
        after: ServerId,
        schema: &str,
        wait: Duration,
    ) -> Result<DownloadReply, NetworkError> {
        let mut url = self.endpoint("sync/download");
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("limit", "1")
            .append_pair("schema", schema)
            .append_pair("wait", &wait.as_secs().to_string());
        self.send(|| self.http.request(Method::GET, url.clone()))
            .await
    }

    /// Asks whether anybody is there, without a token, and what time it is there.
    pub(crate) async fn knock(&self) -> Result<Knock, NetworkError> {
        let answer = self.http.get(self.endpoint("health")).send().await;
        let answer = answer.map_err(unreachable)?;
        let date = answer.headers().get(DATE).and_then(|value| {
            let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            i64::try_from(since.as_secs()).ok()
        });
        Ok(Knock { date })
    }

    /// An upload of changes with an operation that does not exist, one for each
    /// table: none can be applied, and each is answered `unregistered_table` or
    /// not.
    pub(crate) async fn are_registered(
        &self,
        schema: &str,
        tables: &[String],
    ) -> Result<UploadReply, NetworkError> {
        let changes: Vec<serde_json::Value> = tables
            .iter()
            .map(|table| serde_json::json!({"schema": schema, "table": table, "op": "NONE"}))
            .collect();
        let body = serde_json::json!({ "changes": changes }).to_string();
        self.send(|| {
            self.http
                .request(Method::POST, self.endpoint("sync/upload"))
                .header("content-type", "application/json")
                .body(body.clone())
        })
        .await
    }

    /// `None` from a server that has no such endpoint.
    pub(crate) async fn capabilities(&self) -> Result<Option<Capabilities>, NetworkError> {
        let url = self.endpoint("sync/capabilities");
        match self
            .send(|| self.http.request(Method::GET, url.clone()))
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(NetworkError::Refused {
                status: 404 | 405, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends with the token in use, and once more with a fresh one if it is
    /// refused.
    async fn send<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, NetworkError> {
        let token = self.tokens.get().await?;
        match self.send_as(&request, &token).await {
            Err(NetworkError::Unauthorised) => {
                self.tokens.refused(&token);
                let token = self.tokens.get().await?;
                let second = self.send_as(&request, &token).await;
                if matches!(second, Err(NetworkError::Unauthorised)) {
                    self.tokens.refused(&token);
                }
                second
            }
            other => other,
        }
    }

    async fn send_as<T: DeserializeOwned>(
        &self,
        request: &impl Fn() -> RequestBuilder,
        token: &Arc<str>,
    ) -> Result<T, NetworkError> {
        let mut request = request().bearer_auth(token);
        if let Some(version) = self.schema_version {
            request = request.header(SCHEMA_VERSION_HEADER, version);
        }
        if let Some(applied) = self.take_applied() {
            request = request.header(APPLIED_HEADER, applied);
        }
        let sent = request.send().await;
        if let Ok(response) = &sent {
            self.note_time(response);
        }
        read(sent).await
    }
}

/// Tells the server of the span that a request is part of.
fn part_of(span: Option<&trace::Request>, request: RequestBuilder) -> RequestBuilder {
    match span {
        Some(span) => request.header("traceparent", span.traceparent()),
        None => request,
    }
}

/// Signs in at a development server.
pub async fn sign_in(
    server: &str,
    username: &str,
    password: &str,
    device: &DeviceId,
) -> Result<SignInReply, Error> {
    let url = base_url(server)?
        .join("signin")
        .expect("BUG: a constant path");
    let http = http_client(tls::config(&[]))?;
    let request = http.post(url).json(&SignInRequest {
        username: username.to_owned(),
        password: password.to_owned(),
        device_id: device.to_string(),
    });
    Ok(read(request.send().await).await?)
}

async fn read<T: DeserializeOwned>(
    sent: Result<Response, reqwest::Error>,
) -> Result<T, NetworkError> {
    let response = sent.map_err(unreachable)?;
    let status = response.status();
    if status.is_success() {
        let body = response.bytes().await.map_err(unreachable)?;
        return serde_json::from_slice(&body)
            .map_err(|error| NetworkError::Protocol(error.to_string()));
    }
    let retry_after = retry_after(response.headers());
    let body = response.bytes().await.unwrap_or_default();
    let body: Option<ErrorBody> = serde_json::from_slice(&body).ok();
    Err(refusal(status, retry_after, body))
}

/// How long the server asks to stay away, where it says so in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

fn refusal(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Option<ErrorBody>,
) -> NetworkError {
    let code = body.as_ref().map_or("", |body| body.error.as_str());
    match (status, code) {
        (StatusCode::UNAUTHORIZED, _) => NetworkError::Unauthorised,
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
            NetworkError::Overloaded { retry_after }
        }
        (StatusCode::PAYLOAD_TOO_LARGE, _) => NetworkError::TooLarge {
            limit_bytes: body.and_then(|body| body.limit_bytes),
        },
        (_, error_code::EPOCH_MISMATCH) => NetworkError::EpochMismatch {
            epoch: body.and_then(|body| body.epoch),
        },
        (_, error_code::HISTORY_PRUNED) => NetworkError::HistoryPruned {
            floor: body.and_then(|body| body.floor),
        },
        (_, error_code::SCHEMA_VERSION_UNSUPPORTED) => NetworkError::SchemaVersion {
            min: body.as_ref().and_then(|body| body.min_schema_version),
            max: body.as_ref().and_then(|body| body.schema_version),
        },
        (_, code) => NetworkError::Refused {
            status: status.as_u16(),
            code: code.to_owned(),
            message: body
                .as_ref()
                .map_or_else(String::new, |body| body.message.clone()),
        },
    }
}

/// The whole chain of causes: "connection refused" is at its end.
fn unreachable(error: reqwest::Error) -> NetworkError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    NetworkError::Unreachable(text)
}
