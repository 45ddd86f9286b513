//! The simulated disk itself: its state, what each kind of call does to it, and the settings for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::faults::{Failed, Fault, FaultError, Faults, IoKind, Lie, Verdict};
use super::file::PAGE;
use super::rng::Rng;
use super::tree::{Found, Ino, Tree};
use crate::io::sync::Mutex;

/// A simulated disk in one run of its machine; clones are handles to the same disk.
///
/// [`SimDisk::after_power_cut`] and [`SimDisk::after_kill`] end the run and return the disk of the next one.
#[derive(Clone)]
pub struct SimDisk(pub(super) Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) tree: Tree,
    faults: Faults,
    pub(super) locks: BTreeSet<Ino>,
    capacity_bytes: Option<u64>,
    pub(super) open_files: usize,
    max_open_files: Option<usize>,
    used_pages: usize,
    /// (part of a path, one page in so many gets a flipped bit, so many more times at most)
    flips: Vec<(String, u64, u64)>,
    flipped: u64,
    pub(super) lies: Vec<Lie>,
    trace: Option<Vec<String>>,
    trace_hash: u64,
}

impl State {
    fn new(rng: Rng, tree: Tree, capacity_bytes: Option<u64>) -> Self {
        Self {
            rng,
            used_pages: tree.allocated_pages(),
            tree,
            faults: Faults::default(),
            locks: BTreeSet::new(),
            capacity_bytes,
            open_files: 0,
            max_open_files: None,
            flips: Vec::new(),
            flipped: 0,
            lies: Vec::new(),
            trace: None,
            trace_hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub(super) fn begin(&mut self, kind: IoKind, path: &Path, detail: (u64, u64)) -> io::Result<Verdict> {
        let path = path.to_string_lossy();
        let verdict = self.faults.begin(kind, &path)?;
        let numbers = [kind as u64, detail.0].map(u64::to_le_bytes);
        for byte in numbers.as_flattened().iter().chain(path.as_bytes()) {
            self.trace_hash = (self.trace_hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(trace) = &mut self.trace {
            let end = match &verdict {
                Verdict::Go => String::new(),
                Verdict::Fail(error) => format!(" fails: {error:?}"),
                Verdict::Stop => " stops".to_owned(),
            };
            trace.push(format!(
                "{} {kind:?} {path} {} +{}{end}",
                self.faults.calls, detail.0, detail.1
            ));
        }
        Ok(verdict)
    }

    /// Refuses a call that needs a file handle if all are taken.
    pub(super) fn check_handles(&self) -> io::Result<()> {
        match self.max_open_files {
            Some(most) if self.open_files >= most => Err(FaultError::Handles.error()),
            _ => Ok(()),
        }
    }

    /// Begins a call that is done whole or not at all. If the machine stops in it: an error, or `false` (it is done).
    pub(super) fn begin_whole(&mut self, kind: IoKind, path: &Path) -> io::Result<bool> {
        match self.begin(kind, path, (0, 0))? {
            Verdict::Go => Ok(true),
            Verdict::Fail(error) => Err(error.error()),
            Verdict::Stop if self.rng.chance(1, 2) => Ok(false),
            Verdict::Stop => Err(Faults::stopped()),
        }
    }

    pub(super) fn end(&self, alive: bool) -> io::Result<()> {
        if alive { Ok(()) } else { Err(Faults::stopped()) }
    }

    pub(super) fn recount(&mut self) {
        self.used_pages = self.tree.allocated_pages();
    }

    pub(super) fn write(&mut self, ino: Ino, bytes: &[u8], position: u64, path: &Path) -> io::Result<()> {
        let verdict = self.begin(IoKind::Write, path, (position, bytes.len() as u64))?;
        let start = to_index(position)?;
        let (mut wanted, mut result) = match verdict {
            Verdict::Go => (bytes.len(), Ok(())),
            Verdict::Fail(error) => (self.some_of(bytes.len()), Err(error.error())),
            Verdict::Stop => (self.some_of(bytes.len()), Err(Faults::stopped())),
        };
        let file = self.tree.file_mut(ino);
        if let Some(capacity) = self.capacity_bytes
            && file.links > 0
        {
            let mut room = usize::try_from(capacity / PAGE as u64).unwrap_or(usize::MAX);
            room = room.saturating_sub(self.used_pages);
            if file.pages_wanted(start, start + wanted) > room {
                // Write pages in order while there is room; pages that have their space already need none.
                let mut end = start;
                while end < start + wanted {
                    let next = ((end / PAGE + 1) * PAGE).min(start + wanted);
                    if file.pages_wanted(start, next) > room {
                        break;
                    }
                    end = next;
                }
                wanted = end - start;
                result = Err(rustix::io::Errno::NOSPC.into());
            }
        }
        let before = file.allocated_pages();
        file.write(&bytes[..wanted], start, &mut self.rng);
        if file.links > 0 {
            self.used_pages += file.allocated_pages() - before;
        }
        result
    }

    /// Gives a file its space, all of it or none. It changes nothing that a crash shows, so it is no call that can fail.
    pub(super) fn reserve(&mut self, ino: Ino, len: u64) -> io::Result<bool> {
        let len = to_index(len)?;
        let file = self.tree.file_mut(ino);
        let wanted = file.pages_wanted(0, len);
        if let Some(capacity) = self.capacity_bytes
            && wanted
                > usize::try_from(capacity / PAGE as u64)
                    .unwrap_or(usize::MAX)
                    .saturating_sub(self.used_pages)
        {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        file.reserve(len.div_ceil(PAGE));
        if file.links > 0 {
            self.used_pages += wanted;
        }
        Ok(true)
    }

    /// How many bytes of an interrupted write are done: none, all, or a part.
    fn some_of(&mut self, len: usize) -> usize {
        match self.rng.below(3) {
            0 => 0,
            1 => len,
            _ => self.rng.index(len + 1),
        }
    }

    /// Brings a range of a file into memory, with bits flipped where that is planned.
    pub(super) fn load(&mut self, ino: Ino, path: &Path, start: usize, end: usize) {
        let Self {
            tree,
            rng,
            flips,
            flipped,
            ..
        } = self;
        let path = path.to_string_lossy();
        let mut plan = flips.iter_mut().find(|(part, ..)| path.contains(part.as_str()));
        tree.file_mut(ino).load(start, end, |len| {
            let (_, one_in, left) = plan.as_mut()?;
            if *left == 0 || !rng.chance(1, *one_in) {
                return None;
            }
            *left -= 1;
            *flipped += 1;
            Some((rng.index(len), 1 << rng.below(8)))
        });
    }
}

pub(super) fn to_index(position: u64) -> io::Result<usize> {
    // Far beyond what a test writes: a wild position must not take all memory.
    const LARGEST: u64 = 1 << 32;
    usize::try_from(position)
        .ok()
        .filter(|_| position <= LARGEST)
        .ok_or_else(|| rustix::io::Errno::FBIG.into())
}

impl SimDisk {
    /// An empty disk without a limit.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(
            Rng::new(seed),
            Tree::new(),
            None,
        ))))
    }

