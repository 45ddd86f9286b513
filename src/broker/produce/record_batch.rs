//! Record batches that clients have built themselves, for one partition: they are stored as they came.
//!
//! They come from outside, so everything in them is checked, in one pass over their records, for any wire. Compressed
//! records are inflated for that, one batch of a body at a time, on the few threads of [`Share::Inflate`]: all batches
//! of a body may inflate to as much as a request may have, decoded. A topic may want its batches in another compression;
//! they get it in the same pass. Transactions and control records are refused: this
//! version cannot keep their promises.
//!
//! A batch of a client that speaks Kafka's protocol, for a topic that is to be compacted, must have a key in each record.
//!
//! A batch with a producer id must be alone in its body. The log keeps its producer's sequence: a batch that was
//! appended before is answered with its offsets from then; a gap or an older epoch is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::append::add_to;
use super::idempotency::{Fingerprint, Key, decode_count, encode_count, expiry};
use super::limits::RecordLimits;
use super::placing::Built;
use super::{Options, Producer, Target};
use crate::broker::blocking::Share;
use crate::broker::engine::batch::{BatchHeader, Batches, MAX_INFLATED_BYTES, Record, SealedBatch};
use crate::broker::engine::{
    Ack, AppendRequest, Appended, Error, Offset, Partition, Records, Ticket, TimestampMs,
};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog::Compression;
use crate::broker::topics::unknown_partition;
use crate::formats::partitioner::partition_of_key;

/// Bodies of uncompressed batches up to this size are checked on the worker that received them: about a millisecond of
/// checksum.
const INLINE_BYTES: usize = 2 << 20;

/// The value of a refusal that has the numbers of the records at fault, from 0 in their batch: the first
/// [`MAX_AT_FAULT`], since a small batch may inflate to millions.
pub const RECORDS_AT_FAULT: &str = "records";
/// The most records that a refusal names.
pub const MAX_AT_FAULT: usize = 1000;

/// How often a batch that waits for room in the queue of the log is tried again.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// Batches that may be stored.
pub struct Checked {
    batches: Vec<SealedBatch>,
    record_count: u32,
    moved: bool,
    bytes: usize,
    /// How many bytes compressed records took.
    inflated_bytes: usize,
    /// How many bytes of the batches are not those of the request, because they are stored in another compression.
    rebuilt_bytes: usize,
}

/// How much the compressed batches of one request of a Kafka client may inflate to, besides the limit of each.
#[derive(Debug, Default)]
pub struct InflateRoom {
    /// The bytes of the batches so far.
    batch_bytes: usize,
    /// What these have inflated to.
    used: usize,
}

impl InflateRoom {
    /// What is left: little compresses to less than a 64th, and small requests may. However large the request is, the work
    /// for it has an end.
    fn left(&self) -> usize {
        let most = self.batch_bytes.saturating_mul(64);
        let most = most.clamp(2 * MAX_INFLATED_BYTES, 16 * MAX_INFLATED_BYTES);
        most.saturating_sub(self.used)
    }
}

/// One batch that may be stored, with where it is to be stored.
pub struct CheckedBatch {
    checked: Checked,
    target: Target,
    number: u32,
    log: Arc<Partition>,
    now: TimestampMs,
}

impl CheckedBatch {
    /// The partition that it is for.
    pub fn partition(&self) -> Arc<Partition> {
        Arc::clone(&self.log)
    }

    /// How many bytes it takes besides the request that it came in, until it is queued.
    pub fn rebuilt_bytes(&self) -> usize {
        self.checked.rebuilt_bytes
    }
}

/// The most of [`CheckedBatch::rebuilt_bytes`] that the check of a batch may lead to: nothing, unless its topic stores
/// batches in another compression.
pub fn most_rebuilt_bytes(target: &Target, batch: &[u8]) -> usize {
    let before = BatchHeader::peek(batch).and_then(|header| header.attributes.codec());
    match before {
        Ok(before) if target.rules.compression.of_batch(before) != before => target.rules.max_batch_bytes(),
        // The check refuses what is no batch.
        _ => 0,
    }
}

/// Where the records of batches lie.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first record's offset.
    pub first_offset: Offset,
    /// How many records there are.
    pub records: u32,
    /// Nothing was appended, because the call was appended before.
    pub is_replayed: bool,
}

/// What the append of one batch answers.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Where its records lie.
    pub range: Range,
    /// The time of all its records, if the topic gives them the server's.
    pub log_append_time: Option<TimestampMs>,
    /// The first offset that the partition keeps.
    pub log_start_offset: Offset,
}

