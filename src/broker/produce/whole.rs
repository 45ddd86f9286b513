//! Calls that are one append: all records are placed, appended, and answered with each record's partition and offset.
//!
//! With an idempotency key the wire keeps the body until the call is answered. A body that was appended before is
//! placed again as it was the first time, which gives the same partitions and offsets.

use std::sync::Arc;

use super::append::{self, At};
use super::idempotency::{Fingerprint, First, Key, decode_firsts, encode_firsts, expiry, unreadable};
use super::placing::{Built, Placement, Placer};
use super::{Options, Producer, Target};
use crate::broker::engine::{Ack, AppendRequest, Appended, Log, Offset, Once, TimestampMs, Topic};
use crate::broker::refusal::Refusal;

/// One placing of a call's records.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// How they are appended.
    pub options: Options,
    /// The time of the append.
    pub now: TimestampMs,
    /// How they were placed the first time, if the call is repeated: the limits are not checked again. An entry for
    /// each topic, in the order in which the call names them first.
    pub firsts: Option<Vec<First>>,
}

impl Attempt {
    /// How a call to one topic was placed the first time, if it is repeated.
    pub fn first(&self) -> Option<First> {
        self.firsts.as_ref()?.first().copied()
    }
}

/// The placed records of a call.
pub struct Placed {
    pub(super) topics: Vec<PlacedTopic>,
    /// The topics' names, if the answer has them.
    pub(super) names: Vec<String>,
    /// The place of each record, in the order of the call. Parts are counted through all topics.
    pub(super) placements: Vec<Placement>,
    pub(super) bytes: usize,
}

/// The placed records of one topic.
pub(super) struct PlacedTopic {
    /// `None` in a repeated call, which appends nothing.
    topic: Option<Arc<Topic>>,
    /// When a call is answered that does not say it.
    ack: Ack,
    first: First,
    built: Vec<Built>,
    moved: bool,
}

impl PlacedTopic {
    /// Takes the records out of a placer.
    pub(super) fn of(
        topic: Option<Arc<Topic>>,
        ack: Ack,
        partitions: u32,
        placer: &mut Placer<'_>,
        now: TimestampMs,
    ) -> Self {
        Self {
            topic,
            ack,
            first: First {
                partitions,
                unkeyed: placer.unkeyed_partition(),
            },
            moved: placer.moved(),
            built: placer.take(now),
        }
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.built.len()
    }
}

impl Placed {
    /// Takes the records of a call to one topic out of a placer; `placements` says where it put each.
    pub fn of(target: &Target, mut placer: Placer<'_>, placements: Vec<Placement>, now: TimestampMs) -> Self {
        let (topic, ack) = (Some(Arc::clone(&target.topic)), target.rules.ack);
        Self {
            bytes: placer.bytes(),
            topics: vec![PlacedTopic::of(topic, ack, target.partitions, &mut placer, now)],
            names: Vec::new(),
            placements,
        }
    }

