//! Measures what one shared journal saves against syncing every dirty segment file.
//!
//! ```text
//! cargo run --release -p quipu-segments --example journal_vs_segments -- DIR
//! ```
//!
//! A round appends one batch to each of N partition files and ends when all of them are on stable storage. The ways to
//! get there are the rows of [`Way`]; `docs/internals/journal.md` holds a table made with it and what follows from it.
//!
//! Invariants: every way writes the same bytes to the same number of growing files; every pass begins with new segment files;
//! bytes and rounds are bounded, so that the whole takes minutes and needs 3 GiB of space. A crash
//! leaves the directory `journal-vs-segments` in DIR, which the next run removes.
#![allow(clippy::disallowed_methods, reason = "measures the operating system itself")]

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

const MIB: usize = 1 << 20;
/// Size of a journal file, and how many there are, as in the engine.
const JOURNAL_FILE_BYTES: usize = 64 * MIB;
const JOURNAL_FILES: usize = 3;
/// A round of the journal that is larger is cut into several, each with a sync of its own.
const JOURNAL_ROUND_BYTES: usize = 32 * MIB;
/// Journal entries begin on this boundary.
const JOURNAL_ALIGN: usize = 4096;
/// Threads of [`Way::Parallel`].
const THREADS: usize = 8;
/// Every way is measured this many times, in turn with the others, so that a disturbance does not hit one alone.
const PASSES: usize = 5;
/// Bounds of one pass. One that takes longer ends early, after [`MIN_ROUNDS`].
const MAX_ROUNDS: usize = 300;
const MIN_ROUNDS: usize = 2;
const MAX_PASS_BYTES: usize = 1024 * MIB;
const MAX_PASS_TIME: Duration = Duration::from_secs(4);

/// How a round becomes durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Segments are written without a sync; the same bytes go to the journal, which is synced once. A thread in the
    /// background syncs the segments of a full journal file before that file is used again.
    Journal,
    /// Each dirty segment file is synced, one after the other.
    Each,
    /// The same by eight threads at once.
    Parallel,
    /// Write-back of all of them is begun first (what `sync_file_range` does), then each is synced.
    Writeback,
    /// One `syncfs` for the whole file system.
    FileSystem,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Journal,
        Self::Each,
        Self::Parallel,
        Self::Writeback,
        Self::FileSystem,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Journal => "one journal, synced once",
            Self::Each => "fdatasync of each segment",
            Self::Parallel => "the same by 8 threads",
            Self::Writeback => "write-back begun first, then the same",
            Self::FileSystem => "one syncfs",
        }
    }
}

/// What was measured of a way, over its passes.
#[derive(Clone, Default)]
struct Cell {
    rounds: Vec<Duration>,
    bytes: usize,
    /// All rounds, and the segments that a journal leaves to sync at the end.
    total: Duration,
}

impl Cell {
    fn quantile(&self, q: f64) -> Duration {
        let mut sorted = self.rounds.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among a thousand rounds or so"
        )]
        let rank = ((sorted.len() - 1) as f64 * q).round() as usize;
        sorted[rank]
    }

    #[expect(clippy::cast_precision_loss, reason = "for display")]
    fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.total.as_secs_f64()
    }
}

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: journal_vs_segments DIR (on the disk to be measured)");
        std::process::exit(2);
    };
    let dir = PathBuf::from(dir).join("journal-vs-segments");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let journal_files = preallocate(&dir)?;
    let segments_dir = dir.join("segments");
    println!("| batch | partitions | way | p50 ms | p99 ms | MB/s | rounds |");
    println!("|---|---|---|---|---|---|---|");
    for batch_bytes in [200, MIB] {
        for partitions in [1, 16, 256, 1024] {
            let mut cells = vec![Cell::default(); Way::ALL.len()];
            for pass in 0..PASSES {
                for turn in 0..Way::ALL.len() {
                    // Another one begins each time: what a way leaves behind slows the one that comes after it.
                    let n = (pass + turn) % Way::ALL.len();
                    measure(
                        &segments_dir,
                        &journal_files,
                        Way::ALL[n],
                        partitions,
                        batch_bytes,
                        &mut cells[n],
                    )?;
                }
            }
            for (way, cell) in Way::ALL.into_iter().zip(&cells) {
                println!(
                    "| {} | {partitions} | {} | {:.2} | {:.2} | {:.1} | {} |",
                    if batch_bytes == MIB { "1 MiB" } else { "200 B" },
                    way.name(),
                    cell.quantile(0.5).as_secs_f64() * 1e3,
                    cell.quantile(0.99).as_secs_f64() * 1e3,
                    cell.megabytes_per_second(),
                    cell.rounds.len(),
                );
            }
        }
    }
    fs::remove_dir_all(dir)
}

