//! What a stream asks for.

use super::filter::Filter;
use crate::broker::engine::TimestampMs;
use crate::formats::cursor::Cursor;

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Beginning {
    /// The log start.
    Earliest,
    /// The end: only what comes.
    Latest,
    /// The first record at or after it.
    Time(TimestampMs),
    /// Where another stream was.
    Cursor(Cursor),
}

/// Where a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The end as of the request.
    Latest,
    /// Before the first record at or after it.
    Time(TimestampMs),
    /// Where another stream was.
    Cursor(Cursor),
}

/// What a stream asks for, of topics that are named beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRequest {
    /// Where it begins.
    pub from: Beginning,
    /// Where it ends; `None`: at the end, now or never.
    pub until: Option<Ending>,
    /// Only so many of the newest records between `from` and `until`, and what comes.
    pub last: Option<usize>,
    /// Which records are wanted.
    pub filter: Filter,
    /// All partitions where it is `None`.
    pub partitions: Option<Vec<u32>>,
    /// Whether it waits for what comes.
    pub follow: bool,
    /// Whether records of several partitions come in the order of their timestamps.
    pub by_time: bool,
    /// How many times faster than they were recorded the records come; positive and finite, and only with `by_time`.
    pub speed: Option<f64>,
    /// The reader has read an earlier stream up to `from`, and asks for what has come since.
    pub is_resumed: bool,
}

impl StreamRequest {
    /// Whether it goes on behind the end as of the request.
    pub fn goes_on(&self) -> bool {
        self.follow && !matches!(self.until, Some(Ending::Latest | Ending::Cursor(_)))
    }

    /// Whether records may come long after the request, as they arrive or are due.
    pub fn is_live(&self) -> bool {
        self.goes_on() || self.speed.is_some()
    }
}
