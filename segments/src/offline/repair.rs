//! Repairs a data directory offline, but only what can be repaired without losing anything.
//!
//! Everything that is stored twice is written again from the whole copy: `FORMAT` from the checkpoint and the journal,
//! a topic's description from its copy, a slot of a snapshot from the other, bytes of segments from the journal,
//! indexes from their logs. Leftovers of topics that were being made or removed are deleted, as at a start. No record
//! is given up, and what only a start may decide (about tails and the journal's files) is left to the next start.
//!
//! Crash: each step writes a file beside and renames it, or writes bytes that are known to be right. So it can be
//! stopped at any point and run again; a second run finds nothing to do.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::Batches;
use crate::error::{At, Error, Result};
use crate::files::checkpoint::{self, Checkpoint, Entry};
use crate::files::description::TopicBody;
use crate::files::description::{self, Described};
use crate::files::layout::{Layout, parse_log_name};
use crate::files::slots::{Slots, list_if_exists, read_if_exists};
use crate::files::state;
use crate::io::clock::{Clock, SystemClock};
use crate::io::disk::{DirEntry, Disk, OpenMode, RealDisk};
use crate::journal::format::Item;
use crate::journal::replay::{self, Scan};
use crate::offline::finding::Verified;
use crate::offline::verify;
use crate::recover::identity;
use crate::segment::index;
use crate::segment::{Segment, SegmentPool};
use crate::types::{FilePos, Offset, PartitionId, TopicId};

/// Something that was repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The file.
    pub path: PathBuf,
    /// What was done to it.
    pub what: String,
}

/// What was repaired, and what was found afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Everything that was done, in order.
    pub mended: Vec<Mended>,
    /// What was found afterwards.
    pub verified: Verified,
}

/// Repairs what can be repaired without loss in a data directory that no server has open, then checks the directory.
/// `progress` is called during the check.
///
/// # Errors
/// As of [`verify`](super::verify::verify), and [`Error::Io`] or [`Error::StorageFull`] if something cannot be written:
/// repairs made until then stay, and it can be run again.
pub fn repair(dir: &Path, progress: &mut dyn FnMut(&Verified)) -> Result<Repaired> {
    repair_on(Arc::new(RealDisk::new()), &SystemClock::new(), dir, progress)
}

/// The same on any disk and clock.
///
/// # Errors
/// As of [`repair`].
pub fn repair_on(
    disk: Arc<dyn Disk>,
    clock: &dyn Clock,
    dir: &Path,
    progress: &mut dyn FnMut(&Verified),
) -> Result<Repaired> {
    let layout = Layout::new(dir);
    let Some(identity) = identity::find(&*disk, &layout)? else {
        return Err(Error::Directory(format!(
            "{} is not a quipu data directory: it has no FORMAT",
            dir.display()
        )));
    };
    let _lock = verify::lock_directory(&*disk, &layout)?;
    let mut repair = Repair {
        pool: SegmentPool::new(Arc::clone(&disk), 4),
        disk: Arc::clone(&disk),
        layout: layout.clone(),
        mended: Vec::new(),
    };
    if let Some(fault) = identity.fault {
        let kept = identity::mend(&*disk, clock.now(), &layout, identity.id)?;
        repair.done(&layout.format(), format!("{fault}: written again{kept}"));
    }
    repair.slots()?;
    let topics = repair.descriptions()?;
    repair.journal(identity.id, &topics)?;
    repair.indexes(&topics)?;
    repair.leftovers(&topics)?;
    Ok(Repaired {
        mended: repair.mended,
        verified: verify::look(&*disk, layout, progress)?,
    })
}

/// The journal's bytes for one file: positions with their bytes, in the journal's order.
type Runs = Vec<(FilePos, Vec<u8>)>;

struct Repair {
    disk: Arc<dyn Disk>,
    pool: Arc<SegmentPool>,
    layout: Layout,
    mended: Vec<Mended>,
}

impl Repair {
    fn done(&mut self, path: &Path, what: impl Into<String>) {
        self.mended.push(Mended {
            path: path.to_path_buf(),
            what: what.into(),
        });
    }

