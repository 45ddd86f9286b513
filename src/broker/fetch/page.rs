//! A page: the part of a read that goes into the answer.
//!
//! The engine reads whole batches; a client asks for records. Batches that lie wholly within the limits are counted by
//! their headers alone, so choosing costs next to nothing; only those at the edges are walked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::broker::engine::batch::{BatchError, Batches, Record, Records, SealedBatch};
use crate::broker::engine::{Fetched, Offset, Positions, Run};
use crate::broker::topics::skips::Gap;

/// The limits of one answer.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// The first offset wanted.
    pub(crate) from: Offset,
    /// Exclusive end.
    pub(crate) until: Option<Offset>,
    pub(crate) max_records: u64,
    /// Stored bytes; one record (or batch) is chosen, however large.
    pub(crate) max_bytes: u64,
    pub(crate) unit: Unit,
}

/// What a page consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records. Compressed batches are inflated, and their stored bytes are those that they inflate to.
    Records,
    /// Whole batches for a reader of records, as many as fit: inflated too.
    Batches,
    /// Whole batches for a client that takes them as they are stored, compressed or not.
    StoredBatches,
}

impl PageLimits {
    /// Whole batches as they are stored that have an offset in `from..until`, about `max_bytes` of them.
    pub(crate) fn batches(from: Offset, until: Offset, max_bytes: u64) -> Self {
        Self {
            from,
            until: (until < Offset::MAX).then_some(until),
            max_records: u64::MAX,
            max_bytes,
            unit: Unit::StoredBatches,
        }
    }

    /// The same for a reader of records.
    pub(crate) fn whole(from: Offset, until: Offset, max_bytes: u64) -> Self {
        Self {
            unit: Unit::Batches,
            ..Self::batches(from, until, max_bytes)
        }
    }
}

/// The records of one answer: those in `runs` with offsets in `from..end`, or the kept ones of them.
#[derive(Clone, Debug)]
pub struct Page {
    /// Cut behind the last batch that belongs to the answer.
    pub(crate) runs: Vec<Run>,
    pub(crate) from: Offset,
    pub(crate) end: Offset,
    /// How many there are.
    pub(crate) records: u64,
    /// Their stored bytes: whole batches as they are, single records by their parts.
    pub(crate) stored_bytes: u64,
    /// Where the next fetch begins: one past the last record, or `until` where that was reached.
    pub(crate) next_offset: Offset,
    /// There is more than the answer holds: `max_records` or `max_bytes` was reached, or the next batch does not fit,
    /// or is damaged.
    pub(crate) limited: bool,
    /// `until` was reached.
    pub(crate) ended: bool,
    pub(crate) log_start_offset: Offset,
    pub(crate) end_offset: Offset,
    /// Damaged offsets before `from` that were skipped on purpose.
    pub(crate) gaps: Vec<Gap>,
    /// The offsets of the records that belong to the answer, in order; `None`: all of them do.
    pub(crate) kept: Option<Arc<[Offset]>>,
}

impl Page {
    /// An answer without records.
    pub(crate) fn empty(from: Offset, log_start_offset: Offset, end_offset: Offset) -> Self {
        Self {
            runs: Vec::new(),
            from,
            end: from,
            records: 0,
            stored_bytes: 0,
            next_offset: from,
            limited: false,
            ended: false,
            log_start_offset,
            end_offset,
            gaps: Vec::new(),
            kept: None,
        }
    }

    /// An answer with nothing but skipped offsets, which goes on at `next_offset`.
    pub(crate) fn behind(next_offset: Offset, positions: Positions, gaps: Vec<Gap>) -> Self {
        let mut page = Self::empty(next_offset, positions.log_start_offset, positions.end_offset);
        page.limited = next_offset < page.end_offset;
        page.gaps = gaps;
        page
    }

    /// One record, in a batch of its own that is not in the log.
    pub(crate) fn alone(batch: &SealedBatch, offset: Offset, positions: Positions) -> Self {
        let bytes = Bytes::copy_from_slice(batch.as_bytes());
        Self {
            end: offset.plus(1),
            next_offset: offset.plus(1),
            records: 1,
            stored_bytes: bytes.len() as u64,
            runs: vec![Run {
                bytes,
                json_lines: false,
            }],
            ..Self::empty(offset, positions.log_start_offset, positions.end_offset)
        }
    }

