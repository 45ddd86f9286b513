//! Writes the journal's batches into the segments again.
//!
//! Every batch of the rounds that are needed, unless it is trimmed, is written at its position, whatever the segment
//! seems to hold: after a failed writeback the page cache may show bytes that the disk lacks. Batches are gathered, so
//! that each file is written in few calls, and at most [`Recovery::max_touched`] files are open before they are synced
//! and closed.
//!
//! Crash: the journal and the checkpoint are not changed here, so the next start writes the same again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::Recovery;
use super::known::Known;
use crate::batch::Batches;
use crate::error::{At, Error, Result};
use crate::files::description::TopicBody;
use crate::files::state::State;
use crate::io::disk::OpenMode;
use crate::journal::format::Item;
use crate::journal::replay::Scan;
use crate::types::{FilePos, Offset, PartitionId, TopicId};

/// Journalled bytes that recovery holds before it writes them. A round may write to many partitions. Gathered, a
/// thousand partitions cost a thousand syncs for each so many bytes, instead of one for every few hundred batches.
const MAX_PENDING_BYTES: usize = 32 << 20;

impl Recovery<'_> {
    /// Applies the journal: state, log starts, and every batch at its position. Returns the topics that it deletes.
    pub(super) fn replay(
        &mut self,
        scan: &Scan,
        topics: &[TopicBody],
        deleting: &[TopicId],
        state: &mut State,
    ) -> Result<HashSet<TopicId>> {
        let mut deleted: HashSet<TopicId> = deleting.iter().copied().collect();
        let (mut starts, mut written) = (HashMap::new(), HashMap::<_, (BTreeSet<Offset>, Offset)>::new());
        scan.for_each(|round, items| {
            for item in items {
                match *item {
                    Item::State { .. } => {}
                    Item::TopicDeleted(id) => drop(deleted.insert(id)),
                    Item::LogStart { partition, offset } => {
                        let start = starts.entry(partition).or_insert(offset);
                        *start = offset.max(*start);
                    }
                    Item::Append {
                        partition,
                        segment_base,
                        bytes,
                        ..
                    } => {
                        let (bases, next) = written.entry(partition).or_default();
                        bases.insert(segment_base);
                        *next = next_offset(round, bytes)?.max(*next);
                    }
                }
            }
            Ok(())
        })?;
        // Trimmed batches are not written again: the disk may be full, and later records may use their space.
        let kept_from = |(partition, (bases, next)): (PartitionId, (BTreeSet<Offset>, Offset))| {
            let known = self.known.get(&partition);
            let start = known.map(|known| known.log_start_offset);
            let start = start.max(starts.get(&partition).copied())?;
            let next = known.map_or(next, |known| known.next_offset.max(next));
            // If the evidence is damaged, records behind `next` may be found in the newest segment.
            match next <= start && self.is_whole {
                true => Some((partition, start)),
                false => Some((partition, *bases.range(..=start).next_back()?)),
            }
        };
        let kept_from: HashMap<PartitionId, Offset> = written.into_iter().filter_map(kept_from).collect();
        let names: HashMap<TopicId, &TopicBody> = topics.iter().map(|body| (body.id, body)).collect();
        scan.for_each(|round, items| {
            for item in items {
                match *item {
                    Item::State { key, value } => state.apply(key, value),
                    Item::TopicDeleted(_) => {}
                    Item::LogStart { partition, offset } => {
                        let known = self.known.entry(partition).or_insert_with(Known::nothing);
                        known.is_evident = true;
                        known.log_start_offset = known.log_start_offset.max(offset);
                    }
                    Item::Append {
                        partition,
                        segment_base,
                        position,
                        bytes,
                        ..
                    } => {
                        if deleted.contains(&partition.topic) {
                            continue;
                        }
                        let Some(body) = names.get(&partition.topic) else {
                            self.report_orphan(round, partition.topic);
                            continue;
                        };
                        let is_trimmed = kept_from.get(&partition).is_some_and(|base| segment_base < *base);
                        self.append(body, partition, segment_base, position, bytes, round, is_trimmed)?;
                    }
                }
            }
            Ok(())
        })?;
        // The next step decides about the tails from the files, so they must be written.
        self.flush()?;
        Ok(deleted)
    }

    fn report_orphan(&mut self, round: u64, topic: TopicId) {
        self.has_orphans = true;
        let what = format!(
            "round {round} of the journal has records of topic {}, whose directory is missing",
            topic.0
        );
        if !self.damage.contains(&what) {
            self.damage.push(what);
        }
    }

    /// Gathers journalled batches to be written at their position, again or for the first time; if they are trimmed,
    /// only notes their segment.
    #[expect(clippy::too_many_arguments, reason = "the fields of one item")]
    fn append(
        &mut self,
        body: &TopicBody,
        partition: PartitionId,
        segment_base: Offset,
        position: FilePos,
        bytes: &[u8],
        round: u64,
        is_trimmed: bool,
    ) -> Result<()> {
        let next_offset = next_offset(round, bytes)?;
        let end = position.plus(bytes.len() as u64);
        let known = self.known.entry(partition).or_insert_with(Known::nothing);
        known.is_evident = true;
        if round < known.round {
            return Ok(());
        }
        known.add(segment_base, end, next_offset, self.now);
        if is_trimmed {
            return Ok(());
        }

        let dir = self
            .layout
            .topic_dir(&body.name)
            .join(partition.index.to_string());
        let path = dir.join(format!("{segment_base:020}.log"));
        let runs = self.pending.entry(path).or_default();
        match runs.last_mut() {
            Some((start, run)) if start.plus(run.len() as u64) == position => run.extend_from_slice(bytes),
            _ => runs.push((position, bytes.to_vec())),
        }
        self.pending_bytes += bytes.len();
        if self.pending_bytes >= MAX_PENDING_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the gathered batches, file by file.
    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        for (path, runs) in std::mem::take(&mut self.pending) {
            let context = |error| Error::io(format!("writing {}", path.display()), error);
            let file = if let Some(file) = self.touched.get(&path) {
                Arc::clone(file)
            } else {
                if self.touched.len() >= self.max_touched {
                    self.sync_touched()?;
                }
                let dir = path.parent().unwrap_or(&self.layout.root);
                let file = match self.disk.open(&path, OpenMode::ReadWrite) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.disk.create_dir_all(dir).map_err(context)?;
                        self.disk.open(&path, OpenMode::Create).map_err(context)?
                    }
                    Err(error) => return Err(context(error)),
                };
                // Also if the file exists already: the process that made it may have ended before it synced the name.
                self.touched_dirs.insert(dir.to_path_buf());
                self.touched.insert(path.clone(), Arc::clone(&file));
                file
            };
            for (position, run) in runs {
                file.write_all_at(&[IoSlice::new(&run)], position.get())
                    .map_err(context)?;
            }
        }
        Ok(())
    }

    /// Writes the remaining batches, and makes everything that was written durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.sync_touched()
    }

    /// Makes everything that was written so far durable, and closes the files.
    pub(super) fn sync_touched(&mut self) -> Result<()> {
        for file in self.touched.values() {
            file.start_writeback();
        }
        for (path, file) in std::mem::take(&mut self.touched) {
            file.sync_data().at("syncing", &path)?;
        }
        for dir in std::mem::take(&mut self.touched_dirs) {
            self.disk.sync_dir(&dir).at("syncing", &dir)?;
        }
        Ok(())
    }
}

/// The offset after journalled batches.
fn next_offset(round: u64, batches: &[u8]) -> Result<Offset> {
    let malformed = || {
        Error::Directory(format!(
            "round {round} of the journal holds a batch that is none: use a newer quipu"
        ))
    };
    let mut next_offset = None;
    for batch in Batches::new(batches) {
        let (header, _) = batch.map_err(|_| malformed())?;
        next_offset = Some(header.next_offset());
    }
    next_offset.ok_or_else(malformed)
}
