//! Streams over many partitions: replay and live tail, as records and events for any wire. Read [`run`] first.
//!
//! - [`request`] is what a stream asks for.
//! - [`lanes`] finds where each partition begins and ends.
//! - [`run`] reads and hands out records; `read` reads a page, `wait` waits, `last` goes to the newest records.
//! - [`filter`], [`merge`], [`newest`] and [`pace`] are pure: which records are wanted, the order by timestamp, where the
//!   last N begin, when a record of a replay is due. `reading` walks a page record by record.
//!
//! A wire implements [`Sink`]. A stream is an async function that its reader drives: there is no task and no queue. Nothing
//! is kept of a stream when it ends: what a reader needs to go on is in the positions that it was given.

pub mod filter;
pub mod lanes;
mod last;
pub mod merge;
pub mod newest;
pub mod pace;
mod read;
mod reading;
pub mod request;
pub mod run;
mod wait;

use crate::broker::engine::batch::Record;
use crate::broker::refusal::Refusal;
use crate::broker::topics::skips::Gap;
use crate::formats::cursor::Reached;

/// What a stream says besides its records.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Where the stream is, without a record.
    Place,
    /// The stream is alive.
    Alive {
        /// It has moved since it last said where it is.
        has_moved: bool,
    },
    /// Records are missing.
    Gap {
        /// The topic's name.
        topic: &'a str,
        /// The partition.
        partition: u32,
        /// The offsets.
        gap: Gap,
        /// `skipped`: damaged, and given up by the operator; `trimmed`: deleted before they were read.
        reason: &'static str,
    },
    /// The stream cannot go on, and ends.
    Refused(&'a Refusal),
    /// All there is was given.
    End,
}

/// Takes a stream and writes it in a wire's format.
///
/// It is chosen at compile time: [`Sink::record`] is called in a tight loop over a page's records.
pub trait Sink: Send {
    /// How the records of one partition are written.
    type Writer: Send + Sync;

    /// Whether the format has events: a stream that has none can only break off where it cannot go on.
    fn has_events(&self) -> bool;

    /// How the records of this partition are written.
    fn writer(&self, topic: &str, partition: u32) -> Self::Writer;

    /// Makes room for what so many stored bytes become.
    fn reserve(&mut self, stored_bytes: u64);

    /// Says where the partitions are of which no records come for a while.
    fn fix(&mut self, others: impl Iterator<Item = Reached>);

    /// Writes a record, behind which its partition is at `reached`; `json_lines`: its value is known to be JSON on one line.
    fn record(&mut self, writer: &Self::Writer, record: &Record<'_>, json_lines: bool, reached: Reached);

    /// Writes an event; a format without events ignores it.
    fn event(&mut self, event: Event<'_>, reached: impl Iterator<Item = Reached>);

    /// Whether nothing was written since it was last sent.
    fn is_empty(&self) -> bool;

    /// Whether enough was written to be sent.
    fn is_full(&self) -> bool;

    /// Hands to the reader what was written; returns when the reader wants more. Nothing at all lets the answer begin.
    fn send(&mut self) -> impl Future<Output = ()> + Send;
}