impl Producer {
    /// The answer to a call with a key, if the call was appended before.
    ///
    /// # Errors
    /// [`Reason::IdempotencyKeyReused`] if the key belongs to another call.
    pub async fn recall_batches(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Range>, Refusal> {
        self.prepare_keys().await?;
        let Some(appended) = self.recall(key, 0, fingerprint)? else {
            return Ok(None);
        };
        self.count(true, 0, 0);
        range(&appended, 0).map(Some)
    }

    /// Appends batches that were checked at the time `now`, with the key that they are remembered by.
    ///
    /// # Errors
    /// Those of the append; nothing is stored, unless the outcome says otherwise.
    pub async fn append_batches(
        &self,
        target: &Target,
        partition: u32,
        options: Options,
        checked: Checked,
        once: Option<(Box<Key>, Fingerprint)>,
        now: TimestampMs,
    ) -> Result<Range, Refusal> {
        let (records, bytes) = (checked.record_count, checked.bytes);
        let ack = target.ack(options);
        let mut request = self.request(target, partition, checked, options.expected_offset, ack)?;
        request.once = once.map(|(key, fingerprint)| {
            let expires = expiry(&target.topic, now);
            key.once(0, fingerprint, expires, encode_count(records))
        });
        let appended = self.append(request, records.into(), bytes)?.await?;
        range(&appended, records)
    }

    /// Checks the batches of a body, which are for one partition.
    ///
    /// # Errors
    /// Why they are not stored.
    pub async fn check_batches(
        &self,
        target: &Target,
        partition: u32,
        body: Bytes,
        now: TimestampMs,
    ) -> Result<Checked, Refusal> {
        // Without a copy, if nobody else holds the body.
        let body = BytesMut::from(body);
        let check = Check::new(self, target, partition, now);
        self.off_the_worker(target.rules.compression, body, move |body| check.body(body))
            .await
    }

    /// Checks one batch of a client that speaks Kafka's protocol. Nothing is copied: the batch is a piece of a request
    /// that nobody else holds.
    ///
    /// # Errors
    /// As Kafka's broker has them, with nothing stored: [`Reason::UnknownPartition`]; [`Reason::CorruptBatch`];
    /// [`Reason::InvalidBatch`] also for none or several batches, and for control batches;
    /// [`Reason::InvalidTimestamp`]; [`Reason::UnknownCompression`]; [`Reason::RecordTooLarge`] also for a batch that is
    /// larger than [`TopicRules::max_batch_bytes`](super::TopicRules::max_batch_bytes), as it came or as the topic stores
    /// it; [`Reason::RequestTooLarge`] if
    /// its records inflate to more than a request may have, or is left of `room`; [`Reason::NotSupported`] for
    /// transactions. With [`Reason::InvalidBatch`], the refusal may say which records are at fault, in its value
    /// [`RECORDS_AT_FAULT`].
    pub async fn check_batch(
        &self,
        target: &Target,
        number: u32,
        batch: BytesMut,
        room: &mut InflateRoom,
    ) -> Result<CheckedBatch, Refusal> {
        let Some(log) = target.topic.partition(number) else {
            return Err(unknown_partition(&target.topic, number));
        };
        let now = self.now();
        // Other batches are not inflated.
        let is_compressed = batch.len() <= target.rules.max_batch_bytes()
            && BatchHeader::peek(&batch).is_ok_and(|it| it.attributes.compression() != 0);
        if is_compressed {
            room.batch_bytes += batch.len();
        }
        let mut check = Check::new(self, target, number, now);
        check.room = check.room.min(room.left());
        let most = check.room;
        let checked = self
            .off_the_worker(target.rules.compression, batch, move |batch| check.alone(batch))
            .await;
        let inflated = match &checked {
            Ok(checked) => checked.inflated_bytes,
            // Nobody knows how far it was inflated until it was found wrong.
            Err(_) if is_compressed => most,
            Err(_) => 0,
        };
        room.used += inflated;
        let checked = checked?;
        Ok(CheckedBatch {
            checked,
            target: target.clone(),
            number,
            log,
            now,
        })
    }

    /// Queues a batch for an append of its own. The returned future is ready when it is stored as `ack` says; it need
    /// not be waited for. Batches are appended in the order of the calls. While the queue of the log is full, this waits:
    /// the client is to be slowed, not refused.
    ///
    /// # Errors
    /// Those of the append that are known at once; from the future all others, such as [`Reason::OutOfOrderSequence`]
    /// and [`Reason::Fenced`].
    pub async fn queue_batch(
        &self,
        batch: CheckedBatch,
        ack: Ack,
    ) -> Result<impl Future<Output = Result<Accepted, Refusal>> + Send + use<>, Refusal> {
        let CheckedBatch {
            checked,
            target,
            number,
            log,
            now,
        } = batch;
        let (records, bytes) = (checked.record_count, checked.bytes);
        let request = self.request(&target, number, checked, None, ack)?;
        let ticket = self.queue_when_there_is_room(request).await?;
        let stored = self.counted(ticket, records.into(), bytes);
        let log_append_time = target.rules.log_append_time.then_some(now);
        Ok(async move {
            let appended = stored.await?;
            Ok(Accepted {
                range: range(&appended, records)?,
                log_append_time,
                log_start_offset: log.positions().log_start_offset,
            })
        })
    }

    async fn queue_when_there_is_room(&self, mut request: AppendRequest) -> Result<Ticket, Refusal> {
        loop {
            match self.log.try_append(request) {
                Ok(ticket) => return Ok(ticket),
                Err(unqueued) => {
                    let unqueued = *unqueued;
                    if !matches!(unqueued.error, Error::Overloaded { .. }) {
                        return Err(unqueued.error.into());
                    }
                    request = unqueued.request;
                    tokio::time::sleep(QUEUE_RETRY).await;
                }
            }
        }
    }

    /// Runs a check where it holds nobody up.
    async fn off_the_worker(
        &self,
        compression: Compression,
        body: BytesMut,
        check: impl FnOnce(BytesMut) -> Result<Checked, Refusal> + Send + 'static,
    ) -> Result<Checked, Refusal> {
        let is_work = |header: &BatchHeader| {
            header.attributes.compression() != 0 || compression.of_batch(None).is_some()
        };
        // The first wrong header ends the check, too.
        let mut batches = Batches::new(&body).map_while(Result::ok);
        let kind = if batches.any(|(header, _)| is_work(&header)) {
            Share::Inflate
        } else if body.len() > INLINE_BYTES {
            Share::Parse
        } else {
            return check(body);
        };
        self.blocking.attempt(kind, move || check(body)).await
    }

    /// The append of checked batches.
    fn request(
        &self,
        target: &Target,
        partition: u32,
        checked: Checked,
        expected_offset: Option<Offset>,
        ack: Ack,
    ) -> Result<AppendRequest, Refusal> {
        let built = Built {
            partition,
            records: Records::Sealed(checked.batches),
            record_count: checked.record_count,
            // Nothing here has checked the values: each read checks them.
            json_lines: false,
        };
        let mut request = AppendRequest {
            ack,
            ..AppendRequest::default()
        };
        let (topic, moved) = (&target.topic, checked.moved);
        add_to(
            &mut request,
            &self.log,
            topic,
            vec![built],
            expected_offset,
            moved,
        )?;
        Ok(request)
    }
}

/// The range of `records` records, or of as many as there were the first time.
fn range(appended: &Appended, records: u32) -> Result<Range, Refusal> {
    let records = match appended.repeated.as_deref() {
        // A producer's batch has no note: a repeated batch has as many records as the first.
        None | Some([]) => records,
        Some(note) => decode_count(note)?,
    };
    Ok(Range {
        first_offset: appended.base_offsets.first().copied().unwrap_or_default(),
        records,
        is_replayed: appended.repeated.is_some(),
    })
}

/// The check of the batches of one call.
struct Check {
    limits: RecordLimits,
    target: Target,
    partition: u32,
    now: TimestampMs,
    /// How many bytes the batches that are still to come may inflate to.
    room: usize,
    /// The most bytes of a batch as it is stored.
    max_stored_bytes: usize,
    /// Whether each record must have a key.
    needs_keys: bool,
    found: Checked,
}

impl Check {
    fn new(producer: &Producer, target: &Target, partition: u32, now: TimestampMs) -> Self {
        Self {
            limits: RecordLimits::of(&producer.limits, &target.rules),
            target: target.clone(),
            partition,
            now,
            room: producer.limits.max_request_bytes.min(MAX_INFLATED_BYTES),
            max_stored_bytes: usize::MAX,
            needs_keys: false,
            found: Checked {
                batches: Vec::new(),
                record_count: 0,
                moved: false,
                bytes: 0,
                inflated_bytes: 0,
                rebuilt_bytes: 0,
            },
        }
    }

