//! What a segment keeps in memory, and the lock around it.
//!
//! [`State`] is locked for memory operations only, never while the disk works: the committer takes it in every round.
//! What waits for the disk (opening, loading, verifying) holds `cold` instead, one thread at a time for a segment, and
//! hands its results in at the end; another thread that wanted the same finds it done.
//!
//! The index has two parts. The *tail* covers what this process has published since the segment was made, opened or had
//! its index written: always in memory. The *base* covers what was there before: loaded or scanned by the first read that
//! needs it, and dropped with the map. Invariants: `tail.end()` is `readable`; a base that is there ends where the tail
//! begins; `verified` speaks of the map that is there and ends at or below `readable`, and is empty in a distrusted segment.

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

/// A segment, as shared with the pool.
pub(super) struct Inner {
    pub(super) pool: Arc<SegmentPool>,
    pub(super) dir: PathBuf,
    pub(super) base: Offset,
    pub(super) map_bytes: u64,
    /// `state.tail.end()` for those who do not want the lock. Stored with Release under the lock, after the index.
    pub(super) readable: AtomicU64,
    pub(super) state: RwLock<State>,
    /// Held while the disk works for this segment; never taken by the committer's `publish`.
    pub(super) cold: Mutex<()>,
    /// Damage that was met (see `known`).
    pub(super) damage: Mutex<Vec<Stretch>>,
    /// Read since the pool looked last.
    pub(super) referenced: AtomicBool,
    /// In the pool's ring.
    pub(super) queued: AtomicBool,
    /// The wall time of the last append, in milliseconds, or a later one; `i64::MIN` while it is not known. Stored by the
    /// committer and by recovery; only retention and reports read it.
    pub(super) last_append: AtomicI64,
}

/// What changes.
pub(super) struct State {
    pub(super) tail: Index,
    /// What the base part says in sum; outlives the base.
    pub(super) base_sum: Option<BaseSum>,
    pub(super) base: Option<Base>,
    pub(super) map: Option<Arc<OpenMap>>,
    /// What of the map was verified, or was written by this process.
    pub(super) verified: Intervals,
    /// A sync of the file has failed: what memory shows may be dropped for what the medium has, at any time. Nothing is
    /// ever taken as verified then.
    pub(super) is_distrusted: bool,
    /// One past the last offset published, if anything was since the segment was made.
    pub(super) published_to: Option<Offset>,
    /// The files are about to be removed: nothing is opened any more.
    pub(super) closed: bool,
}

/// The loaded index of what was there before the tail.
#[derive(Clone)]
pub(super) struct Base {
    pub(super) index: Arc<Index>,
    /// Up to here it comes from a file, which could be of another log; the rest was made by walking or writing the log.
    pub(super) doubted_to: u64,
    pub(super) gaps: Gaps,
}

/// What an index leaves out of its log, because it could not be had when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gaps {
    None,
    /// Batches that are damaged.
    Damaged,
    /// Batches that the disk did not let be read, and may let the next time.
    Unreadable,
}

/// What must be known of the base for lookups over many segments.
#[derive(Clone, Copy)]
pub(super) struct BaseSum {
    /// Of the batches that the index covers.
    pub(super) max_timestamp: Option<TimestampMs>,
    pub(super) gaps: Gaps,
}

/// An open map, counted in the pool.
pub(super) struct OpenMap {
    pub(super) map: Arc<dyn Mapping>,
    pub(super) _permit: Permit,
}

/// Where a warm read looks: all of it in memory, and verified.
pub(super) struct Plan {
    pub(super) map: Arc<dyn Mapping>,
    /// Where the stretch that holds the first offset begins and ends.
    pub(super) start: Mark,
    pub(super) start_end: u64,
    /// Where to look for the run's end: where the stretch begins in which it ends, or the one before that, or the start.
    pub(super) near_end: [Mark; 3],
    /// Verified from `start` to here.
    pub(super) verified_to: u64,
    pub(super) readable: u64,
    /// What no healthy batch reaches beyond.
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
            // Written from memory by this process, after the map was made: nothing to verify.
            state.verified.insert(first.position.get(), end);
        }
        self.readable.store(end, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.read().map.is_some()
    }

    /// Drops the map and what is only of use with it.
    pub(super) fn forget_map(&self) {
        let mut state = self.state.write();
        state.map = None;
        state.base = None;
        state.verified.clear();
    }

    /// Has every read verify what it reads, from now on.
    pub(super) fn distrust(&self) {
        let mut state = self.state.write();
        state.is_distrusted = true;
        state.verified.clear();
    }

    /// Forgets the map for good: the files go away.
    pub(super) fn close(&self) {
        // Whoever is at the files' names now finishes first.
        let _cold = self.cold.lock();
        self.forget_map();
        self.state.write().closed = true;
    }

    pub(super) fn touch(&self) {
        // Read first: a store would take the line from the other readers.
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Where to read without the disk, if everything is there.
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
            // What lies before the first stretch is damage: for the cold path to say.
            return None;
        }
        let start_end = first_part.stretch_end(stretch);
        let verified_to = state.verified.end_of(start.position)?;

        // The run ends at the first of two borders: so many bytes, or an offset. It begins at `start` or later, so the
        // stretch found by bytes is one in which it has not ended yet.
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

    /// The base, if it is in memory and covers all before the tail.
    pub(super) fn loaded_base(&self) -> Option<Base> {
        let state = self.state.read();
        state.base()?;
        state.base.clone()
    }

    /// Makes an index of everything the base (it was written to the files, if it is whole), and begins a new tail behind it.
    pub(super) fn fold(&self, whole: Index, doubted_to: u64, gaps: Gaps) {
        let mut state = self.state.write();
        if whole.end() != state.tail.end() {
            // More was published meanwhile. The files cover less than there is, which is fine.
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

    /// What is known of everything before the tail.
    pub(super) fn base_sum(&self) -> Option<BaseSum> {
        if self.tail.start() == 0 {
            return Some(BaseSum {
                max_timestamp: None,
                gaps: Gaps::None,
            });
        }
        self.base_sum
    }

    /// Whether `start..end` is known to hold nothing but JSON on one line, by `base` and the tail.
    pub(super) fn json_lines(&self, base: Option<&Index>, start: u64, end: u64) -> bool {
        let tail_start = self.tail.start();
        (start >= tail_start || base.is_some_and(|base| base.json_lines(start, end.min(tail_start))))
            && (end <= tail_start || self.tail.json_lines(start.max(tail_start), end))
    }

    /// The base, if it is there and covers all before the tail.
    pub(super) fn base(&self) -> Option<&Index> {
        self.base
            .as_ref()
            .map(|base| &*base.index)
            .filter(|base| base.end() == self.tail.start())
    }
}
