//! A page of one partition that is read record by record, for streams in the order of timestamps.
//!
//! A merge holds the next record of every partition and changes partitions with each record, so it cannot keep
//! iterators that borrow from pages. It keeps a place in each page instead; to go on there, it reads the batch's header
//! again.

use crate::broker::engine::batch::{BatchError, BatchHeader, Record, RecordPlace, Records};
use crate::broker::engine::{Offset, TimestampMs};
use crate::broker::fetch::page::Page;
use crate::broker::filter::Filter;

/// A page, and how far it was read.
pub(super) struct Reading {
    page: Page,
    run: usize,
    /// Where the batch begins in the run.
    batch: usize,
    /// Before the head, or where to look for one; `None`: at the beginning of the batch.
    place: Option<RecordPlace>,
}

/// The record that comes next.
pub(super) struct Next {
    pub(super) offset: Offset,
    pub(super) timestamp: TimestampMs,
    /// It is at or after the time at which the stream ends.
    pub(super) ends: bool,
}

impl Reading {
    pub(super) fn new(page: Page) -> Self {
        Self {
            page,
            run: 0,
            batch: 0,
            place: None,
        }
    }

    /// Stored bytes of the page.
    pub(super) fn bytes(&self) -> u64 {
        self.page.stored_bytes
    }

    /// Where the partition goes on behind the page.
    pub(super) fn behind(&self) -> Offset {
        let Page { next_offset, .. } = self.page;
        next_offset
    }

    /// The next offset at or after `from` that the page keeps, if it was looked through before.
    fn next_kept(&self, from: Offset) -> Option<Offset> {
        let Some(kept) = &self.page.kept else {
            return Some(from);
        };
        let next = kept.partition_point(|offset| *offset < from);
        kept.get(next)
            .copied()
            .filter(|next| *next < self.page.next_offset)
    }

    /// Goes to the next record at or after `from` that the filter wants, or that ends the partition by its time, wanted or
    /// not; `None`: the page has no more.
    ///
    /// # Errors
    /// [`BatchError`] if a verified batch cannot be walked.
    pub(super) fn find(
        &mut self,
        from: Offset,
        until: Option<TimestampMs>,
        filter: &Filter,
    ) -> Result<Option<Next>, BatchError> {
        let Some(from) = self.next_kept(from) else {
            return Ok(None);
        };
        let is_chosen = self.page.kept.is_some();
        while let Some(run) = self.page.runs.get(self.run) {
            let batch = &run.bytes[self.batch..];
            if batch.is_empty() {
                self.run += 1;
                self.batch = 0;
                continue;
            }
            let header = BatchHeader::peek(batch)?;
            if header.next_offset() > from {
                let mut records = match self.place {
                    Some(place) => Records::resume(batch, place)?,
                    None => Records::new(batch)?,
                };
                loop {
                    let place = records.place();
                    let Some(record) = records.next() else {
                        break;
                    };
                    let record = record?;
                    if record.offset >= self.page.next_offset {
                        break;
                    }
                    let ends = until.is_some_and(|until| record.timestamp >= until);
                    if record.offset >= from && (ends || is_chosen || filter.matches(&record)) {
                        self.place = Some(place);
                        return Ok(Some(Next {
                            offset: record.offset,
                            timestamp: record.timestamp,
                            ends,
                        }));
                    }
                }
            }
            self.batch += header.total_bytes();
            self.place = None;
        }
        Ok(None)
    }

    /// The record that [`Reading::find`] went to, and whether its value is known to be a line of JSON.
    ///
    /// # Errors
    /// As for [`Reading::find`].
    pub(super) fn head(&self) -> Result<Option<(Record<'_>, bool)>, BatchError> {
        let (Some(run), Some(place)) = (self.page.runs.get(self.run), self.place) else {
            return Ok(None);
        };
        let record = Records::resume(&run.bytes[self.batch..], place)?.next();
        Ok(record.transpose()?.map(|record| (record, run.json_lines)))
    }
}
