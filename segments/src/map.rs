//! Read-only maps of files: the only unsafe code of the engine.
//!
//! A map is made at the full length its file may grow to; pages beyond the file's end are never touched. A slice of it
//! is a [`Bytes`] that holds the map, so that a file can be closed or removed while somebody still reads it.
//!
//! # Why a slice may be handed out
//! - *It never changes.* A slice is only made of bytes below a segment's readable position, which are written once;
//!   appends go beyond it. No reference is ever made to more than the slice, so nobody holds one to bytes that the
//!   kernel is filling in.
//! - *It is there.* Files are cut only by recovery, before they are mapped. [`FileMap::populate`] has brought the pages
//!   in before they are touched, and has failed with an error where the file ends too early or the disk cannot read.
//!
//! What remains: a page that was populated can be evicted again; if the disk fails to read it back, or another program
//! cuts the file meanwhile, the touch raises `SIGBUS`, which ends the process. Nothing is lost by that, for nothing is
//! written through a map. Who cannot accept it uses a disk without maps
//! ([`RealDisk::without_maps`](crate::RealDisk::without_maps)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::disk::Mapping;

/// What a fallback read brings in at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// A read-only shared map of a file's beginning.
pub(crate) struct FileMap {
    map: MmapRaw,
    /// `map` is at least a page long; this is the length asked for.
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
                // The answer where touching a page would raise SIGBUS: it lies beyond the file, or cannot be read.
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
        // SAFETY: `FileMap::check` has kept `offset + len` within the map, which is one allocation that lives as long as
        // `self.map`.
        let start = unsafe { self.map.map.as_ptr().add(self.offset) };
        // SAFETY: the range lies in the map (above) and is initialised by the kernel; the map is never written through,
        // and the caller of `Mapping::bytes` keeps the range below what has been written to the file, where nothing
        // changes any more (see the module's header, also for what remains: files cut by others).
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
    fn ranges_outside_of_the_map_are_refused() {
        let map = Arc::new(FileMap::new(&file_of(10), 10).unwrap());
        for (start, end) in [(0, 11), (7, 6), (u64::MAX, u64::MAX), (11, 11)] {
            assert!(map.populate(start, end).is_err(), "{start}..{end}");
            assert!(map.clone().bytes(start, end).is_err(), "{start}..{end}");
        }
        assert!(map.bytes(10, 10).unwrap().is_empty());
    }
}
