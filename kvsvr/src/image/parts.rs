//! A set of parts.

use fkv_formats::id::{PART_COUNT, Part};

const WORDS: usize = (PART_COUNT as usize).div_ceil(64);

/// A set of parts, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartSet {
    words: [u64; WORDS],
}

impl PartSet {
    pub(crate) const EMPTY: Self = Self { words: [0; WORDS] };

    #[inline]
    pub(crate) fn contains(&self, part: Part) -> bool {
        let at = usize::from(part.0);
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Adds a part, which must be below [`PART_COUNT`].
    pub(crate) fn insert(&mut self, part: Part) {
        assert!(part.0 < PART_COUNT, "parts are below {PART_COUNT}");
        let at = usize::from(part.0);
        self.words[at / 64] |= 1 << (at % 64);
    }

    /// Takes a part out.
    pub(crate) fn remove(&mut self, part: Part) {
        let at = usize::from(part.0);
        if let Some(word) = self.words.get_mut(at / 64) {
            *word &= !(1 << (at % 64));
        }
    }

    pub(crate) fn is_subset(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).all(|(ours, theirs)| ours & !theirs == 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Its parts in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Part> + '_ {
        (0..PART_COUNT).map(Part).filter(|part| self.contains(*part))
    }
}

impl Extend<Part> for PartSet {
    fn extend<T: IntoIterator<Item = Part>>(&mut self, parts: T) {
        parts.into_iter().for_each(|part| self.insert(part));
    }
}

impl FromIterator<Part> for PartSet {
    fn from_iter<T: IntoIterator<Item = Part>>(parts: T) -> Self {
        let mut set = Self::EMPTY;
        set.extend(parts);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_know_their_parts() {
        let some: PartSet = [Part(0), Part(63), Part(64), Part(2399)].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [Part(0), Part(63), Part(64), Part(2399)]);
        let all: PartSet = (0..PART_COUNT).map(Part).collect();
        assert!(some.is_subset(&all) && !all.is_subset(&some) && PartSet::EMPTY.is_subset(&some));
        let mut fewer = some.clone();
        fewer.remove(Part(64));
        fewer.remove(Part(65));
        assert_eq!(fewer.iter().collect::<Vec<_>>(), [Part(0), Part(63), Part(2399)]);
        assert!(!some.contains(Part(1)) && !some.contains(Part(u16::MAX)));
        assert!(PartSet::EMPTY.is_empty() && !some.is_empty());
    }
}
