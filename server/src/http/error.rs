//! Every error answer, in one match.

use crate::admission::{Class, Crowded, DownloadError};
use crate::outbox::Full;
use crate::rates::{Exceeded, Limit};
use crate::store::StoreError;
use crate::upload::{NotAnUpload, UploadError};
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use oversync_shared::ServerId;
use oversync_shared::wire::{ErrorBody, error_code};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Devices told to come back spread over this many seconds.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u32> = 1..=3;

/// … and those that are far behind: what they want takes longest, and they have
/// been away for long already.
const HYDRATE_RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u32> = 5..=15;

/// … and those that have too many sockets open, which nobody knows the end of.
const SOCKETS_RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u32> = 10..=30;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe().2)]
pub enum ApiError {
    /// No token, or a faulty one; the same for every fault.
    Unauthenticated,
    /// A malformed request; the text names the field.
    Invalid(Cow<'static, str>),
    /// A WebSocket upgrade from a foreign page.
    OriginNotAllowed,
    /// The path has no such method.
    MethodNotAllowed,
    /// No such path.
    NotFound,
    /// The device believes in another history; the server's epoch.
    EpochMismatch(Arc<str>),
    /// The cursor lies below this retention floor.
    HistoryPruned(ServerId),
    /// The application's schema version is not one the server takes.
    SchemaVersion {
        /// The newest it takes.
        newest: i64,
        /// The oldest it takes.
        oldest: i64,
    },
    /// The body is larger than this limit, in bytes.
    TooLarge(usize),
    /// The body took too long to arrive.
    TooSlow,
    /// A Content-Encoding other than identity.
    Encoding,
    /// More than the server carries at the moment.
    Overloaded,
    /// More downloads than the server carries at the moment, of devices that are
    /// far behind.
    HydrationsCrowded,
    /// More than this user or address may ask for; when there is room again, where
    /// that is known.
    TooMany(Option<Duration>),
    /// More sockets than the process carries.
    SocketsFull,
    /// Somebody retries this failure right now.
    RetryInProgress,
    /// Our fault, on the way to an upload's answer.
    UploadFailed,
    /// Our fault, on the way to a download's answer.
    DownloadFailed,
    /// Our fault, anywhere else.
    Internal,
}

impl ApiError {
    /// A malformed request.
    pub(super) fn invalid(message: &'static str) -> Self {
        Self::Invalid(Cow::Borrowed(message))
    }

    /// For a storage error while downloading, whose cause goes to the log.
    pub(super) fn from_download(error: DownloadError) -> Self {
        match error {
            DownloadError::Crowded(Crowded(Class::Hydrate)) => Self::HydrationsCrowded,
            DownloadError::Crowded(Crowded(Class::Download))
            | DownloadError::Store(StoreError::Overloaded) => Self::Overloaded,
            DownloadError::Store(StoreError::Failed(_)) => {
                tracing::error!(%error, "download failed");
                Self::DownloadFailed
            }
        }
    }

