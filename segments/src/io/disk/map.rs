//! Read-only maps of files: the only unsafe code of the engine.
//!
//! A map is made at the full length its file may grow to; pages beyond the file's end are never touched. A slice of it
//! is a [`Bytes`] that holds the map, so that a file can be closed or removed while somebody still reads it.
//!
//! # Why a slice may be handed out
//! A `&[u8]` promises that the memory is there and that nobody changes it. The language knows nothing about files: to
//! it, a map is memory that comes from outside of the program (from the kernel), and a `write` to the file is a store
//! from outside into that memory. So the promise holds if the kernel has stored the bytes before the slice is made, and
//! stores nothing there while it lives.
//! - *Stored before.* A slice ends at or below a segment's readable position. The committer moves that position after
//!   its `write` has returned, under the lock that readers take to look at it. So the write happens before the read.
//! - *Not stored to again.* Bytes below the readable position are written once. Appends write beyond it, also when they
//!   repeat those of a failed round. So do cuts: `set_len` to the end of the last batch removes what a failed write has
//!   left. A store to the same page, or the same word, does not matter, because the promise is about each byte.
//!   Recovery writes and cuts before any file is mapped except the journal's, and no slice of those is left by then.
//! - *No reference to more.* The map itself is held as a raw pointer, never as a slice of all of it, so that there is no
//!   reference to bytes that the kernel is going to fill in.
//! - *It is there.* [`FileMap::populate`] brings the pages in before they are touched, and fails with an error where
//!   the file ends too early or the disk cannot read. Bytes that this process has appended since the file was mapped
//!   are touched without that: they are in the page cache, where they were written.
//! - *It stays.* Each slice holds the map, and the last of them unmaps it. The bytes' address does not depend on where
//!   the slice's owner lies. A removed or replaced name does not matter to a map.
//!
//! [`Mapping::bytes`] is a safe function, but its callers (the segment's two ways to read, and the journal's replay)
//! must keep all this: no check in it could know what will be written later. Nothing else may be mapped.
//!
//! What remains: a page that was brought in can be evicted again; if the disk fails to read it back, or another program
//! cuts the file meanwhile, the touch raises `SIGBUS`, which ends the process. Another program that writes to the file
//! breaks the promise, as with every map of a file; the directory's lock keeps a second quipu away. Neither loses data,
//! because nothing is written through a map. If this is not acceptable, use a disk without maps
//! ([`RealDisk::without_maps`](crate::RealDisk::without_maps)).
//!
//! `scripts/sanitize` runs the code that reads through maps under the address and thread sanitizers and valgrind. Miri
//! cannot map files, and would check only the two unsafe expressions of `Slice`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::io::disk::Mapping;

/// How much a fallback read reads at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// A read-only shared map of a file's beginning.
pub(crate) struct FileMap {
    map: MmapRaw,
    /// `map` is at least a page long; this is the requested length.
    len: u64,
    /// Kept only where the kernel cannot populate (before Linux 5.14): pages are then brought in by reading the file.
    reader: Option<File>,
}

impl FileMap {
    /// Maps the first `len` bytes of `file`, which may be shorter. The file's handle is not needed afterwards.
    pub(crate) fn new(file: &File, len: u64) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let map = MmapOptions::new().len(bytes).map_raw_read_only(file)?;
        let reader = if can_populate(&map) {
            None
        } else {
            Some(file.try_clone()?)
        };
        Ok(Self { map, len, reader })
    }

    fn check(&self, start: u64, end: u64) -> io::Result<(usize, usize)> {
        if start > end || end > self.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bytes {start}..{end} of a map of {} bytes", self.len),
            ));
        }
        // `len` fits a usize, and so does what is below it.
        Ok((start as usize, (end - start) as usize))
    }
}

/// Whether the kernel knows `MADV_POPULATE_READ`: it checks the advice before the (empty) range.
fn can_populate(map: &MmapRaw) -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| map.advise_range(Advice::PopulateRead, 0, 0).is_ok())
}

impl Mapping for FileMap {
    fn len(&self) -> u64 {
        self.len
    }

    fn populate(&self, start: u64, end: u64) -> io::Result<()> {
        let (offset, len) = self.check(start, end)?;
        if len == 0 {
            return Ok(());
        }
        if let Some(file) = &self.reader {
            return read_through(file, start, end);
        }
        loop {
            match self.map.advise_range(Advice::PopulateRead, offset, len) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel answers this for a page whose touch would raise SIGBUS: beyond the file, or unreadable.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::FAULT.raw_os_error()) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the file ends within bytes {start}..{end}, or its disk cannot read them"),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn bytes(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes> {
        let (offset, len) = self.check(start, end)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        Ok(Bytes::from_owner(Slice {
            map: self,
            offset,
            len,
        }))
    }
}

