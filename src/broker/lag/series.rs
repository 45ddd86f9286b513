//! A day of points in little memory.
//!
//! A [`Series`] holds one point for each slot (the times at which history is taken), without gaps, from its first slot
//! on. Consecutive equal points are one run; a run is coded as the differences to the run before:
//!
//! ```text
//! run    length << 1 | has_next : varint
//!        lag, bytes             : difference to the run before, zigzag varint each
//!        next_timestamp         : difference to the last run that had one, zigzag varint; only with has_next
//! ```
//!
//! A quiet partition is therefore one run, and so is a group that stands still in a quiet topic: a point holds the
//! timestamp of the next record, not its age, which changes all the time. Runs lie in chunks of about 512 bytes. Each
//! chunk can be read by itself, so that the oldest can be dropped and readers share the closed ones.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::engine::TimestampMs;

/// A chunk with this many bytes of runs is closed; with the last run added and the growing one it fits in 512.
const CHUNK_BYTES: usize = 512 - 2 * MAX_RUN_BYTES;
/// A chunk with this many points is closed, however small: old points are dropped by whole chunks.
const CHUNK_POINTS: u32 = 720;
/// The longest run: three varints and the length's.
const MAX_RUN_BYTES: usize = 3 * 10 + 5;

/// The number of a slot, counted from the start of the history; never reused.
pub type Slot = u64;

/// A group's lag in a partition at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Records to read.
    pub lag: u64,
    /// The timestamp of the next record; `None` with nothing to read, or if it is unknown.
    pub next_timestamp: Option<TimestampMs>,
    /// Stored bytes to read.
    pub bytes: u64,
}

/// Points of consecutive slots.
#[derive(Clone, Debug)]
pub struct Series {
    closed: VecDeque<Chunk>,
    /// The growing chunk.
    open: Open,
}

#[derive(Clone, Debug)]
struct Chunk {
    first: Slot,
    points: u32,
    bytes: Arc<[u8]>,
}

#[derive(Clone, Debug)]
struct Open {
    first: Slot,
    points: u32,
    bytes: Vec<u8>,
    coder: Coder,
    /// The run that may still grow; without points in an empty chunk.
    run: (Point, u32),
}

/// The values that differences refer to.
#[derive(Clone, Copy, Debug, Default)]
struct Coder {
    lag: u64,
    next_timestamp: i64,
    bytes: u64,
}

impl Series {
    /// An empty series whose first point will be for the slot `first`.
    pub fn new(first: Slot) -> Self {
        Self {
            closed: VecDeque::new(),
            open: Open::new(first),
        }
    }

    /// The slot of the next point.
    pub fn next_slot(&self) -> Slot {
        self.open.first + Slot::from(self.open.points)
    }

    /// Appends the point of [`Series::next_slot`].
    pub fn push(&mut self, point: Point) {
        if self.open.points >= CHUNK_POINTS || self.open.bytes.len() >= CHUNK_BYTES {
            let next = Open::new(self.next_slot());
            let closed = std::mem::replace(&mut self.open, next).close();
            self.closed.push_back(closed);
        }
        self.open.push(point);
    }

    /// Drops chunks that end before `begin`.
    pub fn drop_before(&mut self, begin: Slot) {
        while self
            .closed
            .front()
            .is_some_and(|chunk| chunk.first + Slot::from(chunk.points) <= begin)
        {
            self.closed.pop_front();
        }
        if self.closed.capacity() > 2 * self.closed.len() + 8 {
            self.closed.shrink_to(self.closed.len() + 8);
        }
    }

    /// A copy without the chunks before `begin`; it shares the closed chunks.
    pub fn since(&self, begin: Slot) -> Self {
        let ends_after = |chunk: &&Chunk| chunk.first + Slot::from(chunk.points) > begin;
        Self {
            closed: self.closed.iter().filter(ends_after).cloned().collect(),
            open: self.open.clone(),
        }
    }

