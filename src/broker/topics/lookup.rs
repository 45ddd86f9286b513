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
