//! Makes a data directory of a copy. Nothing has either of them open.
//!
//! Every file of the copy is compared with its checksum before anything is written, and every file of the new directory
//! before it is released. If something of the copy is damaged, the caller decides: nothing is restored, or what is left.
//! To the new log, lost records are then damage as any other, an index that is missing is made again, and a state that is
//! missing is an empty one. The new directory has an id of its own: what clients were given by the log that was copied is
//! told from what this one gives them. The numbers of new topics begin higher than they would have in the copied log, so
//! that no topic that it made after the copy has the number of one that is made here.
//!
//! Crash: the file `RESTORING` is there, durably, from before the first other file until all of them are durable. No log
//! opens a directory with that file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{Checked, check, open, visible_topics};
use super::files::{copy, salvage, sum_of};
use super::manifest::{Contents, FileContents, Sum, TOPICS_DIR, damaged, place};
use super::progress::Progress;
use crate::error::{At, Error, Result};
use crate::files::checkpoint::{self, Checkpoint, Entry};
use crate::files::description::{TopicSpec, description};
use crate::files::layout::{Layout, TOPIC_COPY, TOPIC_FILE};
use crate::files::sealed::replace_file;
use crate::files::slots::{Slots, list_if_exists};
use crate::files::state;
use crate::io::clock::{Clock, SystemClock};
use crate::io::disk::{Disk, OpenMode, RealDisk};
use crate::offline::finding::Finding;
use crate::recover::identity::{self, chosen, sync_ancestors};
use crate::types::{FilePos, PartitionId, TimestampMs};

/// The next topic id rises by this much, and by less than as much again: more topics than were made since the copy.
const TOPIC_IDS: u64 = 1 << 24;

/// How many damaged files a refusal names.
const NAMED: usize = 5;

/// What a restore does with a backup that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfDamaged {
    /// It restores nothing.
    Refuse,
    /// It restores what can be read.
    Take,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The id of the new data directory.
    pub directory_id: String,
    /// When the copy was begun: it holds everything that was acknowledged before that.
    pub taken: TimestampMs,
    /// How many topics there are, internal ones not counted.
    pub topics: usize,
    /// How many files of segments and indexes.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// What is lost, or was lost when the backup was made.
    pub findings: Vec<Finding>,
}

/// Makes a data directory at `data`, which is empty or missing, of the backup at `backup`.
///
/// `progress` counts the bytes of three passes: over the backup, over it again while it is copied, over the new files.
///
/// # Errors
/// - [`Error::Directory`]: the backup is not whole or is damaged (see [`IfDamaged`]), or `data` holds something or is in
///   use: nothing was changed. Or a file of `data` is not what was written to it.
/// - [`Error::StorageFull`], [`Error::Io`], [`Error::Cancelled`]: what is in `data` must be removed before the next try.
pub fn restore(backup: &Path, data: &Path, if_damaged: IfDamaged, progress: &Progress) -> Result<Restored> {
    restore_on(
        Arc::new(RealDisk::new()),
        &SystemClock::new(),
        backup,
        data,
        if_damaged,
        progress,
    )
}

