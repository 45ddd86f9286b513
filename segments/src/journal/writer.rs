//! The journal's files in turn: the one that is written, the full ones, and the spare ones that come next.
//!
//! A file is made by writing zeros over its whole length and syncing it, so that writing a round later changes
//! nothing but data blocks, and a sync of it is one write to the device. Full files become spare again (renamed to a
//! new sequence, header rewritten and synced) once a durable checkpoint no longer needs them.
//!
//! Without files from before, the first file is short, so that a new log is open at once: the others are made meanwhile.
//! It and the next one have the space of a whole file from the start, though not the zeros, so that two files are enough
//! even if the disk gets full. A short file gets the rest of its zeros when it becomes spare.
//!
//! Before the first round of the next file is written, an end mark is made durable in the file before it, so that
//! recovery notices if the next file is missing or was cut.
//!
//! Crash: a file that was being made or recycled has a header that does not fit its name, or none; recovery treats it
//! as an empty spare.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{BLOCK_BYTES, FileHeader, RoundBuilder};
use crate::error::{Error, Result, is_out_of_handles};
use crate::files::layout::Layout;
use crate::io::disk::{Disk, DiskFile, OpenMode};
use crate::io::sync::{Condvar, Mutex};

/// Bytes that are kept free at the end of a file, for its end mark.
const END_MARK_BYTES: u64 = BLOCK_BYTES;

/// Where the next round is written. Only the committer takes its lock for long.
struct Current {
    sequence: u64,
    file: Arc<dyn DiskFile>,
    /// Its length.
    file_bytes: u64,
    position: u64,
    next_round: u64,
}

struct Spare {
    sequence: u64,
    file: Arc<dyn DiskFile>,
}

/// Files that are not being written.
struct Pool {
    /// Ready to be written, lowest sequence first.
    spares: VecDeque<Spare>,
    /// Full ones, oldest first: (sequence, the first round that is not in it).
    full: VecDeque<(u64, u64)>,
    /// Files that hold nothing that is needed, and have the space of a whole one: left by an earlier run, or not made to
    /// the end. The last one is used first.
    leftovers: Vec<PathBuf>,
    next_sequence: u64,
    /// Why no spare can be made, while that is so.
    failed: Option<Error>,
    /// Whether full files stay, because a failed partition needs their rounds at the next start.
    is_pinned: bool,
    /// Whether a sync of the directory has failed: then no later sync proves that a file's new name is durable.
    has_doubtful_names: bool,
}

/// Where a recovery must begin to replay: everything before is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The next round.
    pub(crate) round: u64,
    /// The file that is written now: the next round goes to it or to a later one.
    pub(crate) sequence: u64,
}

/// The journal's write side.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    layout: Layout,
    directory_id: u64,
    file_bytes: u64,
    current: Mutex<Current>,
    pool: Mutex<Pool>,
    /// Notified when a spare was added or the pool failed.
    spare_added: Condvar,
    /// Set by the committer after each round is published; read by the syncer.
    published: Mutex<Mark>,
}

