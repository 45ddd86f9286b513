//! Produce: from records to one append of the log.
//!
//! [`Producer`] holds what all calls share. [`limits`] checks the limits of a record, [`placing`] chooses the
//! partitions and builds the batches, [`append`] makes one append of these. A [`whole`] call is one append, for one
//! topic or for [`several`], an [`upload`] is a sequence of them, [`record_batch`] checks batches that clients have built themselves.
//! [`idempotency`] makes a repeated call append nothing.

pub mod append;
pub mod idempotency;
pub mod limits;
pub mod placing;
pub mod producer_ids;
pub mod record_batch;
pub mod several;
pub mod upload;
pub mod whole;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::watch;

use self::idempotency::First;
use self::limits::RecordLimits;
use self::placing::Placing;
use self::producer_ids::ProducerIds;
use super::blocking::Blocking;
use super::caller::Caller;
use super::counters::Counters;
use super::engine::{
    Ack, AppendRequest, Appended, Clock, Error, Log, Offset, Ticket, TimestampMs, Topic, TopicSpec,
};
use super::limits::Limits;
use super::refusal::Refusal;
use super::rights::Right;
use super::topics::catalog::{self, Compression};
use crate::formats::json::RecordError;
use crate::formats::partitioner::Rotation;

/// What all produce calls share.
pub struct Producer {
    log: Log,
    clock: Arc<dyn Clock>,
    /// The threads for work that blocks.
    pub blocking: Blocking,
    /// What one client may ask for.
    pub limits: Limits,
    counters: Arc<Counters>,
    stopping: watch::Receiver<bool>,
    /// Chooses the partition of a request's records without keys.
    rotation: Arc<Rotation>,
    /// Set once the log can take calls with idempotency keys ([`Log::prepare_keys`]).
    keys_prepared: Arc<AtomicBool>,
    /// The ids of idempotent producers that ask for one.
    ids: ProducerIds,
}

/// The topic's configuration for records and produce calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicRules {
    /// The most bytes of a record: key, value, and the names and values of its headers.
    pub max_record_bytes: usize,
    /// Whether every record's timestamp is the time of the append.
    pub log_append_time: bool,
    /// How batches are stored.
    pub compression: Compression,
    /// When a call without its own `ack` is answered.
    pub ack: Ack,
    /// Whether it is to be compacted, so that clients of Kafka's protocol must give each record a key.
    pub compacts: bool,
}

/// What a batch may have beyond the largest record: as much as Kafka's default has beyond 1 MiB.
pub const BATCH_OVERHEAD_BYTES: usize = 12;

impl TopicRules {
    /// The most bytes of a batch that comes by Kafka's protocol, compressed or not: its `max.message.bytes`.
    #[must_use]
    pub fn max_batch_bytes(&self) -> usize {
        self.max_record_bytes + BATCH_OVERHEAD_BYTES
    }

    /// Reads the topic's properties; a missing one has its default.
    pub fn of(spec: &TopicSpec) -> Self {
        Self {
            max_record_bytes: catalog::max_record_bytes(spec),
            log_append_time: catalog::is_log_append_time(spec),
            compression: catalog::compression(spec),
            ack: catalog::ack(spec),
            compacts: catalog::compacts(spec),
        }
    }
}

/// The topic of a call, as it was when the call began.
#[derive(Clone)]
pub struct Target {
    /// The topic.
    pub topic: Arc<Topic>,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its configuration for records and calls.
    pub rules: TopicRules,
}

impl Target {
    /// A topic as it is now, for a caller that may write to it.
    pub fn of(topic: &Arc<Topic>) -> Self {
        Self {
            partitions: topic.partition_count(),
            rules: TopicRules::of(&topic.spec()),
            topic: Arc::clone(topic),
        }
    }

    /// When a call is answered.
    fn ack(&self, options: Options) -> Ack {
        options.ack.unwrap_or(self.rules.ack)
    }
}

/// How a call wants its records to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When it is answered; `None`: as the topic says.
    pub ack: Option<Ack>,
    /// Append only if this is the next offset.
    pub expected_offset: Option<Offset>,
    /// Whether to ignore the partitions that records name.
    pub repartition: bool,
}