/// The same on any disk and clock.
///
/// # Errors
/// As for [`restore`].
pub fn restore_on(
    disk: Arc<dyn Disk>,
    clock: &dyn Clock,
    backup: &Path,
    data: &Path,
    if_damaged: IfDamaged,
    progress: &Progress,
) -> Result<Restored> {
    let (said, contents) = open(&*disk, backup)?;
    let layout = Layout::new(data);
    // Before the backup is read, which may take hours.
    check_empty(&*disk, data)?;
    let checked = check(&*disk, backup, &contents, progress)?;
    if if_damaged == IfDamaged::Refuse && !checked.damaged.is_empty() {
        return Err(refusal(backup, &checked));
    }
    disk.create_private_dir(data).at("making", data)?;
    let lock = disk.lock(&layout.lock()).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            Error::Directory(format!("{} is in use by another process", data.display()))
        }
        _ => Error::io(format!("locking {}", data.display()), error),
    })?;
    // Again, now that no server can begin to use it.
    check_empty(&*disk, data)?;
    sync_ancestors(&*disk, data)?;
    let marker = layout.restoring();
    disk.open(&marker, OpenMode::Create)
        .and_then(|file| file.sync_data())
        .and_then(|()| disk.sync_dir(data))
        .at("making", &marker)?;
    let id = chosen(clock);
    let new = New {
        disk: &disk,
        layout: &layout,
        backup,
        contents: &contents,
        checked: &checked,
        progress,
    };
    let written = new.topics()?;
    new.snapshots(id)?;
    identity::write(&*disk, clock.now(), &layout, id)?;
    new.check(&written)?;
    disk.remove_file(&marker)
        .and_then(|()| disk.sync_dir(data))
        .at("removing", &marker)?;
    drop(lock);
    Ok(Restored {
        directory_id: format!("{id:016x}"),
        taken: said.started,
        topics: visible_topics(&contents),
        files: written.len() as u64,
        bytes: written.iter().map(|(_, sum)| sum.bytes).sum(),
        findings: checked.findings,
    })
}

/// Names the damaged files.
fn refusal(backup: &Path, checked: &Checked) -> Error {
    let named = checked.damaged.iter().take(NAMED);
    let mut named: Vec<String> = named
        .map(|(path, what)| format!("{}: {what}", path.display()))
        .collect();
    if checked.damaged.len() > NAMED {
        named.push(format!(
            "{} more, which quipu verify {} names",
            checked.damaged.len() - NAMED,
            backup.display()
        ));
    }
    Error::Directory(format!(
        "the backup is damaged, and nothing was restored: {}; restore another one, or what is left of this one with \
         --damaged",
        named.join("; ")
    ))
}

fn check_empty(disk: &dyn Disk, data: &Path) -> Result<()> {
    let entries = list_if_exists(disk, data)?;
    let is_foreign = |name: &str| !matches!(name, "LOCK" | "lost+found");
    match entries.iter().find(|entry| is_foreign(&entry.name)) {
        None => Ok(()),
        Some(entry) => Err(Error::Directory(format!(
            "{} is not empty (it has {}): choose an empty directory",
            data.display(),
            entry.name
        ))),
    }
}

/// A data directory that is being made.
struct New<'a> {
    disk: &'a Arc<dyn Disk>,
    layout: &'a Layout,
    backup: &'a Path,
    contents: &'a Contents,
    /// What of it is damaged.
    checked: &'a Checked,
    progress: &'a Progress,
}

