//! The contents of one simulated file: what the system shows (*current*) and what the medium holds (*durable*).
//!
//! Writes go to the current contents and mark 4 KiB pages dirty. A sync copies the dirty pages and the length. A page that is
//! written again while it is dirty may have been written back in between, so that any earlier version of it can be what a
//! power cut leaves. A failed sync makes pages clean without writing them: the system goes on to show bytes that the
//! medium lacks, and a later sync that succeeds does not bring them there.

use std::collections::BTreeSet;

use super::rng::{Mood, Rng};

/// The unit in which the system writes back and in which space is counted.
pub(super) const PAGE: usize = 4096;
/// The unit that the medium writes whole, nearly always.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct FileData {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// The shortest that the file has been since its last sync.
    shortest: usize,
    /// Pages written since they were last written back.
    dirty: BTreeSet<usize>,
    /// Pages whose writeback failed: clean, but current and durable differ.
    dropped: BTreeSet<usize>,
    /// Pages that take space.
    allocated: BTreeSet<usize>,
    /// Names that lead here now.
    pub(super) links: u32,
}

fn copy_page(from: &[u8], to: &mut Vec<u8>, page: usize) {
    copy_range(from, to, page * PAGE, (page + 1) * PAGE);
}

fn copy_range(from: &[u8], to: &mut Vec<u8>, start: usize, end: usize) {
    let end = end.min(from.len());
    if start >= end {
        return;
    }
    if to.len() < end {
        to.resize(end, 0);
    }
    to[start..end].copy_from_slice(&from[start..end]);
}

impl FileData {
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn allocated_pages(&self) -> usize {
        self.allocated.len()
    }

    /// The pages that take space here and did not `before`.
    pub(super) fn pages_not_in(&self, before: Option<&Self>) -> usize {
        let before = before.filter(|file| file.links > 0);
        self.allocated
            .iter()
            .filter(|page| before.is_none_or(|file| !file.allocated.contains(page)))
            .count()
    }

    /// How many pages a write of `start..end` would take that have no space yet.
    pub(super) fn pages_wanted(&self, start: usize, end: usize) -> usize {
        (start / PAGE..end.div_ceil(PAGE))
            .filter(|page| !self.allocated.contains(page))
            .count()
    }

    pub(super) fn write(&mut self, bytes: &[u8], start: usize, rng: &mut Rng) {
        if bytes.is_empty() {
            return;
        }
        let end = start + bytes.len();
        for page in start / PAGE..end.div_ceil(PAGE) {
            if self.dirty.contains(&page) && rng.chance(1, 4) {
                copy_page(&self.current, &mut self.durable, page);
            }
            self.dirty.insert(page);
            self.dropped.remove(&page);
            self.allocated.insert(page);
        }
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[start..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.current.len() {
            // What is cut off reads as zeros if the file grows again, whatever the medium holds there.
            let end = self.current.len().max(self.durable.len()).div_ceil(PAGE);
            self.dirty.extend(len / PAGE..end);
            self.allocated.retain(|page| *page < len.div_ceil(PAGE));
            self.shortest = self.shortest.min(len);
        }
        self.current.resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            copy_page(&self.current, &mut self.durable, page);
        }
        self.shortest = self.current.len();
    }