impl Journal {
    /// Begins a journal after recovery: `next` has a sequence and a round above all that were ever used, and
    /// `leftovers` are files that hold nothing that is needed any more, the longest last, and none longer than
    /// `file_bytes`. The first file is as long as that one, but has at least `first_bytes`.
    ///
    /// Takes the space of a second file. Two are enough for ever: with them, a full disk does not stop operations that
    /// need no other space.
    ///
    /// # Errors
    /// [`Error::StorageFull`] if there is too little space for the first file, or for the second while the first is
    /// short; a long one is used alone.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        layout: Layout,
        directory_id: u64,
        file_bytes: u64,
        first_bytes: u64,
        next: Mark,
        mut leftovers: Vec<PathBuf>,
    ) -> Result<Self> {
        let mut reuse = leftovers.pop();
        let making = Making {
            disk: &*disk,
            layout: &layout,
            directory_id,
            space: file_bytes,
        };
        let least = first_bytes.min(file_bytes);
        let (file, first_bytes) = making.file(next.sequence, least, &mut reuse, &mut Names::Unchanged)?;
        // The others are used at their whole length. They may have no space for it, after a power cut.
        leftovers.retain(|path| making.has_space(path));
        let pool = Pool {
            spares: VecDeque::new(),
            full: VecDeque::new(),
            leftovers,
            next_sequence: next.sequence + 1,
            failed: None,
            is_pinned: false,
            has_doubtful_names: false,
        };
        let current = Current {
            sequence: next.sequence,
            file,
            file_bytes: first_bytes,
            position: BLOCK_BYTES,
            next_round: next.round,
        };
        let journal = Self {
            disk,
            layout,
            directory_id,
            file_bytes,
            current: Mutex::new(current),
            pool: Mutex::new(pool),
            spare_added: Condvar::new(),
            published: Mutex::new(next),
        };
        journal.secure_second(first_bytes)?;
        Ok(journal)
    }

    /// The most bytes that one round may take.
    pub(crate) fn capacity(file_bytes: u64) -> u64 {
        file_bytes - BLOCK_BYTES - END_MARK_BYTES
    }

    /// Whether a round of that many bytes needs the next file.
    pub(crate) fn is_full_for(&self, round_bytes: u64) -> bool {
        let current = self.current.lock();
        current.position + round_bytes + END_MARK_BYTES > current.file_bytes
    }

    /// Switches to the next file; `false` if no spare is there (see [`Journal::wait_for_spare`]).
    ///
    /// # Errors
    /// The end mark could not be made durable: nothing may be written any more.
    pub(crate) fn switch(&self) -> std::io::Result<bool> {
        if !self.has_spare() {
            return Ok(false);
        }
        // Only this function takes spares away, so the one that is there stays.
        self.write(&mut RoundBuilder::new(Vec::new()))?;
        self.sync()?;
        let mut pool = self.pool.lock();
        let Some(spare) = pool.spares.pop_front() else {
            return Ok(false);
        };
        let mut current = self.current.lock();
        assert!(
            spare.sequence > current.sequence,
            "{} after {}",
            spare.sequence,
            current.sequence
        );
        pool.full.push_back((current.sequence, current.next_round));
        current.sequence = spare.sequence;
        current.file = spare.file;
        current.file_bytes = self.file_bytes;
        current.position = BLOCK_BYTES;
        Ok(true)
    }

    /// Waits until a spare is there.
    ///
    /// # Errors
    /// Why the syncer could make none: [`Error::StorageFull`], [`Error::Overloaded`] or [`Error::LogFailed`].
    pub(crate) fn wait_for_spare(&self) -> Result<()> {
        let mut pool = self.pool.lock();
        while pool.spares.is_empty() {
            if let Some(error) = &pool.failed {
                return Err(error.clone());
            }
            self.spare_added.wait(&mut pool);
        }
        Ok(())
    }

    /// Sets why no spare can be made, or (with `None`) that spares can be made again.
    pub(crate) fn set_failed(&self, error: Option<Error>) {
        self.pool.lock().failed = error;
        self.spare_added.notify_all();
    }

    /// Clears a temporary reason (such as a full disk), as the syncer is about to be asked again.
    pub(crate) fn forget_passing(&self) {
        self.pool.lock().failed.take_if(|error| error.is_passing());
    }

    pub(crate) fn has_spare(&self) -> bool {
        !self.pool.lock().spares.is_empty()
    }

    /// Whether there is no spare and can be none before a restart: failed partitions need all files that may be kept.
    pub(crate) fn is_stuck(&self, spares: usize) -> bool {
        let pool = self.pool.lock();
        pool.is_pinned && pool.spares.is_empty() && pool.full.len() >= spares
    }

    /// Writes a round (without a sync) and returns its number. The caller has made sure of the room.
    pub(crate) fn write(&self, builder: &mut RoundBuilder<'_>) -> std::io::Result<u64> {
        let mut current = self.current.lock();
        let (position, round) = (current.position, current.next_round);
        let bytes = builder.file_bytes();
        assert!(
            position + bytes <= current.file_bytes,
            "{position} + {bytes} is beyond {}",
            current.file_bytes
        );
        builder.finish(current.sequence, round, |slices| {
            current.file.write_all_at(slices, position)
        })?;
        current.position += bytes;
        current.next_round += 1;
        Ok(round)
    }

    /// Makes what was written durable. After an error nothing may be written any more.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        let file = Arc::clone(&self.current.lock().file);
        file.sync_data()
    }

    /// Notes that everything up to and including `round` is published.
    pub(crate) fn set_published(&self, round: u64) {
        let sequence = self.current.lock().sequence;
        *self.published.lock() = Mark {
            round: round + 1,
            sequence,
        };
    }

    /// From where a recovery would have to replay if all that is published were synced.
    pub(crate) fn published(&self) -> Mark {
        *self.published.lock()
    }

    /// The file that holds `round` or is going to hold it: no earlier file has this round or a later one.
    pub(crate) fn sequence_of(&self, round: u64) -> u64 {
        let pool = self.pool.lock();
        let full = pool.full.iter().find(|(_, end)| *end > round);
        full.map_or_else(|| self.current.lock().sequence, |(sequence, _)| *sequence)
    }

    /// A sequence above all that were used.
    pub(crate) fn unused_sequence(&self) -> u64 {
        self.pool.lock().next_sequence
    }

    /// Why no file can be made until a restart.
    fn doubtful(&self) -> Error {
        Error::LogFailed {
            reason: format!(
                "an earlier sync of {} failed",
                self.layout.journal_dir().display()
            ),
            in_flight: false,
        }
    }

    /// Makes sure that there is space for a second file, though maybe not its zeros.
    fn secure_second(&self, first_bytes: u64) -> Result<()> {
        let sequence = {
            let pool = self.pool.lock();
            if !pool.leftovers.is_empty() {
                return Ok(());
            }
            pool.next_sequence
        };
        let path = self.layout.journal(sequence);
        let file = self.disk.open(&path, OpenMode::Create);
        let secured = match file.and_then(|file| file.reserve(self.file_bytes)) {
            Ok(true) => {
                self.pool.lock().leftovers.push(path);
                Ok(())
            }
            Ok(false) => self.add_spare(1).map(drop),
            Err(error) => {
                remove(&*self.disk, &path);
                Err(Error::io(format!("making {}", path.display()), error))
            }
        };
        match secured {
            Err(Error::StorageFull) if first_bytes == self.file_bytes => {
                tracing::warn!("the disk is full: there is one journal file only");
                Ok(())
            }
            secured => secured,
        }
    }

    /// Makes one spare, from a leftover or anew, if spare and full files are fewer than `spares`; else returns `false`.
    pub(crate) fn add_spare(&self, spares: usize) -> Result<bool> {
        let (sequence, reuse) = {
            let mut pool = self.pool.lock();
            if pool.has_doubtful_names {
                return Err(self.doubtful());
            }
            if pool.spares.len() + pool.full.len() >= spares {
                return Ok(false);
            }
            pool.next_sequence += 1;
            (pool.next_sequence - 1, pool.leftovers.pop())
        };
        self.make_spare(sequence, reuse)?;
        Ok(true)
    }

    /// Turns full files that a durable checkpoint at `mark` no longer needs into spares, except those with rounds from
    /// `pinned` on.
    pub(crate) fn recycle(&self, mark: Mark, pinned: Option<u64>) -> Result<()> {
        loop {
            let (old, sequence) = {
                let mut pool = self.pool.lock();
                if pool.has_doubtful_names {
                    return Ok(());
                }
                let free = |&(file, end): &(u64, u64)| {
                    file < mark.sequence && end <= mark.round && pinned.is_none_or(|first| end <= first)
                };
                let Some(index) = pool.full.iter().position(free) else {
                    pool.is_pinned = pinned.is_some() && !pool.full.is_empty();
                    return Ok(());
                };
                let Some((old, _)) = pool.full.remove(index) else {
                    return Ok(());
                };
                pool.next_sequence += 1;
                // A file that failed to become a spare may have the next spare's name already. It is used first (`pop`
                // takes the last one), so that no other file is renamed over it.
                pool.leftovers.insert(0, self.layout.journal(old));
                (pool.leftovers.pop(), pool.next_sequence - 1)
            };
            self.make_spare(sequence, old)?;
        }
    }

    /// Adds one spare. If that fails, the file that was to become it is kept with its space for the next try: there may
    /// be none for another.
    fn make_spare(&self, sequence: u64, mut reuse: Option<PathBuf>) -> Result<()> {
        let mut names = Names::Unchanged;
        let making = Making {
            disk: &*self.disk,
            layout: &self.layout,
            directory_id: self.directory_id,
            space: self.file_bytes,
        };
        let made = making.file(sequence, self.file_bytes, &mut reuse, &mut names);
        let mut pool = self.pool.lock();
        pool.has_doubtful_names |= names == Names::Doubtful;
        match made {
            Ok((file, _)) => pool.spares.push_back(Spare { sequence, file }),
            Err(error) => {
                pool.leftovers.extend(reuse);
                // Sequences have no gaps, so that a missing file is noticed. This one has no round yet: use it again.
                if pool.next_sequence == sequence + 1 {
                    pool.next_sequence = sequence;
                }
                return Err(error);
            }
        }
        self.spare_added.notify_all();
        Ok(())
    }
}

