//! Begins a new journal: everything in the previous one is in the segments, and a checkpoint records that.
//!
//! The order makes it safe to stop at any point: first the state's snapshot; then the checkpoint that needs nothing of
//! the old journal; only then are the old journal's files removed or reused; then the new journal's first file; last
//! the checkpoint that expects that file, so that its loss will be noticed.
//!
//! Crash: before the first checkpoint, the next start replays the old journal again; after it, the next start replays
//! nothing, whether it finds none, some or all of the old files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::evidence::Evidence;
use crate::engine::Snapshots;
use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, Entry};
use crate::files::layout::Layout;
use crate::files::state::State;
use crate::io::disk::Disk;
use crate::journal::replay::Scan;
use crate::journal::writer::{Journal, Mark};
use crate::options::Options;
use crate::topic::Topic;

/// What was recovered, and is durable in the segments.
pub(super) struct Recovered<'a> {
    pub(super) topics: &'a [Arc<Topic>],
    pub(super) next_topic_id: u64,
    pub(super) state: &'a mut State,
    /// Whether the evidence is whole and every journalled topic is served: if not, the old journal's files are kept.
    pub(super) is_healthy: bool,
}

/// Writes the snapshots, and begins the journal that the log continues with.
///
/// # Errors
/// Errors of the disk; the next start does it again.
pub(super) fn begin(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    options: &Options,
    evidence: Evidence,
    recovered: Recovered<'_>,
) -> Result<(Journal, Snapshots)> {
    let next = next_mark(&evidence);
    let Evidence {
        directory_id,
        checkpoint_slots,
        checkpoint,
        scan,
        state_slots,
        is_fresh,
        ..
    } = evidence;
    let mut snapshots = Snapshots {
        checkpoint: checkpoint_slots,
        state: state_slots,
        state_generation: 0,
        round: next.round,
        failed_dirs: BTreeSet::new(),
    };
    // Even if nothing has changed: the process that wrote the newest snapshot may have been killed before its sync. And
    // both slots: the changes that the older one lacks were in journal files that are reused from here on.
    let payload = recovered.state.encode();
    recovered.state.changed = false;
    snapshots.state.write(&payload)?;
    snapshots.state_generation = snapshots.state.generation();
    snapshots.state.write(&payload)?;
    let entries = recovered
        .topics
        .iter()
        .flat_map(|topic| topic.partitions().to_vec());
    let fresh = Checkpoint {
        directory_id,
        next_topic_id: recovered.next_topic_id,
        sequence: next.sequence,
        round: next.round,
        journal_expected: false,
        deleting: Vec::new(),
        partitions: entries
            .map(|partition| Entry {
                round: next.round,
                ..partition.writer.lock().synced
            })
            .collect(),
        state_generation: Some(snapshots.state_generation),
    };
    snapshots.checkpoint.write(&fresh.encode())?;
    if checkpoint.is_none() && !is_fresh {
        // Both slots, before journal files move: one that was not whole when it was read may be whole the next time.
        snapshots.checkpoint.write(&fresh.encode())?;
    }
    let leftovers = leftovers(&**disk, &scan, options, recovered.is_healthy)?;
    let journal = Journal::start(
        Arc::clone(disk),
        layout.clone(),
        directory_id,
        options.journal_file_bytes,
        options.first_journal_file_bytes,
        next,
        leftovers,
    )?;
    // The journal file exists now: with a checkpoint that expects it, its loss will be noticed.
    snapshots.checkpoint.write(
        &Checkpoint {
            journal_expected: true,
            ..fresh
        }
        .encode(),
    )?;
    Ok((journal, snapshots))
}

/// The new journal's first round and file: behind all existing ones.
fn next_mark(evidence: &Evidence) -> Mark {
    let sequences = evidence.scan.all_files.iter().map(|(sequence, ..)| *sequence);
    let known = evidence.checkpoint.as_ref();
    Mark {
        round: evidence.scan.next_round.max(1),
        sequence: sequences
            .max()
            .map_or(1, |sequence| sequence + 1)
            .max(known.map_or(1, |checkpoint| checkpoint.sequence)),
    }
}

/// The journal files that may be reused, the longest last: those that are not too long; the others are removed. If
/// something is damaged, none is reused, and all are kept aside as evidence.
fn leftovers(disk: &dyn Disk, scan: &Scan, options: &Options, is_healthy: bool) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = scan.all_files.iter().collect();
    files.retain(|(_, path, _)| !scan.foreign.contains(path));
    files.sort_by_key(|(_, _, length)| *length);
    let mut usable = Vec::new();
    for (_, path, length) in files.into_iter().rev() {
        let context = |error| Error::io(format!("putting {} aside", path.display()), error);
        if !is_healthy {
            disk.rename(path, &path.with_extension("damaged"))
                .map_err(context)?;
        } else if *length <= options.journal_file_bytes && usable.len() < options.journal_files as usize {
            usable.push(path.clone());
        } else {
            disk.remove_file(path).map_err(context)?;
        }
    }
    usable.reverse();
    Ok(usable)
}
