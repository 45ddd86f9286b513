//! Limits how many segments of a log are open at once.
//!
//! A segment that has been read keeps its map and its loaded index. If more than `max_open` are open, the least
//! recently used are closed, and their next read opens them again. "Least recently used" is approximate: the open
//! segments stand in a ring, and one that was read since the pool last looked at it gets a second chance.
//!
//! Slices that readers hold keep their maps alive beyond this limit; the number of readers limits those.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::inner::Inner;
use crate::io::disk::Disk;
use crate::io::sync::Mutex;
use crate::io::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What all segments of a log share: the disk and the bounded pool of open maps and loaded indexes (least recently used
/// closed).
pub(crate) struct SegmentPool {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) max_open: usize,
    open: Arc<AtomicUsize>,
    ring: Mutex<VecDeque<Weak<Inner>>>,
    index_rebuilds: AtomicU64,
    /// Whether damage was ever noted, in any partition: without damage, a read only checks this flag.
    pub(crate) has_damage: AtomicBool,
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
            has_damage: AtomicBool::new(false),
        })
    }

    /// Maps open now (for metrics).
    pub(crate) fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many indexes were missing, damaged or short and were made again from the log since start (for metrics).
    pub(crate) fn index_rebuilds(&self) -> u64 {
        self.index_rebuilds.load(Ordering::Relaxed)
    }

    pub(super) fn count_rebuild(&self) {
        self.index_rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes other segments until there is room for one more, and takes that place (even if none could be closed).
    pub(super) fn reserve(&self) -> Permit {
        // Two turns of the ring are enough: the first takes away the second chances.
        let mut looks = 2 * self.ring.lock().len();
        while looks > 0 && self.open.load(Ordering::Relaxed) >= self.max_open {
            looks -= 1;
            let Some(oldest) = self.ring.lock().pop_front() else {
                break;
            };
            let Some(segment) = oldest.upgrade() else {
                continue;
            };
            // Leave the ring before the map is closed: a thread that opens it meanwhile puts it back in.
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

    /// Puts an open segment into the ring, so that it can be closed for another.
    pub(super) fn enqueue(&self, segment: &Arc<Inner>) {
        if segment.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        // Only a second read earns a second chance: if all had one, the first in the ring would always be closed first.
        segment.referenced.store(false, Ordering::Relaxed);
        let mut ring = self.ring.lock();
        // Deleted segments leave dead entries in the ring.
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Rig, disks};
    use crate::segment::Access;

    /// Ten segments of ten batches.
    fn rig(disk: crate::io::disk::RealDisk, max_open: usize) -> Rig {
        let mut rig = Rig::new(disk, max_open, 0);
        for segment in 0..10 {
            if segment > 0 {
                rig.segments.last().unwrap().write_index().unwrap();
                rig.roll();
            }
            rig.fill(10);
        }
        rig
    }

    fn read(rig: &Rig, segment: usize) -> bytes::Bytes {
        let mut span = rig.span(segment as u64 * 100);
        span.segment_end = crate::Offset::new(segment as u64 * 100 + 100);
        let run = rig.segments[segment].read(&span, usize::MAX, Access::Cold);
        run.unwrap().unwrap().bytes
    }

    fn expected(rig: &Rig, segment: usize) -> Vec<u8> {
        rig.written[segment * 10..segment * 10 + 10]
            .iter()
            .flat_map(|w| w.bytes.clone())
            .collect()
    }

    fn is_open(rig: &Rig, segment: usize) -> bool {
        rig.segments[segment].inner.is_open()
    }

    #[test]
    fn no_more_segments_are_open_than_allowed_and_all_can_be_read() {
        for disk in disks() {
            for max_open in [1, 3, 20] {
                let mut rig = rig(disk.clone(), max_open);
                for reopened in [false, true] {
                    for _ in 0..3 {
                        for segment in 0..10 {
                            assert_eq!(read(&rig, segment), expected(&rig, segment));
                            assert!(rig.pool.open_count() <= max_open);
                        }
                    }
                    assert_eq!(rig.pool.open_count(), max_open.min(10), "reopened {reopened}");
                    rig.reopen();
                    assert_eq!(rig.pool.index_rebuilds(), 0);
                }
            }
        }
    }

    #[test]
    fn a_segment_that_is_read_again_and_again_stays_open() {
        let rig = rig(disks()[0].clone(), 3);
        read(&rig, 0);
        for round in 0..5 {
            for segment in 1..10 {
                read(&rig, segment);
                assert!(is_open(&rig, 0), "round {round}, segment {segment}");
                read(&rig, 0);
            }
        }
    }

    #[test]
    fn segments_that_are_gone_give_their_places_back() {
        let mut rig = rig(disks()[0].clone(), 4);
        for segment in 0..4 {
            read(&rig, segment);
        }
        assert_eq!(rig.pool.open_count(), 4);
        rig.segments.truncate(2);
        assert_eq!(rig.pool.open_count(), 2);
        for segment in &rig.segments {
            segment.close();
        }
        assert_eq!(rig.pool.open_count(), 0);
    }

    #[test]
    fn a_slice_outlives_its_segment_and_its_files() {
        for disk in disks() {
            let mut rig = rig(disk, 1);
            let slice = read(&rig, 0);
            read(&rig, 1);
            assert!(!is_open(&rig, 0));
            let again = read(&rig, 0);
            let segment = rig.segments.remove(0);
            segment.close();
            std::fs::remove_file(segment.log_path()).unwrap();
            for path in segment.index_paths() {
                std::fs::remove_file(path).unwrap();
            }
            let error = segment.read(&rig.span(0), 1, Access::Cold).unwrap_err();
            assert!(matches!(error, crate::Error::Trimmed { .. }), "{error}");
            drop(segment);
            assert_eq!(rig.pool.open_count(), 0);
            assert_eq!(slice, expected(&rig, 0));
            assert_eq!(again, expected(&rig, 0));
        }
    }

    #[test]
    fn many_threads_read_through_a_small_pool() {
        for disk in disks() {
            let rig = rig(disk, 2);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let rig = &rig;
                    scope.spawn(move || {
                        for i in 0..200 {
                            let segment = (i * 7 + thread * 3) % 10;
                            assert_eq!(read(rig, segment), expected(rig, segment));
                        }
                    });
                }
            });
            // Each thread may open one segment above the limit at the same moment, but no more.
            assert!(rig.pool.open_count() <= 2 + 4, "{}", rig.pool.open_count());
        }
    }
}