impl New<'_> {
    /// Every file: where it is in the copy, where it goes, and what it must hold.
    fn files(&self) -> impl Iterator<Item = (PathBuf, PathBuf, &FileContents)> {
        self.contents.topics.iter().flat_map(move |topic| {
            let description = &topic.description;
            topic
                .partitions
                .iter()
                .enumerate()
                .flat_map(move |(index, partition)| {
                    let from = self.backup.join(TOPICS_DIR).join(place(description.id.0, index));
                    let to = self.layout.topic_dir(&description.name).join(index.to_string());
                    let files = partition.files.iter();
                    files.map(move |file| (from.join(&file.name), to.join(&file.name), file))
                })
        })
    }

    /// Writes the topics with their segments; they are durable when this returns. Returns what each file must hold.
    fn topics(&self) -> Result<Vec<(PathBuf, Sum)>> {
        let disk = &**self.disk;
        let topics_dir = self.layout.topics_dir();
        disk.create_dir_all(&topics_dir).at("making", &topics_dir)?;
        for topic in &self.contents.topics {
            let body = &topic.description;
            let dir = self.layout.topic_dir(&body.name);
            disk.create_dir_all(&dir).at("making", &dir)?;
            let spec = TopicSpec {
                partitions: body.partitions,
                settings: body.settings.clone(),
                properties: body.properties.clone(),
            };
            let sealed = description(&body.name, body.id, &spec);
            for name in [TOPIC_FILE, TOPIC_COPY] {
                let path = dir.join(name);
                replace_file(disk, &path, &sealed).at("writing", &path)?;
            }
            for (index, partition) in topic.partitions.iter().enumerate() {
                if partition.files.is_empty() {
                    continue;
                }
                let dir = dir.join(index.to_string());
                disk.create_dir_all(&dir).at("making", &dir)?;
            }
        }
        let mut written = Vec::new();
        for (from, to, file) in self.files() {
            let (sum, made) = if self.checked.damaged.contains_key(&from) {
                // Without its index, a log gets a new one.
                if !file.name.ends_with(".log") {
                    continue;
                }
                // A missing one is missed where its records are read.
                let Some(rest) = salvage(disk, &from, &to, self.progress)? else {
                    continue;
                };
                rest
            } else {
                let Some((_, made)) = copy(disk, &from, &to, u64::MAX, self.progress)? else {
                    return Err(damaged(&from, "it has vanished"));
                };
                (file.sum, made)
            };
            if let Some(modified) = file.modified {
                made.set_modified(modified);
            }
            made.sync_data().at("syncing", &to)?;
            written.push((to, sum));
        }
        for topic in &self.contents.topics {
            let dir = self.layout.topic_dir(&topic.description.name);
            for (index, partition) in topic.partitions.iter().enumerate() {
                if !partition.files.is_empty() {
                    let dir = dir.join(index.to_string());
                    disk.sync_dir(&dir).at("syncing", &dir)?;
                }
            }
            disk.sync_dir(&dir).at("syncing", &dir)?;
        }
        disk.sync_dir(&topics_dir).at("syncing", &topics_dir)?;
        Ok(written)
    }

    /// Writes the state, and a checkpoint that needs no journal: as if the log had been closed at that moment. Without a
    /// state, the first start reports that it is lost.
    fn snapshots(&self, directory_id: u64) -> Result<()> {
        let layout = self.layout;
        let open = |paths, magic, version| -> Result<Slots> {
            let (slots, _) = Slots::open(Arc::clone(self.disk), paths, magic, version)?;
            slots.reserve()?;
            Ok(slots)
        };
        let paths = [layout.state(0), layout.state(1)];
        let mut slots = open(paths, state::MAGIC, state::VERSION)?;
        let mut state_generation = None;
        if let Some(state) = &self.checked.state {
            slots.write(state)?;
            state_generation = Some(slots.generation());
            slots.write(state)?;
        }
        let round = self.contents.round;
        let entries = self.contents.topics.iter().flat_map(|topic| {
            let id = topic.description.id;
            (0..).zip(&topic.partitions).map(move |(index, partition)| Entry {
                id: PartitionId::new(id, index),
                log_start_offset: partition.log_start_offset,
                active: partition
                    .active
                    .as_ref()
                    .map(|active| (active.base_offset, FilePos(active.position), active.made)),
                next_offset: partition.next_offset,
                round,
            })
        });
        let checkpoint = Checkpoint {
            directory_id,
            next_topic_id: self.contents.next_topic_id + TOPIC_IDS + directory_id % TOPIC_IDS,
            sequence: 1,
            round,
            journal_expected: false,
            deleting: Vec::new(),
            partitions: entries.collect(),
            state_generation,
        };
        let paths = [layout.checkpoint(0), layout.checkpoint(1)];
        let mut slots = open(paths, checkpoint::MAGIC, checkpoint::VERSION)?;
        let payload = checkpoint.encode();
        slots.write(&payload)?;
        slots.write(&payload)
    }

    /// Compares every new file with what it must hold.
    fn check(&self, written: &[(PathBuf, Sum)]) -> Result<()> {
        for (path, sum) in written {
            if sum_of(&**self.disk, path, self.progress)? != *sum {
                return Err(Error::Directory(format!(
                    "{} is not what was written to it: remove what is in {}, and restore to a healthy disk",
                    path.display(),
                    self.layout.root.display()
                )));
            }
        }
        Ok(())
    }
}
