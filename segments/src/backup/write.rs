//! Writes a copy of an open log, and removes copies.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::capture::{Capture, CapturedTopic};
use super::files::{Files, Known};
use super::manifest::{
    Backup, BackupState, Contents, REMOVING, STATE_FILE, Sum, TOPICS_DIR, TopicContents, check_name, list,
    place, read,
};
use super::partition::copy_partition;
use super::progress::Progress;
use crate::engine::Engine;
use crate::error::{At, Error, Result};
use crate::files::codec::frame;
use crate::files::description::TopicBody;
use crate::files::layout::BACKUP_FILE;
use crate::files::sealed::being_replaced;
use crate::files::slots::list_if_exists;
use crate::files::state;
use crate::io::disk::{DirEntry, Disk, OpenMode};
use crate::recover::identity::sync_ancestors;
use crate::topic::catalog::KEYS;

/// How often a copy goes on with a newer moment because a topic was deleted.
const MOST_ATTEMPTS: usize = 20;

/// Copies what `capture` notes into `dir/name`. See [`crate::Log::backup`].
pub(crate) fn write(
    engine: &Engine,
    capture: &dyn Fn() -> Capture,
    dir: &Path,
    name: &str,
    progress: &Progress,
) -> Result<Backup> {
    check_name(name)?;
    let disk = &*engine.disk;
    let copy = dir.join(name);
    make_room(disk, dir, &copy, name)?;
    let mut backup = Backup::begun(name, engine.directory_id, engine.clock.now());
    let result = begin(disk, dir, &copy, &backup)
        .and_then(|()| fill(engine, capture, dir, &copy, &mut backup, progress))
        .and_then(|()| {
            backup.state = BackupState::Done;
            backup.finished = Some(engine.clock.now());
            backup.write(disk, &copy)?;
            disk.sync_dir(&copy).at("syncing", &copy)
        });
    match result {
        Ok(()) => Ok(backup),
        Err(error) => {
            give_up(engine, &copy, backup, &error);
            Err(error)
        }
    }
}

/// Refuses a name that is taken. Removes what a failed backup of that name has left, and what is left of removed ones.
fn make_room(disk: &dyn Disk, dir: &Path, copy: &Path, name: &str) -> Result<()> {
    for entry in list_if_exists(disk, dir)? {
        if entry.name.starts_with(REMOVING) {
            let path = dir.join(&entry.name);
            disk.remove_dir_all(&path).at("removing", &path)?;
        }
    }
    if !disk.exists(copy).at("looking for", copy)? {
        return Ok(());
    }
    // One whose `backup.json` cannot be read may be whole but for that: an operator decides.
    match read(disk, copy)? {
        Some(backup) if backup.state == BackupState::Done => Err(Error::BackupExists(name.to_owned())),
        Some(_) => remove(disk, dir, name),
        None => {
            let entries = list_if_exists(disk, copy)?;
            match entries.iter().all(is_of_a_begin) {
                true => remove(disk, dir, name),
                false => Err(Error::Directory(format!(
                    "{} is there and is not a backup: move it away first",
                    copy.display()
                ))),
            }
        }
    }
}

/// Whether something may lie in a directory that was made for a copy and has no `backup.json` yet: what becomes that file.
/// Others may keep files of theirs in the same place, and nothing of them is ever removed.
fn is_of_a_begin(entry: &DirEntry) -> bool {
    !entry.is_dir && Path::new(&entry.name) == being_replaced(Path::new(BACKUP_FILE))
}

/// Makes the directory, with a `backup.json` that says that the copy is not whole.
fn begin(disk: &dyn Disk, dir: &Path, copy: &Path, backup: &Backup) -> Result<()> {
    disk.create_private_dir(copy).at("making", copy)?;
    backup.write(disk, copy)?;
    disk.sync_dir(copy).at("syncing", copy)?;
    disk.sync_dir(dir).at("syncing", dir)?;
    sync_ancestors(disk, dir)
}

