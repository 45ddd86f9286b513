//! Record batches that clients have built themselves, for one partition: they are stored as they came.
//!
//! They come from outside, so everything in them is checked. Compression, transactions and control records are refused: this
//! version cannot keep their promises.
//!
//! A batch with a producer id must be alone in its body. The log keeps its producer's sequence: a batch that was
//! appended before is answered with its offsets from then; a gap or an older epoch is refused.

use bytes::Bytes;

use super::append::add_to;
use super::idempotency::{Fingerprint, Key, decode_count, encode_count, expiry};
use super::limits::{Misfit, RecordLimits};
use super::placing::Built;
use super::{Options, Producer, Target};
use crate::broker::engine::batch::{
    BatchError, BatchHeader, Batches, Records as BatchRecords, SealedBatch, verify,
};
use crate::broker::engine::{AppendRequest, Appended, Offset, Records, TimestampMs};
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::partitioner::partition_of_key;

/// Batches that may be stored.
pub struct Checked {
    batches: Vec<SealedBatch>,
    record_count: u32,
    moved: bool,
    bytes: usize,
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
        let records = checked.record_count;
        let built = Built {
            partition,
            records: Records::Sealed(checked.batches),
            record_count: records,
            // Nothing here has checked the values: each read checks them.
            json_lines: false,
        };
        let mut request = AppendRequest {
            ack: target.ack(options),
            once: once.map(|(key, fingerprint)| {
                let expires = expiry(&target.topic, now);
                key.once(0, fingerprint, expires, encode_count(records))
            }),
            ..AppendRequest::default()
        };
        let built = vec![built];
        add_to(
            &mut request,
            &self.log,
            &target.topic,
            built,
            options.expected_offset,
            checked.moved,
        )?;
        let appended = self.append(request, records.into(), checked.bytes)?.await?;
        range(&appended, records)
    }

    /// Checks the batches of a body, which are for one partition.
    ///
    /// # Errors
    /// Why they are not stored.
    pub fn check_batches(
        &self,
        target: &Target,
        partition: u32,
        body: Bytes,
        now: TimestampMs,
    ) -> Result<Checked, Refusal> {
        check(
            &RecordLimits::of(&self.limits, &target.rules),
            target,
            partition,
            body,
            now,
        )
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

fn check(
    limits: &RecordLimits,
    target: &Target,
    partition: u32,
    body: Bytes,
    now: TimestampMs,
) -> Result<Checked, Refusal> {
    if body.is_empty() {
        return Err(Refusal::invalid("", "the body holds no batch"));
    }
    let mut checked = Checked {
        batches: Vec::new(),
        record_count: 0,
        moved: false,
        bytes: body.len(),
    };
    let mut at = 0;
    for (index, batch) in Batches::new(&body).enumerate() {
        let wrong = |error: BatchError| Refusal::invalid("", format!("batch {index}, at byte {at}: {error}"));
        let (_, bytes) = batch.map_err(wrong)?;
        let header = verify(bytes).map_err(wrong)?;
        refuse_later(&header, index)?;
        if header.producer_id.0 >= 0 && bytes.len() < body.len() {
            let detail = format!("batch {index} has a producer id, and then is a body by itself");
            return Err(Refusal::invalid("", detail));
        }
        // A body of one batch is that batch, without a copy if nobody else holds it.
        let owned = if bytes.len() == body.len() {
            body.clone().into()
        } else {
            bytes.to_vec()
        };
        let mut sealed = SealedBatch::from_outside(owned).map_err(wrong)?;
        check_records(
            limits,
            target,
            partition,
            sealed.as_bytes(),
            index,
            &mut checked.moved,
        )?;
        checked.record_count = checked
            .record_count
            .checked_add(header.record_count)
            .ok_or_else(|| Refusal::new(Reason::RequestTooLarge, "too many records in one request"))?;
        if target.rules.log_append_time {
            sealed.set_log_append_time(now);
        }
        at += bytes.len();
        checked.batches.push(sealed);
    }
    Ok(checked)
}

fn refuse_later(header: &BatchHeader, index: usize) -> Result<(), Refusal> {
    let what = if header.attributes.compression() != 0 {
        "is compressed"
    } else if header.attributes.is_transactional() {
        "is transactional"
    } else if header.attributes.is_control() {
        "is a control batch"
    } else {
        return Ok(());
    };
    let detail = format!("batch {index} {what}, which this version does not support");
    Err(Refusal::new(Reason::NotSupported, detail))
}

/// Checks every record of a valid batch against the limits.
fn check_records(
    limits: &RecordLimits,
    target: &Target,
    partition: u32,
    batch: &[u8],
    index: usize,
    moved: &mut bool,
) -> Result<(), Refusal> {
    let records = BatchRecords::new(batch).map_err(|error| Refusal::invalid("", error.to_string()))?;
    for (number, record) in records.enumerate() {
        let record = record.map_err(|error| Refusal::invalid("", error.to_string()))?;
        let headers = record
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len));
        let (key, value) = (
            record.key.map_or(0, <[u8]>::len),
            record.value.map_or(0, <[u8]>::len),
        );
        limits.check(key, value, headers).map_err(|misfit: Misfit| {
            let refusal = misfit.refuse("", "");
            let detail = format!("record {number} of batch {index}: {}", refusal.detail);
            Refusal::new(refusal.reason, detail)
        })?;
        if !*moved && let Some(key) = record.key {
            *moved = partition_of_key(key, target.partitions) != partition;
        }
    }
    Ok(())
}