    fn next_run(&self, tree: impl FnOnce(&Tree, &mut Rng) -> Tree) -> Self {
        let mut state = self.0.lock();
        state.faults.off = true;
        let mut rng = state.rng.fork();
        let tree = tree(&state.tree, &mut rng);
        // A file system reuses space only when the removal is durable: files that came back had their space all along.
        let came_back = tree.pages_not_in(&state.tree) * PAGE;
        let capacity = state.capacity_bytes.map(|bytes| bytes + came_back as u64);
        let mut next = State::new(rng, tree, capacity);
        next.lies = state.lies.clone();
        next.trace = state.trace.as_ref().map(|_| Vec::new());
        Self(Arc::new(Mutex::new(next)))
    }

    /// Cuts the power, if it is still on, and returns the disk that the machine finds at its next start.
    ///
    /// Unsynced changes are kept, lost or torn at random; locks, faults and counts are gone, the capacity stays.
    pub fn after_power_cut(&self) -> Self {
        self.next_run(Tree::after_power_cut)
    }

    /// Kills the process, if it still runs, and returns the disk that the next process finds.
    ///
    /// Everything that was written is there, synced or not (a later power cut can still take it). Only pages whose
    /// writeback has failed may show what the medium has.
    pub fn after_kill(&self) -> Self {
        self.next_run(Tree::after_kill)
    }