/// After a failure: frees the space, and says so. Neither is needed: without it, the copy counts as interrupted.
fn give_up(engine: &Engine, copy: &Path, mut backup: Backup, error: &Error) {
    let disk = &*engine.disk;
    if let Err(error) = disk.remove_dir_all(&copy.join(TOPICS_DIR))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the files of a failed backup stay until it is removed");
    }
    backup.state = BackupState::Failed;
    backup.finished = Some(engine.clock.now());
    backup.error = Some(error.without_path());
    if let Err(error) = backup
        .write(disk, copy)
        .and_then(|()| disk.sync_dir(copy).at("syncing", copy))
    {
        tracing::warn!(%error, "a failed backup could not be marked: it counts as interrupted");
    }
}

/// Writes everything but the mark that the copy is whole; all of it is durable when this returns.
fn fill(
    engine: &Engine,
    capture: &dyn Fn() -> Capture,
    dir: &Path,
    copy: &Path,
    backup: &mut Backup,
    progress: &Progress,
) -> Result<()> {
    let disk = &*engine.disk;
    // Segments that are synced can be linked. If this fails, they are copied.
    if let Err(error) = engine.sync_segments() {
        tracing::warn!(%error, "syncing segments before a backup");
    }
    let mut files = Files {
        disk,
        to: copy.join(TOPICS_DIR),
        previous: previous(disk, dir, &backup.directory_id),
        done: Known::new(),
        progress,
        copied: BTreeSet::new(),
    };
    let (taken, topics, missing) = take(capture, &mut files, backup)?;
    let kept = topics
        .iter()
        .flat_map(TopicContents::places)
        .map(|(place, _)| place);
    let copied_bytes = files.keep_only(&kept.collect())?;
    let framed = frame(state::MAGIC, state::VERSION, 0, &taken.state);
    let path = copy.join(STATE_FILE);
    let file = disk.open(&path, OpenMode::Create).at("making", &path)?;
    file.write_all_at(&[IoSlice::new(&framed)], 0)
        .and_then(|()| file.sync_data())
        .at("writing", &path)?;
    let contents = Contents {
        next_topic_id: taken.next_topic_id,
        round: taken.round,
        state: Sum::of(&framed),
        topics,
    };
    backup.write_contents(disk, copy, &contents)?;
    check_synced(engine, &taken)?;
    sync_dirs(disk, &contents, &files.to)?;
    disk.sync_dir(copy).at("syncing", copy)?;

    let made = contents.topics.iter().flat_map(TopicContents::places);
    backup.files = made.clone().count() as u64;
    let changed = made.clone().filter(|(_, file)| file.whole_crc32.is_some());
    backup.damaged_files = changed.count() as u64 + missing;
    backup.bytes = made.map(|(_, file)| file.sum.bytes).sum::<u64>() + framed.len() as u64;
    backup.copied_bytes = copied_bytes + framed.len() as u64;
    Ok(())
}

/// The files of the newest whole copy of the same data directory. Those of another one may differ at the same offsets.
fn previous(disk: &dyn Disk, dir: &Path, directory_id: &str) -> Option<(PathBuf, Known)> {
    let others = list(disk, dir).unwrap_or_default().into_iter();
    let newest = others
        .filter(|other| other.state == BackupState::Done && other.directory_id == directory_id)
        .max_by_key(|other| other.finished)?;
    let copy = dir.join(&newest.name);
    let contents = newest
        .read_contents(disk, &copy)
        .inspect_err(|error| tracing::warn!(backup = newest.name, %error, "an earlier backup cannot be used"))
        .ok()?;
    let mut known = Known::new();
    for topic in &contents.topics {
        known.extend(topic.places().map(|(place, file)| (place, file.clone())));
    }
    Some((copy.join(TOPICS_DIR), known))
}

/// What ended the copying of one moment.
enum Ended {
    /// Also how many ranges of offsets are missing.
    Whole(Vec<TopicContents>, u64),
    /// A topic was deleted meanwhile, or the keys were trimmed: a newer moment is needed.
    Outdated,
}

/// Copies the files of a moment that does not change meanwhile. Also returns how many ranges of offsets are missing.
fn take(
    capture: &dyn Fn() -> Capture,
    files: &mut Files<'_>,
    backup: &mut Backup,
) -> Result<(Capture, Vec<TopicContents>, u64)> {
    for _ in 0..MOST_ATTEMPTS {
        let taken = capture();
        backup.held_us = backup.held_us.max(taken.held.as_micros() as u64);
        files.progress.set(0);
        if let Ended::Whole(topics, missing) = copy_topics(&taken, files)? {
            return Ok((taken, topics, missing));
        }
    }
    Err(Error::Overloaded {
        reason: "topics were deleted again and again while they were copied".into(),
    })
}

