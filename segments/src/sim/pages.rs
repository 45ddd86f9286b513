//! Sets of page numbers of one file: dense and small, so they are kept as bits.

/// A set of page numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    words: Vec<u64>,
    len: usize,
}

impl Pages {
    /// The pages `0..count`.
    pub(super) fn first(count: usize) -> Self {
        let mut words = vec![u64::MAX; count / 64];
        if !count.is_multiple_of(64) {
            words.push((1 << (count % 64)) - 1);
        }
        Self { words, len: count }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, page: usize) -> bool {
        self.words
            .get(page / 64)
            .is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, page: usize) {
        if self.words.len() <= page / 64 {
            self.words.resize(page / 64 + 1, 0);
        }
        let (word, bit) = (&mut self.words[page / 64], 1 << (page % 64));
        self.len += usize::from(*word & bit == 0);
        *word |= bit;
    }

    pub(super) fn remove(&mut self, page: usize) {
        if self.contains(page) {
            self.words[page / 64] &= !(1 << (page % 64));
            self.len -= 1;
        }
    }

    /// Removes every page from `end` on.
    pub(super) fn truncate(&mut self, end: usize) {
        self.words.truncate(end.div_ceil(64));
        if !end.is_multiple_of(64)
            && let Some(word) = self.words.get_mut(end / 64)
        {
            *word &= (1 << (end % 64)) - 1;
        }
        self.len = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// The pages in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// Empties the set and returns what was in it, in order.
    pub(super) fn take(&mut self) -> Vec<usize> {
        let pages = self.iter().collect();
        *self = Self::default();
        pages
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn a_set_of_pages_does_what_an_ordinary_set_does() {
        let mut rng = Rng::new(1);
        let mut pages = Pages::first(70);
        let mut model: BTreeSet<usize> = (0..70).collect();
        for _ in 0..5_000 {
            let page = rng.index(300);
            match rng.below(20) {
                0 => {
                    pages.truncate(page);
                    model.retain(|other| *other < page);
                }
                1..10 => {
                    pages.remove(page);
                    model.remove(&page);
                }
                _ => {
                    pages.insert(page);
                    model.insert(page);
                }
            }
            assert_eq!(pages.contains(page), model.contains(&page));
            assert_eq!(
                (pages.len(), pages.iter().collect()),
                (model.len(), model.clone())
            );
        }
        assert_eq!(pages.take().len(), model.len());
        assert_eq!(pages.iter().count(), 0);
    }
}
