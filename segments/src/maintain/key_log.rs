//! The partition that holds the idempotency keys: makes it, reads it when the log is opened, and shortens it.
//!
//! Crash: a record that was appended again may be stored twice, with the same content; the log start passes the old one
//! only when the new one is durable. A damaged record is reported, and its key is lost; nothing else is affected.

use std::collections::HashSet;
use std::sync::Arc;

use crate::append::keys::{Kept, Remembered, encode_id};
use crate::batch::{BatchError, Batches, Records};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::description::{TopicSettings, TopicSpec};
use crate::segment::read::{Fetched, ReadRequest};
use crate::ticket::{Appended, Ticket};
use crate::topic::catalog::{Catalog, KEYS};
use crate::topic::partition::{Partition, TrimQueue};
use crate::types::{Offset, TopicId};

/// The internal topic.
/// From this size on the log is shortened, by appending its needed records again…
const LONG_LOG_BYTES: u64 = 8 << 20;
/// …if less than one of this many bytes is still needed.
const MOSTLY_EXPIRED: u64 = 4;
/// How much of the partition is read at once.
const PAGE_BYTES: usize = 1 << 20;
/// The most that one pass of retention reads to append some of it again.
const PASS_BYTES: u64 = 64 << 20;
/// The most that one operation appends again.
const PORTION_BYTES: usize = 256 << 10;
/// How many entries are dropped while the lock is held once.
const TIDY_STEPS: usize = 1_024;

/// What could not be read when the log was opened.
#[derive(Default)]
struct Lost {
    places: u64,
    first: Option<String>,
}

impl Lost {
    fn note(&mut self, what: impl FnOnce() -> String) {
        self.places += 1;
        self.first.get_or_insert_with(what);
    }
}

/// The partition of the internal topic, if the topic exists.
fn find(catalog: &Catalog) -> Option<Arc<Partition>> {
    catalog.get(KEYS)?.partition(0)
}

