//! The contents of one simulated file: what the system shows (*current*) and what the medium holds (*durable*).
//!
//! Writes go to the current contents and mark 4 KiB pages dirty. A sync copies the dirty pages and the length. A page
//! that is written again while it is dirty may have been written back in between, so a power cut may leave any earlier
//! version of it. A failed sync makes pages clean without writing them: reads still show bytes that the medium lacks,
//! and a later successful sync does not write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pages::Pages;
use super::rng::{Mood, Rng};

/// The unit in which the system writes back and in which space is counted.
pub(super) const PAGE: usize = 4096;
/// The unit that the medium writes whole, nearly always.
const SECTOR: usize = 512;

/// The durable contents are kept only where they differ from the current ones: most files do not differ, and cost a
/// power cut nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct FileData {
    /// Shared with slices that were read and with the disks of later runs, until one of them changes it.
    current: Arc<Vec<u8>>,
    /// The medium's bytes of the pages in which it may differ from `current`; behind these bytes are zeros.
    held: BTreeMap<usize, Box<[u8]>>,
    durable_len: usize,
    /// The shortest that the file has been since its last sync.
    shortest: usize,
    /// Pages written since they were last written back.
    dirty: Pages,
    /// Pages whose writeback failed: clean, but current and durable differ.
    dropped: Pages,
    /// Pages that take space.
    allocated: Pages,
    /// Pages in memory: written, or read, since the machine was started.
    resident: Pages,
    /// Bits that were flipped when a page came into memory, by position, until it is written or read again.
    flips: BTreeMap<usize, u8>,
    /// Names that lead here now.
    pub(super) links: u32,
}

/// Copies the part `from..to` of the page `source` into `contents`, as far as that reaches; `source` ends with zeros.
fn put(contents: &mut [u8], page: usize, source: &[u8], from: usize, to: usize) {
    let start = (page * PAGE + from).min(contents.len());
    let end = (page * PAGE + to).min(contents.len());
    let there = source.len().clamp(from, to) - from;
    let split = (start + there).min(end);
    if there > 0 {
        contents[start..split].copy_from_slice(&source[from..from + (split - start)]);
    }
    contents[split..end].fill(0);
}

impl FileData {
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    pub(super) fn current(&self) -> &Arc<Vec<u8>> {
        &self.current
    }

    pub(super) fn allocated_pages(&self) -> usize {
        self.allocated.len()
    }

    /// The pages that take space here and not in `before`.
    pub(super) fn pages_not_in(&self, before: Option<&Self>) -> usize {
        let before = before.filter(|file| file.links > 0);
        self.allocated
            .iter()
            .filter(|page| before.is_none_or(|file| !file.allocated.contains(*page)))
            .count()
    }

    /// How many pages of a write of `start..end` have no space yet.
    pub(super) fn pages_wanted(&self, start: usize, end: usize) -> usize {
        (start / PAGE..end.div_ceil(PAGE))
            .filter(|page| !self.allocated.contains(*page))
            .count()
    }

    /// Gives the first pages their space.
    pub(super) fn reserve(&mut self, pages: usize) {
        for page in 0..pages {
            self.allocated.insert(page);
        }
    }

    /// Brings a range into memory. For each page that was not there, `draw` gets its length, and returns the byte and
    /// the mask of a bit to flip, if any.
    pub(super) fn load(
        &mut self,
        start: usize,
        end: usize,
        mut draw: impl FnMut(usize) -> Option<(usize, u8)>,
    ) {
        let end = end.min(self.current.len());
        for page in start / PAGE..end.div_ceil(PAGE) {
            if !self.resident.contains(page) {
                self.resident.insert(page);
                let len = self.current_page(page).len();
                if let Some((at, mask)) = draw(len) {
                    self.flips.insert(page * PAGE + at, mask);
                }
            }
        }
    }

    /// Makes pages with a flipped bit be read again.
    pub(super) fn evict_flipped(&mut self) {
        for (position, _) in std::mem::take(&mut self.flips) {
            self.resident.remove(position / PAGE);
        }
    }

    /// The flipped bits in a range.
    pub(super) fn flips(&self, start: usize, end: usize) -> impl Iterator<Item = (usize, u8)> {
        self.flips
            .range(start..end.max(start))
            .map(|(at, mask)| (*at, *mask))
    }

    fn current_page(&self, page: usize) -> &[u8] {
        let len = self.current.len();
        &self.current[(page * PAGE).min(len)..((page + 1) * PAGE).min(len)]
    }

    /// Keeps the medium's bytes of a page that is about to change.
    fn hold(&mut self, page: usize) {
        if !self.held.contains_key(&page) {
            let bytes = self.current_page(page).into();
            self.held.insert(page, bytes);
        }
    }

    /// Extends the durable length over a page that was written back, as far as the file reaches.
    fn reach(&mut self, page: usize) {
        let len = self.current.len();
        if page * PAGE < len {
            self.durable_len = self.durable_len.max(len.min((page + 1) * PAGE));
        }
    }

    fn set_durable_len(&mut self, len: usize) {
        if len < self.durable_len {
            for (page, bytes) in self.held.range_mut(len / PAGE..) {
                let there = len.saturating_sub(page * PAGE);
                if there < bytes.len() {
                    *bytes = bytes[..there].into();
                }
            }
        }
        self.durable_len = len;
    }

