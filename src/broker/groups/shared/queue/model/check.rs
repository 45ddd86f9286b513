//! What a queue says is what its model says.

use super::*;

impl Pair {
    pub(super) fn check(&self) {
        let queue = &self.queue;
        let next = queue.next().get();
        let own = self.records.iter().filter(|(_, record)| !record.is_returned);
        let first = own.map(|(offset, _)| *offset).next();
        assert_eq!(queue.floor().get(), first.unwrap_or(next).min(next));
        let seen = || {
            self.records
                .range(..next)
                .map(|(offset, record)| (*offset, record))
        };
        for (offset, record) in self.records.range(next..) {
            assert_eq!(*record, Record::default(), "nobody has looked at {offset}");
        }
        assert_eq!(queue.unsettled(), seen().count());
        let leased = seen().filter(|(_, record)| record.lease.is_some());
        let expected: Vec<_> = leased
            .map(|(offset, record)| {
                let (member, deadline) = record.lease.expect("it is leased");
                (at(offset), member, record.deliveries, deadline)
            })
            .collect();
        assert_eq!(queue.leases().collect::<Vec<_>>(), expected);
        assert_eq!(queue.leased(), expected.len());
        for member in (0..3).map(MemberKey) {
            let held = seen().filter(|(_, record)| {
                record.change.is_none() && record.lease.is_some_and(|(holder, _)| holder == member)
            });
            assert_eq!(queue.leased_to(member), held.count());
        }
        let delayed = || seen().filter(|(_, record)| record.is_delayed());
        assert_eq!(queue.delayed(), delayed().count());
        assert_eq!(
            queue.next_due(),
            delayed().filter_map(|(_, record)| record.due).min()
        );
        let running = seen().filter(|(_, record)| record.change.is_none());
        let deadlines = running.filter_map(|(_, record)| record.lease.map(|(_, deadline)| deadline));
        assert_eq!(queue.next_deadline(), deadlines.min());
        let is_unknown = |record: &Record| !record.is_seen && !record.is_returned && record.is_ready();
        let is_unread = |record: &&Record| self.rules.looks() && is_unknown(record);
        let ready = self.leasable().len() + self.records.values().filter(is_unread).count();
        assert_eq!(queue.waiting(at(self.end)), ready as u64);
        let is_out = |record: &Record| record.is_exhausted && record.change.is_none();
        let has_due = ready > 0 || self.records.values().any(is_out);
        assert_eq!(queue.has_due(at(self.end)), has_due);
        let due = seen().find(|(_, record)| !record.is_delayed() && !record.is_returned);
        assert_eq!(queue.first_due().get(), due.map_or(next, |(offset, _)| offset));
        let exhausted = seen().filter(|(_, record)| record.is_exhausted && record.change.is_none());
        let exhausted: Vec<Offset> = exhausted.map(|(offset, _)| at(offset)).collect();
        assert_eq!(queue.exhausted(usize::MAX), exhausted);
        assert_eq!(
            queue.is_settling(),
            !self.changes.is_empty()
                || self
                    .flight
                    .as_ref()
                    .is_some_and(|flight| !flight.changes.is_empty())
        );
        assert_eq!(queue.is_writing(), self.flight.is_some());
    }
}
