//! The evidence: the checkpoint, the journal, the topics' descriptions, the snapshot of the state.
//!
//! All of it is read before any file is changed: if a file has a version that this program does not know, opening fails
//! and leaves the directory as it was. Then [`Evidence::settle`] reports what is damaged, keeps aside what will be
//! overwritten, and returns what can be relied on.
//!
//! Evidence is whole if the checkpoint and the journal after it are whole. Descriptions, the state and the directory's
//! id have their own copies, and do not show where a partition ends.
//!
//! Crash: files kept aside have names made from their old ones; the next start finds the same evidence without them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::description::TopicBody;
use crate::files::description::{self, Described};
use crate::files::layout::Layout;
use crate::files::sealed::keep_aside;
use crate::files::slots::{Found, Slots};
use crate::files::state::{self, State};
use crate::io::disk::Disk;
use crate::journal::replay::{self, Decode, Scan};
use crate::types::TopicId;

/// Everything that says what a data directory holds, as it was read.
pub(super) struct Evidence {
    pub(super) directory_id: u64,
    pub(super) checkpoint_slots: Slots,
    /// The newest checkpoint, if it is this directory's.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether the newest checkpoint belongs to another directory.
    is_foreign: bool,
    /// The journal from the checkpoint on.
    pub(super) scan: Scan,
    described: Vec<(String, Described)>,
    pub(super) state_slots: Slots,
    state_found: Found,
    /// What was wrong with the `FORMAT` file.
    mended: Option<String>,
    /// Whether the directory is still empty: this is a first start, or one after a first start that was cut short.
    pub(super) is_fresh: bool,
}

/// What can be relied on.
pub(super) struct Settled {
    /// The topics that can be served.
    pub(super) topics: Vec<TopicBody>,
    /// The state of the snapshot: the journal continues from it.
    pub(super) state: State,
    /// What is damaged, for the operator.
    pub(super) damage: Vec<String>,
    /// Whether the checkpoint and the journal after it are whole.
    pub(super) is_whole: bool,
}

impl Evidence {
    /// Reads all evidence, and changes nothing. `mended`: what was wrong with the `FORMAT` file.
    ///
    /// # Errors
    /// [`Error::Directory`] for a version that this program does not know; [`Error::Io`] if a file cannot be read.
    pub(super) fn read(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        decode: Decode,
        directory_id: u64,
        mended: Option<String>,
    ) -> Result<Self> {
        let paths = [layout.checkpoint(0), layout.checkpoint(1)];
        let (checkpoint_slots, found) =
            Slots::open(Arc::clone(disk), paths, checkpoint::MAGIC, checkpoint::VERSION)?;
        let newest = found.payload.as_deref().and_then(Checkpoint::decode);
        let is_own = |checkpoint: &Checkpoint| checkpoint.directory_id == directory_id;
        let is_foreign = newest.as_ref().is_some_and(|checkpoint| !is_own(checkpoint));
        let checkpoint = newest.filter(is_own);
        let (sequence, round, expected) = checkpoint.as_ref().map_or((0, 0, false), |checkpoint| {
            (checkpoint.sequence, checkpoint.round, checkpoint.journal_expected)
        });
        let scan = replay::scan_with(&**disk, layout, directory_id, (sequence, round), expected, decode)?;
        for what in &scan.mended {
            tracing::warn!("{what}");
        }
        let described = description::read_all(&**disk, layout)?;
        let paths = [layout.state(0), layout.state(1)];
        let (state_slots, state_found) = Slots::open(Arc::clone(disk), paths, state::MAGIC, state::VERSION)?;
        let is_fresh = scan.all_files.is_empty() && described.is_empty() && mended.is_none();
        Ok(Self {
            directory_id,
            checkpoint_slots,
            checkpoint,
            is_foreign,
            scan,
            described,
            state_slots,
            state_found,
            mended,
            is_fresh,
        })
    }