    /// Adds the records to an append. Their places have no offsets until the append has them: see
    /// [`Places::appended`].
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`](crate::broker::refusal::Reason::UnknownTopic) if a topic was deleted meanwhile: the
    /// request must not be appended.
    pub fn add_to(
        self,
        request: &mut AppendRequest,
        log: &Log,
        expected_offset: Option<Offset>,
    ) -> Result<Places, Refusal> {
        let parts = self.parts();
        let mut at = Vec::with_capacity(parts.len());
        for placed in self.topics {
            let topic = placed.topic.expect("a repeated call appends nothing");
            let (built, moved) = (placed.built, placed.moved);
            at.extend(append::add_to(
                request,
                log,
                &topic,
                built,
                expected_offset,
                moved,
            )?);
        }
        Ok(Places {
            parts,
            names: self.names,
            placements: self.placements,
            is_replayed: false,
            at,
        })
    }

    /// The places of the records of a repeated call, which were appended at `base_offsets`.
    fn replayed(self, base_offsets: &[Offset]) -> Result<Places, Refusal> {
        let parts = self.parts();
        if parts.len() != base_offsets.len() {
            return Err(unreadable());
        }
        let mut places = Places {
            at: (0..parts.len() as u32)
                .map(|part| At { part, shift: 0 })
                .collect(),
            parts,
            names: self.names,
            placements: self.placements,
            is_replayed: true,
        };
        places.appended(base_offsets);
        Ok(places)
    }

    /// Whether they cannot be appended, because a topic is gone.
    pub fn is_doomed(&self) -> bool {
        let mut topics = self.topics.iter().filter_map(|placed| placed.topic.as_ref());
        topics.any(|topic| topic.is_deleted())
    }

    /// Bytes of the records.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn parts(&self) -> Vec<PartPlace> {
        let topics = (0_u32..).zip(&self.topics);
        let parts = topics.flat_map(|(topic, placed)| {
            placed.built.iter().map(move |built| PartPlace {
                topic,
                partition: built.partition,
                base_offset: Offset::ZERO,
            })
        });
        parts.collect()
    }

    /// When a call is answered that does not say it: when it is durable, unless all its topics say otherwise.
    pub(super) fn ack(&self) -> Ack {
        let is_written = |placed: &PlacedTopic| placed.ack == Ack::Written;
        if self.topics.iter().all(is_written) {
            Ack::Written
        } else {
            Ack::Durable
        }
    }

    /// What to remember of a call with an idempotency key: for as long as the topic says that says the longest.
    fn once(&self, key: &Key, fingerprint: Fingerprint, now: TimestampMs) -> Once {
        let topics = self.topics.iter().filter_map(|placed| placed.topic.as_deref());
        let expires = topics.map(|topic| expiry(topic, now)).max();
        let note = encode_firsts(self.topics.iter().map(|placed| placed.first));
        key.once(0, fingerprint, expires.unwrap_or(now), note)
    }
}

/// Where a part of a call lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlace {
    /// The topic's place in [`Places::names`].
    pub topic: u32,
    /// The partition.
    pub partition: u32,
    /// The offset of the first record.
    pub base_offset: Offset,
}

/// Where the records of a call lie.
pub struct Places {
    /// The parts, of all topics.
    pub parts: Vec<PartPlace>,
    /// The names of the topics, if the answer has them.
    pub names: Vec<String>,
    /// The place of each record in its part, in the order of the call.
    pub placements: Vec<Placement>,
    /// Nothing was appended, because the call was appended before.
    pub is_replayed: bool,
    /// Where the parts are in the append.
    pub at: Vec<At>,
}

impl Places {
    /// Topic, partition and offset of each record, in the order of the call.
    pub fn rows(&self) -> Vec<(Arc<str>, u32, Offset)> {
        let names: Vec<Arc<str>> = self.names.iter().map(|name| name.as_str().into()).collect();
        let row = |placement: &Placement| {
            let part = &self.parts[placement.part as usize];
            let offset = part.base_offset.plus(placement.delta.into());
            (Arc::clone(&names[part.topic as usize]), part.partition, offset)
        };
        self.placements.iter().map(row).collect()
    }

    /// Takes over the offsets that the append gave to its parts.
    pub fn appended(&mut self, base_offsets: &[Offset]) {
        for (part, at) in self.parts.iter_mut().zip(&self.at) {
            part.base_offset = base_offsets[at.part as usize].plus(at.shift.into());
        }
    }
}

impl Producer {
    /// Queues placed records for an append. The returned future is ready when they are stored.
    ///
    /// # Errors
    /// Those of the append; nothing is stored, unless the outcome says otherwise.
    pub fn append_whole(
        &self,
        options: Options,
        placed: Placed,
    ) -> Result<impl Future<Output = Result<Places, Refusal>>, Refusal> {
        let appended = self.append_placed(options, placed, None)?;
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
                let placed = place(attempt.clone()).await?;
                let once = placed.once(key, fingerprint, attempt.now);
                let appended = self.append_placed(attempt.options, placed, Some(once))?;
                let (places, appended) = appended.await?;
                if appended.repeated.is_none() {
                    return Ok(places);
                }
                appended
            }
        };
        attempt.firsts = Some(decode_firsts(appended.repeated.as_deref().unwrap_or_default())?);
        place(attempt).await?.replayed(&appended.base_offsets)
    }

    // Not an async function: the future of each produce request holds only what is needed after the append.
    fn append_placed(
        &self,
        options: Options,
        placed: Placed,
        once: Option<Once>,
    ) -> Result<impl Future<Output = Result<(Places, Appended), Refusal>>, Refusal> {
        let mut request = AppendRequest {
            ack: options.ack.unwrap_or_else(|| placed.ack()),
            once,
            ..AppendRequest::default()
        };
        let bytes = placed.bytes;
        let mut places = placed.add_to(&mut request, &self.log, options.expected_offset)?;
        let appending = self.append(request, places.placements.len() as u64, bytes)?;
        Ok(async {
            let appended = appending.await?;
            places.appended(&appended.base_offsets);
            Ok((places, appended))
        })
    }
}