    /// Chooses from `fetched` what lies within `limits`. Runs are kept as they are; nothing is copied. `None`: a batch of
    /// it is compressed, and is to be inflated first.
    ///
    /// # Errors
    /// [`BatchError`] if verified batches cannot be walked, which is a defect of the code that wrote them.
    pub(crate) fn choose(fetched: &Fetched, limits: &PageLimits) -> Result<Option<Self>, BatchError> {
        let mut page = Self::empty(limits.from, fetched.log_start_offset, fetched.end_offset);
        if fetched.runs.is_empty() {
            // A read returns a batch if there is any, so nothing lies between here and where it had to stop.
            let stop = limits
                .until
                .map_or(fetched.end_offset, |until| until.min(fetched.end_offset));
            page.next_offset = page.from.max(stop);
        }
        for run in &fetched.runs {
            let Some(taken) = page.take_run(run, limits)? else {
                return Ok(None);
            };
            if !taken.is_empty() {
                page.runs.push(Run {
                    bytes: run.bytes.slice(taken),
                    json_lines: run.json_lines,
                });
            }
            if page.limited || page.ended {
                break;
            }
        }
        page.end = page.end.max(page.next_offset);
        page.ended |= limits.until.is_some_and(|until| page.next_offset >= until);
        page.limited |= page.records >= limits.max_records
            || page.stored_bytes >= limits.max_bytes
            || (!page.ended && page.next_offset < page.end_offset);
        Ok(Some(page))
    }

    /// Takes what it can of a run; returns the range of bytes with the batches from which it took something. `None`: one
    /// is compressed.
    fn take_run(&mut self, run: &Run, limits: &PageLimits) -> Result<Option<Range<usize>>, BatchError> {
        let is_stored = limits.unit == Unit::StoredBatches;
        let whole_batches = limits.unit != Unit::Records;
        let mut taken = 0..0;
        let mut position = 0;
        for batch in Batches::new(&run.bytes) {
            let (header, batch) = batch?;
            position += batch.len();
            if header.next_offset() <= self.from {
                taken = position..position;
                continue;
            }
            if limits.until.is_some_and(|until| header.base_offset >= until) {
                self.reach(limits);
                break;
            }
            if header.attributes.compression() != 0 && !is_stored {
                return Ok(None);
            }
            let bytes = batch.len() as u64;
            let fits = self.records + u64::from(header.record_count) <= limits.max_records
                && self.stored_bytes + bytes <= limits.max_bytes;
            let within = header.base_offset >= self.from
                && limits.until.is_none_or(|until| header.next_offset() <= until);
            if (fits && within) || (whole_batches && (fits || self.records == 0)) {
                self.records += u64::from(header.record_count);
                self.stored_bytes += bytes;
                self.next_offset = header.next_offset();
                taken.end = position;
                continue;
            }
            if whole_batches {
                self.limited = true;
                break;
            }
            let before = self.records;
            self.take_records(batch, header.next_offset(), limits)?;
            if self.records > before {
                taken.end = position;
            }
            if self.limited || self.ended {
                break;
            }
        }
        Ok(Some(taken))
    }

    /// Takes record after record of a batch that does not lie wholly within the limits and ends at `batch_end`.
    fn take_records(
        &mut self,
        batch: &[u8],
        batch_end: Offset,
        limits: &PageLimits,
    ) -> Result<(), BatchError> {
        let mut records = Records::new(batch)?;
        records.skip_to(self.from);
        for record in records {
            let record = record?;
            if limits.until.is_some_and(|until| record.offset >= until) {
                self.reach(limits);
                return Ok(());
            }
            let bytes = stored_bytes(&record);
            if self.records > 0
                && (self.records >= limits.max_records || self.stored_bytes + bytes > limits.max_bytes)
            {
                self.limited = true;
                return Ok(());
            }
            self.records += 1;
            self.stored_bytes += bytes;
            self.next_offset = record.offset.plus(1);
        }
        // Compaction may leave a gap at the end of a batch, or nothing at all behind `from`.
        self.next_offset = limits.until.map_or(batch_end, |until| batch_end.min(until));
        Ok(())
    }

