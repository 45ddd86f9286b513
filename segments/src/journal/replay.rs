//! Reads the journal when a log is opened: finds its rounds in order, and whether any are missing.
//!
//! Rounds are numbered without gaps over all files, and a round is begun only after the one before is synced. So the
//! first block that is not a whole round is the torn end of the journal, unless a later round is found: then it is
//! damage. A round with one wrong bit is neither: it was written whole, so the bit is corrected and the round is used.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{BLOCK_BYTES, FileHeader, Item, Round, VERSION};
use crate::error::{At, Error, Result};
use crate::files::codec::FrameError;
use crate::files::layout::{Layout, parse_journal_name};
use crate::files::slots::list_if_exists;
use crate::io::disk::{Disk, Mapping, OpenMode};

/// The rounds that were found, in order.
pub(crate) struct Scan {
    files: Vec<ScannedFile>,
    /// What is wrong, for the operator; empty if the rounds are all there.
    pub(crate) damage: Vec<String>,
    /// The headers of the files that were read, by sequence.
    headers: BTreeMap<u64, Header>,
    /// Files whose header names another data directory: left out.
    pub(crate) foreign: Vec<PathBuf>,
    /// Every journal file that is there: (sequence, path, length).
    pub(crate) all_files: Vec<(u64, PathBuf, u64)>,
    /// Rounds with one wrong bit, which was corrected.
    pub(crate) mended: Vec<String>,
    /// One more than the last round.
    pub(crate) next_round: u64,
    decode: Decode,
}

/// Decodes a round of the file with that sequence: [`Round::decode`], unless a test replaces it.
pub(crate) type Decode = for<'a> fn(&'a [u8], u64) -> Option<Round<'a>>;

/// What is known of a file beside its rounds.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Whether the header is there, and the file has the length that the header says.
    is_whole: bool,
    /// Whether the header fits the file's name: a file that is being recycled still has its old header at first.
    is_own: bool,
    /// Whether the file's last round says that the journal goes on in the next one.
    has_end_mark: bool,
}

struct ScannedFile {
    path: PathBuf,
    sequence: u64,
    view: Arc<dyn Mapping>,
    /// Position and length of each round.
    rounds: Vec<(u64, u64)>,
    /// The corrected bytes of rounds with one wrong bit, by position.
    mended: BTreeMap<u64, Bytes>,
}

impl ScannedFile {
    fn round(&self, position: u64, length: u64) -> io::Result<Bytes> {
        match self.mended.get(&position) {
            Some(bytes) => Ok(bytes.clone()),
            None => Arc::clone(&self.view).bytes(position, position + length),
        }
    }
}

/// Reads the files from `first_sequence` on and finds the rounds from `first_round` on (older ones are left out).
///
/// # Errors
/// [`Error::Directory`] if a file is of a version that this program does not know, [`Error::Io`] if one cannot be read.
pub(crate) fn scan(
    disk: &dyn Disk,
    layout: &Layout,
    directory_id: u64,
    first_sequence: u64,
    first_round: u64,
    journal_expected: bool,
) -> Result<Scan> {
    let mut scan = scan_with(
        disk,
        layout,
        directory_id,
        (first_sequence, first_round),
        journal_expected,
        |bytes, sequence| Round::decode(bytes, sequence),
    )?;
    // Callers that only read the journal report everything that is not as it was written.
    scan.damage.append(&mut scan.mended);
    Ok(scan)
}

/// The same with a given decoder; corrected rounds do not count as damage.
pub(crate) fn scan_with(
    disk: &dyn Disk,
    layout: &Layout,
    directory_id: u64,
    (first_sequence, first_round): (u64, u64),
    journal_expected: bool,
    decode: Decode,
) -> Result<Scan> {
    let dir = layout.journal_dir();
    let mut all_files = Vec::new();
    for entry in list_if_exists(disk, &dir)? {
        if let Some(sequence) = parse_journal_name(&entry.name) {
            all_files.push((sequence, dir.join(&entry.name), entry.len));
        }
    }
    let mut scan = Scan {
        files: Vec::new(),
        damage: Vec::new(),
        foreign: Vec::new(),
        mended: Vec::new(),
        headers: BTreeMap::new(),
        all_files,
        next_round: first_round,
        decode,
    };
    for (sequence, path, length) in scan.all_files.clone() {
        if sequence >= first_sequence {
            scan.file(disk, directory_id, sequence, path, length, first_round)?;
        } else {
            refuse_other_version(disk, &path)?;
        }
    }
    if first_sequence > 0 {
        scan.check_sequences(layout, first_sequence, journal_expected);
    }
    Ok(scan)
}

