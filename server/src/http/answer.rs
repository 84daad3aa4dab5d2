//! Answers that may be large: small ones go out as they are, others through the
//! service's outbox, chunk by chunk, so that a client that does not read costs little.

use super::error::ApiError;
use crate::outbox::{Cut, Outbox, Parcels, SMALL};
use actix_web::body::SizedStream;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

/// A text of JSON, whole.
pub(super) fn whole(text: Vec<u8>, outbox: &Arc<Outbox>) -> Result<HttpResponse, ApiError> {
    let mut response = json();
    if text.len() <= SMALL {
        return Ok(response.body(text));
    }
    let (length, size) = (text.len() as u64, text.capacity());
    let room = outbox.reserve(size)?;
    let piece = stream::once(async { Ok::<_, Infallible>(text) });
    let body = room
        .send(piece, size)
        .map_err(|cut| -> Box<dyn Error> { Box::new(cut) });
    Ok(response.body(SizedStream::new(length, body)))
}

/// A value as JSON, whole.
pub(super) fn value(
    value: &impl Serialize,
    outbox: &Arc<Outbox>,
) -> Result<HttpResponse, ApiError> {
    let text = serde_json::to_vec(value).expect("BUG: an answer serialises");
    whole(text, outbox)
}

/// Pieces of JSON of about `size` bytes, none empty; the first into a room of its own.
pub(super) fn in_pieces<E>(
    pieces: impl Stream<Item = Result<Vec<u8>, E>> + 'static,
    room: Parcels,
    size: usize,
) -> HttpResponse
where
    E: Error + 'static,
{
    json().streaming(room.send(pieces, size).map(|chunk| {
        chunk.inspect_err(|cut| match cut {
            Cut::Source(error) => tracing::warn!(%error, "an answer was cut off"),
            Cut::Shed | Cut::Full(_) => tracing::info!(reason = %cut, "an answer was cut off"),
        })
    }))
}

fn json() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type(ContentType::json());
    response
}