    /// Writes a slot that is not whole again, from the other one.
    fn slots(&mut self) -> Result<()> {
        let layout = &self.layout;
        let checkpoint = [layout.checkpoint(0), layout.checkpoint(1)];
        let state = [layout.state(0), layout.state(1)];
        for (paths, magic, version) in [
            (checkpoint, checkpoint::MAGIC, checkpoint::VERSION),
            (state, state::MAGIC, state::VERSION),
        ] {
            if let Some(path) = Slots::mend(Arc::clone(&self.disk), paths, magic, version)? {
                self.done(&path, "written again from the other slot");
            }
        }
        Ok(())
    }

    /// Returns every topic with a description, and writes a damaged description again from the whole copy.
    fn descriptions(&mut self) -> Result<Vec<TopicBody>> {
        let mut topics = Vec::new();
        for entry in list_if_exists(&*self.disk, &self.layout.topics_dir())? {
            if !entry.is_dir {
                continue;
            }
            let dir = self.layout.topic_dir(&entry.name);
            let described = description::read(&*self.disk, &dir, &entry.name)?;
            if let Some(what) = description::mend(&*self.disk, &dir, &described)? {
                self.done(&dir, what);
            }
            match described {
                Described::Whole(body) | Described::CopyFault(body, _) | Described::Fault(body, _) => {
                    topics.push(body);
                }
                Described::Unknown(_) => {}
            }
        }
        Ok(topics)
    }

