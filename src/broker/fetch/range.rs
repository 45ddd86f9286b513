//! The offsets that a fetch asks for: looks up times, and words like `earliest`.
//!
//! A range that ends at or below the end of the log is closed: its records never change, except that they may be
//! trimmed, so a client may keep them.

use std::sync::Arc;
use std::time::Duration;

use super::Fetcher;
use super::page::{PageLimits, Unit};
use crate::broker::blocking::Share;
use crate::broker::engine::{Error, Offset, Partition, Positions, TimestampMs};
use crate::broker::refusal::Refusal;
use crate::broker::topics::skips;

/// Where a fetch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStart {
    /// This offset.
    Offset(Offset),
    /// The log start.
    Earliest,
    /// The end: only new records.
    Latest,
    /// The first record at or after this time.
    Time(TimestampMs),
}

/// The parameters of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Where it begins.
    pub start: FetchStart,
    /// Exclusive.
    pub until_offset: Option<Offset>,
    /// The answer ends before the first record at or after this time.
    pub until: Option<TimestampMs>,
    /// The most records in one answer.
    pub max_records: u64,
    /// The most stored bytes in one answer.
    pub max_bytes: u64,
    /// How long to wait for `min_bytes`.
    pub wait: Duration,
    /// How many stored bytes end the wait; never more than `max_bytes`.
    pub min_bytes: u64,
    /// Whether batches are the unit of an answer, as they are stored, or records.
    pub whole_batches: bool,
}

/// The offsets that a fetch asks for.
#[derive(Clone, Copy, Debug)]
pub struct FetchRange {
    /// The first.
    pub from: Offset,
    /// Exclusive.
    pub until: Option<Offset>,
    /// Its records never change, except that they may be trimmed.
    pub is_closed: bool,
    /// Set if all records were before the `until` time when the log ended here: `until` is this end, and the time is
    /// looked up again once there are more records.
    pub(super) open_as_of: Option<Offset>,
}

impl FetchRange {
    pub(super) fn limits(&self, request: &FetchRequest) -> PageLimits {
        PageLimits {
            from: self.from,
            until: self.until,
            max_records: request.max_records,
            max_bytes: request.max_bytes,
            unit: match request.whole_batches {
                true => Unit::StoredBatches,
                false => Unit::Records,
            },
        }
    }
}

impl Fetcher {
    /// Looks up times and words, and checks that the range begins within the log.
    ///
    /// # Errors
    /// `OffsetTrimmed` and `OffsetOutOfRange` for an offset outside of the log, with its positions; `CorruptData` if
    /// damage hides the offset of a time.
    pub async fn resolve(
        &self,
        partition: &Arc<Partition>,
        request: &FetchRequest,
    ) -> Result<FetchRange, Refusal> {
        // Read before times are looked up: "all records are before the time" then holds for all below this end.
        let positions = partition.positions();
        let from = match request.start {
            FetchStart::Offset(offset) => offset,
            FetchStart::Earliest => positions.log_start_offset,
            FetchStart::Latest => positions.end_offset,
            FetchStart::Time(time) => self
                .first_at_or_after(partition, time)
                .await?
                .unwrap_or(positions.end_offset),
        };
        check_within(from, positions)?;
        let until = request.until_offset;
        let mut range = FetchRange {
            from,
            until,
            is_closed: until.is_some_and(|until| until <= positions.end_offset),
            open_as_of: None,
        };
        self.resolve_until(&mut range, partition, request, positions)
            .await?;
        Ok(range)
    }

    /// Finds the end of a range that ends by a time, as of `positions`.
    pub(super) async fn resolve_until(
        &self,
        range: &mut FetchRange,
        partition: &Arc<Partition>,
        request: &FetchRequest,
        positions: Positions,
    ) -> Result<(), Refusal> {
        let Some(time) = request.until else {
            return Ok(());
        };
        let found = self.first_at_or_after(partition, time).await?;
        range.open_as_of = found.is_none().then_some(positions.end_offset);
        let until = found.unwrap_or(positions.end_offset);
        range.until = Some(request.until_offset.map_or(until, |offset| offset.min(until)));
        Ok(())
    }

    async fn first_at_or_after(
        &self,
        partition: &Arc<Partition>,
        time: TimestampMs,
    ) -> Result<Option<Offset>, Refusal> {
        let (log, partition) = (self.log.clone(), Arc::clone(partition));
        let find = move || Ok(skips::offset_for_time(&log, &partition, time)?);
        let found = self.blocking.attempt(Share::Read, find).await?;
        Ok(found.map(|(offset, _)| offset))
    }
}

/// Checks that a read may begin at `offset`.
///
/// # Errors
/// `OffsetTrimmed` below the log start, `OffsetOutOfRange` above the end.
pub fn check_within(offset: Offset, positions: Positions) -> Result<(), Refusal> {
    let Positions {
        log_start_offset,
        end_offset,
        ..
    } = positions;
    if offset < log_start_offset {
        return Err(Error::Trimmed {
            offset,
            log_start_offset,
            end_offset,
        }
        .into());
    }
    if offset > end_offset {
        return Err(Error::OutOfRange {
            offset,
            log_start_offset,
            end_offset,
        }
        .into());
    }
    Ok(())
}