impl Engine {
    /// Makes the internal topic, if it does not exist.
    pub(crate) fn prepare_keys(&self) -> Result<()> {
        if self.has_keys() {
            return Ok(());
        }
        let settings = TopicSettings::segments_of(self.long_log_bytes() / 2);
        let spec = TopicSpec::new(1, settings);
        match self.create_topic(KEYS, spec) {
            Ok(_) | Err(Error::TopicExists(_)) => {
                *self.key_log.write() = find(&self.catalog);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the internal topic is there.
    pub(crate) fn has_keys(&self) -> bool {
        self.key_log.read().is_some()
    }

    /// The answer to a request with this key, if one was stored before; `None` if that is unknown or not durable yet.
    pub(crate) fn recall(
        &self,
        topic: Option<TopicId>,
        key: &[u8],
        fingerprint: &[u8; 16],
    ) -> Option<Result<Appended>> {
        if !self.options.key_precautions().0 {
            return None;
        }
        let of_log = || Some(self.key_log.read().as_ref()?.id().topic);
        let id = encode_id(topic.or_else(of_log)?, key);
        let keys = self.keys.lock();
        let entry = Arc::clone(keys.get(&id, self.clock.now())?);
        drop(keys);
        Some(entry.answer(fingerprint))
    }

    /// How many keys are remembered, and how many bytes of memory they use.
    pub(crate) fn remembered_keys(&self) -> (u64, u64) {
        let keys = self.keys.lock();
        (keys.len() as u64, keys.bytes() as u64)
    }

    fn long_log_bytes(&self) -> u64 {
        self.options.long_key_log_bytes().unwrap_or(LONG_LOG_BYTES)
    }

    /// Reads the partition from its log start, a page at a time, and remembers what has not expired. Called when the log is
    /// opened, before anything else is done with it.
    ///
    /// # Errors
    /// All errors of reading except damage: the next start tries again. Damage is noted and passed over.
    pub(crate) fn load_keys(&self) -> Result<()> {
        let Some(partition) = find(&self.catalog) else {
            return Ok(());
        };
        let topics: HashSet<TopicId> = self.catalog.list().iter().map(|topic| topic.id()).collect();
        let now = self.clock.now();
        let mut keys = self.keys.lock();
        let mut lost = Lost::default();
        let positions = partition.positions();
        let mut from = positions.log_start_offset;
        while from < positions.end_offset {
            let read = || read_page(&partition, from, positions.end_offset);
            // Try twice, as a disk may fail for a moment: without its key, a repeated request is stored again.
            let page = match read().or_else(|_| read()) {
                Ok(page) => page,
                Err(Error::Damaged { damaged_until, .. }) if damaged_until > from => {
                    lost.note(|| format!("offsets {from} to {damaged_until} (exclusive) cannot be read"));
                    from = damaged_until;
                    continue;
                }
                Err(error) => return Err(error),
            };
            from = page.next_offset.max(from.plus(1));
            let not_records = for_each_record(&page, |offset, id, value| {
                match Remembered::decode(id, value, offset) {
                    // An expired entry counts too: it replaced the earlier entry of its key.
                    Ok(entry) if entry.is_expired(now) => keys.forget(id),
                    Ok(entry) if topics.contains(&entry.topic()) => keys.remember_read(entry),
                    Ok(_) => {}
                    Err(what) => lost.note(|| format!("offset {offset}: {what}")),
                }
            });
            if let Err(what) = not_records {
                lost.note(|| format!("before offset {from}: {what}"));
            }
        }
        drop(keys);
        *self.key_log.write() = Some(partition);
        self.report_lost_keys(&lost);
        Ok(())
    }

    /// Reports all lost places in one message: there may be as many as keys.
    fn report_lost_keys(&self, lost: &Lost) {
        let Lost {
            places,
            first: Some(first),
        } = lost
        else {
            return;
        };
        let what = format!(
            "idempotency keys in {KEYS}/0 are lost (places: {places}, the first: {first}): a request with one of them is appended again"
        );
        tracing::error!(
            damage = what,
            "the data directory is damaged: what is healthy is served; run quipu verify"
        );
        self.damage.lock().push(what);
    }

    /// Drops expired keys, moves the partition's log start up to the first needed record, and queues old needed records
    /// to be appended again: the next pass moves the log start past them. Does not wait for any of this.
    ///
    /// # Errors
    /// As for a trim.
    pub(crate) fn queue_key_retention(&self, tickets: &mut Vec<Ticket>) -> Result<()> {
        let Some(partition) = self.key_log.read().clone() else {
            return Ok(());
        };
        let now = self.clock.now();
        while !self.keys.lock().tidy(now, TIDY_STEPS) {}
        // Read the end before the map: every record below this end is in the map already.
        let end_offset = partition.positions().end_offset;
        let view = partition.view();
        let (needed, live_bytes) = {
            let keys = self.keys.lock();
            (keys.first_needed().unwrap_or(end_offset), keys.live_bytes())
        };
        // Only whole segments are deleted, so the log start moves to a segment's base, at most to that of the last one.
        let mut bases = view.segments.iter().map(|segment| segment.base_offset());
        let start = bases.rfind(|base| *base <= needed);
        if let Some(start) = start
            && start > view.log_start_offset
        {
            tickets.push(self.queue.trim(Arc::clone(&partition), start, Vec::new())?);
        }
        let kept: Vec<(Offset, u64)> = view
            .segments
            .iter()
            .filter(|segment| start.is_none_or(|start| segment.base_offset() >= start))
            .map(|segment| (segment.base_offset(), segment.readable().get()))
            .collect();
        let bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        if bytes > self.long_log_bytes() && live_bytes * MOSTLY_EXPIRED < bytes {
            self.queue_again(&partition, &kept, bytes, tickets)?;
        }
        Ok(())
    }

    /// Queues the needed records of the older half of the log to be appended again. Less than half of that half is
    /// needed, so each byte that is appended again frees at least one more.
    fn queue_again(
        &self,
        partition: &Arc<Partition>,
        segments: &[(Offset, u64)],
        bytes: u64,
        tickets: &mut Vec<Ticket>,
    ) -> Result<()> {
        // At least one segment, but never the last.
        let mut until = segments[0].0;
        let mut passed = 0;
        for pair in segments.windows(2) {
            until = pair[1].0;
            passed += pair[0].1;
            if passed >= PASS_BYTES.min(bytes / 2) {
                break;
            }
        }
        let now = self.clock.now();
        // Each record came in a request, so one record always fits in a round.
        let most = PORTION_BYTES.min(self.options.max_request_bytes / 2);
        let mut portion: Vec<Kept> = Vec::new();
        let mut portion_bytes = 0;
        let mut next = segments[0].0.max(partition.positions().log_start_offset);
        while next < until {
            let page = match read_page(partition, next, until) {
                Ok(page) => page,
                // A record that cannot be read stays where it is until it expires.
                Err(Error::Damaged { damaged_until, .. }) if damaged_until > next => {
                    next = damaged_until;
                    continue;
                }
                Err(error) => return Err(error),
            };
            next = page.next_offset.max(next.plus(1));
            let mut wanted = Vec::new();
            let keys = self.keys.lock();
            let _damage_is_known_to_the_reader = for_each_record(&page, |offset, id, value| {
                if keys.get(id, now).is_some_and(|entry| entry.offset() == offset) {
                    wanted.push(Kept {
                        offset,
                        id: id.to_vec(),
                        value: value.to_vec(),
                    });
                }
            });
            drop(keys);
            for kept in wanted {
                if portion_bytes + kept.bytes() > most && !portion.is_empty() {
                    portion_bytes = 0;
                    tickets.push(self.queue.keep_keys(std::mem::take(&mut portion))?);
                }
                portion_bytes += kept.bytes();
                portion.push(kept);
            }
        }
        if !portion.is_empty() {
            tickets.push(self.queue.keep_keys(portion)?);
        }
        Ok(())
    }
}

fn read_page(partition: &Partition, from: Offset, until: Offset) -> Result<Fetched> {
    partition.read(ReadRequest::new(from, PAGE_BYTES).until(until))
}

/// Passes the offset, key and value of every record to `take`. The error: a batch or record is malformed.
fn for_each_record(page: &Fetched, mut take: impl FnMut(Offset, &[u8], &[u8])) -> Result<(), BatchError> {
    for run in &page.runs {
        for batch in Batches::new(&run.bytes) {
            for record in Records::new(batch?.1)? {
                let record = record?;
                take(
                    record.offset,
                    record.key.unwrap_or_default(),
                    record.value.unwrap_or_default(),
                );
            }
        }
    }
    Ok(())
}
