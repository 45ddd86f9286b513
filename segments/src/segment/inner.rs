//! What a segment keeps in memory, and the lock around it.
//!
//! The lock of [`State`] is held for memory operations only, never while waiting for the disk: the committer takes it
//! in every round. A thread that waits for the disk (to open, load or verify) holds `cold` instead, one thread at a
//! time for a segment, and stores its results in the state at the end. The next thread then finds them there.
//!
//! The index has two parts. The *tail* covers what this process has published since the segment was made or opened, or
//! since its index was written: always in memory. The *base* covers everything before: loaded or scanned by the first
//! read that needs it, dropped with the map. Invariants: `tail.end()` is `readable`; a loaded base ends where the tail
//! begins; `verified` belongs to the present map, ends at or below `readable`, and is empty in a distrusted segment.

use std::path::PathBuf;
use std::sync::Arc;

use super::intervals::Intervals;
use super::known::Stretch;
use super::pool::{Permit, SegmentPool};
use super::{BatchNote, Span};
use crate::io::disk::Mapping;
use crate::io::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use crate::io::sync::{Mutex, RwLock};
use crate::segment::index::{Index, Mark};
use crate::types::{FilePos, Offset, TimestampMs};

/// A segment's data, which the pool shares.
pub(super) struct Inner {
    pub(super) pool: Arc<SegmentPool>,
    pub(super) dir: PathBuf,
    pub(super) base: Offset,
    pub(super) map_bytes: u64,
    /// `state.tail.end()`, to be read without the lock. Stored with Release under the lock, after the index.
    pub(super) readable: AtomicU64,
    pub(super) state: RwLock<State>,
    /// Held while the disk works for this segment; never taken by the committer's `publish`.
    pub(super) cold: Mutex<()>,
    /// Damage that was found (see `known`).
    pub(super) damage: Mutex<Vec<Stretch>>,
    /// Whether the segment was read since the pool last looked at it.
    pub(super) referenced: AtomicBool,
    /// Whether the segment is in the pool's ring.
    pub(super) queued: AtomicBool,
    /// The wall time of the last append in milliseconds, or a later time; `i64::MIN` while unknown. Stored by the
    /// committer and by recovery; only retention and reports read it.
    pub(super) last_append: AtomicI64,
}

/// The part that changes, under one lock.
pub(super) struct State {
    pub(super) tail: Index,
    /// A summary of the base; kept when the base is dropped.
    pub(super) base_sum: Option<BaseSum>,
    pub(super) base: Option<Base>,
    pub(super) map: Option<Arc<OpenMap>>,
    /// The bytes of the map that were verified, or written by this process.
    pub(super) verified: Intervals,
    /// A sync of the file has failed: the kernel may drop pages from memory at any time, and show what the disk has
    /// instead. From then on no bytes count as verified.
    pub(super) is_distrusted: bool,
    /// One past the last offset published, if anything was since the segment was made.
    pub(super) published_to: Option<Offset>,
    /// The files are about to be removed: they must not be opened again.
    pub(super) closed: bool,
}

/// The loaded index of everything before the tail.
#[derive(Clone)]
pub(super) struct Base {
    pub(super) index: Arc<Index>,
    /// Up to here it comes from a file, which could be of another log; the rest was made by walking or writing the log.
    pub(super) doubted_to: u64,
    pub(super) gaps: Gaps,
}

/// What an index leaves out of its log, because it could not be read when the index was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gaps {
    None,
    /// Damaged batches.
    Damaged,
    /// Batches that the disk could not read, but may be able to read later.
    Unreadable,
}

/// What lookups over many segments must know about the base.
#[derive(Clone, Copy)]
pub(super) struct BaseSum {
    /// The largest timestamp of the batches that the index covers.
    pub(super) max_timestamp: Option<TimestampMs>,
    pub(super) gaps: Gaps,
}

/// An open map, counted in the pool.
pub(super) struct OpenMap {
    pub(super) map: Arc<dyn Mapping>,
    pub(super) _permit: Permit,
}

/// Where a warm read looks: only bytes in memory that were verified.
pub(super) struct Plan {
    pub(super) map: Arc<dyn Mapping>,
    /// Where the stretch that holds the first offset begins and ends.
    pub(super) start: Mark,
    pub(super) start_end: u64,
    /// Where to search for the run's end, in order: in the stretch where it should be, in the one before, from `start`.
    pub(super) near_end: [Mark; 3],
    /// Verified from `start` to here.
    pub(super) verified_to: u64,
    pub(super) readable: u64,
    /// The offset that no healthy batch reaches beyond.
    pub(super) limit: Offset,
}

impl Inner {
    pub(super) fn new(
        pool: Arc<SegmentPool>,
        dir: PathBuf,
        base: Offset,
        map_bytes: u64,
        readable: u64,
    ) -> Self {
        Self {
            pool,
            dir,
            base,
            map_bytes,
            readable: AtomicU64::new(readable),
            state: RwLock::new(State {
                tail: Index::new(base, readable),
                base_sum: None,
                base: None,
                map: None,
                verified: Intervals::default(),
                is_distrusted: false,
                published_to: None,
                closed: false,
            }),
            cold: Mutex::new(()),
            damage: Mutex::new(Vec::new()),
            referenced: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            last_append: AtomicI64::new(i64::MIN),
        }
    }

