//! Reading what is readable, in several ways.

use quipu_segments::sim::Rng;
use quipu_segments::{Clock, Error, Offset, TimestampMs};

use super::Driver;
use crate::check;

impl Driver {
    /// Reads what is readable, in several ways; none of it may ever be lost.
    pub(super) fn observe(&mut self) {
        if self.disk.is_off() {
            return;
        }
        let mut rng = self.rng.fork();
        let max_bytes = [1, 3_000, 1 << 20][rng.index(3)];
        let again = rng.clone();
        if self.plan.stop_at.is_none() && self.rng.chance(1, 4) {
            self.trouble_reads();
        }
        let result = self.look(max_bytes, rng);
        self.tally.reported += u64::from(self.disk.stop_flips() > 0 && result.is_err());
        if result.is_err() {
            // After a passing read error, the same read succeeds.
            self.disk.pause_faults(true);
            let result = self.look(max_bytes, again);
            self.disk.pause_faults(false);
            assert!(result.is_ok() || self.disk.is_off(), "reading again: {result:?}");
        }
        if !self.disk.is_off() {
            check::check_state(&self.log(), &mut self.model);
        }
    }

    /// Reads what is readable; an error must come from a fault during this read.
    fn look(&mut self, max_bytes: usize, mut rng: Rng) -> Result<(), Error> {
        let failed = self.failures_so_far();
        let from = |start, end| rng.between(start, end);
        let log = self.log();
        let result = check::observe(&log, &mut self.model, max_bytes, from).and_then(|()| self.search());
        if let Err(error) = &result {
            say!(self, "reading fails: {error}");
            let flipped = match error {
                Error::Damaged {
                    damaged_from,
                    damaged_until,
                    ..
                } => damaged_from < damaged_until && self.disk.flipped_bits() > 0,
                _ => false,
            };
            let is_explained = flipped || self.disk.is_off() || self.failures_so_far() > failed;
            assert!(is_explained, "reading: {error}");
        }
        result
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
        let from = |offset: Offset| {
            let row = |(offset, name): (&u64, _)| {
                let record = self.model.record(name).expect("it was appended");
                (Offset::new(*offset), TimestampMs(record.timestamp))
            };
            let rows = known.records.range(offset.get()..end.get());
            rows.map(move |(offset, name)| row((offset, *name)))
        };
        let first = from(start).find(|(_, timestamp)| timestamp.get() >= time);
        let offset = Offset::new(self.rng.clone().between(start.get(), end.get()));
        let found = partition.offset_for_time(TimestampMs(time))?;
        let located = partition.locate(offset)?;
        assert_eq!(
            found, first,
            "the first record of {id} at or after {time}, {positions:?}"
        );
        let expected = from(offset).next();
        assert_eq!(located.next, expected, "offset {offset} of {id}, {positions:?}");
        assert_eq!(located.bytes_to_end == 0, expected.is_none());
        Ok(())
    }
}
