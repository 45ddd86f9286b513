//! Compares a copy with its checksums, and says what is lost where they differ.
//!
//! A log file that is not what it was when the copy was made still has its healthy batches: the walk that also recovery
//! uses says which offsets are gone. A damaged index costs nothing, because it is made of its log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::sum_of;
use super::holes::{Hole, holes};
use super::manifest::{Backup, Contents, FileContents, STATE_FILE, Sum, TOPICS_DIR, damaged, place, read};
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::files::codec::unframe;
use crate::files::description::TopicBody;
use crate::files::layout::parse_log_name;
use crate::files::slots::read_if_exists;
use crate::files::state::{self, State};
use crate::io::disk::{Disk, OpenMode, RealDisk};
use crate::maintain::topics::check_name;
use crate::offline::finding::Finding;
use crate::segment::{self, Depth};
use crate::topic::catalog::is_internal;
use crate::types::{FilePos, Offset, PartitionId, TimestampMs};

/// What the check of a backup has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBackup {
    /// When it was begun: it holds everything that was acknowledged before that.
    pub taken: TimestampMs,
    /// How many topics there are, internal ones not counted.
    pub topics: usize,
    /// How many files of segments and indexes it should have.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
}

/// Compares every file of the backup at `dir` with its checksum; changes nothing. `progress` counts the bytes.
///
/// # Errors
/// [`Error::Directory`] if it is no backup, is not whole, or what says what is in it is damaged; [`Error::Cancelled`].
/// Damage of its other files is not an error: it is in [`VerifiedBackup::findings`].
pub fn verify_backup(dir: &Path, progress: &Progress) -> Result<VerifiedBackup> {
    verify_backup_on(&RealDisk::new(), dir, progress)
}

/// The same on any disk.
///
/// # Errors
/// As for [`verify_backup`].
pub fn verify_backup_on(disk: &dyn Disk, dir: &Path, progress: &Progress) -> Result<VerifiedBackup> {
    let (said, contents) = open(disk, dir)?;
    let checked = check(disk, dir, &contents, progress)?;
    let files = contents.topics.iter().flat_map(|topic| &topic.partitions);
    let files = files.flat_map(|partition| &partition.files);
    Ok(VerifiedBackup {
        taken: said.started,
        topics: visible_topics(&contents),
        files: files.clone().count() as u64,
        bytes: files.map(|file| file.sum.bytes).sum(),
        findings: checked.findings,
    })
}

/// Reads what a whole copy says about itself, and what it holds.
pub(super) fn open(disk: &dyn Disk, backup: &Path) -> Result<(Backup, Contents)> {
    let Some(said) = read(disk, backup)? else {
        return Err(Error::Directory(format!("{} is not a backup", backup.display())));
    };
    let contents = said.read_contents(disk, backup)?;
    Ok((said, contents))
}

/// How many topics a copy has that clients see.
pub(super) fn visible_topics(contents: &Contents) -> usize {
    let names = contents.topics.iter().map(|topic| &topic.description.name);
    names.filter(|name| !is_internal(name)).count()
}

/// What a comparison has found.
#[derive(Default)]
pub(super) struct Checked {
    /// The state; `None` if it is damaged.
    pub(super) state: Option<Vec<u8>>,
    /// The files that are not what they were when the copy was made, each with what is wrong.
    pub(super) damaged: BTreeMap<PathBuf, String>,
    /// What is wrong with these, and with files that were damaged or missing before they were copied.
    pub(super) findings: Vec<Finding>,
}

/// Compares every file of a copy with its checksum.
///
/// # Errors
/// [`Error::Directory`] if its contents make no sense; [`Error::Cancelled`].
pub(super) fn check(
    disk: &dyn Disk,
    backup: &Path,
    contents: &Contents,
    progress: &Progress,
) -> Result<Checked> {
    let mut checked = Checked::default();
    checked.state(disk, backup, contents)?;
    for topic in &contents.topics {
        let description = &topic.description;
        check_name(&description.name)?;
        if topic.partitions.len() != description.partitions as usize {
            return Err(damaged(
                backup,
                "a topic has more or fewer partitions than it says",
            ));
        }
        for (index, partition) in (0..).zip(&topic.partitions) {
            let is_number = |offset: Offset| Offset::try_new(offset.get()).is_some();
            let ends =
                partition.log_start_offset <= partition.next_offset && is_number(partition.next_offset);
            if !ends {
                return Err(damaged(backup, "the offsets of a partition are in disorder"));
            }
            let dir = backup
                .join(TOPICS_DIR)
                .join(place(description.id.0, index as usize));
            let mut parts = Vec::with_capacity(partition.files.len());
            for file in &partition.files {
                parts.push(Part::of(file).ok_or_else(|| damaged(backup, "a file has a strange name"))?);
            }
            for (file, part) in partition.files.iter().zip(&parts) {
                let path = dir.join(&file.name);
                let what = match sum_of(disk, &path, progress) {
                    Ok(sum) if sum == file.sum => None,
                    Ok(_) => Some(UNLIKE.to_owned()),
                    Err(error @ Error::Cancelled) => return Err(error),
                    Err(error) => Some(error.without_path()),
                };
                if what.is_none() && file.whole_crc32.is_none() {
                    continue;
                }
                // Where the next segment begins.
                let bases = parts.iter().filter(|next| next.is_log && next.base > part.base);
                let until = bases.map(|next| next.base).min().unwrap_or(partition.next_offset);
                let lost = Lost {
                    path: &path,
                    description,
                    index,
                    until,
                };
                checked.file(disk, &lost, file, part, what);
            }
            let is_told = |file: &FileContents| {
                file.whole_crc32.is_some() || checked.damaged.contains_key(&dir.join(&file.name))
            };
            for hole in holes(disk, &dir, partition, is_told)? {
                checked.hole(&dir, description, index, &hole);
            }
        }
    }
    Ok(checked)
}

