//! A small file that is replaced as a whole, in two slots: the older one is overwritten in place and synced.
//!
//! A crash in the middle of a write damages only the slot that was being written; the other still holds what was there
//! before. Both files are made, with room to grow, when the log is opened; nothing is created or renamed after that, so
//! an update needs no free space until the payload has outgrown its room. So checkpoints, and with them commits, go on
//! when the disk is full.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{At, Error, Result};
use crate::files::codec::{FRAME_HEADER_BYTES, FrameError, frame, unframe};
use crate::io::disk::{DirEntry, Disk, OpenMode};

/// The least room that a slot is given, in bytes.
const ROOM_BYTES: usize = 64 << 10;

/// Two slots and the generation that the next write gets.
pub(crate) struct Slots {
    disk: Arc<dyn Disk>,
    paths: [PathBuf; 2],
    magic: [u8; 8],
    version: u32,
    next_generation: u64,
    /// Both slots were whole when they were opened, so the newest payload may not be durable yet.
    is_doubted: bool,
}

/// What was found in the slots when they were opened.
pub(crate) struct Found {
    /// The newest payload's generation; 0 if there is none.
    pub(crate) generation: u64,
    /// The newest payload that is whole.
    pub(crate) payload: Option<Vec<u8>>,
    /// What is wrong with each slot that exists and is not whole. A crash leaves one such slot; two are damage.
    pub(crate) damaged: Vec<String>,
    /// The paths of those slots.
    pub(crate) damaged_paths: Vec<PathBuf>,
    /// Why a slot holds no payload: damaged, missing, or never written.
    pub(crate) faults: [Option<String>; 2],
}

