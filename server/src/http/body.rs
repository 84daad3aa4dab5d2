//! Reading a request's body under limits: size, time, memory of the process.

use super::error::ApiError;
use actix_web::http::header::CONTENT_ENCODING;
use actix_web::{HttpRequest, web};
use bytes::BytesMut;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a body may take (GUARANTEES, BOUNDED).
const MAX_TIME: Duration = Duration::from_secs(10);

/// A body and the memory it was promised.
pub(super) struct Body {
    /// The text. A body that is not UTF-8 is no JSON, and has been refused.
    pub(super) text: ByteString,
    /// Released when nobody needs the body any more.
    pub(super) room: OwnedSemaphorePermit,
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
    let collected = timeout(MAX_TIME, collect(payload, limit, room)).await;
    let (bytes, room) = collected.map_err(|_| ApiError::TooSlow)??;
    let text = ByteString::try_from(bytes.freeze()).map_err(|_| not_text)?;
    Ok(Body { text, room })
}

/// A body that is too large is read on for as much again, unkept: most clients
/// see an answer only when they have sent what they have. Memory is asked for
/// as it is needed, so that an announcement alone takes none.
async fn collect(
    payload: &mut web::Payload,
    limit: usize,
    room: &Arc<Semaphore>,
) -> Result<(BytesMut, OwnedSemaphorePermit), ApiError> {
    let take = |bytes: usize| {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        room.clone()
            .try_acquire_many_owned(permits)
            .map_err(|_| ApiError::Overloaded)
    };
    let mut bytes = BytesMut::new();
    let mut held = take(0)?;
    let mut seen = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::invalid("the request body was cut off"))?;
        seen += chunk.len();
        if seen <= limit {
            held.merge(take(chunk.len())?);
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
        Ok((bytes, held))
    }
}
