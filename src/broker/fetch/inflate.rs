//! Compressed batches for readers of records: a page has them inflated, each once.
//!
//! Batches that go to a client as they are stored are never inflated, and uncompressed ones stay slices of the mapped
//! files. Inflating runs on the few threads of [`Share::Inflate`].
//!
//! Memory: inflated batches live as long as their page, so a reader that is slow holds them. All of them together have
//! [`Room`]; a page that does not find any in time is refused as overloaded. A page is cut after the batch that takes
//! it over [`PAGE_BYTES`], whatever its limits allow.
//!
//! A large batch that is read in small pages would be inflated for each of them: the one that a page began with last
//! stays in memory ([`Kept`]), until another takes its place or its memory is wanted.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::page::PageLimits;
use super::unreadable;
use crate::broker::blocking::{Blocking, Share};
use crate::broker::engine::batch::{
    BatchError, BatchHeader, Batches, MAX_INFLATED_BYTES, inflate as inflate_batch,
};
use crate::broker::engine::{Fetched, Offset, PartitionId, Run};
use crate::broker::refusal::{Reason, Refusal};

/// The most bytes of a page with inflated batches, but for its first batch.
const PAGE_BYTES: usize = 4 << 20;
/// The memory for inflated batches, of all pages: as much as the largest batch needs.
const ROOM_BYTES: usize = MAX_INFLATED_BYTES;
/// What a page takes of it before it is known how much it needs.
const USUAL_BYTES: usize = 1 << 20;
/// How long a page waits for room that slow readers hold.
const WAIT: Duration = Duration::from_secs(5);

/// An inflated batch of this size is kept, in bytes: a smaller one is soon inflated again, a larger one takes much of
/// the room.
const KEPT_BYTES: Range<usize> = 64 << 10..32 << 20;

/// The memory for inflated batches. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    /// A permit is a KiB.
    permits: Arc<Semaphore>,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// An inflated batch that the next page may begin with, too.
#[derive(Clone, Debug)]
struct Kept {
    partition: PartitionId,
    stored: Stored,
    bytes: Bytes,
}

/// What tells a stored batch from all others of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    base_offset: Offset,
    bytes: usize,
    crc: u32,
}

impl Stored {
    fn of(header: &BatchHeader, batch: &[u8]) -> Self {
        Self {
            base_offset: header.base_offset,
            bytes: batch.len(),
            crc: header.crc,
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits_of(ROOM_BYTES) as usize)),
            kept: Arc::default(),
        }
    }
}

fn permits_of(bytes: usize) -> u32 {
    u32::try_from(bytes.min(ROOM_BYTES).div_ceil(1024)).unwrap_or(u32::MAX)
}

/// An inflated run, and its share of the room.
struct Held {
    bytes: Vec<u8>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// What was read of a partition, with its compressed batches inflated.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if there is no room; [`Reason::Internal`] if a batch cannot be inflated.
    pub(super) async fn inflate(
        &self,
        blocking: &Blocking,
        partition: PartitionId,
        fetched: Fetched,
        limits: &PageLimits,
    ) -> Result<Fetched, Refusal> {
        let max_bytes = usize::try_from(limits.max_bytes)
            .unwrap_or(usize::MAX)
            .min(PAGE_BYTES);
        let from = limits.from;
        let mut wanted = permits_of(USUAL_BYTES);
        let kept = self
            .kept
            .lock()
            .clone()
            .filter(|kept| kept.partition == partition);
        loop {
            let mut permit = self.take(wanted).await?;
            let read = fetched.clone();
            let kept = kept.clone();
            let work = move || pieces(&read, from, max_bytes, kept.as_ref()).map_err(unreadable);
            let found = blocking.attempt(Share::Inflate, work).await?;
            let needed = permits_of(found.inflated_bytes());
            if needed > wanted {
                match Arc::clone(&self.permits).try_acquire_many_owned(needed - wanted) {
                    Ok(more) => permit.merge(more),
                    Err(_) => {
                        // Nothing is held while it waits: the page is inflated again when there is room for it.
                        wanted = needed;
                        continue;
                    }
                }
            } else {
                drop(permit.split((wanted - needed) as usize));
            }
            let permit = Arc::new(permit);
            let first = match found.all.first() {
                Some((Piece::Inflated(_, alone), _)) => *alone,
                Some((Piece::Stored(_), _)) | None => None,
            };
            let inflated = found.into_fetched(&fetched, |bytes| {
                Bytes::from_owner(Held {
                    bytes,
                    _permit: Arc::clone(&permit),
                })
            });
            if let (Some(stored), Some(run)) = (first, inflated.runs.first())
                && KEPT_BYTES.contains(&run.bytes.len())
            {
                let bytes = run.bytes.clone();
                *self.kept.lock() = Some(Kept {
                    partition,
                    stored,
                    bytes,
                });
            }
            return Ok(inflated);
        }
    }