impl Producer {
    pub(super) fn new(
        log: Log,
        clock: Arc<dyn Clock>,
        blocking: Blocking,
        limits: Limits,
        counters: Arc<Counters>,
        rotation: Arc<Rotation>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            log,
            clock,
            blocking,
            limits,
            counters,
            stopping,
            rotation,
            keys_prepared: Arc::default(),
            ids: ProducerIds::default(),
        }
    }

    /// The topic of that name.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`](super::refusal::Reason::UnknownTopic).
    pub fn target(&self, caller: &Caller, name: &str) -> Result<Target, Refusal> {
        caller.check_topic(Right::Write, name)?;
        Ok(Target::of(&catalog::find(&self.log, name)?))
    }

    /// The rules for placing a call's records.
    ///
    /// A call that was appended before (`first`) is placed as it was then, without limits: they were checked then.
    pub fn placing(&self, target: &Target, options: Options, first: Option<First>) -> Placing<'_> {
        Placing {
            topic: target.topic.id(),
            partitions: first.map_or(target.partitions, |first| first.partitions),
            log_append_time: target.rules.log_append_time,
            // What was appended before is not appended again.
            codec: target.rules.compression.of_records().filter(|_| first.is_none()),
            limits: match first {
                Some(_) => RecordLimits::NONE,
                None => RecordLimits::of(&self.limits, &target.rules),
            },
            rotation: &self.rotation,
            unkeyed: first.and_then(|first| first.unkeyed),
            repartition: options.repartition,
            one_partition: options.expected_offset.is_some(),
            extra_headers: Vec::new(),
        }
    }

    /// The time of an append.
    pub fn now(&self) -> TimestampMs {
        self.clock.now()
    }

    /// Queues an append; the future waits for it and counts the records, or a replay.
    fn append(
        &self,
        request: AppendRequest,
        records: u64,
        bytes: usize,
    ) -> Result<impl Future<Output = Result<Appended, Refusal>>, Refusal> {
        let ticket = self.log.append(request)?;
        let stored = self.counted(ticket, records, bytes);
        Ok(async move { Ok(stored.await?) })
    }

    /// Waits for an append, and counts it.
    fn counted(&self, ticket: Ticket, records: u64, bytes: usize) -> Counted {
        Counted {
            ticket: Some(ticket),
            counters: Arc::clone(&self.counters),
            records,
            bytes,
        }
    }

    fn count(&self, is_replayed: bool, records: u64, bytes: usize) {
        count(&self.counters, is_replayed, records, bytes);
    }
}

fn count(counters: &Counters, is_replayed: bool, records: u64, bytes: usize) {
    if is_replayed {
        counters.replayed_requests.fetch_add(1, Ordering::Relaxed);
    } else {
        counters.produced_records.fetch_add(records, Ordering::Relaxed);
        counters.produced_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// An append that is counted when it is stored, also if nobody waits for it any more.
struct Counted {
    /// `None` once it was answered.
    ticket: Option<Ticket>,
    counters: Arc<Counters>,
    records: u64,
    bytes: usize,
}

impl Future for Counted {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.ticket.as_mut().expect("not polled after its answer");
        let stored = ready!(Pin::new(ticket).poll(context));
        self.ticket = None;
        if let Ok(appended) = &stored {
            count(
                &self.counters,
                appended.repeated.is_some(),
                self.records,
                self.bytes,
            );
        }
        Poll::Ready(stored)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        // Without a runtime the process ends, and its counters with it.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (counters, records, bytes) = (Arc::clone(&self.counters), self.records, self.bytes);
        // Not a [`Counted`]: a runtime that ends drops what is spawned at once.
        runtime.spawn(async move {
            if let Ok(appended) = ticket.await {
                count(&counters, appended.repeated.is_some(), records, bytes);
            }
        });
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        Self::invalid(error.pointer, error.detail)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::broker::engine::TopicSettings;

    #[test]
    fn rules_come_from_the_topics_properties_or_are_the_defaults() {
        let mut spec = TopicSpec {
            partitions: 1,
            settings: TopicSettings {
                segment_bytes: 1 << 26,
                segment_ms: 1,
                retention_ms: None,
                retention_bytes: None,
            },
            properties: BTreeMap::new(),
        };
        let rules = TopicRules::of(&spec);
        assert_eq!(
            rules,
            TopicRules {
                max_record_bytes: 1 << 20,
                log_append_time: false,
                compression: Compression::AsSent,
                ack: Ack::Durable,
                compacts: false,
            }
        );
        spec.properties = [
            ("max_record_bytes".to_owned(), Value::from(77)),
            ("timestamp_type".to_owned(), "log_append_time".into()),
            ("compression_type".to_owned(), "uncompressed".into()),
            ("ack".to_owned(), "written".into()),
            ("cleanup_policy".to_owned(), "compact,delete".into()),
        ]
        .into();
        let rules = TopicRules::of(&spec);
        assert_eq!(
            rules,
            TopicRules {
                max_record_bytes: 77,
                log_append_time: true,
                compression: Compression::Always(None),
                ack: Ack::Written,
                compacts: true,
            }
        );
    }
}