    /// The page's records in the order of their offsets, each with whether its value is known to be JSON on one line.
    ///
    /// An error is a verified batch that cannot be walked; the caller stops at it.
    #[inline]
    pub fn records(&self) -> PageRecords<'_> {
        PageRecords {
            kept: self.kept.as_deref().map(|kept| {
                let before = kept.partition_point(|offset| *offset < self.from);
                &kept[before..]
            }),
            ..PageRecords::new(&self.runs, self.from, self.end)
        }
    }

    /// Leaves out the records that are not kept. Cost: one walk over the page, and eight bytes for each kept record.
    ///
    /// # Errors
    /// As [`Page::choose`].
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&Record<'_>) -> Kept) -> Result<(), BatchError> {
        let (mut kept, mut bytes) = (Vec::new(), 0);
        let mut stop = None;
        for record in self.records() {
            let (record, _) = record?;
            match is_kept(&record) {
                Kept::Yes => {
                    kept.push(record.offset);
                    bytes += stored_bytes(&record);
                }
                Kept::No => {}
                Kept::Stop => {
                    stop = Some(record.offset);
                    break;
                }
            }
        }
        if let Some(stop) = stop {
            (self.end, self.next_offset) = (stop, stop);
            (self.limited, self.ended) = (true, false);
        }
        (self.records, self.stored_bytes) = (kept.len() as u64, bytes);
        self.kept = Some(kept.into());
        Ok(())
    }

    /// The parts of the page with the records that are kept.
    ///
    /// # Errors
    /// As [`Page::choose`].
    pub(crate) fn keep(&self, mut is_kept: impl FnMut(&Record<'_>) -> bool) -> Result<Vec<Self>, BatchError> {
        let mut ranges: Vec<(Offset, Offset, u64)> = Vec::new();
        let mut is_open = false;
        for record in self.records() {
            let (record, _) = record?;
            let is_next = is_kept(&record);
            match ranges.last_mut().filter(|_| is_open) {
                Some((_, end, records)) if is_next => {
                    (*end, *records) = (record.offset.plus(1), *records + 1);
                }
                _ if is_next => ranges.push((record.offset, record.offset.plus(1), 1)),
                _ => {}
            }
            is_open = is_next;
        }
        let all = self.records.max(1);
        let part = |(from, end, records): (Offset, Offset, u64)| Self {
            from,
            end,
            next_offset: end,
            records,
            stored_bytes: self.stored_bytes * records / all,
            gaps: Vec::new(),
            ..self.clone()
        };
        match ranges[..] {
            // Offsets without a record at its edges stay in a page that is kept whole.
            [(_, _, records)] if records == self.records => Ok(vec![self.clone()]),
            _ => Ok(ranges.into_iter().map(part).collect()),
        }
    }

    /// Ends the page at `end`, if its last batch goes beyond that.
    pub(crate) fn end_by(&mut self, end: Offset) {
        self.next_offset = self.next_offset.min(end);
        self.end = self.next_offset;
    }

    /// Notes that everything before `until` is in the answer.
    fn reach(&mut self, limits: &PageLimits) {
        self.ended = true;
        if let Some(until) = limits.until {
            self.next_offset = self.next_offset.max(until);
        }
    }
}

/// Whether a record stays in a page; see [`Page::retain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    No,
    /// It does not, and the page ends before it.
    Stop,
}

/// The records of a page, in order; see [`Page::records`].
#[derive(Clone, Debug)]
pub struct PageRecords<'a> {
    runs: std::slice::Iter<'a, Run>,
    batches: Batches<'a>,
    records: Option<Records<'a>>,
    json_lines: bool,
    from: Offset,
    end: Offset,
    /// The offsets that are still to come; `None`: all of `from..end`.
    kept: Option<&'a [Offset]>,
}

impl<'a> PageRecords<'a> {
    /// Walks the records in `runs` with offsets in `from..end`.
    pub fn new(runs: &'a [Run], from: Offset, end: Offset) -> Self {
        Self {
            runs: runs.iter(),
            batches: Batches::new(&[]),
            records: None,
            json_lines: false,
            from,
            end,
            kept: None,
        }
    }
}

/// Whether a record is kept, and all before it are over.
#[inline]
fn is_kept(kept: &mut Option<&[Offset]>, offset: Offset) -> bool {
    match kept {
        None => true,
        Some([next, rest @ ..]) if *next == offset => {
            *kept = Some(rest);
            true
        }
        Some(_) => false,
    }
}

impl<'a> Iterator for PageRecords<'a> {
    type Item = Result<(Record<'a>, bool), BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.records {
                for record in records.by_ref() {
                    match record {
                        Ok(record) if record.offset >= self.end => return None,
                        Ok(record) if !is_kept(&mut self.kept, record.offset) => {}
                        record => return Some(record.map(|record| (record, self.json_lines))),
                    }
                }
                self.records = None;
            }
            if self.kept.is_some_and(<[Offset]>::is_empty) {
                return None;
            }
            match self.batches.next() {
                // Nothing of this batch is kept.
                Some(Ok((header, _))) if self.kept.is_some_and(|kept| kept[0] >= header.next_offset()) => {}
                Some(batch) => match batch.and_then(|(_, batch)| Records::new(batch)) {
                    Ok(mut records) => {
                        records.skip_to(self.from);
                        self.records = Some(records);
                    }
                    Err(error) => return Some(Err(error)),
                },
                None => {
                    let run = self.runs.next()?;
                    self.batches = Batches::new(&run.bytes);
                    self.json_lines = run.json_lines;
                }
            }
        }
    }
}

