//! Finds offsets: the log start, the end, and the first record at or after a time, each with its record's timestamp.

use super::skips;
use crate::broker::engine::{Error, Log, Offset, Partition, TimestampMs};

/// Where to start in a partition, without an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the log start.
    #[default]
    Earliest,
    /// At the end offset, as it is now.
    Latest,
    /// At the first record of this time or later; at the end if there is none.
    Time(TimestampMs),
}

/// An offset, and the timestamp of its record; `None` at the end, and where the record cannot be read.
pub type Found = (Offset, Option<TimestampMs>);

impl Start {
    /// The offset in a partition. Only a time may block on the disk.
    ///
    /// # Errors
    /// Those of [`skips::offset_for_time`].
    pub fn offset(self, log: &Log, partition: &Partition) -> Result<Offset, Error> {
        match self {
            Self::Earliest => Ok(partition.positions().log_start_offset),
            _ => Ok(self.find(log, partition)?.0),
        }
    }

    /// The offset in a partition, with its record's timestamp. May block on the disk.
    ///
    /// # Errors
    /// Those of [`skips::offset_for_time`] and [`Partition::locate`], but for the log start not damage: its offset is
    /// known even if the record there cannot be read.
    pub fn find(self, log: &Log, partition: &Partition) -> Result<Found, Error> {
        // Read the end before a search, so that records appended meanwhile come after the answer.
        let end = partition.positions().end_offset;
        match self {
            Self::Earliest => earliest(partition),
            Self::Latest => Ok((end, None)),
            Self::Time(time) => {
                let place = skips::offset_for_time(log, partition, time)?;
                Ok(place.map_or((end, None), |(offset, timestamp)| (offset, Some(timestamp))))
            }
        }
    }
}

/// The first record with the largest timestamp; `None` if there are no records. May block on the disk, once for a log in
/// the order of time, and for others about as often as the distance of the last record's time to the largest has binary digits.
///
/// # Errors
/// Those of [`skips::offset_for_time`] and [`Partition::stats`].
pub fn largest_time(log: &Log, partition: &Partition) -> Result<Option<Found>, Error> {
    let Some(last) = partition.stats()?.last_timestamp else {
        return Ok(None);
    };
    let (mut largest, mut step) = (last, 1_i64);
    loop {
        let later = TimestampMs(largest.get().saturating_add(step));
        match skips::offset_for_time(log, partition, later)? {
            Some((_, found)) if found > largest => {
                largest = found;
                step = step.saturating_mul(2);
            }
            _ if step > 1 => step /= 2,
            _ => break,
        }
    }
    let found = skips::offset_for_time(log, partition, largest)?;
    Ok(found.map(|(offset, time)| (offset, Some(time))))
}

fn earliest(partition: &Partition) -> Result<Found, Error> {
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