    /// Checks the batches of a body of any number.
    fn body(mut self, mut body: BytesMut) -> Result<Checked, Refusal> {
        if body.is_empty() {
            return Err(Refusal::invalid("", "the body holds no batch"));
        }
        let (all, mut index) = (body.len(), 0);
        while !body.is_empty() {
            let at = all - body.len();
            let wrong = |mut refusal: Refusal| {
                refusal.detail = format!("batch {index}, at byte {at}: {}", refusal.detail);
                refusal.field.get_or_insert_default();
                refusal
            };
            let header = BatchHeader::peek(&body).map_err(|error| wrong(error.into()))?;
            // A batch that is cut off stays as long as it is, and is refused for that.
            let batch = body.split_to(header.total_bytes().min(body.len()));
            if header.producer_id.0 >= 0 && batch.len() < all {
                let detail = "it has a producer id, and then is a body by itself";
                return Err(wrong(Refusal::new(Reason::InvalidBatch, detail)));
            }
            let sealed = SealedBatch::verified(batch).map_err(|error| wrong(error.into()))?;
            self.batch(sealed).map_err(wrong)?;
            index += 1;
        }
        Ok(self.found)
    }

    /// Checks bytes that must be one batch, as Kafka's broker does.
    fn alone(mut self, batch: BytesMut) -> Result<Checked, Refusal> {
        if batch.is_empty() {
            return Err(Refusal::new(Reason::InvalidBatch, "there is no batch"));
        }
        let header = BatchHeader::peek(&batch)?;
        self.max_stored_bytes = self.target.rules.max_batch_bytes();
        self.check_bytes(header.total_bytes(), "")?;
        let sealed = SealedBatch::verified(batch)?;
        let attributes = sealed.header().attributes;
        if attributes.is_control() {
            let detail = "a control batch, which only the server writes";
            return Err(Refusal::new(Reason::InvalidBatch, detail));
        }
        if attributes.is_log_append_time() {
            let detail = "the batch says that its time is the server's, which only the server does";
            return Err(Refusal::new(Reason::InvalidTimestamp, detail));
        }
        self.needs_keys = self.target.rules.compacts;
        self.batch(sealed)?;
        Ok(self.found)
    }