/// Checks the header of a file that is not replayed: it is going to be used again, unless a newer version made it.
fn refuse_other_version(disk: &dyn Disk, path: &Path) -> Result<()> {
    let mut header = [0; BLOCK_BYTES as usize];
    let read = disk
        .open(path, OpenMode::Read)
        .and_then(|file| file.read_at(&mut header, 0))
        .at("reading", path)?;
    match FileHeader::decode(&header[..read]) {
        Err(FrameError::Version(found)) => Err(Error::version(path, found, VERSION)),
        _ => Ok(()),
    }
}

impl Scan {
    /// Finds files that are missing, were cut or lost their header, where a crash cannot be the cause.
    ///
    /// Files are made one after the other, without a gap, each whole before the next is begun; so a whole file proves
    /// that those before it were whole. A checkpoint that expects the first file, and an end mark in the file before,
    /// prove that a file is in use. If it held the last rounds, no later round shows that they are missing.
    fn check_sequences(&mut self, layout: &Layout, first_sequence: u64, journal_expected: bool) {
        let last_whole = self.headers.iter().rev().find(|(_, header)| header.is_whole);
        let end = last_whole.map_or(first_sequence, |(last, _)| *last);
        const AND_LATER: &str = "and later ones are there";
        let (mut expected, mut in_use) = (first_sequence, journal_expected);
        let mut why = if in_use {
            "and the checkpoint needs it"
        } else {
            AND_LATER
        };
        loop {
            let place = layout.journal(expected);
            let next = self
                .headers
                .range(expected..)
                .next()
                .map(|(at, header)| (*at, *header));
            match next {
                Some((sequence, header)) if sequence == expected => {
                    let is_there = header.is_whole && (header.is_own || !in_use);
                    if !is_there && (in_use || sequence < end) {
                        self.damage.push(format!(
                            "{} was cut or has a damaged header, {why}",
                            place.display()
                        ));
                    }
                    in_use = header.has_end_mark;
                }
                Some((sequence, _)) if sequence <= end => {
                    self.damage.push(format!("{} is missing, {why}", place.display()));
                    (expected, in_use, why) = (sequence, false, AND_LATER);
                    continue;
                }
                _ => {
                    if in_use {
                        self.damage.push(format!("{} is missing, {why}", place.display()));
                    }
                    return;
                }
            }
            expected += 1;
            why = if in_use {
                "and the file before it says that it is in use"
            } else {
                AND_LATER
            };
        }
    }