/// The state of the directory's names after a file was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Unchanged,
    Durable,
    /// The sync failed.
    Doubtful,
}

/// Makes journal files.
struct Making<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    directory_id: u64,
    /// The space that every file gets, however short it is: it may become a whole one when nothing else has space.
    space: u64,
}

impl Making<'_> {
    /// Makes the journal file of a sequence, ready to be written, and returns its length: that of `reuse`, a file that
    /// holds nothing that is needed and is renamed, but at least `least`. What is missing becomes zeros.
    ///
    /// # Errors
    /// `reuse` then says where the file is that has its space, the old one or the new one: making a file is tried again
    /// and again, and each try would take the space of another. A new one without its space is removed.
    fn file(
        &self,
        sequence: u64,
        least: u64,
        reuse: &mut Option<PathBuf>,
        names: &mut Names,
    ) -> Result<(Arc<dyn DiskFile>, u64)> {
        let path = self.layout.journal(sequence);
        let made = (|| {
            if let Some(old) = reuse {
                self.disk.rename(old, &path)?;
                *old = path.clone();
            }
            let file = self.disk.open(&path, OpenMode::Create)?;
            let length = file.len()?;
            let mut file_bytes = (length / BLOCK_BYTES * BLOCK_BYTES).max(least);
            if length < self.space {
                // All of the space or none: if the disk has too little left, writing zeros would take the space that
                // appends need, at every try.
                if file.reserve(self.space)? {
                    *reuse = Some(path.clone());
                } else {
                    file_bytes = self.space;
                }
            }
            // At least the last block: an earlier sync may have failed, and then the length is not durable without a
            // new write there.
            let zeros_from = (length / BLOCK_BYTES * BLOCK_BYTES).min(file_bytes - BLOCK_BYTES);
            write_zeros(&*file, zeros_from, file_bytes)?;
            let header = FileHeader {
                sequence,
                directory_id: self.directory_id,
                file_bytes,
            };
            file.write_all_at(&[IoSlice::new(&header.encode())], 0)?;
            file.sync_data()?;
            self.disk
                .sync_dir(&self.layout.journal_dir())
                .inspect_err(|error| {
                    if !is_out_of_handles(error) {
                        *names = Names::Doubtful;
                    }
                })?;
            *names = Names::Durable;
            Ok((file, file_bytes))
        })();
        made.map_err(|error| {
            if reuse.is_none() {
                remove(self.disk, &path);
            }
            Error::io(format!("making {}", path.display()), error)
        })
    }

    /// Whether a file from before has the space of a whole one, or gets it; else it is removed.
    fn has_space(&self, path: &Path) -> bool {
        let file = self.disk.open(path, OpenMode::ReadWrite);
        let has_space = file.and_then(|file| Ok(file.len()? >= self.space || file.reserve(self.space)?));
        let has_space = has_space.unwrap_or(false);
        if !has_space {
            remove(self.disk, path);
        }
        has_space
    }
}