fn copy_topics(taken: &Capture, files: &mut Files<'_>) -> Result<Ended> {
    let to = &files.to;
    files.disk.create_dir_all(to).at("making", to)?;
    let mut topics = Vec::with_capacity(taken.topics.len());
    let mut all_missing = 0;
    for captured in &taken.topics {
        let CapturedTopic {
            topic,
            spec,
            partitions,
        } = captured;
        let mut contents = Vec::with_capacity(partitions.len());
        for (index, partition) in partitions.iter().enumerate() {
            let (copied, missing) = copy_partition(partition, &place(topic.id().0, index), files)?;
            // Idempotency keys that are still needed are stored again before their partition is trimmed: behind what
            // this moment has.
            let is_short = topic.name() == KEYS && copied.log_start_offset > partition.log_start_offset;
            // Looked at after the files were: while it was not deleted, its files had its name.
            if topic.is_deleted() || is_short {
                forget(files, topic.id().0)?;
                return Ok(Ended::Outdated);
            }
            contents.push(copied);
            all_missing += missing;
        }
        topics.push(TopicContents {
            description: TopicBody {
                name: topic.name().to_owned(),
                id: topic.id(),
                partitions: spec.partitions,
                settings: spec.settings.clone(),
                properties: spec.properties.clone(),
            },
            partitions: contents,
        });
    }
    Ok(Ended::Whole(topics, all_missing))
}

/// Removes the files of a topic from the copy.
fn forget(files: &mut Files<'_>, topic: u64) -> Result<()> {
    let place = PathBuf::from(topic.to_string());
    files.done.retain(|path, _| !path.starts_with(&place));
    let dir = files.to.join(place);
    match files.disk.remove_dir_all(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.at("removing", &dir),
    }
}

/// Refuses a copy of segments whose sync has failed: what the page cache showed of them may not be what was written.
fn check_synced(engine: &Engine, taken: &Capture) -> Result<()> {
    // A sync that has failed meanwhile has said so by the time that this lock is free.
    let _snapshots = engine.snapshots.lock();
    let partitions = taken.topics.iter().flat_map(|topic| &topic.partitions);
    for captured in partitions {
        let partition = &captured.partition;
        if partition.writer.lock().is_unsyncable && !partition.is_deleted() {
            return Err(Error::PartitionFailed(format!(
                "a sync of {} has failed",
                partition.name()
            )));
        }
    }
    Ok(())
}

/// Makes the names of all files durable.
fn sync_dirs(disk: &dyn Disk, contents: &Contents, to: &Path) -> Result<()> {
    let sync = |dir: &Path| match disk.sync_dir(dir) {
        // Nothing of it has files.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced.at("syncing", dir),
    };
    for topic in &contents.topics {
        let id = topic.description.id.0;
        for (index, partition) in topic.partitions.iter().enumerate() {
            if !partition.files.is_empty() {
                sync(&to.join(place(id, index)))?;
            }
        }
        sync(&to.join(id.to_string()))?;
    }
    sync(to)
}

/// Removes a copy. It is renamed first, so that no half of it is ever taken for a copy.
///
/// # Errors
/// See [`crate::Log::remove_backup`].
pub(crate) fn remove(disk: &dyn Disk, dir: &Path, name: &str) -> Result<()> {
    check_name(name)?;
    let copy = dir.join(name);
    let is_there = |path: &Path| disk.exists(path).at("looking for", path);
    if !is_there(&copy)? {
        return Err(Error::NotFound(format!("the backup {name}")));
    }
    let entries = list_if_exists(disk, &copy)?;
    let is_named = entries.iter().any(|entry| entry.name == BACKUP_FILE);
    if !is_named && !entries.iter().all(is_of_a_begin) {
        return Err(Error::Directory(format!(
            "{} is not a backup: it has no {BACKUP_FILE}",
            copy.display()
        )));
    }
    let away = dir.join(format!("{REMOVING}{name}"));
    if is_there(&away)? {
        disk.remove_dir_all(&away).at("removing", &away)?;
    }
    disk.rename(&copy, &away).at("removing", &copy)?;
    disk.sync_dir(dir).at("syncing", dir)?;
    disk.remove_dir_all(&away).at("removing", &away)
}
