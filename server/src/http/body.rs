//! Reading a request's body under limits: size, time, rate, memory of the process.

use super::error::ApiError;
use actix_web::http::header::CONTENT_ENCODING;
use actix_web::{HttpRequest, web};
use bytes::BytesMut;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How long a body may take (GUARANTEES, BOUNDED).
const MAX_TIME: Duration = Duration::from_secs(10);

/// A body must have come at this rate on average, in bytes per second: a fraction
/// of the slowest mobile connection. One that trickles holds memory and a request.
const MIN_RATE: u32 = 1_024;

/// The rate is asked for from here on: a pause at the start is no trickle.
const RATE_GRACE: Duration = Duration::from_secs(3);

/// Until when the next piece of a body must come, of which so many bytes are there.
fn patience(start: Instant, seen: usize) -> Instant {
    let seen = u32::try_from(seen).unwrap_or(u32::MAX);
    let earned = Duration::from_secs(seen.into()) / MIN_RATE;
    start + earned.clamp(RATE_GRACE, MAX_TIME)
}

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
    let (bytes, room) = collect(payload, limit, room).await?;
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
    let start = Instant::now();
    loop {
        let next = timeout_at(patience(start, seen), payload.next());
        let Some(chunk) = next.await.map_err(|_| ApiError::TooSlow)? else {
            break;
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time_up_to_the_deadline() {
        let start = Instant::now();
        let rate = MIN_RATE as usize;
        for (seen, seconds) in [
            (0, 3),
            (1, 3),
            (3 * rate, 3),
            (5 * rate, 5),
            (10 * rate, 10),
        ] {
            assert_eq!(
                patience(start, seen) - start,
                Duration::from_secs(seconds),
                "{seen}"
            );
        }
        assert_eq!(patience(start, usize::MAX) - start, MAX_TIME);
    }
}