impl Slots {
    /// Reads both slots.
    ///
    /// # Errors
    /// [`Error::Directory`] for a version that this program does not know; [`Error::Io`] if a slot cannot be read.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        paths: [PathBuf; 2],
        magic: [u8; 8],
        version: u32,
    ) -> Result<(Self, Found)> {
        let found = Self::read(&*disk, &paths, magic, version)?;
        let next_generation = found.generation + 1;
        let is_doubted = found.faults.iter().all(Option::is_none);
        Ok((
            Self {
                disk,
                paths,
                magic,
                version,
                next_generation,
                is_doubted,
            },
            found,
        ))
    }

    /// Reads both slots and changes nothing.
    ///
    /// # Errors
    /// As for [`Slots::open`].
    pub(crate) fn read(disk: &dyn Disk, paths: &[PathBuf; 2], magic: [u8; 8], version: u32) -> Result<Found> {
        let mut best: Option<(u64, Vec<u8>)> = None;
        let mut damaged = Vec::new();
        let mut damaged_paths = Vec::new();
        let mut faults = [None, None];
        for (path, fault) in paths.iter().zip(&mut faults) {
            let Some(bytes) = read_if_exists(disk, path)? else {
                *fault = Some("missing".into());
                continue;
            };
            match unframe(magic, version, &bytes) {
                Ok((generation, payload)) => {
                    if best.as_ref().is_none_or(|(newest, _)| generation > *newest) {
                        best = Some((generation, payload.to_vec()));
                    }
                }
                Err(FrameError::Version(found)) => {
                    return Err(Error::version(path, found, version));
                }
                // Only zeros: the slot's first write never reached the disk.
                Err(FrameError::Damaged(_)) if bytes.iter().all(|byte| *byte == 0) => {
                    *fault = Some("nothing was ever written to it".into());
                }
                Err(FrameError::Damaged(what)) => {
                    *fault = Some(what.into());
                    damaged_paths.push(path.clone());
                    damaged.push(format!("{}: {what}", path.display()));
                }
            }
        }
        let (generation, payload) =
            best.map_or((0, None), |(generation, payload)| (generation, Some(payload)));
        Ok(Found {
            generation,
            payload,
            damaged,
            damaged_paths,
            faults,
        })
    }

    /// The generation of the newest payload; 0 if there is none.
    pub(crate) fn generation(&self) -> u64 {
        self.next_generation - 1
    }

    /// Writes the newest whole payload over a slot that is not whole. Returns the slot, if there was one to mend.
    ///
    /// # Errors
    /// As for [`Slots::open`], and what the disk said; the newest payload is still there then.
    pub(crate) fn mend(
        disk: Arc<dyn Disk>,
        paths: [PathBuf; 2],
        magic: [u8; 8],
        version: u32,
    ) -> Result<Option<PathBuf>> {
        let found = Self::read(&*disk, &paths, magic, version)?;
        let (Some(payload), Some(slot)) = (found.payload, found.faults.iter().position(Option::is_some))
        else {
            return Ok(None);
        };
        // The generation says which slot is written: this is the next one that belongs to the slot.
        let mut next_generation = found.generation + 1;
        if next_generation % 2 != slot as u64 {
            next_generation += 1;
        }
        let mended = paths[slot].clone();
        let mut slots = Self {
            disk,
            paths,
            magic,
            version,
            next_generation,
            is_doubted: false,
        };
        slots.reserve()?;
        slots.write(&payload)?;
        Ok(Some(mended))
    }

    /// Writes the newest payload over itself, so that it is durable before the older slot is overwritten: the process
    /// that wrote it may have been told that its sync failed, and then the page cache shows what no later sync writes.
    /// If a slot is not whole, that one was being written, and the other was durable before.
    ///
    /// # Errors
    /// What the disk said; the older payload is still there then.
    pub(crate) fn make_durable(&self) -> Result<()> {
        if !self.is_doubted {
            return Ok(());
        }
        let path = &self.paths[(self.generation() % 2) as usize];
        let context = |error| Error::io(format!("writing {}", path.display()), error);
        let bytes = read_if_exists(&*self.disk, path)?.unwrap_or_default();
        let file = self.disk.open(path, OpenMode::ReadWrite).map_err(context)?;
        file.write_all_at(&[IoSlice::new(&bytes)], 0).map_err(context)?;
        file.sync_data().map_err(context)
    }

    /// Makes sure that both files are there, by name and with room, so that later writes need neither space nor a
    /// directory's sync. Their contents stay.
    ///
    /// # Errors
    /// What the disk said.
    pub(crate) fn reserve(&self) -> Result<()> {
        for path in &self.paths {
            let context = |error| Error::io(format!("making {}", path.display()), error);
            let file = self.disk.open(path, OpenMode::Create).map_err(context)?;
            let length = file.len().map_err(context)? as usize;
            if length < ROOM_BYTES {
                let zeros = vec![0; ROOM_BYTES - length];
                file.write_all_at(&[IoSlice::new(&zeros)], length as u64)
                    .map_err(context)?;
                file.sync_data().map_err(context)?;
            }
        }
        // Also if both were there: the process that made them may have ended before it synced their names.
        let dir = self.paths[0].parent().unwrap_or(Path::new("."));
        self.disk.sync_dir(dir).at("syncing", dir)
    }

    /// Writes a new payload into the older slot and syncs it. When this returns `Ok`, the payload is durable.
    ///
    /// # Errors
    /// What the disk said; the previous payload is then still the newest.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<()> {
        let path = &self.paths[(self.next_generation % 2) as usize];
        let context = |error| Error::io(format!("writing {}", path.display()), error);
        let mut bytes = frame(self.magic, self.version, self.next_generation, payload);
        let file = self.disk.open(path, OpenMode::ReadWrite).map_err(context)?;
        let length = file.len().map_err(context)? as usize;
        if length < bytes.len() {
            // Room for twice the payload, so that later writes stay within the blocks that are there.
            bytes.resize((bytes.len() * 2).max(ROOM_BYTES), 0);
        }
        file.write_all_at(&[IoSlice::new(&bytes)], 0).map_err(context)?;
        file.sync_data().map_err(context)?;
        self.next_generation += 1;
        Ok(())
    }
}

/// The entries of a directory; none where there is no directory.
pub(crate) fn list_if_exists(disk: &dyn Disk, dir: &Path) -> Result<Vec<DirEntry>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.at("listing", dir),
    }
}

/// A whole file, or `None` where there is none.
pub(crate) fn read_if_exists(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>> {
    let context = |error| Error::io(format!("reading {}", path.display()), error);
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(context(error)),
    };
    let length = file.len().map_err(context)?;
    // A slot is small: a length beyond 1 GiB is damage, and finding that out should not take more memory.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30)];
    let count = file.read_at(&mut bytes, 0).map_err(context)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

const _: () = assert!(ROOM_BYTES > FRAME_HEADER_BYTES);