    fn file(
        &mut self,
        disk: &dyn Disk,
        directory_id: u64,
        sequence: u64,
        path: PathBuf,
        length: u64,
        first_round: u64,
    ) -> Result<()> {
        let context = |error| Error::io(format!("reading {}", path.display()), error);
        let view = disk
            .open(&path, OpenMode::Read)
            .and_then(|file| file.map(length))
            .map_err(context)?;
        view.populate(0, length).map_err(context)?;
        let bytes = Arc::clone(&view).bytes(0, length).map_err(context)?;
        let header = FileHeader::decode(&bytes);
        if let Err(FrameError::Version(found)) = header {
            return Err(Error::version(&path, found, VERSION));
        }
        if let Ok(header) = &header
            && header.directory_id != directory_id
        {
            // Its rounds are whole, and none of them is ours.
            self.foreign.push(path);
            return Ok(());
        }
        // A file is synced at its length before it is used; a shorter one was being made at a crash, or was cut.
        let full_length = header.as_ref().map_or(0, |header| header.file_bytes);
        let is_whole = header.is_ok() && length >= full_length;
        let fits =
            header.is_ok_and(|header| header.sequence == sequence && header.directory_id == directory_id);
        let mut rounds = Vec::new();
        let mut mended = BTreeMap::new();
        let mut position = BLOCK_BYTES;
        let mut gap_at = None;
        let mut has_end_mark = false;
        while position < length {
            let rest = &bytes[position as usize..];
            let whole = (self.decode)(rest, sequence);
            let again = if whole.is_none() {
                Round::mend(rest, sequence, self.next_round).map(Bytes::from)
            } else {
                None
            };
            let Some(round) = whole.or_else(|| (self.decode)(again.as_deref()?, sequence)) else {
                gap_at.get_or_insert(position);
                position += BLOCK_BYTES;
                continue;
            };
            if let Some(bytes) = &again {
                self.mended.push(format!(
                    "{} has one wrong bit in round {} at byte {position}",
                    path.display(),
                    round.number
                ));
                mended.insert(position, bytes.clone());
            }
            if round.number < self.next_round && round.number < first_round {
                // Older than the checkpoint: whole, and not needed.
            } else if round.number < self.next_round {
                self.damage.push(format!(
                    "{} repeats round {} at byte {position}",
                    path.display(),
                    round.number
                ));
            } else {
                if round.number > self.next_round {
                    let place = gap_at.unwrap_or(position);
                    self.damage.push(format!(
                        "{} is damaged at byte {place}: rounds {} to {} (exclusive) are missing",
                        path.display(),
                        self.next_round,
                        round.number
                    ));
                }
                // A file that was cut may end within the zeros that fill the round's last block.
                rounds.push((position, round.file_bytes.min(length - position)));
                self.next_round = round.number + 1;
            }
            gap_at = None;
            has_end_mark = round.is_end_mark();
            position += round.file_bytes;
        }
        let header = Header {
            is_whole,
            is_own: fits,
            has_end_mark,
        };
        self.headers.insert(sequence, header);
        if !fits && !rounds.is_empty() {
            self.damage
                .push(format!("{} has a damaged header", path.display()));
        }
        if length < full_length && !rounds.is_empty() {
            self.damage.push(format!(
                "{} has {length} bytes, not {full_length}: rounds may be missing",
                path.display()
            ));
        }
        if !rounds.is_empty() {
            self.files.push(ScannedFile {
                path,
                sequence,
                view,
                rounds,
                mended,
            });
        }
        Ok(())
    }

    /// Makes the last round durable, before anything that it holds is made durable elsewhere.
    ///
    /// Only the last round may not be durable: the process that wrote it may have been killed before its sync returned.
    /// A power cut could then take it although, say, the state's snapshot holds its half of a request already. It is
    /// written again, because after a failed sync the system may show bytes that the medium lacks, and not know it.
    ///
    /// # Errors
    /// What the disk said.
    pub(crate) fn make_durable(&self, disk: &dyn Disk) -> Result<()> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        let Some(&(position, length)) = file.rounds.last() else {
            return Ok(());
        };
        let again = || {
            // A copy: bytes of the map must not be written over themselves.
            let bytes = file.round(position, length)?.to_vec();
            let writable = disk.open(&file.path, OpenMode::ReadWrite)?;
            writable.write_all_at(&[IoSlice::new(&bytes)], position)?;
            writable.sync_data()
        };
        again().at("syncing", &file.path)
    }

    /// Calls `visit` for every round in order, with its number and its items.
    ///
    /// # Errors
    /// What `visit` says; [`Error::Directory`] if a round is not understood; [`Error::Io`] if a file cannot be read.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(u64, &[Item<'_>]) -> Result<()>) -> Result<()> {
        for file in &self.files {
            for &(position, length) in &file.rounds {
                let context = |error| Error::io(format!("reading {}", file.path.display()), error);
                let bytes = file.round(position, length).map_err(context)?;
                let round = (self.decode)(&bytes, file.sequence);
                let Some((round, items)) = round.and_then(|round| Some((round, round.items()?))) else {
                    return Err(Error::Directory(format!(
                        "{} holds a round at byte {position} that this program does not understand: use a newer quipu",
                        file.path.display()
                    )));
                };
                visit(round.number, &items)?;
            }
        }
        Ok(())
    }
}
