//! Finds offsets: the log start, and the first record at or after a time, each with the timestamp of its record.

use super::skips;
use crate::broker::engine::{Error, Log, Offset, Partition, TimestampMs};

/// An offset, and the timestamp of its record; `None` at the end, and where the record cannot be read.
pub type Found = (Offset, Option<TimestampMs>);

/// The log start. May block on the disk.
///
/// # Errors
/// Those of [`Partition::locate`], but not damage: the log start is known even if the record there cannot be read.
pub fn earliest(partition: &Partition) -> Result<Found, Error> {
    loop {
        let offset = partition.positions().log_start_offset;
        return Ok(match partition.locate(offset) {
            Ok(located) => (offset, located.next.map(|(_, timestamp)| timestamp)),
            // The partition was trimmed after the line above: read its log start again.
            Err(Error::Trimmed { .. }) => continue,
            Err(Error::Damaged { .. } | Error::Io { .. }) => (offset, None),
            Err(error) => return Err(error),
        });
    }
}

/// The first record at or after `time`; the end if there is none. May block on the disk.
///
/// # Errors
/// Those of [`skips::offset_for_time`].
pub fn at_or_after(log: &Log, partition: &Partition, time: TimestampMs) -> Result<Found, Error> {
    // Read the end first, so that records appended during the search come after the answer.
    let end = partition.positions().end_offset;
    let place = skips::offset_for_time(log, partition, time)?;
    Ok(place.map_or((end, None), |(offset, timestamp)| (offset, Some(timestamp))))
}