    pub(super) fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{:020}.{extension}", self.base.get()))
    }

    pub(super) fn readable(&self) -> FilePos {
        FilePos(self.readable.load(Ordering::Acquire))
    }

    pub(super) fn publish(&self, batches: &[BatchNote]) {
        let Some(first) = batches.first() else {
            return;
        };
        let mut state = self.state.write();
        for note in batches {
            state.tail.push(note);
        }
        let end = state.tail.end();
        state.published_to = Some(state.tail.next_offset());
        if state.map.is_some() && !state.is_distrusted {
            // This process wrote these bytes from memory, after it made the map: nothing to verify.
            state.verified.insert(first.position.get(), end);
        }
        self.readable.store(end, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.read().map.is_some()
    }

    /// Drops the map, and the state that is useful only with it.
    pub(super) fn forget_map(&self) {
        let mut state = self.state.write();
        state.map = None;
        state.base = None;
        state.verified.clear();
    }

    /// Makes every read verify its bytes from now on.
    pub(super) fn distrust(&self) {
        let mut state = self.state.write();
        state.is_distrusted = true;
        state.verified.clear();
    }

    /// Drops the map for ever: the files are about to be removed.
    pub(super) fn close(&self) {
        // Wait for a thread that is opening or writing the files by name.
        let _cold = self.cold.lock();
        self.forget_map();
        self.state.write().closed = true;
    }

    pub(super) fn touch(&self) {
        // Load first: a store would take the cache line from the other readers.
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Where to read without the disk, if everything needed is in memory.
    pub(super) fn plan(&self, span: &Span, max_bytes: usize) -> Option<Plan> {
        self.touch();
        let state = self.state.read();
        let map = &state.map.as_ref()?.map;
        let readable = state.tail.end();
        if map.len() < readable {
            return None;
        }
        let in_tail = state.in_tail(span.from);
        let first_part = if in_tail { &state.tail } else { state.base()? };
        let stretch = first_part.find(span.from);
        let start = first_part.mark(stretch)?;
        if span.from < start.offset && start.position > 0 {
            // Before the first stretch lies damage: the cold path reports it.
            return None;
        }
        let start_end = first_part.stretch_end(stretch);
        let verified_to = state.verified.end_of(start.position)?;

        // The run ends at a byte limit or at an offset, whichever comes first. It begins at `start` or later, so its
        // byte limit is not before `byte_border`.
        let byte_border = start.position.saturating_add(max_bytes as u64);
        let last_part = match state.tail.first_offset() {
            Some(first) if in_tail || (span.end > first && byte_border >= state.tail.start()) => &state.tail,
            _ => first_part,
        };
        let last_stretch = last_part
            .find_position(byte_border)
            .min(last_part.find(Offset::new(span.end.get().saturating_sub(1))));
        let near_end = |stretch| {
            last_part
                .mark(stretch)
                .filter(|mark| mark.position > start.position)
                .unwrap_or(start)
        };
        Some(Plan {
            map: Arc::clone(map),
            start,
            start_end,
            near_end: [
                near_end(last_stretch),
                near_end(last_stretch.saturating_sub(1)),
                start,
            ],
            verified_to,
            readable,
            limit: span.limit(state.published_to),
        })
    }

    /// The base, if it is in memory and covers everything before the tail.
    pub(super) fn loaded_base(&self) -> Option<Base> {
        let state = self.state.read();
        state.base()?;
        state.base.clone()
    }

    /// Makes `whole`, an index of everything, the new base, with an empty tail behind it. (If it has no gaps, the
    /// caller has written it to the files.)
    pub(super) fn fold(&self, whole: Index, doubted_to: u64, gaps: Gaps) {
        let mut state = self.state.write();
        if whole.end() != state.tail.end() {
            // More was published meanwhile. The files then cover only a part of the log, which is valid.
            return;
        }
        state.base_sum = Some(BaseSum {
            max_timestamp: whole.max_timestamp(),
            gaps,
        });
        state.tail = Index::new(self.base, whole.end());
        state.base = state.map.is_some().then(|| Base {
            index: Arc::new(whole),
            doubted_to,
            gaps,
        });
    }

    /// Whether `start..end` is known to hold nothing but JSON on one line.
    pub(super) fn json_lines(&self, start: u64, end: u64) -> bool {
        let state = self.state.read();
        state.json_lines(state.base(), start, end)
    }
}

impl State {
    /// Whether `offset` lies in the tail, so that the base is not needed.
    pub(super) fn in_tail(&self, offset: Offset) -> bool {
        self.tail.start() == 0 || self.tail.first_offset().is_some_and(|first| offset >= first)
    }

    /// The summary of everything before the tail.
    pub(super) fn base_sum(&self) -> Option<BaseSum> {
        if self.tail.start() == 0 {
            return Some(BaseSum {
                max_timestamp: None,
                gaps: Gaps::None,
            });
        }
        self.base_sum
    }

    /// Whether `base` and the tail say that `start..end` holds only JSON on one line.
    pub(super) fn json_lines(&self, base: Option<&Index>, start: u64, end: u64) -> bool {
        let tail_start = self.tail.start();
        (start >= tail_start || base.is_some_and(|base| base.json_lines(start, end.min(tail_start))))
            && (end <= tail_start || self.tail.json_lines(start.max(tail_start), end))
    }

    /// The base, if it is loaded and covers everything before the tail.
    pub(super) fn base(&self) -> Option<&Index> {
        self.base
            .as_ref()
            .map(|base| &*base.index)
            .filter(|base| base.end() == self.tail.start())
    }
}