    async fn take(&self, permits: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        *self.kept.lock() = None;
        let taken = timeout(WAIT, Arc::clone(&self.permits).acquire_many_owned(permits)).await;
        match taken {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                let detail = "readers of compressed records hold all the memory that they may; try again";
                Err(Refusal::new(Reason::Overloaded, detail))
            }
        }
    }
}

/// The same for a caller that reads on a thread of its own and keeps nothing. Cost: a look at each batch's header, if
/// none is compressed.
///
/// # Errors
/// [`BatchError`] if a batch cannot be inflated, which was checked when it was stored.
pub fn inflated(fetched: Fetched, from: Offset) -> Result<Fetched, BatchError> {
    if !is_compressed(&fetched)? {
        return Ok(fetched);
    }
    let found = pieces(&fetched, from, PAGE_BYTES, None)?;
    Ok(found.into_fetched(&fetched, Bytes::from))
}

fn is_compressed(fetched: &Fetched) -> Result<bool, BatchError> {
    for batch in fetched.runs.iter().flat_map(|run| Batches::new(&run.bytes)) {
        if batch?.0.attributes.compression() != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A part of a run.
enum Piece {
    /// Uncompressed batches, as they are stored.
    Stored(Bytes),
    /// Batches that were compressed; and which it is, if it is one.
    Inflated(Vec<u8>, Option<Stored>),
}

/// A read whose batches are all uncompressed.
struct Pieces {
    /// Each with whether its values are known to be lines of JSON.
    all: Vec<(Piece, bool)>,
    next_offset: Offset,
}

impl Pieces {
    fn inflated_bytes(&self) -> usize {
        let bytes = self.all.iter().map(|(piece, _)| match piece {
            Piece::Stored(_) => 0,
            Piece::Inflated(bytes, _) => bytes.capacity(),
        });
        bytes.sum()
    }

    fn into_fetched(self, read: &Fetched, keep: impl Fn(Vec<u8>) -> Bytes) -> Fetched {
        let runs = self.all.into_iter().map(|(piece, json_lines)| Run {
            bytes: match piece {
                Piece::Stored(bytes) => bytes,
                Piece::Inflated(bytes, _) => keep(bytes),
            },
            json_lines,
        });
        Fetched {
            runs: runs.collect(),
            next_offset: self.next_offset,
            log_start_offset: read.log_start_offset,
            end_offset: read.end_offset,
        }
    }
}

/// Splits a read into pieces, from the batch that has `from` to the one that takes it over `max_bytes`.
fn pieces(read: &Fetched, from: Offset, max_bytes: usize, kept: Option<&Kept>) -> Result<Pieces, BatchError> {
    let mut pieces = Pieces {
        all: Vec::new(),
        next_offset: read.next_offset,
    };
    let mut bytes = 0;
    let mut last: Option<BatchHeader> = None;
    for run in &read.runs {
        let mut add = |piece| pieces.all.push((piece, run.json_lines));
        let mut position = 0;
        // The batches of the run that are not in a piece yet; at most one of the two has some.
        let (mut stored, mut inflated): (Range<usize>, Vec<u8>) = (0..0, Vec::new());
        let mut alone = None;
        for batch in Batches::new(&run.bytes) {
            let (header, batch) = batch?;
            let begin = position;
            position += batch.len();
            if header.next_offset() <= from {
                continue;
            }
            if let Some(last) = last.filter(|_| bytes >= max_bytes) {
                pieces.next_offset = last.next_offset();
                break;
            }
            last = Some(header);
            if header.attributes.compression() == 0 {
                if !inflated.is_empty() {
                    add(Piece::Inflated(std::mem::take(&mut inflated), alone));
                }
                if stored.is_empty() {
                    stored = begin..begin;
                }
                stored.end = position;
                bytes += batch.len();
                continue;
            }
            if !stored.is_empty() {
                add(Piece::Stored(run.bytes.slice(std::mem::take(&mut stored))));
            }
            let stored_as = Stored::of(&header, batch);
            if let Some(kept) = kept.filter(|kept| kept.stored == stored_as) {
                if !inflated.is_empty() {
                    add(Piece::Inflated(std::mem::take(&mut inflated), alone));
                }
                add(Piece::Stored(kept.bytes.clone()));
                bytes += kept.bytes.len();
                continue;
            }
            let plain = inflate_batch(batch, MAX_INFLATED_BYTES)?;
            bytes += plain.len();
            if inflated.is_empty() {
                (inflated, alone) = (plain, Some(stored_as));
            } else {
                alone = None;
                inflated.extend_from_slice(&plain);
            }
        }
        if !inflated.is_empty() {
            add(Piece::Inflated(inflated, alone));
        }
        if !stored.is_empty() {
            add(Piece::Stored(run.bytes.slice(stored)));
        }
        if pieces.next_offset < read.next_offset {
            break;
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::engine::batch::{BatchBuilder, Codec};
    use crate::broker::engine::{TimestampMs, TopicId};

    /// A read of one compressed batch of ten records of so many bytes.
    fn read(bytes: usize) -> Fetched {
        let mut builder = BatchBuilder::new();
        let value = vec![7; bytes];
        for _ in 0..10 {
            builder.push(TimestampMs(1), None, Some(&value), &[]);
        }
        let batch = builder.seal().with_codec(Some(Codec::Zstd), None).unwrap();
        Fetched {
            runs: vec![Run {
                bytes: Bytes::copy_from_slice(batch.as_bytes()),
                json_lines: false,
            }],
            next_offset: Offset::new(10),
            log_start_offset: Offset::new(0),
            end_offset: Offset::new(10),
        }
    }

    #[tokio::test]
    async fn a_large_batch_is_inflated_once_for_pages_that_follow_each_other() {
        let (room, blocking) = (Room::default(), Blocking::default());
        let limits = PageLimits::whole(Offset::new(3), Offset::new(10), 1);
        let partition = |index| PartitionId::new(TopicId(1), index);
        let inflate = async |index, read: &Fetched| {
            let inflated = room
                .inflate(&blocking, partition(index), read.clone(), &limits)
                .await;
            inflated.unwrap().runs[0].bytes.clone()
        };
        let large = read(20_000);
        let first = inflate(0, &large).await;
        assert_eq!(inflate(0, &large).await.as_ptr(), first.as_ptr());
        let other = inflate(1, &large).await;
        assert_ne!(other.as_ptr(), first.as_ptr(), "another partition's");
        assert_eq!(other, first);
        // Another batch of the partition; a small one is not kept.
        let another = inflate(1, &read(30_000)).await;
        assert_eq!(inflate(1, &read(30_000)).await.as_ptr(), another.as_ptr());
        let small = inflate(1, &read(100)).await;
        assert_ne!(inflate(1, &read(100)).await.as_ptr(), small.as_ptr());
        // What is kept gives way.
        drop((first, other, another, small));
        assert!(room.permits.available_permits() < permits_of(ROOM_BYTES) as usize);
        let all = room.take(permits_of(ROOM_BYTES)).await;
        assert!(all.is_ok());
    }
}