    /// The chunks: the slot of the first point, how many points there are, and the bytes of their runs.
    pub(super) fn chunks(&self) -> Vec<(Slot, u32, Arc<[u8]>)> {
        let closed = self.closed.iter().cloned();
        let chunks = closed.chain([self.open.clone().close()]);
        let parts = |chunk: Chunk| (chunk.first, chunk.points, chunk.bytes);
        chunks.filter(|chunk| chunk.points > 0).map(parts).collect()
    }

    /// A series of such chunks, which must follow each other without a gap; its next point is for `next`.
    pub(super) fn of_chunks(chunks: Vec<(Slot, u32, Arc<[u8]>)>, next: Slot) -> Option<Self> {
        let mut closed = VecDeque::with_capacity(chunks.len());
        let mut expected = chunks.first().map_or(next, |(first, ..)| *first);
        for (first, points, bytes) in chunks {
            let lengths: u64 = Runs::new(first, &bytes).map(|run| u64::from(run.length)).sum();
            if first != expected || lengths != u64::from(points) {
                return None;
            }
            expected = first.checked_add(points.into())?;
            closed.push_back(Chunk { first, points, bytes });
        }
        (expected == next).then(|| Self {
            closed,
            open: Open::new(next),
        })
    }

    /// The memory in use, in bytes.
    pub fn heap_bytes(&self) -> usize {
        // An `Arc` stores two counts.
        let closed = |chunk: &Chunk| chunk.bytes.len() + 2 * size_of::<usize>();
        self.closed.capacity() * size_of::<Chunk>()
            + self.closed.iter().map(closed).sum::<usize>()
            + self.open.bytes.capacity()
    }

    /// The points from `begin` on with their slots, in order.
    pub fn points(&self, begin: Slot) -> impl Iterator<Item = (Slot, Point)> {
        let runs = self
            .closed
            .iter()
            .flat_map(|chunk| Runs::new(chunk.first, &chunk.bytes));
        let open = Runs::new(self.open.first, &self.open.bytes);
        let (point, length) = self.open.run;
        let last = Run {
            first: self.next_slot() - Slot::from(length),
            length,
            point,
        };
        runs.chain(open).chain([last]).flat_map(move |run| {
            let end = run.first + Slot::from(run.length);
            (run.first.max(begin)..end).map(move |slot| (slot, run.point))
        })
    }
}

impl Open {
    fn new(first: Slot) -> Self {
        Self {
            first,
            points: 0,
            bytes: Vec::new(),
            coder: Coder::default(),
            run: (Point::default(), 0),
        }
    }

    fn push(&mut self, point: Point) {
        if self.run.0 != point || self.run.1 == 0 {
            self.write_run();
            self.run = (point, 0);
        }
        self.run.1 += 1;
        self.points += 1;
    }

    fn write_run(&mut self) {
        let (point, length) = self.run;
        if length == 0 {
            return;
        }
        let has_next = point.next_timestamp.is_some();
        put(&mut self.bytes, u64::from(length) << 1 | u64::from(has_next));
        put_difference(&mut self.bytes, self.coder.lag as i64, point.lag as i64);
        put_difference(&mut self.bytes, self.coder.bytes as i64, point.bytes as i64);
        if let Some(next) = point.next_timestamp {
            put_difference(&mut self.bytes, self.coder.next_timestamp, next.get());
            self.coder.next_timestamp = next.get();
        }
        self.coder.lag = point.lag;
        self.coder.bytes = point.bytes;
        debug_assert!(self.bytes.len() < CHUNK_BYTES + 2 * MAX_RUN_BYTES);
    }

    fn close(mut self) -> Chunk {
        self.write_run();
        Chunk {
            first: self.first,
            points: self.points,
            bytes: self.bytes.into(),
        }
    }
}

struct Run {
    first: Slot,
    length: u32,
    point: Point,
}

/// The runs of a chunk.
struct Runs<'a> {
    bytes: &'a [u8],
    next: Slot,
    coder: Coder,
}

