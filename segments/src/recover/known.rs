//! What the checkpoint and the journal after it say about a partition.
//!
//! Pure: [`Known`] begins with the checkpoint's entry, each journalled batch advances it, and only [`super::tail`]
//! compares it with the files. It is never on disk, so a crash leaves nothing of it.

use std::collections::{BTreeMap, HashMap};

use crate::files::checkpoint::Checkpoint;
use crate::types::{FilePos, Offset, PartitionId, TimestampMs};

/// What a partition is known to hold.
pub(super) struct Known {
    pub(super) log_start_offset: Offset,
    /// The segment that was appended to last: its base offset, its end, and when it was made.
    pub(super) active: Option<(Offset, FilePos, TimestampMs)>,
    pub(super) next_offset: Offset,
    /// Rounds below this one are in the segments already.
    pub(super) round: u64,
    /// Segments that the journal names, each with the end that the journal gives.
    pub(super) named: BTreeMap<Offset, FilePos>,
    /// Whether a checkpoint or the journal says anything at all.
    pub(super) is_evident: bool,
}

/// What a checkpoint says about each partition.
pub(super) fn known_from(checkpoint: Option<&Checkpoint>) -> HashMap<PartitionId, Known> {
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.partitions);
    entries
        .iter()
        .map(|entry| {
            let known = Known {
                log_start_offset: entry.log_start_offset,
                active: entry.active,
                next_offset: entry.next_offset,
                round: entry.round,
                named: BTreeMap::new(),
                is_evident: true,
            };
            (entry.id, known)
        })
        .collect()
}

impl Known {
    pub(super) fn nothing() -> Self {
        Self {
            log_start_offset: Offset::ZERO,
            active: None,
            next_offset: Offset::ZERO,
            round: 0,
            named: BTreeMap::new(),
            is_evident: false,
        }
    }

    /// Adds journalled batches: they end at position `end` of the segment, and below `next_offset`. A new segment
    /// counts as made `now`.
    pub(super) fn add(&mut self, segment_base: Offset, end: FilePos, next_offset: Offset, now: TimestampMs) {
        let named = self.named.entry(segment_base).or_insert(end);
        *named = end.max(*named);
        let is_newer = self.active.is_none_or(|(base, ..)| segment_base > base);
        if is_newer {
            if let Some((base, known_end, _)) = self.active {
                // The previous segment ended there.
                let named = self.named.entry(base).or_insert(known_end);
                *named = known_end.max(*named);
            }
            self.active = Some((segment_base, end, now));
        } else if let Some((base, known_end, _)) = &mut self.active
            && *base == segment_base
        {
            *known_end = end.max(*known_end);
        }
        self.next_offset = next_offset.max(self.next_offset);
    }

    /// Whether a segment lies behind the first one that the journal names: if it is not named itself, it is a stray.
    pub(super) fn is_stray(&self, base: Offset) -> bool {
        self.named.keys().next().is_some_and(|first| base > *first)
    }
}
