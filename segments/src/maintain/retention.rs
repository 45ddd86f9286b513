//! Retention by time and by size: a pure function chooses the segments to delete, then the log start is moved.
//!
//! By time, a segment's age counts from the earlier of its largest timestamp and its last append: a producer may choose
//! a timestamp in the future, which must not keep the topic for ever. The time of the last append is not stored. After
//! a restart, the log file's modification time replaces it. That time is not too early, so nothing is deleted too soon,
//! and it does not depend on the clock at the restart, which may be wrong. It is too late if recovery wrote a segment's
//! end again, or a backup was restored without file times: then the segment stays for up to `retention_ms` longer.
//!
//! Whole segments are deleted, the oldest first. The log start moves first, through the journal; files are removed
//! after that is durable, so a crash in between leaves files that the next start removes.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::files::description::TopicSettings;
use crate::segment::Span;
use crate::ticket::Ticket;
use crate::topic::partition::{Partition, TrimQueue};
use crate::types::{Offset, TimestampMs};

/// What retention must know about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// One past its last offset.
    end: Offset,
    bytes: u64,
    /// The earlier of its largest timestamp and its last append; `None` if the disk cannot read it: the segment stays.
    time: Option<TimestampMs>,
}

/// The new log start: the end of the last segment to delete; `None` if all stay.
///
/// By time, segments are deleted from the oldest on while their time is older than `retention_ms`. By size, they are
/// deleted while the rest still holds `retention_bytes`. The active segment (the last) can be deleted by time only.
fn choose(segments: &[Candidate], settings: &TopicSettings, now: TimestampMs) -> Option<Offset> {
    let expired = settings.retention_ms.map_or(0, |retention_ms| {
        let horizon = now
            .get()
            .saturating_sub(i64::try_from(retention_ms).unwrap_or(i64::MAX));
        segments
            .iter()
            .take_while(|segment| segment.time.is_some_and(|time| time.get() < horizon))
            .count()
    });
    let surplus = settings.retention_bytes.map_or(0, |retention_bytes| {
        let mut remaining: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let closed = segments.len().saturating_sub(1);
        segments[..closed]
            .iter()
            .take_while(|segment| {
                remaining -= segment.bytes;
                remaining >= retention_bytes
            })
            .count()
    });
    expired.max(surplus).checked_sub(1).map(|last| segments[last].end)
}

impl Engine {
    /// Moves the log starts as retention requires, and waits until that is durable.
    ///
    /// # Errors
    /// As for a trim: the first one that fails ends the pass.
    pub(crate) fn apply_retention(&self) -> Result<()> {
        for ticket in self.queue_retention()? {
            ticket.wait()?;
        }
        Ok(())
    }

    /// Queues the moves, without waiting for them.
    ///
    /// # Errors
    /// As for a trim: the first one that is refused ends the pass.
    pub(crate) fn queue_retention(&self) -> Result<Vec<Ticket>> {
        let mut tickets = Vec::new();
        let now = self.clock.now();
        for topic in self.catalog.list() {
            let settings = topic.spec().settings.clone();
            if settings.retention_ms.is_none() && settings.retention_bytes.is_none() {
                continue;
            }
            for partition in &*topic.partitions() {
                if let Some(start) = wanted_start(partition, &settings, now)
                    && start > partition.positions().log_start_offset
                {
                    tracing::info!(
                        partition = partition.name(),
                        log_start_offset = start.get(),
                        "retention deletes old segments"
                    );
                    tickets.push(self.queue.trim(Arc::clone(partition), start, Vec::new())?);
                }
            }
        }
        self.queue_key_retention(&mut tickets)?;
        Ok(tickets)
    }
}

impl Partition {
    /// Where the log would start if these were its settings and retention ran now; `None` if nothing would go. May wait
    /// for the disk.
    pub fn would_start(&self, settings: &TopicSettings, now: TimestampMs) -> Option<Offset> {
        let start = wanted_start(self, settings, now)?;
        (start > self.positions().log_start_offset).then_some(start)
    }
}

fn wanted_start(partition: &Partition, settings: &TopicSettings, now: TimestampMs) -> Option<Offset> {
    let view = partition.view();
    let candidates: Vec<Candidate> = view
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| Candidate {
            end: view
                .segments
                .get(index + 1)
                .map_or(view.end_offset, |next| next.base_offset()),
            bytes: segment.readable().get(),
            time: if settings.retention_ms.is_some() {
                let whole = Span::whole(segment.base_offset());
                segment.retention_time(&whole).ok().flatten()
            } else {
                None
            },
        })
        .collect();
    choose(&candidates, settings, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(end: u64, bytes: u64, time: i64) -> Candidate {
        Candidate {
            end: Offset::new(end),
            bytes,
            time: Some(TimestampMs(time)),
        }
    }

    fn settings(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> TopicSettings {
        TopicSettings {
            retention_ms,
            retention_bytes,
            ..TopicSettings::default()
        }
    }

    #[test]
    fn a_segment_whose_age_cannot_be_told_is_kept_and_all_after_it() {
        let unknown = Candidate {
            time: None,
            ..segment(10, 1, 0)
        };
        let segments = [unknown, segment(20, 1, 0)];
        assert_eq!(choose(&segments, &settings(Some(0), None), TimestampMs(9)), None);
    }

    #[test]
    fn segments_go_by_time_from_the_oldest_until_one_is_young_enough() {
        let segments = [
            segment(10, 1, 100),
            segment(20, 1, 300),
            segment(30, 1, 150),
            segment(40, 1, 500),
        ];
        let now = TimestampMs(1200);
        let found = choose(&segments, &settings(Some(1000), None), now);
        assert_eq!(found, Some(Offset::new(10)));
        let found = choose(&segments, &settings(Some(899), None), now);
        assert_eq!(found, Some(Offset::new(30)));
        assert_eq!(choose(&segments, &settings(Some(1100), None), now), None);
        let found = choose(&segments, &settings(Some(0), None), now);
        assert_eq!(found, Some(Offset::new(40)), "the active one too");
    }

    #[test]
    fn segments_go_by_size_while_the_rest_holds_enough_and_the_active_one_stays() {
        let segments = [segment(10, 100, 0), segment(20, 100, 0), segment(30, 50, 0)];
        let now = TimestampMs(0);
        let found = choose(&segments, &settings(None, Some(150)), now);
        assert_eq!(found, Some(Offset::new(10)));
        assert_eq!(choose(&segments, &settings(None, Some(151)), now), None);
        let found = choose(&segments, &settings(None, Some(0)), now);
        assert_eq!(found, Some(Offset::new(20)));
        assert_eq!(choose(&[], &settings(Some(0), Some(0)), now), None);
    }
}