impl<'a> Runs<'a> {
    fn new(first: Slot, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            next: first,
            coder: Coder::default(),
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let head = take(&mut self.bytes)?;
        let length = u32::try_from(head >> 1).ok()?;
        self.coder.lag = take_difference(&mut self.bytes, self.coder.lag as i64)? as u64;
        self.coder.bytes = take_difference(&mut self.bytes, self.coder.bytes as i64)? as u64;
        let mut next_timestamp = None;
        if head & 1 == 1 {
            self.coder.next_timestamp = take_difference(&mut self.bytes, self.coder.next_timestamp)?;
            next_timestamp = Some(TimestampMs(self.coder.next_timestamp));
        }
        let first = self.next;
        self.next += Slot::from(length);
        Some(Run {
            first,
            length,
            point: Point {
                lag: self.coder.lag,
                next_timestamp,
                bytes: self.coder.bytes,
            },
        })
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Differences wrap, so that any two numbers have one.
fn put_difference(out: &mut Vec<u8>, from: i64, to: i64) {
    let difference = to.wrapping_sub(from);
    put(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take_difference(bytes: &mut &[u8], from: i64) -> Option<i64> {
    let coded = take(bytes)?;
    let difference = (coded >> 1) as i64 ^ -((coded & 1) as i64);
    Some(from.wrapping_add(difference))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(lag: u64, next: i64, bytes: u64) -> Point {
        Point {
            lag,
            next_timestamp: (lag > 0).then_some(TimestampMs(next)),
            bytes,
        }
    }

    fn of(points: &[Point]) -> Series {
        let mut series = Series::new(100);
        for point in points {
            series.push(*point);
        }
        series
    }

    fn any_point() -> impl Strategy<Value = Point> {
        prop_oneof![
            Just(Point::default()),
            (1u64..500, 0i64..1000, 0u64..5000).prop_map(|(lag, next, bytes)| point(lag, next, bytes)),
            (any::<u64>(), any::<Option<i64>>(), any::<u64>()).prop_map(|(lag, next, bytes)| Point {
                lag,
                next_timestamp: next.map(TimestampMs),
                bytes
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_series_returns_the_points_pushed(
            runs in prop::collection::vec((any_point(), prop_oneof![Just(1usize), 1usize..20, 700usize..1500]), 0..60),
            begin in 0u64..3000,
        ) {
            let points: Vec<Point> = runs.iter().flat_map(|(point, length)| vec![*point; *length]).collect();
            let mut series = of(&points);
            let expected: Vec<(Slot, Point)> = (100..).zip(points).collect();
            prop_assert_eq!(series.next_slot(), 100 + expected.len() as u64);
            prop_assert_eq!(series.points(0).collect::<Vec<_>>(), expected.clone());
            let tail: Vec<_> = expected.into_iter().filter(|(slot, _)| *slot >= begin).collect();
            prop_assert_eq!(series.points(begin).collect::<Vec<_>>(), tail.clone());
            prop_assert_eq!(series.since(begin).points(begin).collect::<Vec<_>>(), tail.clone());
            series.drop_before(begin);
            prop_assert_eq!(series.points(begin).collect::<Vec<_>>(), tail);
        }
    }

    #[test]
    fn a_quiet_day_takes_next_to_nothing() {
        for quiet in [Point::default(), point(5000, 1_700_000_000_000, 700_000)] {
            let series = of(&vec![quiet; 8640]);
            assert!(series.heap_bytes() < 1500, "{}", series.heap_bytes());
        }
    }

    #[test]
    fn a_busy_day_takes_less_than_twelve_bytes_a_point() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let points: Vec<Point> = (0..8640i64)
            .map(|slot| {
                let lag = 2000 + random(4000);
                point(
                    lag,
                    1_700_000_000_000 + slot * 10_000 - random(8000) as i64,
                    lag * 210,
                )
            })
            .collect();
        let series = of(&points);
        assert!(series.heap_bytes() < 12 * 8640, "{}", series.heap_bytes());
    }

    #[test]
    fn dropped_points_free_their_memory() {
        let rows = (0..8640).map(|n| point(n * 7919 % 100_000, n as i64 * 977, n * n));
        let points: Vec<Point> = rows.collect();
        let mut series = of(&points);
        let before = series.heap_bytes();
        series.drop_before(100 + 8000);
        let after = series.closed.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        assert!(after < before / 8, "{after} of {before}");
        assert_eq!(series.points(8100).count(), 640);
    }
}
