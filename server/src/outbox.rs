//! Large answers on their way: how much memory they hold, and for how long.
//!
//! What does not fit into a connection's own buffers waits here, in one place of
//! fixed size. A client that asks and does not read holds its piece only until
//! somebody else needs the room: then the answer that has stood still longest is
//! cut off, which its client takes for a broken connection. Knows nothing of HTTP.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// An answer up to here is no matter of this place: it is within what a connection
/// may cost (GUARANTEES, BOUNDED: 64 KiB).
pub(crate) const SMALL: usize = 32 * 1024;

/// What is handed to a connection at a time: what it buffers by itself.
const CHUNK: usize = 32 * 1024;

/// An answer that has not moved for so long may be cut off for another.
const SHED_AFTER: Duration = Duration::from_secs(1);

/// How long the next piece of an answer waits for room, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All answers of a process that are being sent and are not small.
#[derive(Debug)]
pub(crate) struct Outbox {
    shelf: Mutex<Shelf>,
    room: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    held: usize,
    last: u64,
    parcels: HashMap<u64, Parcel>,
}

/// A piece of an answer.
#[derive(Debug)]
struct Parcel {
    left: Bytes,
    /// The whole piece: its memory is one.
    size: usize,
    /// When something was last taken of it; none while the next piece is made.
    moved: Option<Instant>,
}

/// There is no room, and nobody who stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be taken")]
pub(crate) struct Full;

/// Why an answer that has begun cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut<E> {
    /// It stood still, and others needed the room.
    #[error("the client stood still, and others needed the room")]
    Shed,
    /// There is no room for its next piece.
    #[error(transparent)]
    Full(#[from] Full),
    /// The next piece could not be made.
    #[error("{0}")]
    Source(E),
}

/// Room for one piece at a time; free again with its end.
#[derive(Debug)]
pub(crate) struct Parcels {
    outbox: Arc<Outbox>,
    id: u64,
}

impl Outbox {
    /// Of so many bytes.
    pub(crate) fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            shelf: Mutex::default(),
            room,
        })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("BUG: no panic under this lock")
    }

    /// Takes room for a piece of about this size.
    pub(crate) fn reserve(self: &Arc<Self>, size: usize) -> Result<Parcels, Full> {
        let mut shelf = self.shelf();
        let id = shelf.last + 1;
        shelf.put(id, Some(Bytes::new()), size, self.room)?;
        shelf.last = id;
        Ok(Parcels {
            outbox: self.clone(),
            id,
        })
    }
}

impl Shelf {
    /// Puts a piece in its place, or keeps the place for one to come; those that
    /// stand still make room. One alone always fits: what never fits would never be
    /// answered.
    fn put(&mut self, id: u64, left: Option<Bytes>, size: usize, room: usize) -> Result<(), Full> {
        self.take_down(id);
        while self.held > 0 && self.held + size > room {
            let slowest = self
                .parcels
                .iter()
                .filter(|(_, parcel)| parcel.moved.is_some_and(|at| at.elapsed() >= SHED_AFTER))
                .min_by_key(|(_, parcel)| parcel.moved)
                .map(|(&id, _)| id);
            self.take_down(slowest.ok_or(Full)?);
            crate::meters::shed();
        }
        self.held += size;
        crate::meters::answer_bytes(self.held);
        let moved = left.is_some().then(Instant::now);
        let left = left.unwrap_or_default();
        self.parcels.insert(id, Parcel { left, size, moved });
        Ok(())
    }

    fn take_down(&mut self, id: u64) {
        if let Some(parcel) = self.parcels.remove(&id) {
            self.held -= parcel.size;
            crate::meters::answer_bytes(self.held);
        }
    }
}

impl Parcels {
    /// Fills the room, whose size is known now. An answer that was cut off meanwhile
    /// stays so.
    fn fill(&self, text: Vec<u8>) -> Result<(), Full> {
        let mut shelf = self.outbox.shelf();
        let size = text.capacity();
        if !shelf.parcels.contains_key(&self.id) {
            return Err(Full);
        }
        shelf.put(self.id, Some(Bytes::from(text)), size, self.outbox.room)
    }