    pub(super) fn write(&mut self, bytes: &[u8], start: usize, rng: &mut Rng) {
        if bytes.is_empty() {
            return;
        }
        let end = start + bytes.len();
        for page in start / PAGE..end.div_ceil(PAGE) {
            if self.dirty.contains(page) && rng.chance(1, 4) {
                let bytes = self.current_page(page).into();
                self.held.insert(page, bytes);
                self.reach(page);
            } else {
                self.hold(page);
            }
            self.dirty.insert(page);
            self.dropped.remove(page);
            self.allocated.insert(page);
            self.resident.insert(page);
        }
        if !self.flips.is_empty() {
            self.flips.retain(|position, _| !(start..end).contains(position));
        }
        let current = Arc::make_mut(&mut self.current);
        if current.len() < end {
            current.resize(end, 0);
        }
        current[start..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len == self.current.len() {
            return;
        }
        if len < self.current.len() {
            // Bytes that are cut off read as zeros if the file grows again, whatever the medium holds there.
            let end = self.current.len().max(self.durable_len).div_ceil(PAGE);
            for page in len / PAGE..end {
                self.hold(page);
                self.dirty.insert(page);
            }
            self.allocated.truncate(len.div_ceil(PAGE));
            self.flips.split_off(&len);
            self.shortest = self.shortest.min(len);
        }
        Arc::make_mut(&mut self.current).resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        for page in self.dirty.take() {
            self.held.remove(&page);
        }
        self.set_durable_len(self.current.len());
        self.shortest = self.current.len();
    }

    /// A failed sync: each dirty page is written or not, and no later sync tries again.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let mood = Mood::draw(rng);
        if mood.keeps(rng) {
            self.set_durable_len(self.current.len());
            self.shortest = self.current.len();
        }
        for page in self.dirty.take() {
            if mood.keeps(rng) {
                self.held.remove(&page);
                self.reach(page);
            } else {
                self.dropped.insert(page);
            }
        }
    }

    /// What a machine finds after the power was cut.
    pub(super) fn after_power_cut(&self, rng: &mut Rng) -> Self {
        let mood = Mood::draw(rng);
        let (old, new) = (self.durable_len, self.current.len());
        let longest = old.max(new);
        let mut found = Arc::clone(&self.current);
        if !self.held.is_empty() {
            let contents = Arc::make_mut(&mut found);
            contents.resize(longest, 0);
            for (page, bytes) in &self.held {
                put(contents, *page, bytes, 0, PAGE);
            }
            for page in self.dirty.iter() {
                let source = self.current_page(page);
                match rng.below(4) {
                    // The page is torn: each sector on its own, and rarely within a sector.
                    0 if matches!(mood, Mood::Each(_)) => {
                        for sector in (0..PAGE).step_by(SECTOR) {
                            if rng.chance(1, 32) {
                                put(contents, page, source, sector, sector + rng.index(SECTOR));
                            } else if rng.chance(1, 2) {
                                put(contents, page, source, sector, sector + SECTOR);
                            }
                        }
                    }
                    _ if mood.keeps(rng) => put(contents, page, source, 0, PAGE),
                    _ => {}
                }
            }
        }
        let shortest = self.shortest.min(old).min(new);
        let len = match (mood, rng.below(4)) {
            (Mood::KeepAll, _) | (Mood::Each(_), 0) => new,
            (Mood::LoseAll, _) | (Mood::Each(_), 1) => old,
            (_, 2) => shortest + rng.index(longest - shortest + 1),
            _ => {
                let pages = (longest - shortest) / PAGE + 1;
                (shortest.next_multiple_of(PAGE) + rng.index(pages) * PAGE).clamp(shortest, longest)
            }
        };
        if len != found.len() {
            Arc::make_mut(&mut found).resize(len, 0);
        }
        Self::resting(found, self.links)
    }

    /// What a new process finds after a kill: everything, but pages whose writeback failed may have been evicted.
    pub(super) fn after_kill(&self, rng: &mut Rng) -> Self {
        let mut found = self.clone();
        for page in self.dropped.iter() {
            if rng.chance(1, 2) {
                if let Some(bytes) = found.held.remove(&page) {
                    put(
                        Arc::make_mut(&mut found.current).as_mut_slice(),
                        page,
                        &bytes,
                        0,
                        PAGE,
                    );
                }
                found.dropped.remove(page);
            }
        }
        found
    }

    /// Drops the pages whose writeback failed from memory: they are read again, as the medium has them.
    pub(super) fn evict_dropped(&mut self) {
        for page in self.dropped.take() {
            if let Some(bytes) = self.held.remove(&page) {
                put(
                    Arc::make_mut(&mut self.current).as_mut_slice(),
                    page,
                    &bytes,
                    0,
                    PAGE,
                );
            }
            self.resident.remove(page);
        }
    }

    /// Changes a byte in both states, as a decaying medium does.
    pub(super) fn damage(&mut self, position: usize, mask: u8) {
        if let Some(byte) = Arc::make_mut(&mut self.current).get_mut(position) {
            *byte ^= mask;
        }
        if let Some(bytes) = self.held.get_mut(&(position / PAGE))
            && let Some(byte) = bytes.get_mut(position % PAGE)
        {
            *byte ^= mask;
        }
    }

    fn resting(contents: Arc<Vec<u8>>, links: u32) -> Self {
        Self {
            shortest: contents.len(),
            durable_len: contents.len(),
            held: BTreeMap::new(),
            allocated: Pages::first(contents.len().div_ceil(PAGE)),
            dirty: Pages::default(),
            dropped: Pages::default(),
            resident: Pages::default(),
            flips: BTreeMap::new(),
            current: contents,
            links,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            // The cache still shows it.
            assert!(file.current().iter().all(|byte| *byte == 2));
            file.sync();
            file.after_power_cut(&mut rng).current().contains(&1)
        });
        assert!(lost);
    }
}