    fn describe(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        let (status, code, message) = match self {
            Self::Unauthenticated => (
                401,
                error_code::AUTHENTICATION_FAILED,
                "authentication failed",
            ),
            Self::Invalid(message) => {
                return (
                    StatusCode::BAD_REQUEST,
                    error_code::INVALID_REQUEST,
                    message.clone(),
                );
            }
            Self::OriginNotAllowed => (
                403,
                error_code::ORIGIN_NOT_ALLOWED,
                "this origin may not open a WebSocket here",
            ),
            Self::MethodNotAllowed => (405, error_code::METHOD_NOT_ALLOWED, "method not allowed"),
            Self::NotFound => (404, error_code::NOT_FOUND, "not found"),
            Self::EpochMismatch(_) => (
                409,
                error_code::EPOCH_MISMATCH,
                "the database has another history",
            ),
            Self::HistoryPruned(_) => (
                410,
                error_code::HISTORY_PRUNED,
                "history below the floor has been pruned",
            ),
            Self::SchemaVersion { .. } => (
                409,
                error_code::SCHEMA_VERSION_UNSUPPORTED,
                "the application's schema version is not supported",
            ),
            Self::TooLarge(_) => (413, error_code::REQUEST_TOO_LARGE, "request body too large"),
            Self::TooSlow => (408, "request_timeout", "the request body took too long"),
            Self::Encoding => (
                415,
                error_code::UNSUPPORTED_ENCODING,
                "Content-Encoding must be identity",
            ),
            Self::Overloaded | Self::HydrationsCrowded | Self::SocketsFull => {
                (503, error_code::OVERLOADED, "overloaded, try again later")
            }
            Self::TooMany(_) => (
                429,
                error_code::OVERLOADED,
                "too many requests, try again later",
            ),
            Self::RetryInProgress => (
                409,
                "retry_in_progress",
                "this failure is being retried now",
            ),
            Self::Internal => (500, "internal_error", "internal error"),
            Self::UploadFailed => (500, error_code::UPLOAD_FAILED, "upload failed"),
            Self::DownloadFailed => (500, error_code::DOWNLOAD_FAILED, "download failed"),
        };
        let status = StatusCode::from_u16(status).expect("BUG: a valid status");
        (status, code, Cow::Borrowed(message))
    }
}

/// The answer to a refused request.
pub(super) fn refuse(error: ApiError) -> HttpResponse {
    error.error_response()
}

/// Rounded up: no sooner than there is room.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_nanos().div_ceil(1_000_000_000).max(1)).unwrap_or(u32::MAX)
}

fn retry_after(response: &mut HttpResponseBuilder, seconds: std::ops::RangeInclusive<u32>) {
    response.insert_header((RETRY_AFTER, rand::random_range(seconds).to_string()));
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.describe().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, code, message) = self.describe();
        crate::meters::refusal(code);
        let mut body = ErrorBody {
            error: code.to_owned(),
            message: message.into_owned(),
            limit_bytes: None,
            floor: None,
            epoch: None,
            schema_version: None,
            min_schema_version: None,
        };
        let mut response = HttpResponse::build(status);
        match self {
            Self::TooLarge(limit) => body.limit_bytes = Some(*limit as u64),
            Self::HistoryPruned(floor) => body.floor = Some(*floor),
            Self::EpochMismatch(epoch) => body.epoch = Some(epoch.to_string()),
            Self::SchemaVersion { newest, oldest } => {
                body.schema_version = Some(*newest);
                body.min_schema_version = Some(*oldest);
            }
            Self::Overloaded => retry_after(&mut response, RETRY_AFTER_SECONDS),
            Self::TooMany(None) | Self::SocketsFull => {
                retry_after(&mut response, SOCKETS_RETRY_AFTER_SECONDS);
            }
            Self::TooMany(Some(wait)) => {
                let soonest = whole_seconds(*wait);
                retry_after(&mut response, soonest..=soonest.saturating_add(1));
            }
            Self::HydrationsCrowded => retry_after(&mut response, HYDRATE_RETRY_AFTER_SECONDS),
            _ => {}
        }
        response.json(body)
    }
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        match exceeded.limit {
            Limit::Sockets => Self::SocketsFull,
            Limit::UserRequests
            | Limit::AddressRequests
            | Limit::UserSockets
            | Limit::AddressSockets => Self::TooMany(exceeded.wait),
        }
    }
}

impl From<Full> for ApiError {
    fn from(_: Full) -> Self {
        Self::Overloaded
    }
}

impl From<NotAnUpload> for ApiError {
    fn from(error: NotAnUpload) -> Self {
        Self::Invalid(error.to_string().into())
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::EpochMismatch(epoch) => Self::EpochMismatch(epoch),
            // Only the route knows the limit.
            UploadError::AnswerTooLarge | UploadError::Store(StoreError::Overloaded) => {
                Self::Overloaded
            }
            UploadError::Store(error @ StoreError::Failed(_)) => {
                tracing::error!(%error, "upload failed");
                Self::UploadFailed
            }
        }
    }
}