    /// Stops the machine in the `calls`th I/O call from now (1: the next): it is done, in part or not at all, and fails
    /// like all after it.
    pub fn stop_at(&self, calls: u64) {
        let mut state = self.0.lock();
        state.faults.stop_at = Some(state.faults.calls + calls.max(1));
    }

    /// Whether the machine has stopped.
    pub fn is_off(&self) -> bool {
        self.0.lock().faults.off
    }

    /// Plans a failure.
    pub fn fail(&self, fault: Fault) {
        self.0.lock().faults.planned.push(fault);
    }

    /// Makes syncs lie, in this run and in all later ones.
    pub fn lie(&self, lie: Lie) {
        self.0.lock().lies.push(lie);
    }

    /// Cancels planned failures and a planned stop.
    pub fn clear_faults(&self) {
        let mut state = self.0.lock();
        state.faults.planned.clear();
        state.faults.stop_at = None;
    }

    /// How many calls have failed as planned.
    pub fn failed_calls(&self) -> u64 {
        self.0.lock().faults.failed.len() as u64
    }

    /// The calls that have failed as planned, in order.
    pub fn failures(&self) -> Vec<Failed> {
        self.0.lock().faults.failed.clone()
    }

    /// Suspends planned failures (`true`), or resumes them.
    pub fn pause_faults(&self, paused: bool) {
        self.0.lock().faults.paused = paused;
    }

    /// Limits the space that files take, in whole 4 KiB pages; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// Limits the files that are open at once, including one that a call opens only while it runs; `None`: no limit.
    pub fn limit_open_files(&self, most: Option<usize>) {
        self.0.lock().max_open_files = most;
    }

    /// The files that are open now.
    pub fn open_files(&self) -> usize {
        self.0.lock().open_files
    }

    /// The space that files take.
    pub fn used_bytes(&self) -> u64 {
        (self.0.lock().used_pages * PAGE) as u64
    }

    /// Flips a bit in one of `one_in` pages that come into memory from files whose path contains `part`, `most` times.
    /// Stored bytes do not change, but every read sees the flipped bit until [`SimDisk::stop_flips`] or a power cut.
    pub fn flip_bits_on_read(&self, part: &str, one_in: u64, most: u64) {
        self.0.lock().flips.push((part.to_owned(), one_in, most));
    }

    /// Stops flipping bits, and makes pages with flipped bits be read again. Returns how many bits those were.
    pub fn stop_flips(&self) -> usize {
        let mut state = self.0.lock();
        state.flips.clear();
        state.tree.evict_flipped()
    }

    /// How many bits were flipped in this run.
    pub fn flips_so_far(&self) -> u64 {
        self.0.lock().flipped
    }

    /// How many bits in memory are flipped now.
    pub fn flipped_bits(&self) -> usize {
        self.0.lock().tree.flipped_bits()
    }

    /// Evicts the pages that failed syncs could not write, as a kernel may at any time: from now on reads show what the
    /// medium has.
    pub fn evict_dropped(&self) {
        self.0.lock().tree.evict_dropped();
    }