    /// Takes room for the next piece, when there is some.
    async fn renew(&self, size: usize) -> Result<(), Full> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let put = self
                .outbox
                .shelf()
                .put(self.id, None, size, self.outbox.room);
            if put.is_ok() || Instant::now() > deadline {
                return put;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The next chunk; empty when the piece is through, an error when it was cut off.
    fn next_chunk<E>(&self) -> Result<Bytes, Cut<E>> {
        let mut shelf = self.outbox.shelf();
        let parcel = shelf.parcels.get_mut(&self.id).ok_or(Cut::Shed)?;
        parcel.moved = Some(Instant::now());
        let size = parcel.left.len().min(CHUNK);
        Ok(parcel.left.split_to(size))
    }

    /// Sends pieces, the first into the room there is and each other, of about
    /// `size` bytes, when the one before has been taken.
    pub(crate) fn send<E>(
        self,
        pieces: impl Stream<Item = Result<Vec<u8>, E>>,
        size: usize,
    ) -> impl Stream<Item = Result<Bytes, Cut<E>>> {
        let state = (self, Box::pin(pieces), false);
        stream::try_unfold(state, move |(parcels, mut pieces, has_begun)| async move {
            if has_begun {
                let chunk = parcels.next_chunk()?;
                if !chunk.is_empty() {
                    return Ok(Some((chunk, (parcels, pieces, true))));
                }
                parcels.renew(size).await?;
            }
            // A piece is never empty.
            let Some(text) = pieces.next().await else {
                return Ok(None);
            };
            parcels.fill(text.map_err(Cut::Source)?)?;
            let chunk = parcels.next_chunk()?;
            Ok(Some((chunk, (parcels, pieces, true))))
        })
    }
}

impl Drop for Parcels {
    fn drop(&mut self) {
        self.outbox.shelf().take_down(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;

    const MIB: usize = 1024 * 1024;

    fn piece(size: usize) -> Result<Vec<u8>, Full> {
        Ok(vec![b'x'; size])
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_leaves_nothing() {
        let outbox = Outbox::new(8 * MIB);
        let pieces = stream::iter([piece(MIB), piece(7), piece(2 * MIB)]);
        let sent = outbox.reserve(MIB).expect("room").send(pieces, MIB);
        let chunks: Vec<Bytes> = sent.try_collect().await.expect("sent");
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), 3 * MIB + 7);
        assert_eq!(outbox.shelf().held, 0);
    }

    #[tokio::test]
    async fn who_stands_still_makes_room_and_nobody_else() {
        let outbox = Outbox::new(4 * MIB);
        let begin = async |size: usize| {
            let pieces = stream::iter([piece(size)]);
            let mut sent = Box::pin(outbox.reserve(size)?.send(pieces, size));
            sent.next().await.expect("a chunk").expect("sent");
            Ok::<_, Full>(sent)
        };
        let mut first = begin(2 * MIB).await.expect("room");
        let mut second = begin(2 * MIB).await.expect("room");
        // Both have just moved.
        assert!(begin(MIB).await.is_err());
        assert_eq!(outbox.shelf().held, 4 * MIB);
        sleep(SHED_AFTER).await;
        second.next().await.expect("a chunk").expect("it moves");
        let third = begin(MIB).await.expect("the first makes room");
        assert_eq!(outbox.shelf().held, 3 * MIB);
        assert!(matches!(first.next().await, Some(Err(Cut::Shed))));
        second.next().await.expect("a chunk").expect("it goes on");
        // What nobody wants any more is free.
        drop((first, second, third));
        assert_eq!(outbox.shelf().held, 0);
        // More than there is goes alone.
        let all = begin(5 * MIB).await.expect("room");
        assert!(begin(1).await.is_err());
        drop(all);
    }

    #[tokio::test]
    async fn who_waits_for_the_next_piece_does_not_stand_still() {
        let outbox = Outbox::new(2 * MIB);
        let (open, opened) = tokio::sync::oneshot::channel();
        let second = async {
            opened.await.expect("it is made");
            piece(MIB)
        };
        let pieces = stream::once(async { piece(1) }).chain(stream::once(second));
        let mut slow = Box::pin(outbox.reserve(MIB).expect("room").send(pieces, MIB));
        slow.next().await.expect("a chunk").expect("sent");
        let other = async {
            // Its first piece has been taken, the second is asked for.
            sleep(2 * SHED_AFTER).await;
            assert!(outbox.reserve(2 * MIB).is_err(), "it was cut off");
            open.send(()).expect("it waits");
        };
        let (chunk, ()) = tokio::join!(slow.next(), other);
        chunk.expect("a chunk").expect("it goes on");
    }
}
