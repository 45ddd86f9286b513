//! Shared by the tests of segments and reads: a partition's directory, written as the committer writes it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::batch::{BatchBuilder, Codec};
use crate::io::disk::{Disk, DiskFile, Mapping, OpenMode, RealDisk};
use crate::segment::read::View;
use crate::segment::{BatchNote, Segment, SegmentPool, Span};
use crate::sim::{DiskLayer, FileLayer, Layered, LayeredFile};
use crate::types::{FilePos, Offset, TimestampMs};

/// A batch as it was written, and its place.
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
    /// How the batches that are written are compressed.
    pub(crate) codec: Option<Codec>,
    disk: Arc<dyn Disk>,
}

pub(crate) const MAP_BYTES: u64 = 16 << 20;

/// Disks with memory maps and without.
pub(crate) fn disks() -> [RealDisk; 2] {
    [RealDisk::new(), RealDisk::without_maps()]
}

impl Rig {
    pub(crate) fn new(disk: impl Disk, max_open: usize, base: u64) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let mut rig = Self {
            dir: tempfile::tempdir().unwrap(),
            pool: SegmentPool::new(Arc::clone(&disk), max_open),
            segments: Vec::new(),
            written: Vec::new(),
            next_offset: base,
            codec: None,
            disk,
        };
        rig.roll();
        rig
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Begins a new segment.
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
        let mut batch = builder.seal().with_codec(self.codec, None).unwrap();
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

    /// As after a restart: only the files are known.
    pub(crate) fn reopen(&mut self) {
        self.pool = SegmentPool::new(Arc::clone(&self.disk), self.pool.max_open);
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

    /// The largest timestamp in the first segment.
    pub(crate) fn newest_timestamp(&self) -> Option<TimestampMs> {
        let first = &self.segments[0];
        first.max_timestamp_in(&Span::whole(first.base_offset())).unwrap()
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

/// A disk that cannot read some bytes.
#[derive(Clone)]
pub(crate) struct BadSectors {
    pub(crate) disk: RealDisk,
    pub(crate) bad: Arc<Mutex<Vec<Range<u64>>>>,
    pub(crate) error: io::ErrorKind,
}

struct BadFile {
    file: Arc<dyn DiskFile>,
    disk: BadSectors,
}

struct BadMapping {
    mapping: Arc<dyn Mapping>,
    disk: BadSectors,
}

impl BadSectors {
    pub(crate) fn new(disk: RealDisk, error: io::ErrorKind) -> Layered<Self> {
        let bad = Arc::default();
        Layered(Self { disk, bad, error })
    }

    fn check(&self, start: u64, end: u64) -> io::Result<()> {
        let bad = self.bad.lock();
        let hit = bad.iter().any(|bad| bad.start < end && start < bad.end);
        if hit { Err(self.error.into()) } else { Ok(()) }
    }
}

impl DiskLayer for BadSectors {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn wrap(&self, _: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        Arc::new(LayeredFile(BadFile { file, disk }))
    }
}

impl FileLayer for BadFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let (mapping, disk) = (self.file.map(len)?, self.disk.clone());
        Ok(Arc::new(BadMapping { mapping, disk }))
    }
}

impl Mapping for BadMapping {
    fn len(&self) -> u64 {
        self.mapping.len()
    }
    fn populate(&self, start: u64, end: u64) -> io::Result<()> {
        self.disk.check(start, end)?;
        self.mapping.populate(start, end)
    }
    fn bytes(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes> {
        assert!(self.disk.check(start, end).is_ok(), "{start}..{end} is touched");
        Arc::clone(&self.mapping).bytes(start, end)
    }
}

/// The seeds of a random test: `0..count`, or only that of `QUIPU_SEED`.
pub(crate) fn seeds(count: u64) -> impl Iterator<Item = Seed> {
    let seeds = std::env::var("QUIPU_SEED").map_or(0..count, |seed| {
        let seed = seed.parse().expect("QUIPU_SEED is a number");
        seed..seed + 1
    });
    seeds.map(Seed)
}

/// A seed that is printed when the test that runs with it fails.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with QUIPU_SEED={}", self.0);
        }
    }
}