    /// Checks a batch whose CRC is right.
    fn batch(&mut self, mut sealed: SealedBatch) -> Result<(), Refusal> {
        let header = sealed.header();
        refuse_later(&header)?;
        self.found.bytes += sealed.as_bytes().len();
        self.found.record_count = self
            .found
            .record_count
            .checked_add(header.record_count)
            .ok_or_else(|| Refusal::new(Reason::RequestTooLarge, "too many records in one request"))?;
        let mut moved = self.found.moved;
        let mut keyless = Vec::new();
        let inflated = sealed.check_records(self.room, |number, record| {
            if self.needs_keys && record.key.is_none() && keyless.len() < MAX_AT_FAULT {
                keyless.push(number);
            }
            self.record(record, &mut moved).map_err(|refusal| {
                let detail = format!("record {number}: {}", refusal.detail);
                Refusal::new(refusal.reason, detail)
            })
        })?;
        self.found.moved = moved;
        if !keyless.is_empty() {
            let detail = "the topic is to be compacted, and one or more records have no key";
            return Err(Refusal::new(Reason::InvalidBatch, detail).with(RECORDS_AT_FAULT, keyless));
        }
        let inflated_bytes = inflated.as_ref().map_or(0, Vec::len);
        self.room = self.room.saturating_sub(inflated_bytes);
        self.found.inflated_bytes += inflated_bytes;
        let before = header.attributes.codec()?;
        let codec = self.target.rules.compression.of_batch(before);
        let mut sealed = sealed.with_codec(codec, inflated)?;
        if codec != before {
            let bytes = sealed.as_bytes().len();
            self.check_bytes(bytes, " in the compression of the topic")?;
            self.found.rebuilt_bytes += bytes;
        }
        if self.target.rules.log_append_time {
            sealed.set_log_append_time(self.now);
        }
        self.found.batches.push(sealed);
        Ok(())
    }

    fn check_bytes(&self, bytes: usize, form: &str) -> Result<(), Refusal> {
        let most = self.max_stored_bytes;
        if bytes <= most {
            return Ok(());
        }
        let detail = format!("a batch of {bytes} bytes{form}; the topic takes {most}");
        Err(Refusal::new(Reason::RecordTooLarge, detail))
    }

    /// Checks a record against the limits, and whether its key belongs to another partition.
    #[inline]
    fn record(&self, record: &Record<'_>, moved: &mut bool) -> Result<(), Refusal> {
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len));
        let key = record.key.map_or(0, <[u8]>::len);
        let value = record.value.map_or(0, <[u8]>::len);
        let fits = self.limits.check(key, value, headers);
        fits.map_err(|misfit| misfit.refuse("", ""))?;
        if !*moved && let Some(key) = record.key {
            *moved = partition_of_key(key, self.target.partitions) != self.partition;
        }
        Ok(())
    }
}

fn refuse_later(header: &BatchHeader) -> Result<(), Refusal> {
    let what = if header.attributes.is_transactional() {
        "transactional batches are"
    } else if header.attributes.is_control() {
        "control batches are"
    } else {
        return Ok(());
    };
    let detail = format!("{what} not supported by this version");
    Err(Refusal::new(Reason::NotSupported, detail))
}