/// Brings a range into the page cache by reading it.
fn read_through(file: &File, start: u64, end: u64) -> io::Result<()> {
    let mut scratch = vec![0; SCRATCH_BYTES.min((end - start) as usize)];
    let mut position = start;
    while position < end {
        let want = scratch.len().min((end - position) as usize);
        file.read_exact_at(&mut scratch[..want], position)?;
        position += want as u64;
    }
    Ok(())
}

/// A part of a map, holding it.
struct Slice {
    map: Arc<FileMap>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Mapping::bytes` makes slices only of ranges that `FileMap::check` has found within `FileMap::len`,
        // the mapped length: one allocation, far smaller than `isize::MAX`, that lives as long as `self.map`.
        let start = unsafe { self.map.map.as_ptr().add(self.offset) };
        // SAFETY: the range lies in the map (above), which is readable, and bytes have no alignment and no invalid values.
        // It was stored before and is not stored to while the slice lives: kept by the caller of `Mapping::bytes`, as the
        // module's header says (also what remains: files cut or written by others). The returned reference lives no longer
        // than `self`, which holds the map.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file_of(len: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&(0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>())
            .unwrap();
        file
    }

    #[test]
    fn a_map_may_be_longer_than_its_file_and_sees_it_grow() {
        let mut file = file_of(10);
        let map = Arc::new(FileMap::new(&file, 1 << 20).unwrap());
        assert_eq!(&map.clone().bytes(8, 10).unwrap()[..], &[8, 9]);
        file.write_all(&[77; 10_000]).unwrap();
        map.populate(0, 10_010).unwrap();
        assert_eq!(map.bytes(10_009, 10_010).unwrap()[0], 77);
    }

    #[test]
    fn populating_beyond_the_file_is_an_error_and_not_a_signal() {
        let file = file_of(10_000);
        let map = FileMap::new(&file, 1 << 20).unwrap();
        map.populate(0, 10_000).unwrap();
        let error = map.populate(0, 20_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        file.set_len(100).unwrap();
        let error = map.populate(4096, 10_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }

    #[test]
    fn without_kernel_support_the_range_is_read_through() {
        let file = file_of(600_000);
        let mut map = FileMap::new(&file, 1 << 20).unwrap();
        map.reader = Some(file.try_clone().unwrap());
        map.populate(5, 600_000).unwrap();
        let error = map.populate(5, 600_001).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }

    #[test]
    fn a_slice_outlives_the_file_and_the_map() {
        let file = file_of(10_000);
        let map = Arc::new(FileMap::new(&file, 10_000).unwrap());
        let slice = map.clone().bytes(5_000, 5_004).unwrap();
        drop(map);
        drop(file);
        assert_eq!(&slice[..], &[231, 232, 233, 234]);
    }

    #[test]
    fn a_slice_stays_as_it_is_while_the_file_grows_and_is_cut_behind_it() {
        let file = file_of(10_000);
        let map = Arc::new(FileMap::new(&file, 1 << 20).unwrap());
        map.populate(0, 10_000).unwrap();
        let slice = map.clone().bytes(0, 10_000).unwrap();
        let before = slice.to_vec();
        // On the slice's last page, and beyond it.
        for _ in 0..3 {
            file.write_all_at(&[255; 9_000], 10_000).unwrap();
            assert_eq!(slice, before);
            file.set_len(10_000).unwrap();
            assert_eq!(slice, before);
        }
        assert!(map.populate(0, 10_000).is_ok());
        assert!(map.populate(0, 13_000).is_err());
    }

    #[test]
    fn slices_are_read_by_many_threads_while_another_appends() {
        const STEP: usize = 1_000;
        let file = file_of(STEP);
        let map = Arc::new(FileMap::new(&file, 1 << 20).unwrap());
        let written = std::sync::atomic::AtomicUsize::new(STEP);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        // Acquire: bytes that were written before the end moved are visible.
                        let end = written.load(std::sync::atomic::Ordering::Acquire);
                        let slice = map.clone().bytes(0, end as u64).unwrap();
                        assert!(slice.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
                        if end == 50 * STEP {
                            break;
                        }
                    }
                });
            }
            for step in 1..50 {
                let rows = (step * STEP..(step + 1) * STEP).map(|i| (i % 251) as u8);
                let bytes: Vec<u8> = rows.collect();
                file.write_all_at(&bytes, (step * STEP) as u64).unwrap();
                written.store((step + 1) * STEP, std::sync::atomic::Ordering::Release);
            }
        });
    }

    #[test]
    fn ranges_outside_of_the_map_are_refused() {
        let map = Arc::new(FileMap::new(&file_of(10), 10).unwrap());
        for (start, end) in [(0, 11), (7, 6), (u64::MAX, u64::MAX), (11, 11)] {
            assert!(map.populate(start, end).is_err(), "{start}..{end}");
            assert!(map.clone().bytes(start, end).is_err(), "{start}..{end}");
        }
        assert!(map.bytes(10, 10).unwrap().is_empty());
    }
}