const UNLIKE: &str = "its checksum is not what contents.json says";

/// What the name of a file says.
struct Part {
    base: Offset,
    is_log: bool,
}

impl Part {
    /// `None` for a name that no file of a segment has.
    fn of(file: &FileContents) -> Option<Self> {
        let (base, extension) = file.name.split_once('.')?;
        let is_known = matches!(extension, "log" | "index" | "timeindex");
        Some(Self {
            base: parse_log_name(&format!("{base}.log")).filter(|_| is_known)?,
            is_log: extension == "log",
        })
    }
}

/// A file that is damaged, and where its records end.
struct Lost<'a> {
    path: &'a Path,
    description: &'a TopicBody,
    index: u32,
    until: Offset,
}

impl Checked {
    fn state(&mut self, disk: &dyn Disk, backup: &Path, contents: &Contents) -> Result<()> {
        let path = backup.join(STATE_FILE);
        let what = match read_if_exists(disk, &path) {
            Ok(Some(framed)) if Sum::of(&framed) == contents.state => {
                let unframed = unframe(state::MAGIC, state::VERSION, &framed).ok();
                let payload = unframed.map(|(_, payload)| payload);
                // Its checksum is right, so this program is too old for it.
                let Some(payload) = payload.filter(|payload| State::decode(payload).is_some()) else {
                    return Err(damaged(&path, "it is not a snapshot that this program can read"));
                };
                self.state = Some(payload.to_vec());
                return Ok(());
            }
            Ok(Some(_)) => UNLIKE.to_owned(),
            Ok(None) => "missing".to_owned(),
            Err(error) => error.without_path(),
        };
        let what = format!(
            "{what}: it has all groups with their offsets, the tokens and the settings of the server"
        );
        self.findings.push(Finding {
            is_damage: true,
            is_fault: false,
            path: path.clone(),
            position: None,
            offsets: None,
            partition: None,
            partition_id: None,
            what: what.clone(),
            advice: TAKE.to_owned(),
        });
        self.damaged.insert(path, what);
        Ok(())
    }

    /// Notes offsets that no file of the copy has.
    fn hole(&mut self, dir: &Path, description: &TopicBody, index: u32, hole: &Hole) {
        self.findings.push(Finding {
            is_damage: true,
            is_fault: false,
            path: dir.join(&hole.file),
            position: None,
            offsets: Some((hole.from, hole.until)),
            partition: Some(format!("{}/{index}", description.name)),
            partition_id: Some(PartitionId::new(description.id, index)),
            what: "it was missing or too short when the backup was made".to_owned(),
            advice: EARLIER.to_owned(),
        });
    }

    /// Notes a file that differs from its checksum (`what` says how), or was damaged when it was copied.
    fn file(
        &mut self,
        disk: &dyn Disk,
        lost: &Lost<'_>,
        file: &FileContents,
        part: &Part,
        what: Option<String>,
    ) {
        let path = lost.path;
        let is_changed = what.is_some();
        if let Some(what) = &what {
            self.damaged.insert(path.to_path_buf(), what.clone());
        }
        let what = what.unwrap_or_else(|| "it was damaged when the backup was made".to_owned());
        let finding = Finding {
            is_damage: part.is_log,
            is_fault: !part.is_log,
            path: path.to_path_buf(),
            position: None,
            offsets: None,
            partition: None,
            partition_id: None,
            what: what.clone(),
            advice: match (part.is_log, is_changed) {
                (true, true) => TAKE,
                (true, false) => EARLIER,
                (false, _) => "nothing is lost: quipu restore --damaged leaves it out, and it is made again from the log",
            }
            .to_owned(),
        };
        if !part.is_log {
            self.findings.push(finding);
            return;
        }
        let at = |offsets: (Offset, Offset), position, what| Finding {
            position,
            offsets: Some(offsets),
            partition: Some(format!("{}/{}", lost.description.name, lost.index)),
            partition_id: Some(PartitionId::new(lost.description.id, lost.index)),
            what,
            ..finding.clone()
        };
        let bytes = disk.open(path, OpenMode::Read).and_then(|opened| opened.len());
        let end = FilePos(bytes.unwrap_or(0).min(file.sum.bytes));
        let walked = match end {
            FilePos::ZERO => Ok(segment::Checked {
                next_offset: part.base,
                ..Default::default()
            }),
            _ => segment::check(
                disk,
                path,
                part.base,
                (FilePos::ZERO, part.base),
                end,
                Some(lost.until),
                Depth::Sealed,
            ),
        };
        let Ok(walked) = walked else {
            self.findings.push(at((part.base, lost.until), None, what));
            return;
        };
        let mut reached = walked.next_offset;
        let mut found = Vec::new();
        for stretch in walked.damage {
            let until = stretch.until.unwrap_or(lost.until);
            reached = reached.max(until);
            let what = format!("{what}: {}", stretch.what);
            found.push(at((stretch.from, until), Some(stretch.position), what));
        }
        if reached < lost.until {
            found.push(at((reached, lost.until), Some(end), what));
        }
        if found.is_empty() {
            found.push(finding);
        }
        self.findings.extend(found);
    }
}

const EARLIER: &str = "use a backup from before the damage, if you need what is lost";
const TAKE: &str = "restore another backup; or the rest of this one, with quipu restore --damaged";
