//! Anonymous memory that holds the bytes of an image.
//!
//! ```text
//!   ArenaBuilder::new(len) ── regions(lens) ──▶ disjoint Regions, filled by several threads
//!                          ◀── all dropped ──── freeze() ──▶ Arena (read-only for good)
//! ```
//!
//! Arenas of at least one huge page start on a 2 MiB boundary and ask the kernel for huge pages: with 4 KiB pages a
//! random access costs about three times as much. Pages are populated by whoever first writes a region, so never by
//! a serving thread.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut};

/// Size and alignment of a huge page.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;

/// Memory being filled.
#[derive(Debug)]
pub(crate) struct ArenaBuilder {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

#[derive(Debug)]
struct Mapping {
    map: MmapMut,
    base: *mut u8,
}

// SAFETY: `base` points into `map`, which `Mapping` owns, and the memory behind a mapping does not move with the
// value. It is only dereferenced through `Region`s, which are disjoint and each owned by one thread at a time, so
// sending or sharing the mapping itself adds no aliasing.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` offers no access through a shared reference.
unsafe impl Sync for Mapping {}

/// An exclusive piece of an arena being filled.
#[derive(Debug)]
pub(crate) struct Region {
    // Keeps the memory mapped.
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl ArenaBuilder {
    /// Reserves `len` bytes of zeroed memory; no page is populated yet.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let too_long = || io::Error::new(io::ErrorKind::OutOfMemory, format!("an arena of {len} bytes"));
        let huge = len >= HUGE_PAGE_BYTES;
        // What does not fill a huge page at the end lies on small ones: a whole one would be memory for nothing.
        let whole = len.max(1).checked_next_multiple_of(PAGE_BYTES).ok_or_else(too_long)?;
        // Linux maps at any 4 KiB boundary: one huge page more leaves room to start on a huge page.
        let mapped = if huge { whole.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_long)? } else { whole };
        let mut map = MmapMut::map_anon(mapped)?;
        let base = map.as_mut_ptr();
        let start = if huge { base.align_offset(HUGE_PAGE_BYTES) } else { 0 };
        debug_assert!(start.checked_add(whole).is_some_and(|end| end <= mapped), "the arena lies in its mapping");
        if huge && let Err(error) = map.advise_range(Advice::HugePage, start, whole) {
            // A kernel without transparent huge pages; slower, not wrong.
            tracing::debug!(%error, "huge pages are not available");
        }
        Ok(Self { mapping: Arc::new(Mapping { map, base }), start, len })
    }

    /// Memory that an arena of `len` bytes occupies when all of it is populated.
    pub(crate) fn populated_bytes(len: u64) -> u64 {
        len.max(1).checked_next_multiple_of(PAGE_BYTES as u64).unwrap_or(u64::MAX)
    }

    /// Cuts the arena into consecutive regions of these lengths. It can be cut once.
    ///
    /// # Panics
    /// If the lengths do not add up to the arena's.
    pub(crate) fn regions(&mut self, lens: &[usize]) -> Vec<Region> {
        assert_eq!(Arc::strong_count(&self.mapping), 1, "an arena is cut into regions once at a time");
        let total = lens.iter().try_fold(0_usize, |sum, len| sum.checked_add(*len));
        assert_eq!(total, Some(self.len), "the regions cover the arena exactly");
        let mut start = self.start;
        lens.iter()
            .map(|&len| {
                let region = Region { mapping: Arc::clone(&self.mapping), start, len };
                start += len;
                region
            })
            .collect()
    }

    /// Makes the memory read-only, for good. All regions must be gone.
    ///
    /// # Panics
    /// If a region is still there.
    pub(crate) fn freeze(self) -> io::Result<Arena> {
        let Ok(mapping) = Arc::try_unwrap(self.mapping) else {
            panic!("regions are dropped before their arena is frozen");
        };
        Ok(Arena { map: mapping.map.make_read_only()?, range: self.start..self.start + self.len })
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the mapping (checked when the arena was cut, asserted there to add up
        // to its length), which `mapping` keeps alive; anonymous memory is initialised (zero). `Region` is neither
        // Clone nor Copy and regions of one cut are disjoint, so a shared borrow of this region excludes writers.
        unsafe { std::slice::from_raw_parts(self.mapping.base.add(self.start), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow of the region is the only access to its bytes, because the
        // builder hands out no other reference while regions exist and cuts only once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base.add(self.start), self.len) }
    }
}

/// Filled, read-only memory.
#[derive(Debug)]
pub(crate) struct Arena {
    map: Mmap,
    range: Range<usize>,
}

impl Deref for Arena {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_filled_by_several_threads_do_not_overlap() {
        for len in [1_usize, 100, PAGE_BYTES, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 12_345] {
            let mut builder = ArenaBuilder::new(len).expect("mapped");
            let lens = [len / 3, len / 2 - len / 3, 0, len - len / 2];
            let regions = builder.regions(&lens);
            std::thread::scope(|scope| {
                for (number, mut region) in regions.into_iter().enumerate() {
                    scope.spawn(move || region.fill(u8::try_from(number + 1).expect("few")));
                }
            });
            let arena = builder.freeze().expect("read-only");
            assert_eq!(arena.len(), len);
            if len >= HUGE_PAGE_BYTES {
                assert_eq!(arena.as_ptr() as usize % HUGE_PAGE_BYTES, 0, "starts on a huge page");
            }
            let mut at = 0;
            for (number, len) in lens.iter().enumerate() {
                assert!(arena[at..at + len].iter().all(|byte| usize::from(*byte) == number + 1));
                at += len;
            }
        }
    }

    #[test]
    #[should_panic(expected = "regions are dropped before")]
    fn an_arena_with_open_regions_is_not_frozen() {
        let mut builder = ArenaBuilder::new(10).expect("mapped");
        let _regions = builder.regions(&[10]);
        let _ = builder.freeze();
    }

    #[test]
    #[should_panic(expected = "cover the arena exactly")]
    fn regions_beyond_the_arena_are_refused() {
        let mut builder = ArenaBuilder::new(10).expect("mapped");
        let _ = builder.regions(&[10, 1]);
    }

    #[test]
    fn the_books_count_whole_pages() {
        assert_eq!(ArenaBuilder::populated_bytes(0), 4096);
        assert_eq!(ArenaBuilder::populated_bytes(4097), 8192);
        assert_eq!(ArenaBuilder::populated_bytes((2 << 20) + 1), (2 << 20) + 4096);
    }
}
