//! How the model becomes durable, and what a crash leaves of it.

use super::*;

impl Pair {
    pub(super) fn begin_write(&mut self, changes: usize) {
        if self.flight.is_some() {
            return;
        }
        let changes: Vec<ChangeId> = self.changes.drain(..changes % (self.changes.len() + 1)).collect();
        let written = self.queue.begin_write(&changes);
        let is_open = |record: &Record| record.change.is_none_or(|change| !changes.contains(&change));
        let records = self.records.iter().filter(|(_, record)| is_open(record));
        let records = records
            .map(|(offset, record)| (*offset, record.after_a_crash()))
            .collect();
        for (number, rows) in &written.blocks {
            assert!(rows.iter().all(|(offset, _)| block_of(*offset) == *number));
        }
        self.flight = Some(Flight {
            changes,
            written,
            records,
            released: self.released.clone(),
        });
    }

    /// Writes the entries of a write as the service does.
    pub(super) fn store(&mut self, flight: &Flight) {
        self.head = flight.written.head.encode();
        for (number, rows) in &flight.written.blocks {
            match rows.is_empty() {
                true => drop(self.blocks.remove(number)),
                false => drop(self.blocks.insert(*number, codec::encode_block(*number, rows))),
            }
        }
        for (offset, entry) in &flight.written.returned {
            match entry {
                None => drop(self.returned.remove(&offset.get())),
                Some((record, letter)) => {
                    let value = codec::encode_returned(*record, *letter);
                    self.returned.insert(offset.get(), value);
                }
            }
        }
        self.durable.clone_from(&flight.records);
        self.durable_released.clone_from(&flight.released);
        let first = block_of(flight.written.head.floor);
        assert!(
            self.blocks.keys().all(|number| *number >= first),
            "entries below the floor stay"
        );
    }

    pub(super) fn end_write(&mut self, is_durable: bool) {
        let Some(flight) = self.flight.take() else { return };
        if is_durable {
            self.store(&flight);
            self.queue.commit();
            self.records.retain(|_, record| {
                record
                    .change
                    .is_none_or(|change| !flight.changes.contains(&change))
            });
        } else {
            self.queue.abort();
            for change in &flight.changes {
                self.undone(*change);
            }
        }
    }

    pub(super) fn crash(&mut self, has_written: bool) {
        if let Some(flight) = self.flight.take()
            && has_written
        {
            self.store(&flight);
        }
        let next = match self.head.is_empty() {
            true => {
                self.queue = Queue::new(Offset::ZERO, MAX_DELIVERIES);
                0
            }
            false => {
                let blocks = self.blocks.iter().map(|(number, value)| (*number, &value[..]));
                let mut saved = Saved::decode(&self.head, blocks).expect("the entries are readable");
                for (offset, value) in &self.returned {
                    let (record, letter) = codec::decode_returned(value).expect("it is readable");
                    saved.returned.push((at(*offset), record, letter));
                }
                let next = saved.head.next.get();
                self.queue = Queue::restore(saved, MAX_DELIVERIES);
                next
            }
        };
        self.records = self
            .durable
            .range(..next)
            .map(|(at, record)| (*at, *record))
            .collect();
        let fresh = next..self.end;
        self.records
            .extend(fresh.map(|offset| (offset, Record::default())));
        self.queue.set_looking(self.rules.looks());
        self.queue.trim(self.now.moment, at(self.log_start));
        self.trimmed();
        self.changes.clear();
        self.released.clone_from(&self.durable_released);
        self.named.clear();
        // Polls of an earlier process have other numbers than those of this one, and are acknowledged all the same.
        self.queue.expire(self.now);
        self.expire();
    }
}
