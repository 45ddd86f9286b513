//! The parameters of a stream.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::engine::TimestampMs;
use crate::broker::filter::Filter;
use crate::formats::cursor::Cursor;

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Beginning {
    /// The log start.
    Earliest,
    /// The end: only new records.
    Latest,
    /// The first record at or after this time.
    Time(TimestampMs),
    /// The cursor of another stream.
    Cursor(Cursor),
}

/// Where a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The end offsets at the time of the request.
    Latest,
    /// Before the first record at or after this time.
    Time(TimestampMs),
    /// The cursor of another stream.
    Cursor(Cursor),
}

/// How far a stream looks that browses: it ends at the first of these bounds. At least one record of each partition is
/// looked at, so that whoever goes on at its cursor always gets further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The records that are handed out.
    pub records: u64,
    /// The stored bytes of the records that are looked at.
    pub bytes: u64,
    /// The time from its beginning.
    pub time: Duration,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Self = Self {
        records: u64::MAX,
        bytes: u64::MAX,
        time: Duration::MAX,
    };
}

/// The parameters of a stream; its topics are passed beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRequest {
    /// Where it begins.
    pub from: Beginning,
    /// Where it ends; `None`: at the end offsets of the request, or, with `follow`, never.
    pub until: Option<Ending>,
    /// Only so many of the newest records between `from` and `until`, and then new records.
    pub last: Option<usize>,
    /// Which records are wanted.
    pub filter: Arc<Filter>,
    /// It looks through records in slices on threads of their own, within bounds, and says how far it has looked. `None`:
    /// it hands out what it reads.
    pub browse: Option<Bounds>,
    /// The partitions; `None`: all.
    pub partitions: Option<Vec<u32>>,
    /// Whether it waits for new records.
    pub follow: bool,
    /// Whether records of several partitions come in the order of their timestamps.
    pub by_time: bool,
    /// How many times faster than recorded the records come; positive and finite, and only with `by_time`.
    pub speed: Option<f64>,
    /// The reader has read an earlier stream up to `from`, and asks for the records after it.
    pub is_resumed: bool,
}

impl StreamRequest {
    /// Whether it goes on behind the end offsets of the request.
    pub fn goes_on(&self) -> bool {
        self.follow && !matches!(self.until, Some(Ending::Latest | Ending::Cursor(_)))
    }

    /// Whether records may come long after the request, as they arrive or are due.
    pub fn is_live(&self) -> bool {
        self.goes_on() || self.speed.is_some()
    }
}