    /// Topics whose deletion was journalled before the checkpoint.
    pub(super) fn deleting(&self) -> &[TopicId] {
        self.checkpoint
            .as_ref()
            .map_or(&[], |checkpoint| &checkpoint.deleting)
    }

    /// Reports damage, repairs the topics' descriptions, and keeps aside what cannot be used.
    ///
    /// # Errors
    /// Errors of the disk; the next start does it again.
    pub(super) fn settle(&mut self, disk: &dyn Disk, layout: &Layout) -> Result<Settled> {
        let mut damage = self.scan.damage.clone();
        self.settle_checkpoint(disk, layout, &mut damage);
        let is_whole = damage.is_empty();
        damage.extend(self.mended.take());
        let topics = description::mend_all(disk, layout, std::mem::take(&mut self.described), &mut damage);
        self.put_foreign_journal_aside(disk, &mut damage)?;
        let state = self.settle_state(disk, layout, &mut damage);
        Ok(Settled {
            topics,
            state,
            damage,
            is_whole,
        })
    }

    /// A crash in the middle of a write leaves one slot that is not whole: this is no damage. If no slot is whole, the
    /// journal's beginning is unknown too: a checkpoint is written before there is a journal.
    fn settle_checkpoint(&self, disk: &dyn Disk, layout: &Layout, damage: &mut Vec<String>) {
        if self.checkpoint.is_some() || self.is_fresh {
            return;
        }
        let kept = keep_slots([layout.checkpoint(0), layout.checkpoint(1)], disk);
        let what = if self.is_foreign {
            "is of another data directory"
        } else {
            "and its second slot are damaged or missing"
        };
        damage.push(format!("{} {what}{kept}", layout.checkpoint(0).display()));
    }

    fn put_foreign_journal_aside(&self, disk: &dyn Disk, damage: &mut Vec<String>) -> Result<()> {
        for path in &self.scan.foreign {
            let aside = path.with_extension("foreign");
            disk.rename(path, &aside)
                .map_err(|error| Error::io(format!("putting {} aside", path.display()), error))?;
            damage.push(format!(
                "{} is of another data directory: it was left out, and is kept as {}",
                path.display(),
                aside.display()
            ));
        }
        Ok(())
    }

    /// The newest snapshot of the state that is whole, or an empty one.
    fn settle_state(&self, disk: &dyn Disk, layout: &Layout, damage: &mut Vec<String>) -> State {
        let found = &self.state_found;
        let snapshot = found.payload.as_deref().and_then(State::decode);
        let needed = self
            .checkpoint
            .as_ref()
            .and_then(|checkpoint| checkpoint.state_generation);
        // The first snapshot is written before the first journal file: a first start may leave a torn slot.
        if snapshot.is_none() && !self.is_fresh {
            let kept = keep_slots([layout.state(0), layout.state(1)], disk);
            damage.push(format!(
                "{} and its second slot are damaged or missing: offsets that groups committed before the journal's beginning \
                 are lost; commit them anew{kept}",
                layout.state(0).display()
            ));
        } else if needed.is_some_and(|needed| found.generation < needed) {
            // A torn slot comes from a crash during its write, unless a checkpoint was written after it.
            let kept: String = found
                .damaged_paths
                .iter()
                .map(|path| keep_aside(disk, path))
                .collect();
            damage.push(format!(
                "{}: the newest snapshot of the state is damaged or missing and the one before it is used: offsets that groups \
                 committed between them are lost; commit them anew{kept}",
                found.damaged.first().map_or_else(|| layout.state(0).display().to_string(), String::clone)
            ));
        }
        snapshot.unwrap_or_default()
    }
}

/// Keeps copies of the two slots, neither of which can be used, before they are overwritten.
fn keep_slots(paths: [PathBuf; 2], disk: &dyn Disk) -> String {
    paths.iter().map(|path| keep_aside(disk, path)).collect()
}