    /// Changes a stored byte (exclusive or with `mask`), as a decaying medium does. Does nothing beyond the file's end.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, path: &Path, position: u64, mask: u8) {
        let mut state = self.0.lock();
        let Ok(Some(Found::File(ino))) = state.tree.look_up(path) else {
            panic!("{} is no file", path.display());
        };
        state
            .tree
            .file_mut(ino)
            .damage(usize::try_from(position).unwrap_or(usize::MAX), mask);
    }

    /// What a file shows now, without counting as a call; `None` if there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        match state.tree.look_up(path) {
            Ok(Some(Found::File(ino))) => Some(state.tree.file(ino).current().to_vec()),
            _ => None,
        }
    }

    /// Whether all changes of names in a directory are durable.
    pub fn is_dir_synced(&self, dir: &Path) -> bool {
        self.0.lock().tree.is_synced(dir).unwrap_or(false)
    }

    /// I/O calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().faults.calls
    }

    /// I/O calls so far by kind.
    pub fn calls_by_kind(&self) -> BTreeMap<IoKind, u64> {
        self.0.lock().faults.by_kind.clone()
    }

    /// Begins to record every call.
    pub fn record_trace(&self) {
        self.0.lock().trace.get_or_insert_default();
    }

    /// Takes the calls recorded since the last time: number, kind, path, position and length.
    pub fn take_trace(&self) -> Vec<String> {
        self.0
            .lock()
            .trace
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// A number that two runs share only if they made the same calls in order, except for lengths and contents.
    pub fn trace_hash(&self) -> u64 {
        self.0.lock().trace_hash
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::super::faults::FaultError;
    use super::*;
    use crate::io::disk::{Disk, OpenMode};

    fn p(path: &str) -> &Path {
        Path::new(path)
    }

    fn write(disk: &SimDisk, path: &str, bytes: &[u8]) -> io::Result<()> {
        disk.open(p(path), OpenMode::Create)?
            .write_all_at(&[IoSlice::new(bytes)], 0)
    }

    fn write_synced(disk: &SimDisk, path: &str, bytes: &[u8]) {
        write(disk, path, bytes).unwrap();
        disk.open(p(path), OpenMode::ReadWrite)
            .unwrap()
            .sync_data()
            .unwrap();
    }

    /// Every outcome of a power cut after `run`, over many seeds.
    fn outcomes<T: Ord>(run: impl Fn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
        (0..300)
            .map(|seed| {
                let disk = SimDisk::new(seed);
                run(&disk);
                look(&disk.after_power_cut())
            })
            .collect()
    }

    #[test]
    fn a_synced_file_whose_directory_was_not_synced_may_vanish() {
        let found = outcomes(
            |disk| write_synced(disk, "/a", b"x"),
            |disk| disk.contents(p("/a")),
        );
        assert_eq!(found, BTreeSet::from([None, Some(b"x".to_vec())]));
    }

    #[test]
    fn a_synced_file_in_a_synced_directory_stays() {
        let run = |disk: &SimDisk| {
            disk.create_dir_all(p("/d")).unwrap();
            disk.sync_dir(p("/")).unwrap();
            write_synced(disk, "/d/a", b"x");
            disk.sync_dir(p("/d")).unwrap();
            assert!(disk.is_dir_synced(p("/d")));
        };
        let found = outcomes(run, |disk| disk.contents(p("/d/a")));
        assert_eq!(found, BTreeSet::from([Some(b"x".to_vec())]));
    }

    #[test]
    fn an_unsynced_rename_happens_whole_or_not_at_all() {
        let run = |disk: &SimDisk| {
            disk.create_dir_all(p("/from")).unwrap();
            disk.create_dir_all(p("/to")).unwrap();
            disk.sync_dir(p("/")).unwrap();
            write_synced(disk, "/from/a", b"new");
            write_synced(disk, "/to/b", b"old");
            disk.sync_dir(p("/from")).unwrap();
            disk.sync_dir(p("/to")).unwrap();
            disk.rename(p("/from/a"), p("/to/b")).unwrap();
        };
        let look = |disk: &SimDisk| (disk.contents(p("/from/a")), disk.contents(p("/to/b")).unwrap());
        assert_eq!(
            outcomes(run, look),
            BTreeSet::from([(None, b"new".to_vec()), (Some(b"new".to_vec()), b"old".to_vec())])
        );
    }

    #[test]
    fn a_synced_rename_does_not_leave_the_old_name() {
        let run = |disk: &SimDisk| {
            disk.create_dir_all(p("/to")).unwrap();
            disk.sync_dir(p("/")).unwrap();
            write_synced(disk, "/a", b"new");
            disk.rename(p("/a"), p("/to/b")).unwrap();
            disk.sync_dir(p("/to")).unwrap();
        };
        let look = |disk: &SimDisk| (disk.contents(p("/a")), disk.contents(p("/to/b")));
        let found = outcomes(run, look);
        assert_eq!(found, BTreeSet::from([(None, Some(b"new".to_vec()))]));
    }

    #[test]
    fn names_changed_in_one_directory_are_kept_each_on_its_own() {
        let run = |disk: &SimDisk| {
            write_synced(disk, "/old", b"");
            disk.sync_dir(p("/")).unwrap();
            disk.remove_file(p("/old")).unwrap();
            write_synced(disk, "/new", b"");
        };
        let look = |disk: &SimDisk| (disk.exists(p("/old")).unwrap(), disk.exists(p("/new")).unwrap());
        assert_eq!(outcomes(run, look).len(), 4);
    }

    #[test]
    fn after_a_failed_directory_sync_a_later_one_proves_nothing() {
        let run = |disk: &SimDisk| {
            write_synced(disk, "/a", b"");
            disk.fail(Fault::once(IoKind::SyncDir, 0));
            disk.sync_dir(p("/")).unwrap_err();
            disk.sync_dir(p("/")).unwrap();
        };
        assert_eq!(outcomes(run, |disk| disk.exists(p("/a")).unwrap()).len(), 2);
    }

    #[test]
    fn a_kill_keeps_everything_and_the_power_cut_after_it_may_not() {
        let found = outcomes(
            |_| {},
            |disk| {
                write(disk, "/a", b"x").unwrap();
                let killed = disk.after_kill();
                assert_eq!(killed.contents(p("/a")).unwrap(), b"x");
                killed.after_power_cut().contents(p("/a"))
            },
        );
        assert!(found.contains(&None) && found.contains(&Some(b"x".to_vec())));
    }

    #[test]
    fn every_call_fails_after_the_one_that_stops() {
        let disk = SimDisk::new(3);
        let file = disk.open(p("/a"), OpenMode::Create).unwrap();
        disk.stop_at(2);
        file.write_all_at(&[IoSlice::new(b"x")], 0).unwrap();
        assert!(file.sync_data().is_err());
        assert!(disk.is_off());
        assert!(file.len().is_err() && disk.exists(p("/a")).is_err() && disk.list(p("/")).is_err());
        assert_eq!(disk.calls(), 3, "calls to a machine that is off do not count");
        assert!(disk.after_kill().exists(p("/a")).unwrap());
    }

    #[test]
    fn the_nth_call_of_a_kind_fails_once_or_from_then_on() {
        let disk = SimDisk::new(3);
        let file = disk.open(p("/a"), OpenMode::Create).unwrap();
        let write = || {
            file.write_all_at(&[IoSlice::new(b"x")], 0)
                .map_err(|error| error.kind())
        };
        disk.fail(Fault::once(IoKind::Write, 1));
        let found = [write().is_ok(), write().is_ok(), write().is_ok()];
        assert_eq!(found, [true, false, true]);
        disk.fail(
            Fault::once(IoKind::Write, 0)
                .with(FaultError::Full)
                .onwards()
                .on("/other"),
        );
        assert!(write().is_ok());
        disk.fail(Fault::once(IoKind::Write, 0).with(FaultError::Full).onwards());
        assert_eq!([write(), write()], [Err(io::ErrorKind::StorageFull); 2]);
        disk.clear_faults();
        assert!(write().is_ok());
        assert_eq!(disk.failed_calls(), 3);
        assert_eq!(disk.calls_by_kind()[&IoKind::Write], 7);
    }

    #[test]
    fn a_full_disk_fails_a_write_in_the_middle_and_takes_it_again_when_space_is_freed() {
        let disk = SimDisk::new(3);
        disk.set_capacity(Some(4 * PAGE as u64));
        write(&disk, "/a", &[1; 3 * PAGE]).unwrap();
        let error = write(&disk, "/b", &[2; 2 * PAGE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.contents(p("/b")).unwrap().len(), PAGE);
        write(&disk, "/a", &[3; 3 * PAGE]).expect("space that a file has can be written again");
        disk.remove_file(p("/a")).unwrap();
        write(&disk, "/b", &[2; 2 * PAGE]).unwrap();
        assert_eq!(disk.used_bytes(), 2 * PAGE as u64);
        disk.open(p("/b"), OpenMode::ReadWrite)
            .unwrap()
            .set_len(1)
            .unwrap();
        assert_eq!(disk.used_bytes(), PAGE as u64);
    }

    #[test]
    fn a_lock_is_held_once_until_it_is_dropped_or_the_machine_stops() {
        let disk = SimDisk::new(3);
        let guard = disk.lock(p("/LOCK")).unwrap();
        assert!(matches!(disk.lock(p("/LOCK")), Err(error) if error.kind() == io::ErrorKind::WouldBlock));
        drop(guard);
        let _guard = disk.lock(p("/LOCK")).unwrap();
        let next = disk.after_kill();
        assert!(next.lock(p("/LOCK")).is_ok());
    }

    #[test]
    fn a_mapping_shows_what_is_written_later_and_outlives_the_name() {
        let disk = SimDisk::new(3);
        write(&disk, "/a", b"one").unwrap();
        let map = disk.open(p("/a"), OpenMode::Read).unwrap().map(100).unwrap();
        write(&disk, "/a", b"two and more").unwrap();
        let found = map.populate(0, 13).unwrap_err().kind();
        assert_eq!(found, io::ErrorKind::UnexpectedEof);
        map.populate(0, 12).unwrap();
        disk.remove_file(p("/a")).unwrap();
        assert_eq!(map.bytes(0, 3).unwrap(), "two");
    }

    #[test]
    fn a_bit_flipped_on_its_way_into_memory_stays_there_until_the_page_is_read_again() {
        let disk = SimDisk::new(3);
        write_synced(&disk, "/a.log", &[0; 64]);
        disk.sync_dir(p("/")).unwrap();
        let disk = disk.after_power_cut();
        let file = disk.open(p("/a.log"), OpenMode::ReadWrite).unwrap();
        let read = || {
            let mut buffer = [0; 64];
            file.read_at(&mut buffer, 0).unwrap();
            let map = file.clone().map(64).unwrap();
            map.populate(0, 64).unwrap();
            assert_eq!(map.bytes(0, 64).unwrap(), buffer[..]);
            buffer.iter().map(|byte| byte.count_ones()).sum::<u32>()
        };
        disk.flip_bits_on_read(".log", 1, 1);
        assert_eq!((read(), read(), disk.flipped_bits()), (1, 1, 1));
        assert_eq!(disk.contents(p("/a.log")).unwrap(), [0; 64]);
        assert_eq!(disk.stop_flips(), 1);
        assert_eq!(read(), 0);
        disk.flip_bits_on_read(".log", 1, 1);
        assert_eq!(read(), 0, "it is in memory");
        disk.damage(p("/a.log"), 5, 0xff);
        assert_eq!(disk.contents(p("/a.log")).unwrap()[5], 0xff);
    }

    #[test]
    fn a_sync_that_is_a_lie_succeeds_and_keeps_nothing() {
        let run = |disk: &SimDisk| {
            disk.lie(Lie::Sync(".log".into()));
            write_synced(disk, "/a.log", b"x");
            write_synced(disk, "/b", b"x");
            disk.sync_dir(p("/")).unwrap();
        };
        let look = |disk: &SimDisk| {
            (
                disk.contents(p("/a.log")).unwrap(),
                disk.contents(p("/b")).unwrap(),
            )
        };
        let found = outcomes(run, look);
        assert!(found.contains(&(Vec::new(), b"x".to_vec())));
        assert!(found.contains(&(b"x".to_vec(), b"x".to_vec())));
        assert!(found.iter().all(|(_, b)| b == b"x"));
    }

    #[test]
    fn a_lie_about_a_rename_is_one_about_its_first_directory_sync_alone() {
        let rename_and_sync = |syncs: usize| {
            move |disk: &SimDisk| {
                disk.lie(Lie::SyncDirAfterRename);
                write_synced(disk, "/a", b"x");
                disk.sync_dir(p("/")).unwrap();
                disk.rename(p("/a"), p("/b")).unwrap();
                (0..syncs).for_each(|_| disk.sync_dir(p("/")).unwrap());
            }
        };
        let look = |disk: &SimDisk| (disk.exists(p("/a")).unwrap(), disk.exists(p("/b")).unwrap());
        assert_eq!(outcomes(rename_and_sync(1), look).len(), 2);
        let found = outcomes(rename_and_sync(2), look);
        assert_eq!(found, BTreeSet::from([(false, true)]));
    }

    #[test]
    fn the_same_seed_and_calls_give_the_same_disk() {
        let run = |seed| {
            let disk = SimDisk::new(seed);
            disk.create_dir_all(p("/d/e")).unwrap();
            for n in 0..20 {
                write(&disk, &format!("/d/e/{n}"), &vec![n; usize::from(n) * 1_000]).unwrap();
            }
            disk.sync_dir(p("/")).unwrap();
            disk.sync_dir(p("/d")).unwrap();
            let found = disk.after_power_cut();
            let names = found.list(p("/d/e")).unwrap_or_default();
            let contents: Vec<_> = names
                .iter()
                .map(|entry| found.contents(&p("/d/e").join(&entry.name)))
                .collect();
            (names, contents, disk.trace_hash())
        };
        assert_eq!(run(9), run(9));
        assert_ne!(run(9).1, run(10).1);
    }

    #[test]
    fn a_directory_removed_without_a_sync_comes_back_whole_in_part_or_not() {
        let run = |disk: &SimDisk| {
            disk.create_dir_all(p("/d")).unwrap();
            disk.sync_dir(p("/")).unwrap();
            write_synced(disk, "/d/a", b"");
            write_synced(disk, "/d/b", b"");
            disk.sync_dir(p("/d")).unwrap();
            disk.remove_dir_all(p("/d")).unwrap();
        };
        let look = |disk: &SimDisk| disk.list(p("/d")).ok().map(|entries| entries.len());
        let found = outcomes(run, look);
        assert_eq!(found, BTreeSet::from([None, Some(0), Some(1), Some(2)]));
    }

    #[test]
    fn a_file_or_directory_that_is_not_there_is_not_found() {
        let disk = SimDisk::new(0);
        let not_found = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        };
        not_found(disk.open(p("/a"), OpenMode::Read).map(drop));
        not_found(disk.open(p("/d/a"), OpenMode::Create).map(drop));
        not_found(disk.rename(p("/a"), p("/b")));
        not_found(disk.remove_file(p("/a")));
        not_found(disk.remove_dir_all(p("/a")));
        not_found(disk.sync_dir(p("/a")));
        not_found(disk.list(p("/a")).map(drop));
        assert!(disk.open(p("/"), OpenMode::Read).is_err());
    }
}
