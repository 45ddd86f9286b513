//! Streams over many partitions: replay and live tail, as records and events for any wire. Read [`run`] first.
//!
//! - [`request`] has the parameters of a stream.
//! - [`lanes`] finds where each partition begins and ends.
//! - [`run`] reads and hands out records; `read` reads a page, `wait` waits, `last` goes to the newest records, `scan`
//!   looks through records within bounds.
//! - [`merge`], [`newest`] and [`pace`] are pure: the order by timestamp, where the last N begin, when a record of a replay
//!   is due. `reading` walks a page record by record, to those that the [`filter`](super::filter) wants.
//!
//! A wire implements [`Sink`]. A stream is an async function that its reader drives: there is no task and no queue.
//! After its end the server keeps nothing of it: the reader's cursors hold all that it needs to go on.

pub mod lanes;
mod last;
pub mod merge;
pub mod newest;
pub mod pace;
mod read;
mod reading;
pub mod request;
pub mod run;
mod scan;
mod wait;

use crate::broker::engine::batch::Record;
use crate::broker::refusal::Refusal;
use crate::broker::topics::skips::Gap;
use crate::formats::cursor::Reached;

/// How much a stream has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Records.
    pub records: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// Why a stream that browses has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There is nothing more.
    End,
    /// It has handed out as many records as it may.
    Records,
    /// It has looked at as many bytes as it may.
    Bytes,
    /// It has taken as much time as it may.
    Time,
}

impl Ended {
    /// The name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Time => "time",
        }
    }
}

/// The end of a stream that browses.
#[derive(Clone, Copy, Debug)]
pub struct Browsed<'a> {
    /// What it has looked at.
    pub looked: Looked,
    /// Why it has ended.
    pub ended: Ended,
    /// Where to go on: of the newest records, where they begin; else where they end.
    pub place: &'a [Reached],
}

/// What a stream hands out besides records.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The stream's cursor, without a record.
    Place,
    /// The stream is alive.
    Alive {
        /// Whether its cursor has moved since the last one it wrote.
        has_moved: bool,
    },
    /// A stream that browses has looked so far.
    Progress {
        /// What it has looked at.
        looked: Looked,
        /// How far it is.
        place: &'a [Reached],
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
    /// The stream has reached its end, or a bound if it browses.
    End(Option<Browsed<'a>>),
}

/// Takes a stream and writes it in a wire's format.
///
/// It is chosen at compile time: [`Sink::record`] is called in a tight loop over a page's records.
pub trait Sink: Send {
    /// How the records of one partition are written.
    type Writer: Send + Sync;

    /// Whether the format has events. A format without events can only break off when the stream cannot go on.
    fn has_events(&self) -> bool;

    /// Whether the answer is one document: no part of it is worth anything before its end.
    fn is_document(&self) -> bool;

    /// How the records of this partition are written.
    fn writer(&self, topic: &str, partition: u32) -> Self::Writer;

    /// Makes room for the output of so many stored bytes.
    fn reserve(&mut self, stored_bytes: u64);

    /// Sets the cursor's offsets of the partitions that hand out no records for a while.
    fn fix(&mut self, others: impl Iterator<Item = Reached>);

    /// Writes a record; `reached`: its partition's place behind it; `json_lines`: its value is known to be one line of
    /// JSON.
    fn record(&mut self, writer: &Self::Writer, record: &Record<'_>, json_lines: bool, reached: Reached);

    /// Writes an event; a format without events ignores it, but a document has an end.
    fn event(&mut self, event: Event<'_>, reached: impl Iterator<Item = Reached>);

    /// Whether nothing was written since the last send.
    fn is_empty(&self) -> bool;

    /// Whether enough was written to be sent.
    fn is_full(&self) -> bool;

    /// Hands what was written to the reader; returns when the reader wants more. A send of nothing begins the answer.
    fn send(&mut self) -> impl Future<Output = ()> + Send;
}