    /// Writes bytes of segments again that differ from the journal, and puts journal files of another directory aside.
    fn journal(&mut self, id: u64, topics: &[TopicBody]) -> Result<()> {
        let paths = [self.layout.checkpoint(0), self.layout.checkpoint(1)];
        let found = Slots::read(&*self.disk, &paths, checkpoint::MAGIC, checkpoint::VERSION)?;
        let checkpoint = found.payload.as_deref().and_then(Checkpoint::decode);
        // Without a checkpoint it is unknown which rounds are still needed: the next start decides that.
        let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.directory_id == id) else {
            return Ok(());
        };
        if !self
            .disk
            .exists(&self.layout.journal_dir())
            .map_err(|error| Error::io("looking at the journal", error))?
        {
            return Ok(());
        }
        let Checkpoint { sequence, round, .. } = checkpoint;
        let scan = replay::scan(&*self.disk, &self.layout, id, sequence, round, false)?;
        for path in &scan.foreign {
            let aside = path.with_extension("foreign");
            self.disk
                .rename(path, &aside)
                .map_err(|error| Error::io(format!("putting {} aside", path.display()), error))?;
            self.done(
                path,
                format!("of another data directory: kept as {}", aside.display()),
            );
        }
        if !scan.damage.is_empty() {
            // Rounds are missing: the next start decides about the rounds before them.
            return Ok(());
        }
        let runs = self.journalled(&scan, &checkpoint, topics)?;
        for (path, runs) in runs {
            self.rewrite(&path, &runs)?;
        }
        Ok(())
    }

    /// The journal's bytes for each file, in the journal's order.
    fn journalled(
        &self,
        scan: &Scan,
        checkpoint: &Checkpoint,
        topics: &[TopicBody],
    ) -> Result<BTreeMap<PathBuf, Runs>> {
        let entries: BTreeMap<PartitionId, &Entry> = checkpoint
            .partitions
            .iter()
            .map(|entry| (entry.id, entry))
            .collect();
        let mut starts: BTreeMap<PartitionId, Offset> = entries
            .iter()
            .map(|(id, entry)| (*id, entry.log_start_offset))
            .collect();
        let mut deleted: Vec<TopicId> = checkpoint.deleting.clone();
        scan.for_each(|_, items| {
            for item in items {
                match *item {
                    Item::TopicDeleted(topic) => deleted.push(topic),
                    Item::LogStart { partition, offset } => {
                        let start = starts.entry(partition).or_default();
                        *start = offset.max(*start);
                    }
                    Item::State { .. } | Item::Append { .. } => {}
                }
            }
            Ok(())
        })?;
        let mut runs: BTreeMap<PathBuf, Runs> = BTreeMap::new();
        scan.for_each(|round, items| {
            for item in items {
                let Item::Append {
                    partition,
                    segment_base,
                    position,
                    bytes,
                    ..
                } = *item
                else {
                    continue;
                };
                let body = topics.iter().find(|body| body.id == partition.topic);
                let Some(body) = body.filter(|body| !deleted.contains(&body.id)) else {
                    continue;
                };
                let last = Batches::new(bytes).last().and_then(std::result::Result::ok);
                let next = last.map_or(segment_base, |(header, _)| header.next_offset());
                let start = starts.get(&partition).copied().unwrap_or_default();
                let is_synced = entries.get(&partition).is_some_and(|entry| round < entry.round);
                if is_synced || next <= start {
                    continue;
                }
                let dir = self
                    .layout
                    .topic_dir(&body.name)
                    .join(partition.index.to_string());
                let path = dir.join(format!("{segment_base:020}.log"));
                runs.entry(path).or_default().push((position, bytes.to_vec()));
            }
            Ok(())
        })?;
        Ok(runs)
    }

    /// Writes the journal's bytes to a file that differs from them.
    fn rewrite(&mut self, path: &Path, runs: &[(FilePos, Vec<u8>)]) -> Result<()> {
        let context = |error| Error::io(format!("writing {}", path.display()), error);
        let is_there = self.disk.exists(path).map_err(context)?;
        let mut differ = 0;
        if is_there {
            let file = self.disk.open(path, OpenMode::Read).map_err(context)?;
            for (position, bytes) in runs {
                let mut found = vec![0; bytes.len()];
                // Bytes that cannot be read are written again, too.
                let read = file.read_at(&mut found, position.get()).unwrap_or(0);
                differ += usize::from(found[..read] != bytes[..]) * bytes.len();
            }
        } else {
            differ = runs.iter().map(|(_, bytes)| bytes.len()).sum();
        }
        if differ == 0 {
            return Ok(());
        }
        let dir = path.parent().unwrap_or(&self.layout.root);
        self.disk.create_dir_all(dir).map_err(context)?;
        let file = self.disk.open(path, OpenMode::Create).map_err(context)?;
        for (position, bytes) in runs {
            file.write_all_at(&[IoSlice::new(bytes)], position.get())
                .map_err(context)?;
        }
        file.sync_data().map_err(context)?;
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            self.disk.sync_dir(dir).map_err(context)?;
        }
        self.done(path, format!("{differ} bytes written again from the journal"));
        Ok(())
    }

    /// Makes indexes that do not fit their logs again, from the logs.
    fn indexes(&mut self, topics: &[TopicBody]) -> Result<()> {
        for body in topics {
            for partition in 0..body.partitions {
                let dir = self.layout.topic_dir(&body.name).join(partition.to_string());
                for entry in list_if_exists(&*self.disk, &dir)? {
                    if let Some(base) = parse_log_name(&entry.name) {
                        self.index(&dir, base, entry.len)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn index(&mut self, dir: &Path, base: Offset, length: u64) -> Result<()> {
        let path = dir.join(format!("{base:020}.index"));
        let times = path.with_extension("timeindex");
        let found = (
            read_if_exists(&*self.disk, &path)?,
            read_if_exists(&*self.disk, &times)?,
        );
        let why = match found {
            // A log without an index is fine: the index is made when the segment is closed or read.
            (None, None) => return Ok(()),
            (Some(offsets), Some(times)) => match index::decode(&offsets, &times, base, length) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
            _ => "its twin is missing".into(),
        };
        let pool = Arc::clone(&self.pool);
        let segment = Segment::new(pool, dir, base, length, FilePos(length));
        if length > 0 && segment.rebuild_index()? {
            self.done(
                &path,
                format!("{why}: made again from the log, with {}", times.display()),
            );
        }
        Ok(())
    }

    /// Removes what a process was making or removing when it ended.
    fn leftovers(&mut self, topics: &[TopicBody]) -> Result<()> {
        for dir in [self.layout.staging_dir(), self.layout.deleted_dir()] {
            for entry in list_if_exists(&*self.disk, &dir)? {
                self.remove(&dir, &entry)?;
            }
        }
        let root = self.layout.root.clone();
        let mut dirs = vec![root];
        for body in topics {
            let dir = self.layout.topic_dir(&body.name);
            dirs.extend((0..body.partitions).map(|partition| dir.join(partition.to_string())));
            dirs.push(dir);
        }
        for dir in dirs {
            for entry in list_if_exists(&*self.disk, &dir)? {
                if !entry.is_dir && entry.name.ends_with(".new") {
                    self.remove(&dir, &entry)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, dir: &Path, entry: &DirEntry) -> Result<()> {
        let path = dir.join(&entry.name);
        let removed = if entry.is_dir {
            self.disk.remove_dir_all(&path)
        } else {
            self.disk.remove_file(&path)
        };
        removed.at("removing", &path)?;
        self.done(&path, "removed: it was never finished, or was being removed");
        Ok(())
    }
}
