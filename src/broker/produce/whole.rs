//! Calls that are one append: all records are placed, appended, and answered with each record's partition and offset.
//!
//! With an idempotency key the wire keeps the body until the call is answered. A body that was appended before is
//! placed again as it was the first time, which gives the same partitions and offsets.

use super::append::add_to;
use super::idempotency::{Fingerprint, First, Key, unreadable};
use super::placing::{Built, Placement, Placer};
use super::{Options, Producer, Target};
use crate::broker::engine::{AppendRequest, Appended, Offset, Once, TimestampMs};
use crate::broker::refusal::Refusal;

/// One placing of a call's records.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How they are appended.
    pub options: Options,
    /// The time of the append.
    pub now: TimestampMs,
    /// How they were placed the first time, if the call is repeated: the limits are not checked again.
    pub first: Option<First>,
}

/// The placed records of a call.
pub struct Placed {
    built: Vec<Built>,
    placements: Vec<Placement>,
    bytes: usize,
    moved: bool,
    unkeyed: Option<u32>,
}

impl Placed {
    /// Takes the records out of a placer; `placements` says where it put each.
    pub fn of(mut placer: Placer<'_>, placements: Vec<Placement>, now: TimestampMs) -> Self {
        Self {
            bytes: placer.bytes(),
            moved: placer.moved(),
            unkeyed: placer.unkeyed_partition(),
            built: placer.take(now),
            placements,
        }
    }
}

/// Where the records of a call lie.
pub struct Places {
    /// Partition and first offset of each part.
    pub parts: Vec<(u32, Offset)>,
    /// The place of each record in its part, in the order of the call.
    pub placements: Vec<Placement>,
    /// Nothing was appended, because the call was appended before.
    pub is_replayed: bool,
}

impl Producer {
    /// Queues placed records for an append. The returned future is ready when they are stored.
    ///
    /// # Errors
    /// Those of the append; nothing is stored, unless the outcome says otherwise.
    pub fn append_whole(
        &self,
        target: &Target,
        options: Options,
        placed: Placed,
    ) -> Result<impl Future<Output = Result<Places, Refusal>>, Refusal> {
        let appended = self.append_placed(target, options, placed, None)?;
        Ok(async { Ok(appended.await?.0) })
    }

    /// Appends the records that `place` returns, once for each `key`.
    ///
    /// # Errors
    /// Those of the append and of `place`;
    /// [`IdempotencyKeyReused`](crate::broker::refusal::Reason::IdempotencyKeyReused) if the key belongs to another
    /// call.
    pub async fn append_once<F: Future<Output = Result<Placed, Refusal>>>(
        &self,
        target: &Target,
        mut attempt: Attempt,
        key: &Key,
        fingerprint: Fingerprint,
        place: impl Fn(Attempt) -> F,
    ) -> Result<Places, Refusal> {
        self.prepare_keys().await?;
        let appended = match self.recall(key, 0, &fingerprint)? {
            Some(appended) => {
                self.count(true, 0, 0);
                appended
            }
            None => {
                let placed = place(attempt).await?;
                let first = First {
                    partitions: target.partitions,
                    unkeyed: placed.unkeyed,
                };
                let once = key.once(0, fingerprint, attempt.now, first.encode());
                let appended = self.append_placed(target, attempt.options, placed, Some(once))?;
                let (places, appended) = appended.await?;
                if appended.repeated.is_none() {
                    return Ok(places);
                }
                appended
            }
        };
        attempt.first = Some(First::decode(appended.repeated.as_deref().unwrap_or_default())?);
        let placed = place(attempt).await?;
        if placed.built.len() != appended.base_offsets.len() {
            return Err(unreadable());
        }
        let partitions = placed.built.iter().map(|built| built.partition);
        Ok(Places {
            parts: partitions.zip(appended.base_offsets).collect(),
            placements: placed.placements,
            is_replayed: true,
        })
    }

    // Not an async function: the future of each produce request holds only what is needed after the append.
    fn append_placed(
        &self,
        target: &Target,
        options: Options,
        placed: Placed,
        once: Option<Once>,
    ) -> Result<impl Future<Output = Result<(Places, Appended), Refusal>>, Refusal> {
        let Placed {
            built,
            placements,
            bytes,
            moved,
            ..
        } = placed;
        let mut parts: Vec<_> = built
            .iter()
            .map(|built| (built.partition, Offset::ZERO))
            .collect();
        let mut request = AppendRequest {
            ack: options.ack,
            once,
            ..AppendRequest::default()
        };
        add_to(
            &mut request,
            &self.log,
            &target.topic,
            built,
            options.expected_offset,
            moved,
        )?;
        let appending = self.append(request, placements.len() as u64, bytes)?;
        Ok(async {
            let appended = appending.await?;
            for ((_, offset), base) in parts.iter_mut().zip(&appended.base_offsets) {
                *offset = *base;
            }
            let places = Places {
                parts,
                placements,
                is_replayed: false,
            };
            Ok((places, appended))
        })
    }
}
