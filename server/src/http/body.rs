//! Reading a request's body under limits: size, time, memory of the process.

use super::error::ApiError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use actix_web::{HttpRequest, web};
use bytes::BytesMut;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a body may take (GUARANTEES, BOUNDED).
const MAX_TIME: Duration = Duration::from_secs(10);

/// A body and the memory it was promised, given back when both are dropped.
pub(super) struct Body {
    /// The text. A body that is not UTF-8 is no JSON, and has been refused.
    pub(super) text: ByteString,
    _room: OwnedSemaphorePermit,
}

/// Refuses compressed bodies: a small one could become a very large one.
fn check_encoding(request: &HttpRequest) -> Result<(), ApiError> {
    let plain = request.headers().get_all(CONTENT_ENCODING).all(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.trim().eq_ignore_ascii_case("identity"))
    });
    if plain {
        Ok(())
    } else {
        Err(ApiError::Encoding)
    }
}

/// Reads the whole body. `not_text` is the answer to one that is not UTF-8.
pub(super) async fn read(
    request: &HttpRequest,
    payload: &mut web::Payload,
    limit: usize,
    room: &Arc<Semaphore>,
    not_text: ApiError,
) -> Result<Body, ApiError> {
    check_encoding(request)?;
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok());
    // What does not say how long it is, is taken for as long as may be.
    let size = announced.unwrap_or(limit).min(limit);
    let permits = u32::try_from(size).unwrap_or(u32::MAX);
    let room = room
        .clone()
        .try_acquire_many_owned(permits)
        .map_err(|_| ApiError::Overloaded)?;
    let bytes = tokio::time::timeout(MAX_TIME, collect(payload, limit, announced))
        .await
        .map_err(|_| ApiError::TooSlow)??;
    let text = ByteString::try_from(bytes.freeze()).map_err(|_| not_text)?;
    Ok(Body { text, _room: room })
}

/// A body that is too large is read on for as much again, unkept: most clients
/// see an answer only when they have sent what they have.
async fn collect(
    payload: &mut web::Payload,
    limit: usize,
    announced: Option<usize>,
) -> Result<BytesMut, ApiError> {
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(limit));
    let mut seen = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::invalid("the request body was cut off"))?;
        seen += chunk.len();
        if seen <= limit {
            bytes.extend_from_slice(&chunk);
        } else {
            bytes.clear();
            if seen > limit.saturating_mul(2) {
                break;
            }
        }
    }
    if seen > limit {
        Err(ApiError::TooLarge(limit))
    } else {
        Ok(bytes)
    }
}
