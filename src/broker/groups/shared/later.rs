//! `deliver_at`: the time before which no queue leases a record. It is a header of the record, in milliseconds since the
//! Unix epoch, as text. Readers that are not queues see the record at once.

use crate::broker::engine::TimestampMs;
use crate::broker::engine::batch::Record;
use crate::formats::json::DELIVER_AT;

/// A record's time; `None` without one, or with a header that is no time.
pub fn deliver_at(record: &Record<'_>) -> Option<TimestampMs> {
    // The last one counts, as in Kafka, if a name repeats.
    let named = record
        .headers
        .into_iter()
        .filter(|(name, _)| *name == DELIVER_AT.as_bytes());
    let (_, value) = named.last()?;
    let millis = std::str::from_utf8(value?).ok()?.parse().ok()?;
    Some(TimestampMs(millis))
}