/// Runs one pass on new segment files, adds to `cell`, and removes the files.
fn measure(
    dir: &Path,
    journal_files: &[Arc<File>],
    way: Way,
    partitions: usize,
    batch_bytes: usize,
    cell: &mut Cell,
) -> io::Result<()> {
    fs::create_dir(dir)?;
    // What other passes left to write back or to discard must not be paid by this one.
    rustix::fs::syncfs(File::open(dir)?)?;

    let segments = (0..partitions)
        .map(|p| Ok(Arc::new(create(&dir.join(format!("{p:05}.log")))?)))
        .collect::<io::Result<Arc<[_]>>>()?;
    let mut journal = (way == Way::Journal).then(|| Journal::new(journal_files, Arc::clone(&segments)));
    rustix::fs::syncfs(File::open(dir)?)?;
    let round_bytes = partitions * batch_bytes;
    let rounds = (MAX_PASS_BYTES / round_bytes).clamp(MIN_ROUNDS, MAX_ROUNDS);
    let batch: Vec<u8> = (0..batch_bytes).map(|i| (i * 31 % 251) as u8).collect();

    let start = Instant::now();
    for round in 0..rounds {
        let begin = Instant::now();
        let position = (round * batch_bytes) as u64;
        for segment in &*segments {
            segment.write_all_at(&batch, position)?;
        }
        match (&mut journal, way) {
            (Some(journal), _) => journal.round(&batch, partitions)?,
            (None, Way::Parallel) => sync_parallel(&segments)?,
            (None, Way::FileSystem) => rustix::fs::syncfs(&*segments[0])?,
            (None, _) => {
                if way == Way::Writeback {
                    for segment in &*segments {
                        // DontNeed begins the write-back of dirty pages without waiting for it.
                        fadvise(&**segment, 0, None, Advice::DontNeed)?;
                    }
                }
                for segment in &*segments {
                    segment.sync_data()?;
                }
            }
        }
        cell.rounds.push(begin.elapsed());
        cell.bytes += round_bytes;
        if start.elapsed() > MAX_PASS_TIME && round + 1 >= MIN_ROUNDS {
            break;
        }
    }
    if let Some(journal) = journal {
        journal.finish()?;
    }
    cell.total += start.elapsed();
    drop(segments);
    fs::remove_dir_all(dir)
}

fn sync_parallel(segments: &[Arc<File>]) -> io::Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = segments
            .chunks(segments.len().div_ceil(THREADS))
            .map(|chunk| scope.spawn(|| chunk.iter().try_for_each(|segment| segment.sync_data())))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("the thread only syncs"))
    })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

/// Makes the files of the journal.
fn preallocate(dir: &Path) -> io::Result<Vec<Arc<File>>> {
    let zeros = vec![0; MIB];
    (0..JOURNAL_FILES)
        .map(|n| {
            // Zeros, not fallocate: an extent that was never written makes every sync convert it.
            let file = create(&dir.join(format!("{n:05}.journal")))?;
            for chunk in 0..JOURNAL_FILE_BYTES / MIB {
                file.write_all_at(&zeros, (chunk * MIB) as u64)?;
            }
            file.sync_all()?;
            Ok(Arc::new(file))
        })
        .collect()
}

/// A ring of preallocated files. A file is written again only when the segments were synced after it was full.
struct Journal {
    current: Arc<File>,
    position: usize,
    free: VecDeque<Arc<File>>,
    full: mpsc::Sender<Arc<File>>,
    recycled: mpsc::Receiver<Arc<File>>,
    syncer: JoinHandle<io::Result<()>>,
    segments: Arc<[Arc<File>]>,
    buffer: Vec<u8>,
}

impl Journal {
    fn new(files: &[Arc<File>], segments: Arc<[Arc<File>]>) -> Self {
        let mut free: VecDeque<_> = files.iter().cloned().collect();
        let (full, to_sync) = mpsc::channel::<Arc<File>>();
        let (done, recycled) = mpsc::channel();
        let syncer = thread::spawn({
            let segments = Arc::clone(&segments);
            move || {
                while let Ok(file) = to_sync.recv() {
                    segments.iter().try_for_each(|segment| segment.sync_data())?;
                    // The writer may be gone: then nobody needs the file again.
                    let _ = done.send(file);
                }
                Ok(())
            }
        });
        let current = free.pop_front().expect("JOURNAL_FILES is at least two");
        Self {
            current,
            position: 0,
            free,
            full,
            recycled,
            syncer,
            segments,
            buffer: Vec::new(),
        }
    }

    /// Writes `count` copies of `batch` and syncs.
    fn round(&mut self, batch: &[u8], count: usize) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            self.buffer.clear();
            while left > 0
                && (self.buffer.is_empty() || self.buffer.len() + batch.len() <= JOURNAL_ROUND_BYTES)
            {
                self.buffer.extend_from_slice(batch);
                left -= 1;
            }
            self.buffer
                .resize(self.buffer.len().next_multiple_of(JOURNAL_ALIGN), 0);
            if self.position + self.buffer.len() > JOURNAL_FILE_BYTES {
                self.roll()?;
            }
            self.current.write_all_at(&self.buffer, self.position as u64)?;
            self.current.sync_data()?;
            self.position += self.buffer.len();
        }
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("a segment could not be synced");
        self.free.extend(self.recycled.try_iter());
        let next = match self.free.pop_front() {
            Some(file) => file,
            None => self.recycled.recv().map_err(|_| gone())?,
        };
        let full = std::mem::replace(&mut self.current, next);
        self.position = 0;
        self.full.send(full).map_err(|_| gone())
    }

    /// Syncs what the journal still protects, so that the throughput counts both writes.
    fn finish(self) -> io::Result<()> {
        drop(self.full);
        self.syncer.join().expect("the thread only syncs")?;
        self.segments.iter().try_for_each(|segment| segment.sync_data())
    }
}
