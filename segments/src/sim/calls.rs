//! The calls of [`Disk`], [`DiskFile`] and [`Mapping`] on a simulated disk.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{SimDisk, State, to_index};
use super::faults::{FaultError, Faults, IoKind, Lie, Verdict};
use super::tree::{Found, Ino};
use crate::io::disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode};
use crate::io::sync::Mutex;

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.check_handles()?;
        let found = state.tree.look_up(path)?;
        let ino = match (found, mode) {
            (Some(Found::File(ino)), _) => {
                let alive = state.begin_whole(IoKind::Open, path)?;
                state.end(alive)?;
                ino
            }
            (None, OpenMode::Create) => {
                let alive = state.begin_whole(IoKind::Create, path)?;
                let ino = state.tree.create_file(path)?;
                state.end(alive)?;
                ino
            }
            (found, _) => {
                let alive = state.begin_whole(IoKind::Open, path)?;
                state.end(alive)?;
                return Err(match found {
                    None => io::Error::from(io::ErrorKind::NotFound),
                    Some(_) => io::Error::from(io::ErrorKind::IsADirectory),
                });
            }
        };
        state.open_files += 1;
        Ok(Arc::new(SimFile {
            state: self.0.clone(),
            ino,
            path: path.to_owned(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.0.lock();
        state.check_handles()?;
        let alive = state.begin_whole(IoKind::Look, dir)?;
        state.end(alive)?;
        let entries = state.tree.list(dir)?;
        Ok(entries
            .into_iter()
            .map(|(name, len)| DirEntry {
                name,
                is_dir: len.is_none(),
                len: len.unwrap_or(0),
                modified: None,
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.0.lock();
        let alive = state.begin_whole(IoKind::Look, path)?;
        state.end(alive)?;
        Ok(state.tree.look_up(path)?.is_some())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.begin_whole(IoKind::Create, dir)?;
        state.tree.create_dir_all(dir)?;
        state.end(alive)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.begin_whole(IoKind::Rename, to)?;
        state.tree.rename(from, to)?;
        state.recount();
        state.end(alive)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.begin_whole(IoKind::Create, to)?;
        let device = |path: &Path| path.components().nth(1).map(|part| part.as_os_str().to_owned());
        if device(from) != device(to) {
            return Err(rustix::io::Errno::XDEV.into());
        }
        state.tree.hard_link(from, to)?;
        state.end(alive)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.begin_whole(IoKind::Remove, path)?;
        state.tree.remove_file(path)?;
        state.recount();
        state.end(alive)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let verdict = state.begin(IoKind::Remove, dir, (0, 0))?;
        let (mut steps, result) = match verdict {
            Verdict::Go => (u64::MAX, Ok(())),
            // It ends at a random point on its way through the directory.
            Verdict::Fail(error) => (state.rng.below(8), Err(error.error())),
            Verdict::Stop => (state.rng.below(8), Err(Faults::stopped())),
        };
        state.tree.remove_dir_all(dir, &mut steps)?;
        state.recount();
        result
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_handles()?;
        let verdict = state.begin(IoKind::SyncDir, dir, (0, 0))?;
        let ino = state.tree.look_up_dir(dir)?;
        let State { tree, rng, lies, .. } = &mut *state;
        match verdict {
            Verdict::Go if lies.contains(&Lie::SyncDirAfterRename) && tree.pass_over_rename(ino) => Ok(()),
            Verdict::Go => {
                tree.sync_dir(ino);
                Ok(())
            }
            // The directory could not even be opened.
            Verdict::Fail(error @ FaultError::Handles) => Err(error.error()),
            Verdict::Fail(error) => {
                tree.fail_sync_dir(ino, rng);
                Err(error.error())
            }
            Verdict::Stop => Err(Faults::stopped()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        let found = state.tree.look_up(path)?;
        let kind = if found.is_none() {
            IoKind::Create
        } else {
            IoKind::Look
        };
        let alive = state.begin_whole(kind, path)?;
        let ino = match found {
            Some(Found::File(ino)) => ino,
            Some(Found::Dir(_)) => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => state.tree.create_file(path)?,
        };
        state.end(alive)?;
        if !state.locks.insert(ino) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(LockGuard {
            state: self.0.clone(),
            ino,
        }))
    }
}

struct LockGuard {
    state: Arc<Mutex<State>>,
    ino: Ino,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.state.lock().locks.remove(&self.ino);
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    ino: Ino,
    path: PathBuf,
    writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().open_files -= 1;
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(rustix::io::Errno::BADF.into())
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        match state.begin(IoKind::Read, &self.path, (position, buffer.len() as u64))? {
            Verdict::Go => {}
            Verdict::Fail(error) => return Err(error.error()),
            Verdict::Stop => return Err(Faults::stopped()),
        }
        let contents = state.tree.file(self.ino).current();
        let start = usize::try_from(position)
            .unwrap_or(usize::MAX)
            .min(contents.len());
        let len = buffer.len().min(contents.len() - start);
        buffer[..len].copy_from_slice(&contents[start..start + len]);
        state.load(self.ino, &self.path, start, start + len);
        for (at, mask) in state.tree.file(self.ino).flips(start, start + len) {
            buffer[at - start] ^= mask;
        }
        Ok(len)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.check_writable()?;
        let bytes: Cow<'_, [u8]> = match buffers {
            [buffer] => Cow::Borrowed(buffer),
            _ => Cow::Owned(
                buffers
                    .iter()
                    .map(|buffer| &**buffer)
                    .collect::<Vec<_>>()
                    .concat(),
            ),
        };
        self.state.lock().write(self.ino, &bytes, position, &self.path)
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        self.check_writable()?;
        self.state.lock().reserve(self.ino, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(IoKind::Sync, &self.path, (0, 0))?;
        let State { tree, rng, lies, .. } = &mut *state;
        let file = tree.file_mut(self.ino);
        let path = self.path.to_string_lossy();
        let is_lie = |lie: &Lie| matches!(lie, Lie::Sync(part) if path.contains(part));
        match verdict {
            Verdict::Go if lies.iter().any(is_lie) => Ok(()),
            Verdict::Go => {
                file.sync();
                Ok(())
            }
            Verdict::Fail(error) => {
                file.fail_sync(rng);
                Err(error.error())
            }
            Verdict::Stop => Err(Faults::stopped()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        let alive = state.begin_whole(IoKind::Look, &self.path)?;
        state.end(alive)?;
        Ok(state.tree.file(self.ino).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.state.lock();
        let alive = state.begin_whole(IoKind::SetLen, &self.path)?;
        let len = to_index(len)?;
        state.tree.file_mut(self.ino).set_len(len);
        state.recount();
        state.end(alive)
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let mut state = self.state.lock();
        let alive = state.begin_whole(IoKind::Look, &self.path)?;
        state.end(alive)?;
        Ok(Arc::new(SimMapping {
            state: self.state.clone(),
            ino: self.ino,
            path: self.path.clone(),
            len,
        }))
    }
}

struct SimMapping {
    state: Arc<Mutex<State>>,
    ino: Ino,
    path: PathBuf,
    len: u64,
}

/// What a file held when it was read: later writes go to a copy, because a reader that verified this must not see them.
struct Contents(Arc<Vec<u8>>);

impl AsRef<[u8]> for Contents {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapping for SimMapping {
    fn len(&self) -> u64 {
        self.len
    }

    fn populate(&self, start: u64, end: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.begin(IoKind::Read, &self.path, (start, end.saturating_sub(start)))? {
            Verdict::Go => {}
            Verdict::Fail(error) => return Err(error.error()),
            Verdict::Stop => return Err(Faults::stopped()),
        }
        if end > self.len || end > state.tree.file(self.ino).len() as u64 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        state.load(self.ino, &self.path, to_index(start)?, to_index(end)?);
        Ok(())
    }

    fn bytes(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes> {
        let state = self.state.lock();
        let file = state.tree.file(self.ino);
        let contents = file.current();
        assert!(
            start <= end && end <= self.len && end <= contents.len() as u64,
            "bytes {start}..{end} of a view of {} of {}, which has {}: a real map would fault",
            self.len,
            self.path.display(),
            contents.len(),
        );
        let range = to_index(start)?..to_index(end)?;
        let mut flips = file.flips(range.start, range.end).peekable();
        if flips.peek().is_some() {
            let mut bytes = contents[range.clone()].to_vec();
            flips.for_each(|(at, mask)| bytes[at - range.start] ^= mask);
            return Ok(Bytes::from(bytes));
        }
        Ok(Bytes::from_owner(Contents(Arc::clone(contents))).slice(range))
    }
}
