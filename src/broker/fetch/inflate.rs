//! Compressed batches for readers of records: a page has them inflated, each once.
//!
//! Batches that go to a client as they are stored are never inflated, and uncompressed ones stay slices of the mapped
//! files. Inflating runs on the few threads of [`Share::Inflate`].
//!
//! Memory: inflated batches live as long as their page, so a reader that is slow holds them. All of them together have
//! [`Room`]; a page that does not find any in time is refused as overloaded. A page is cut after the batch that takes
//! it over [`PAGE_BYTES`], whatever its limits allow.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::page::PageLimits;
use super::unreadable;
use crate::broker::blocking::{Blocking, Share};
use crate::broker::engine::batch::{
    BatchError, BatchHeader, Batches, MAX_INFLATED_BYTES, inflate as inflate_batch,
};
use crate::broker::engine::{Fetched, Offset, Run};
use crate::broker::refusal::{Reason, Refusal};

/// The most bytes of a page with inflated batches, but for its first batch.
const PAGE_BYTES: usize = 4 << 20;
/// The memory for inflated batches, of all pages: as much as the largest batch needs.
const ROOM_BYTES: usize = MAX_INFLATED_BYTES;
/// What a page takes of it before it is known how much it needs.
const USUAL_BYTES: usize = 1 << 20;
/// How long a page waits for room that slow readers hold.
const WAIT: Duration = Duration::from_secs(5);

/// The memory for inflated batches. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    /// A permit is a KiB.
    permits: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits_of(ROOM_BYTES) as usize)),
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
    /// What was read, with its compressed batches inflated.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if there is no room; [`Reason::Internal`] if a batch cannot be inflated.
    pub(super) async fn inflate(
        &self,
        blocking: &Blocking,
        fetched: Fetched,
        limits: &PageLimits,
    ) -> Result<Fetched, Refusal> {
        let max_bytes = usize::try_from(limits.max_bytes)
            .unwrap_or(usize::MAX)
            .min(PAGE_BYTES);
        let from = limits.from;
        let mut wanted = permits_of(USUAL_BYTES);
        loop {
            let mut permit = self.take(wanted).await?;
            let read = fetched.clone();
            let work = move || pieces(&read, from, max_bytes).map_err(unreadable);
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
            return Ok(found.into_fetched(&fetched, |bytes| {
                Bytes::from_owner(Held {
                    bytes,
                    _permit: Arc::clone(&permit),
                })
            }));
        }
    }

    async fn take(&self, permits: u32) -> Result<OwnedSemaphorePermit, Refusal> {
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
    let found = pieces(&fetched, from, PAGE_BYTES)?;
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
    /// Batches that were compressed.
    Inflated(Vec<u8>),
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
            Piece::Inflated(bytes) => bytes.capacity(),
        });
        bytes.sum()
    }

    fn into_fetched(self, read: &Fetched, keep: impl Fn(Vec<u8>) -> Bytes) -> Fetched {
        let runs = self.all.into_iter().map(|(piece, json_lines)| Run {
            bytes: match piece {
                Piece::Stored(bytes) => bytes,
                Piece::Inflated(bytes) => keep(bytes),
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
fn pieces(read: &Fetched, from: Offset, max_bytes: usize) -> Result<Pieces, BatchError> {
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
                    add(Piece::Inflated(std::mem::take(&mut inflated)));
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
            let plain = inflate_batch(batch, MAX_INFLATED_BYTES)?;
            bytes += plain.len();
            if inflated.is_empty() {
                inflated = plain;
            } else {
                inflated.extend_from_slice(&plain);
            }
        }
        if !inflated.is_empty() {
            add(Piece::Inflated(inflated));
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