/// About what a record takes in its batch: its parts, and a byte for each of the lengths and deltas between them.
#[inline]
pub(crate) fn stored_bytes(record: &Record<'_>) -> u64 {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| 2 + name.len() + value.map_or(0, <[u8]>::len))
        .sum();
    (8 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers) as u64
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::batch::BatchBuilder;
    use bytes::Bytes;

    use super::*;

    /// Runs of batches of so many records each, with values of ten bytes, from offset `first` on.
    fn fetched(first: u64, runs: &[&[u32]]) -> Fetched {
        let mut next = first;
        let runs = runs
            .iter()
            .map(|batches| {
                let mut bytes = Vec::new();
                for &records in *batches {
                    let mut batch = BatchBuilder::new();
                    for _ in 0..records {
                        batch.push(TimestampMs(0), None, Some(b"0123456789"), &[]);
                    }
                    let mut batch = batch.seal();
                    batch.set_base_offset(Offset::new(next));
                    bytes.extend_from_slice(batch.as_bytes());
                    next += u64::from(records);
                }
                Run {
                    bytes: Bytes::from(bytes),
                    json_lines: false,
                }
            })
            .collect();
        Fetched {
            runs,
            next_offset: Offset::new(next),
            log_start_offset: Offset::ZERO,
            end_offset: Offset::new(next),
        }
    }

    fn limits(from: u64, until: Option<u64>) -> PageLimits {
        PageLimits {
            from: Offset::new(from),
            until: until.map(Offset::new),
            max_records: 500,
            max_bytes: 1 << 20,
            unit: Unit::Records,
        }
    }

    fn offsets(page: &Page) -> Vec<u64> {
        let mut found = Vec::new();
        for run in &page.runs {
            for batch in Batches::new(&run.bytes) {
                for record in Records::new(batch.unwrap().1).unwrap() {
                    let offset = record.unwrap().offset;
                    if offset >= page.from && offset < page.end {
                        found.push(offset.get());
                    }
                }
            }
        }
        found
    }

    /// Chooses, and checks what must hold of every page.
    fn choose(fetched: Fetched, limits: &PageLimits) -> Page {
        let page = Page::choose(&fetched, limits).unwrap().unwrap();
        if limits.unit == Unit::Records {
            assert_eq!(offsets(&page).len() as u64, page.records);
        }
        assert!(page.next_offset >= page.from);
        page
    }

    #[test]
    fn records_before_from_and_behind_until_are_left_out() {
        for (from, until, next) in [(12, Some(23), 23), (10, None, 25), (11, Some(15), 15)] {
            let page = choose(fetched(10, &[&[5, 5], &[5]]), &limits(from, until));
            assert_eq!(offsets(&page), (from..next).collect::<Vec<_>>());
            assert_eq!(page.next_offset.get(), next);
            assert_eq!(page.limited || page.ended, until.is_some());
            if next == 15 {
                assert!(page.runs[0].bytes.len() < 200, "only the batches that are needed");
            }
        }
    }

    #[test]
    fn max_records_is_exact_wherever_it_falls() {
        for max_records in 1..=15 {
            let mut limits = limits(10, None);
            limits.max_records = max_records;
            let page = choose(fetched(10, &[&[5, 5], &[5]]), &limits);
            assert_eq!(page.records, max_records);
            assert_eq!(offsets(&page).len() as u64, max_records);
            assert_eq!(page.next_offset.get(), 10 + max_records);
            assert!(page.limited || page.ended);
        }
    }

    #[test]
    fn a_batch_above_max_bytes_is_given_in_part_and_one_record_always() {
        let at_most = |max_bytes| {
            let mut limits = limits(11, None);
            limits.max_bytes = max_bytes;
            choose(fetched(10, &[&[5, 5]]), &limits)
        };
        assert_eq!(offsets(&at_most(1)), [11]);
        assert_eq!(offsets(&at_most(18 * 3)), [11, 12, 13]);
        let page = at_most(18 * 4 - 1);
        assert_eq!(offsets(&page), [11, 12, 13]);
        assert_eq!(page.next_offset.get(), 14);
        assert!(page.limited || page.ended);
    }

    #[test]
    fn following_next_offset_meets_every_record_once_for_any_limits() {
        for (max_records, max_bytes) in [(1, 1 << 20), (3, 1 << 20), (500, 1), (500, 40), (4, 60), (7, 200)] {
            let mut from = 10;
            let mut seen = Vec::new();
            while from < 40 {
                let mut limits = limits(from, Some(40));
                (limits.max_records, limits.max_bytes) = (max_records, max_bytes);
                let page = choose(fetched(10, &[&[5, 1, 9], &[1, 1, 13, 2]]), &limits);
                seen.extend(offsets(&page));
                assert!(page.next_offset.get() > from, "stuck at {from}");
                from = page.next_offset.get();
            }
            assert_eq!(seen, (10..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whole_batches_stay_whole() {
        let whole = |from, until, max_records, max_bytes| {
            let limits = PageLimits {
                max_records,
                max_bytes,
                unit: Unit::StoredBatches,
                ..limits(from, until)
            };
            let page = choose(fetched(10, &[&[5, 5], &[5]]), &limits);
            let bytes: usize = page.runs.iter().map(|run| run.bytes.len()).sum();
            assert_eq!(bytes as u64, page.stored_bytes);
            (page.records, page.next_offset.get(), page.limited || page.ended)
        };
        assert_eq!(whole(12, None, 500, 1 << 20), (15, 25, false));
        assert_eq!(whole(12, Some(16), 500, 1 << 20), (10, 20, true));
        assert_eq!(whole(12, Some(15), 500, 1 << 20), (5, 15, true));
        assert_eq!(whole(12, None, 1, 1 << 20), (5, 15, true));
        assert_eq!(whole(12, None, 10, 1 << 20), (10, 20, true));
        assert_eq!(whole(12, None, 500, 1), (5, 15, true));
    }

    #[test]
    fn a_gap_before_until_is_passed_over() {
        // The next batch after the range begins only at 20: nothing lies in 15..18.
        let mut both = fetched(10, &[&[5]]);
        both.runs.extend(fetched(20, &[&[5]]).runs);
        let page = choose(both, &limits(10, Some(18)));
        assert_eq!(offsets(&page), (10..15).collect::<Vec<_>>());
        assert_eq!((page.next_offset.get(), page.limited || page.ended), (18, true));
    }

    #[test]
    fn nothing_read_is_an_empty_page_that_goes_on_where_something_may_lie() {
        let after = |from, until| {
            let page = choose(fetched(1000, &[]), &limits(from, until));
            (page.next_offset.get(), page.limited, page.ended, page.records)
        };
        assert_eq!(after(1000, None), (1000, false, false, 0));
        assert_eq!(after(1000, Some(2000)), (1000, false, false, 0));
        assert_eq!(after(15, Some(18)), (18, false, true, 0));
        assert_eq!(after(15, None), (1000, false, false, 0));
    }

    #[test]
    fn a_page_can_leave_records_out_and_end_before_one() {
        let shown = |page: &Page| -> Vec<u64> {
            let records = page.records();
            records.map(|record| record.unwrap().0.offset.get()).collect()
        };
        for keep in [1, 2, 3, 7, 100] {
            let mut page = choose(fetched(10, &[&[5, 1, 9], &[1, 1, 13, 2]]), &limits(12, Some(40)));
            let whole = page.stored_bytes;
            page.retain(|record| match record.offset.get() {
                offset if offset % keep == 0 => Kept::Yes,
                _ => Kept::No,
            })
            .unwrap();
            let expected: Vec<u64> = (12..40).filter(|offset| offset % keep == 0).collect();
            assert_eq!(shown(&page), expected);
            assert_eq!(page.records, expected.len() as u64);
            assert_eq!(page.next_offset.get(), 40, "what is left out was looked at");
            assert!(page.stored_bytes <= whole && page.ended);
        }
        let mut page = choose(fetched(10, &[&[5, 5]]), &limits(10, Some(18)));
        let stop = |record: &Record<'_>| match record.offset.get() {
            11 | 13 => Kept::Yes,
            16 => Kept::Stop,
            _ => Kept::No,
        };
        page.retain(stop).unwrap();
        assert_eq!((shown(&page), page.next_offset.get()), (vec![11, 13], 16));
        assert_eq!((page.limited, page.ended), (true, false));
        page.from = Offset::new(12);
        assert_eq!(shown(&page), [13]);
    }

    #[test]
    fn a_page_that_leaves_something_of_the_log_out_is_limited() {
        let mut read = fetched(10, &[&[5]]);
        read.end_offset = Offset::new(20);
        let page = choose(read.clone(), &limits(10, None));
        assert_eq!((page.limited, page.ended), (true, false));
        let page = choose(read, &limits(10, Some(15)));
        assert_eq!((page.limited, page.ended), (false, true));
    }
}