fn write_zeros(file: &dyn DiskFile, mut position: u64, end: u64) -> std::io::Result<()> {
    let zeros = vec![0; (end - position).min(1 << 20) as usize];
    while position < end {
        let bytes = (end - position).min(zeros.len() as u64);
        file.write_all_at(&[IoSlice::new(&zeros[..bytes as usize])], position)?;
        position += bytes;
    }
    Ok(())
}
/// Removes a file that has nothing that is needed. If that fails, the next start does it.
fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a journal file that is not needed stays until the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Fault, IoKind, SimDisk};

    const FILE_BYTES: u64 = 64 << 10;

    fn write(journal: &Journal, value: &[u8]) -> u64 {
        let mut builder = RoundBuilder::new(Vec::new());
        builder.state(b"key", Some(value));
        let round = journal.write(&mut builder).unwrap();
        journal.sync().unwrap();
        journal.set_published(round);
        round
    }

    #[test]
    fn a_file_that_failed_to_become_a_spare_is_not_replaced_under_its_new_name() {
        let disk = SimDisk::new(0);
        let layout = Layout {
            root: Path::new("/quipu").into(),
        };
        disk.create_dir_all(&layout.journal_dir()).unwrap();
        let next = Mark {
            round: 1,
            sequence: 1,
        };
        let journal = Journal::start(
            Arc::new(disk.clone()),
            layout.clone(),
            7,
            FILE_BYTES,
            FILE_BYTES,
            next,
            Vec::new(),
        );
        let journal = journal.unwrap();
        // Two full files, and the third is written.
        for _ in 0..2 {
            write(&journal, b"old");
            assert!(journal.add_spare(3).unwrap());
            assert!(journal.switch().unwrap());
        }
        write(&journal, b"old");
        // The first is renamed, and its header is not written; the second is to get the same sequence.
        disk.fail(Fault::once(IoKind::Write, 0).on(".journal"));
        journal.recycle(journal.published(), None).unwrap_err();
        journal.recycle(journal.published(), None).unwrap();
        while journal.add_spare(2).unwrap() {}
        let mut written = Vec::new();
        while journal.switch().unwrap() {
            let round = write(&journal, b"new");
            written.push((journal.published().sequence, round));
        }
        assert_eq!(written.len(), 2);
        let scan = crate::journal::replay::scan(&disk, &layout, 7, written[0].0, written[0].1, true).unwrap();
        assert_eq!(scan.damage, Vec::<String>::new());
        assert_eq!(scan.next_round, written[1].1 + 1);
    }

    #[test]
    fn a_new_journal_begins_with_a_short_file_which_becomes_a_long_one() {
        let disk = SimDisk::new(0);
        let layout = Layout {
            root: Path::new("/quipu").into(),
        };
        disk.create_dir_all(&layout.journal_dir()).unwrap();
        let next = Mark {
            round: 1,
            sequence: 1,
        };
        let start = |next, leftovers| {
            let (disk, layout) = (Arc::new(disk.clone()), layout.clone());
            Journal::start(disk, layout, 7, FILE_BYTES, FILE_BYTES / 4, next, leftovers).unwrap()
        };
        let lengths = || {
            let files = disk.list(&layout.journal_dir()).unwrap().into_iter();
            let mut files: Vec<_> = files.map(|file| (file.name, file.len)).collect();
            files.sort();
            files.into_iter().map(|(_, length)| length).collect::<Vec<u64>>()
        };
        let journal = start(next, Vec::new());
        assert_eq!(lengths(), [FILE_BYTES / 4, 0]);
        assert!(!journal.has_spare(), "its space is there, and no zeros");
        assert!(journal.is_full_for(FILE_BYTES / 4));
        write(&journal, b"first");
        assert!(journal.add_spare(2).unwrap());
        assert_eq!(lengths(), [FILE_BYTES / 4, FILE_BYTES]);
        assert!(journal.switch().unwrap());
        assert!(!journal.is_full_for(FILE_BYTES / 4));
        let last = write(&journal, b"second");
        let scan = crate::journal::replay::scan(&disk, &layout, 7, 1, 1, true).unwrap();
        assert_eq!((scan.damage, scan.next_round), (Vec::new(), last + 1));

        journal.recycle(journal.published(), None).unwrap();
        assert_eq!(lengths(), [FILE_BYTES; 2]);
        assert!(journal.switch().unwrap());
        assert!(!journal.is_full_for(FILE_BYTES / 4));
        let again = Mark {
            round: last + 1,
            sequence: 4,
        };
        let journal = start(again, vec![layout.journal(3)]);
        assert!(!journal.is_full_for(FILE_BYTES / 4), "files from before are long");
    }

    #[test]
    fn two_files_have_their_space_whatever_fails_and_whatever_else_takes_the_rest() {
        let disk = SimDisk::new(0);
        disk.set_capacity(Some(4 * FILE_BYTES));
        let layout = Layout {
            root: Path::new("/quipu").into(),
        };
        disk.create_dir_all(&layout.journal_dir()).unwrap();
        let other = disk.open(Path::new("/quipu/other"), OpenMode::Create).unwrap();
        let fill = |from: u64| {
            let block = [7; BLOCK_BYTES as usize];
            let mut position = from;
            while other.write_all_at(&[IoSlice::new(&block)], position).is_ok() {
                position += BLOCK_BYTES;
            }
            position
        };
        let start = |round, sequence, leftovers| {
            let (disk, layout) = (Arc::new(disk.clone()), layout.clone());
            let next = Mark { round, sequence };
            Journal::start(disk, layout, 7, FILE_BYTES, FILE_BYTES / 4, next, leftovers)
        };
        let journal = start(1, 1, Vec::new()).unwrap();
        let filled = fill(0);
        for (kind, at) in [(IoKind::Write, 0), (IoKind::Write, 1), (IoKind::Sync, 0)] {
            disk.fail(Fault::once(kind, at).on(".journal"));
            journal.add_spare(2).unwrap_err();
            assert_eq!(
                fill(filled),
                filled,
                "{kind:?} {at}: the space of a file was given away"
            );
        }
        // The next run finds a short file, and another one that has its space and is not whole.
        drop(journal);
        let journal = start(2, 3, vec![layout.journal(1), layout.journal(2)]).unwrap();
        for count in 0..8 {
            while !journal.is_full_for(BLOCK_BYTES) {
                write(&journal, b"value");
            }
            assert!(journal.has_spare() || journal.add_spare(2).unwrap(), "{count}");
            assert!(journal.switch().unwrap());
            journal.set_published(journal.published().round);
            journal.recycle(journal.published(), None).unwrap();
        }
        assert_eq!(disk.list(&layout.journal_dir()).unwrap().len(), 2);
    }
}
