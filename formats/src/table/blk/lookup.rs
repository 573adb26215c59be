//! Lookups in the resident section of a blk part: which run may hold a key.

use crate::table::blk::build::directory;
use crate::table::blk::layout::BlkLayout;
use crate::table::blk::{directory_len, number_of, top};
use crate::table::disk::BlockRead;

/// A number of the resident section, as stored.
type Number = [u8; 4];

/// Of so few entries all are compared, which needs no guesses; among more a search is quicker.
const COMPARED_MAX: usize = 48;

impl BlkLayout {
    /// The run that may hold a key with hash `h`, which belongs to this part. `None` proves that the key is absent. Reads the
    /// resident section only.
    #[inline]
    #[must_use]
    pub fn locate(&self, resident: &[u8], h: u64) -> Option<BlockRead> {
        if !self.may_contain(resident, h) {
            return None;
        }
        let wanted = top(h);
        let (entries, directory) = self.index(resident)?;
        let number = number_of(wanted, directory.len() as u32);
        let range = Self::numbered(entries, directory, number)?;
        let behind = range.start + not_above(entries.get(range.clone())?, wanted);
        // The block before is the last one of the run.
        let last = behind.checked_sub(1)?;
        let entry = u32::from_le_bytes(entries[last]);
        let is_equal = |at: usize| entries[at] == entries[last];
        let first = if last == 0 || !is_equal(last - 1) {
            last
        } else {
            // A run of several blocks: its equal entries are all under one number.
            let range = Self::numbered(entries, directory, number_of(entry, directory.len() as u32))?;
            range.start + entries.get(range.start..last)?.partition_point(|other| u32::from_le_bytes(*other) < entry)
        };
        BlockRead { first: first as u32, blocks: (behind - first) as u32 }.within(self.blocks)
    }

    /// Whether the filter, if there is one, lets `h` pass.
    #[inline]
    #[must_use]
    pub fn may_contain(&self, resident: &[u8], h: u64) -> bool {
        let Some(filter) = self.filter else { return true };
        let fingerprints = usize::try_from(self.filter_at()).ok().and_then(|at| resident.get(at..));
        fingerprints.is_some_and(|fingerprints| filter.may_contain(fingerprints, h))
    }

    /// Byte offsets in the resident section of the fingerprints that a lookup of `h` reads first, for a prefetch; `None` without
    /// a filter.
    #[inline]
    #[must_use]
    pub fn fingerprints(&self, h: u64) -> Option<[usize; 3]> {
        let (filter, at) = (self.filter?, self.filter_at());
        Some(filter.places(h).0.map(|place| (at + place) as usize))
    }

    /// Byte offset in the resident section of the directory's number that a lookup of `h` reads, for a prefetch; of the first
    /// entry if there is no directory.
    #[inline]
    #[must_use]
    pub const fn directory_number(&self, h: u64) -> usize {
        match directory_len(self.blocks) {
            0 => 0,
            numbers => (self.blocks as usize + number_of(top(h), numbers) as usize) * 4,
        }
    }

    /// Byte offset in the resident section of the first entry that a lookup of `h` compares, for a prefetch. Reads the
    /// directory.
    #[inline]
    #[must_use]
    pub fn first_entry(&self, resident: &[u8], h: u64) -> Option<usize> {
        let at = self.directory_number(h);
        if at == 0 {
            return Some(0);
        }
        let number = u32::from_le_bytes(*resident.get(at..)?.first_chunk()?);
        (number < self.blocks).then_some(number as usize * 4)
    }

    /// Entries and directory.
    #[inline]
    fn index<'a>(&self, resident: &'a [u8]) -> Option<(&'a [Number], &'a [Number])> {
        let numbers = resident.as_chunks().0.get(..self.blocks as usize + directory_len(self.blocks) as usize)?;
        Some(numbers.split_at(self.blocks as usize))
    }

    /// The entries under a number of the directory, by their places.
    #[inline]
    fn numbered(entries: &[Number], directory: &[Number], number: u32) -> Option<std::ops::Range<usize>> {
        if directory.is_empty() {
            return Some(0..entries.len());
        }
        let start = u32::from_le_bytes(*directory.get(number as usize)?) as usize;
        let end = directory.get(number as usize + 1).map_or(entries.len(), |end| u32::from_le_bytes(*end) as usize);
        (start <= end && end <= entries.len()).then_some(start..end)
    }

    /// Checks that the directory is that of the entries, and what lies between it and the filter is 0.
    pub(crate) fn is_consistent(&self, resident: &[u8]) -> bool {
        let Some((entries, numbers)) = self.index(resident) else { return false };
        let entries: Vec<u32> = entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
        let numbers = numbers.iter().map(|number| u32::from_le_bytes(*number));
        let padding = self.index_len() as usize..self.filter.map_or(self.index_len(), |_| self.filter_at()) as usize;
        entries.is_sorted()
            && directory(&entries).eq(numbers)
            && resident.get(padding).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }

    /// The entry of a block: the top 32 bits of the place at which its run begins.
    pub(crate) fn entry(&self, resident: &[u8], block: u32) -> Option<u32> {
        self.index(resident)?.0.get(block as usize).map(|entry| u32::from_le_bytes(*entry))
    }
}

/// How many of these ascending entries are not above `wanted`.
#[inline]
fn not_above(entries: &[Number], wanted: u32) -> usize {
    if entries.len() <= COMPARED_MAX {
        entries.iter().map(|entry| u32::from(u32::from_le_bytes(*entry) <= wanted)).sum::<u32>() as usize
    } else {
        entries.partition_point(|entry| u32::from_le_bytes(*entry) <= wanted)
    }
}
