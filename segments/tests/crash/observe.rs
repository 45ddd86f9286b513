//! Reading what is readable, in several ways.

use quipu_segments::{Clock, Error, Offset, TimestampMs};

use super::Driver;
use crate::check;

impl Driver {
    /// Reads what is readable, in several ways; nothing of it may ever be taken back.
    pub(super) fn observe(&mut self) {
        if self.disk.is_off() {
            return;
        }
        let log = self.log();
        let failed = self.disk.failed_calls();
        let mut rng = self.rng.fork();
        let max_bytes = [1, 3_000, 1 << 20][rng.index(3)];
        let from = |start, end| rng.between(start, end);
        let result = check::observe(&log, &mut self.model, max_bytes, from).and_then(|()| self.search());
        if let Err(error) = result {
            say!(self, "reading fails: {error}");
            let excused = self.disk.is_off() || self.disk.failed_calls() > failed;
            assert!(excused, "reading: {error}");
            return;
        }
        if self.model.open_requests().is_empty() {
            check::check_state(&log, &self.model);
        }
    }

    /// Looks for offsets and times.
    fn search(&mut self) -> Result<(), Error> {
        let partitions = self.partitions();
        if partitions.is_empty() {
            return Ok(());
        }
        let partition = &partitions[self.rng.index(partitions.len())];
        let (id, positions) = (partition.id(), partition.positions());
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        let known = self.model.topics[&id.topic].partitions[&id.index].clone();
        let time = self.clock.now().get() + self.rng.below(12_000) as i64 - 10_000;
        let record = |offset: u64| {
            self.model
                .record(known.records[&offset])
                .expect("it was appended")
        };
        let first = (start.get()..end.get()).find(|offset| record(*offset).timestamp >= time);
        let offset = Offset::new(self.rng.clone().between(start.get(), end.get()));
        let failed = self.disk.failed_calls();
        let found = partition.offset_for_time(TimestampMs(time))?;
        let located = partition.locate(offset)?;
        if self.disk.is_off() || self.disk.failed_calls() > failed {
            // What cannot be read is passed over like damage.
            return Ok(());
        }
        assert_eq!(
            found.map(|(offset, time)| (offset.get(), time.get())),
            first.map(|offset| (offset, record(offset).timestamp)),
            "the first record of {id} at or after {time}, {positions:?}"
        );
        let expected = (offset < end).then(|| (offset, TimestampMs(record(offset.get()).timestamp)));
        assert_eq!(located.next, expected, "offset {offset} of {id}, {positions:?}");
        assert_eq!(located.bytes_to_end == 0, offset == end);
        Ok(())
    }
}
