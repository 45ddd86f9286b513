//! The bound on what all segments of a log hold open.
//!
//! A segment that has been read keeps a map, and of its index what the map is read with. Above `max_open` of them the
//! least recently used are closed, and opened again by their next read. "Least recently" is approximate: a ring of the
//! open ones, in which those read since they were last looked at get a second chance.
//!
//! Slices that readers hold keep their maps alive beyond the bound; that is bounded by the readers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::inner::Inner;
use crate::disk::Disk;

/// What all segments of a log share: the disk and the bounded pool of open maps and loaded indexes (least recently used
/// closed).
pub(crate) struct SegmentPool {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) max_open: usize,
    open: Arc<AtomicUsize>,
    ring: Mutex<VecDeque<Weak<Inner>>>,
    index_rebuilds: AtomicU64,
}

impl SegmentPool {
    /// A pool over `disk` that keeps about `max_open` segments open.
    pub(crate) fn new(disk: Arc<dyn Disk>, max_open: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            max_open,
            open: Arc::default(),
            ring: Mutex::default(),
            index_rebuilds: AtomicU64::new(0),
        })
    }

    /// Maps open now (for metrics).
    pub(crate) fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Indexes that were missing, damaged or short and were made anew from the log, since start (for metrics).
    pub(crate) fn index_rebuilds(&self) -> u64 {
        self.index_rebuilds.load(Ordering::Relaxed)
    }

    pub(super) fn count_rebuild(&self) {
        self.index_rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes others until there is room for one more, and takes it.
    pub(super) fn reserve(&self) -> Permit {
        // Twice around is enough: the first time takes the second chances away.
        let mut looks = 2 * self.ring.lock().len();
        while looks > 0 && self.open.load(Ordering::Relaxed) >= self.max_open {
            looks -= 1;
            let Some(oldest) = self.ring.lock().pop_front() else {
                break;
            };
            let Some(segment) = oldest.upgrade() else {
                continue;
            };
            // Out of the ring before it is closed: who opens it meanwhile puts it back in.
            segment.queued.store(false, Ordering::SeqCst);
            if segment.is_open() {
                if segment.referenced.swap(false, Ordering::Relaxed) {
                    self.enqueue(&segment);
                } else {
                    segment.forget_map();
                }
            }
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Permit {
            open: Arc::clone(&self.open),
        }
    }

    /// Makes a segment, which is open by now, one that can be closed for another.
    pub(super) fn enqueue(&self, segment: &Arc<Inner>) {
        if segment.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut ring = self.ring.lock();
        // Segments that are gone leave their places behind.
        if ring.len() > 2 * self.max_open + 64 {
            ring.retain(|segment| segment.strong_count() > 0);
        }
        ring.push_back(Arc::downgrade(segment));
    }
}

/// A place in the count of open maps, given back when dropped.
pub(super) struct Permit {
    open: Arc<AtomicUsize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