    /// A sync that fails: each dirty page is written or not, and none will be tried again.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let mood = Mood::draw(rng);
        if mood.keeps(rng) {
            self.durable.resize(self.current.len(), 0);
            self.shortest = self.current.len();
        }
        for page in std::mem::take(&mut self.dirty) {
            if mood.keeps(rng) {
                copy_page(&self.current, &mut self.durable, page);
            } else {
                self.dropped.insert(page);
            }
        }
    }

    /// What a machine finds after the power was cut.
    pub(super) fn after_power_cut(&self, rng: &mut Rng) -> Self {
        let mood = Mood::draw(rng);
        let mut found = self.durable.clone();
        for &page in &self.dirty {
            let start = page * PAGE;
            match rng.below(4) {
                // The page is torn: each sector on its own, and rarely within a sector.
                0 if matches!(mood, Mood::Each(_)) => {
                    for sector in (start..start + PAGE).step_by(SECTOR) {
                        if rng.chance(1, 32) {
                            let end = sector + rng.index(SECTOR);
                            copy_range(&self.current, &mut found, sector, end);
                        } else if rng.chance(1, 2) {
                            copy_range(&self.current, &mut found, sector, sector + SECTOR);
                        }
                    }
                }
                _ if mood.keeps(rng) => copy_page(&self.current, &mut found, page),
                _ => {}
            }
        }
        let (old, new) = (self.durable.len(), self.current.len());
        let shortest = self.shortest.min(old).min(new);
        let len = match (mood, rng.below(4)) {
            (Mood::KeepAll, _) | (Mood::Each(_), 0) => new,
            (Mood::LoseAll, _) | (Mood::Each(_), 1) => old,
            (_, 2) => shortest + rng.index(old.max(new) - shortest + 1),
            _ => {
                let pages = (old.max(new) - shortest) / PAGE + 1;
                (shortest.next_multiple_of(PAGE) + rng.index(pages) * PAGE).clamp(shortest, old.max(new))
            }
        };
        found.resize(len, 0);
        Self::resting(found, self.links)
    }

    /// What a new process finds after a kill: everything, but pages whose writeback failed may have been evicted meanwhile.
    pub(super) fn after_kill(&self, rng: &mut Rng) -> Self {
        let mut found = self.clone();
        for &page in &self.dropped {
            if rng.chance(1, 2) {
                let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(found.current.len()));
                for position in start..end {
                    found.current[position] = self.durable.get(position).copied().unwrap_or(0);
                }
                found.dropped.remove(&page);
            }
        }
        found
    }

    /// Changes a byte in both states, as a medium does that rots.
    pub(super) fn damage(&mut self, position: usize, mask: u8) {
        for bytes in [&mut self.current, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(position) {
                *byte ^= mask;
            }
        }
    }

    fn resting(contents: Vec<u8>, links: u32) -> Self {
        Self {
            shortest: contents.len(),
            durable: contents.clone(),
            allocated: (0..contents.len().div_ceil(PAGE)).collect(),
            dirty: BTreeSet::new(),
            dropped: BTreeSet::new(),
            current: contents,
            links,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(file: &FileData, look: impl Fn(&[u8]) -> u64) -> BTreeSet<u64> {
        (0..2_000)
            .map(|seed| look(file.after_power_cut(&mut Rng::new(seed)).current()))
            .collect()
    }

    #[test]
    fn synced_contents_survive_every_power_cut() {
        let mut rng = Rng::new(0);
        let mut file = FileData::default();
        file.write(&[7; 10_000], 0, &mut rng);
        file.sync();
        file.write(&[8; 5_000], 10_000, &mut rng);
        for seed in 0..2_000 {
            let found = file.after_power_cut(&mut Rng::new(seed));
            assert!(found.len() >= 10_000);
            assert!(
                found.current()[..10_000].iter().all(|byte| *byte == 7),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn unsynced_pages_are_kept_lost_or_torn_in_any_order() {
        let mut rng = Rng::new(0);
        let mut file = FileData::default();
        file.write(&[1; 2 * PAGE], 0, &mut rng);
        file.sync();
        file.write(&[2; 2 * PAGE], 0, &mut rng);
        let kinds = outcomes(&file, |found| {
            let kind = |page: &[u8]| match (page.contains(&1), page.contains(&2)) {
                (true, false) => 0,
                (false, true) => 1,
                _ => 2,
            };
            kind(&found[..PAGE]) * 10 + kind(&found[PAGE..])
        });
        assert_eq!(kinds, BTreeSet::from([0, 1, 2, 10, 11, 12, 20, 21, 22]));
    }

    #[test]
    fn a_page_written_twice_without_a_sync_may_show_its_first_version() {
        let versions: BTreeSet<u64> = (0..200)
            .flat_map(|seed| {
                let mut rng = Rng::new(seed);
                let mut file = FileData::default();
                file.write(&[1; PAGE], 0, &mut rng);
                file.write(&[2; PAGE], 0, &mut rng);
                outcomes(&file, |found| u64::from(found.first().copied().unwrap_or(0)))
            })
            .collect();
        assert_eq!(versions, BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn an_unsynced_length_is_old_new_or_between() {
        let mut rng = Rng::new(0);
        let mut file = FileData::default();
        file.write(&[1; 100], 0, &mut rng);
        file.sync();
        file.set_len(20_000);
        let lengths = outcomes(&file, |found| found.len() as u64);
        assert!(lengths.contains(&100) && lengths.contains(&20_000) && lengths.len() > 4);
        assert!(lengths.iter().all(|len| (100..=20_000).contains(len)));
    }

    #[test]
    fn bytes_beyond_a_cut_are_zeros_when_the_file_grows_again() {
        let mut rng = Rng::new(0);
        let mut file = FileData::default();
        file.write(&[1; 9_000], 0, &mut rng);
        file.sync();
        file.set_len(10);
        file.set_len(9_000);
        file.sync();
        let found = file.after_power_cut(&mut rng);
        assert_eq!(found.len(), 9_000);
        assert!(found.current()[10..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn after_a_failed_sync_the_view_shows_what_no_later_sync_makes_durable() {
        let lost = (0..100).any(|seed| {
            let mut rng = Rng::new(seed);
            let mut file = FileData::default();
            file.write(&[1; PAGE], 0, &mut rng);
            file.sync();
            file.write(&[2; PAGE], 0, &mut rng);
            file.fail_sync(&mut rng);
            assert!(
                file.current().iter().all(|byte| *byte == 2),
                "the cache still shows it"
            );
            file.sync();
            file.after_power_cut(&mut rng).current().contains(&1)
        });
        assert!(lost);
    }
}
