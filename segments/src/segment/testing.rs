//! What the tests of segments and reads share: a partition's directory, written as the committer does.

use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::batch::BatchBuilder;
use crate::disk::{Disk, OpenMode, RealDisk};
use crate::read::View;
use crate::segment::{BatchNote, Segment, SegmentPool, Span};
use crate::types::{FilePos, Offset, TimestampMs};

/// A batch as it was written, and where.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) segment: usize,
    pub(crate) note: BatchNote,
    pub(crate) bytes: Vec<u8>,
    /// Timestamps, from `note.base_offset` on.
    pub(crate) times: Vec<i64>,
}

impl Written {
    pub(crate) fn base(&self) -> u64 {
        self.note.base_offset.get()
    }

    pub(crate) fn next(&self) -> u64 {
        self.note.next_offset.get()
    }

    pub(crate) fn start(&self) -> u64 {
        self.note.position.get()
    }

    pub(crate) fn end(&self) -> u64 {
        self.start() + self.note.bytes
    }
}

/// A partition in a directory of its own.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pool: Arc<SegmentPool>,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) written: Vec<Written>,
    pub(crate) next_offset: u64,
    disk: RealDisk,
}

pub(crate) const MAP_BYTES: u64 = 16 << 20;

/// Both kinds of views.
pub(crate) fn disks() -> [RealDisk; 2] {
    [RealDisk::new(), RealDisk::without_maps()]
}

impl Rig {
    pub(crate) fn new(disk: RealDisk, max_open: usize, base: u64) -> Self {
        let mut rig = Self {
            dir: tempfile::tempdir().unwrap(),
            pool: SegmentPool::new(Arc::new(disk.clone()), max_open),
            segments: Vec::new(),
            written: Vec::new(),
            next_offset: base,
            disk,
        };
        rig.roll();
        rig
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Begins a segment.
    pub(crate) fn roll(&mut self) {
        let base = Offset::new(self.next_offset);
        let segment = Segment::new(
            Arc::clone(&self.pool),
            self.dir.path(),
            base,
            MAP_BYTES,
            FilePos::ZERO,
        );
        self.disk.open(&segment.log_path(), OpenMode::Create).unwrap();
        self.segments.push(Arc::new(segment));
    }

    /// Writes a batch without publishing it.
    pub(crate) fn write(&mut self, times: &[i64], value_bytes: usize, json_lines: bool) -> BatchNote {
        let mut builder = BatchBuilder::new();
        for (i, time) in times.iter().enumerate() {
            let value = vec![(self.next_offset as usize + i) as u8; value_bytes];
            builder.push(TimestampMs(*time), Some(b"key"), Some(&value), &[]);
        }
        let mut batch = builder.seal();
        batch.set_base_offset(Offset::new(self.next_offset));
        self.write_bytes(batch.into_bytes(), times, json_lines)
    }

    pub(crate) fn write_bytes(&mut self, bytes: Vec<u8>, times: &[i64], json_lines: bool) -> BatchNote {
        let segment = self.segments.len() - 1;
        let position = match self.written.last() {
            Some(last) if last.segment == segment => last.end(),
            _ => 0,
        };
        let note = BatchNote {
            base_offset: Offset::new(self.next_offset),
            next_offset: Offset::new(self.next_offset + times.len() as u64),
            max_timestamp: TimestampMs(*times.iter().max().unwrap()),
            position: FilePos(position),
            bytes: bytes.len() as u64,
            json_lines,
        };
        let file = self
            .disk
            .open(&self.segments[segment].log_path(), OpenMode::ReadWrite)
            .unwrap();
        file.write_all_at(&[IoSlice::new(&bytes)], position).unwrap();
        self.next_offset = note.next_offset.get();
        self.written.push(Written {
            segment,
            note,
            bytes,
            times: times.to_vec(),
        });
        note
    }

    /// Writes a batch and publishes it.
    pub(crate) fn append(&mut self, times: &[i64], value_bytes: usize) {
        let note = self.write(times, value_bytes, true);
        self.segments.last().unwrap().publish(&[note]);
    }

    /// `count` batches of ten records each, about 1 KiB, at times 10 ms apart.
    pub(crate) fn fill(&mut self, count: usize) {
        for _ in 0..count {
            let first = self.next_offset as i64 * 10;
            let times: Vec<i64> = (0..10).map(|i| first + i * 10).collect();
            self.append(&times, 90);
        }
    }

    /// As after a restart: nothing is known but the files.
    pub(crate) fn reopen(&mut self) {
        self.pool = SegmentPool::new(Arc::new(self.disk.clone()), self.pool.max_open);
        self.segments = self
            .segments
            .iter()
            .map(|segment| {
                Arc::new(Segment::new(
                    Arc::clone(&self.pool),
                    self.dir.path(),
                    segment.base_offset(),
                    MAP_BYTES,
                    segment.readable(),
                ))
            })
            .collect();
    }

    pub(crate) fn view(&self) -> View {
        View {
            log_start_offset: self.segments[0].base_offset(),
            end_offset: Offset::new(self.next_offset),
            segments: Arc::new(self.segments.clone()),
        }
    }

    /// Everything of a segment from an offset on.
    pub(crate) fn span(&self, from: u64) -> Span {
        Span {
            from: Offset::new(from),
            end: Offset::new(self.next_offset),
            segment_end: Offset::new(self.next_offset),
            sealed: false,
            at_least_one: true,
        }
    }

    /// Changes bytes of a segment's file.
    pub(crate) fn damage(&self, segment: usize, position: u64, change: impl FnOnce(&mut [u8]), len: usize) {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.segments[segment].log_path())
            .unwrap();
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, position).unwrap();
        change(&mut bytes);
        file.write_all_at(&bytes, position).unwrap();
    }

    /// Flips a bit of one byte of batch `index`.
    pub(crate) fn flip(&self, index: usize, byte: u64) {
        let batch = &self.written[index];
        self.damage(batch.segment, batch.start() + byte, |bytes| bytes[0] ^= 0x10, 1);
    }
}
