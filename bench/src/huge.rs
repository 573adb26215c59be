//! Memory on 2 MiB pages, for the limit, the rival and us alike: on 4 KiB pages random access costs about three times
//! as much, which would hide every other difference.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};
use memmap2::{Advice, MmapMut};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed bytes that start on a huge page.
pub(crate) struct HugeBytes {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl HugeBytes {
    /// `len` zeroed bytes.
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        let whole = len.max(1).next_multiple_of(HUGE_PAGE_BYTES);
        let mut map = MmapMut::map_anon(whole + HUGE_PAGE_BYTES)?;
        let start = map.as_mut_ptr().align_offset(HUGE_PAGE_BYTES);
        map.advise_range(Advice::HugePage, start, whole)?;
        Ok(Self { map, start, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

/// An allocator that puts each allocation into huge pages of its own. For a few large tables only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HugeAllocator;

// SAFETY: every block is a fresh anonymous mapping of at least `layout.size()` bytes whose start is aligned to 2 MiB,
// more than any layout asked of it (checked). It stays mapped until `deallocate`, whatever becomes of the allocator,
// which has no state, so that copies of it are interchangeable.
unsafe impl Allocator for HugeAllocator {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() > HUGE_PAGE_BYTES {
            return Err(AllocError);
        }
        let block = Box::new(HugeBytes::new(layout.size() + HUGE_PAGE_BYTES).map_err(|_| AllocError)?);
        // The first huge page keeps the owner of the mapping, so that `deallocate` finds it again.
        let block = Box::into_raw(block);
        // SAFETY: `block` was just made by `Box::into_raw` and nobody else has it.
        let bytes = unsafe { (*block).bytes_mut() };
        bytes[..size_of::<usize>()].copy_from_slice(&(block as usize).to_ne_bytes());
        let len = bytes.len() - HUGE_PAGE_BYTES;
        NonNull::new(std::ptr::slice_from_raw_parts_mut(bytes[HUGE_PAGE_BYTES..].as_mut_ptr(), len)).ok_or(AllocError)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, _: Layout) {
        // SAFETY: `ptr` came from `allocate` (the caller's promise), so the huge page before it belongs to the same
        // mapping and begins with the address of its owner, which is freed exactly once, here.
        unsafe {
            let head = ptr.as_ptr().sub(HUGE_PAGE_BYTES);
            let mut owner = [0; size_of::<usize>()];
            std::ptr::copy_nonoverlapping(head, owner.as_mut_ptr(), owner.len());
            drop(Box::from_raw(usize::from_ne_bytes(owner) as *mut HugeBytes));
        }
    }
}

/// The cache that a line is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    First,
    Second,
}

/// Starts to bring the line of `bytes[at]` into a cache.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8], at: usize, level: Level) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = std::ptr::from_ref(byte).cast::<i8>();
        // SAFETY: a prefetch never faults and reads nothing the program can observe.
        unsafe {
            match level {
                Level::First => _mm_prefetch::<_MM_HINT_T0>(line),
                Level::Second => _mm_prefetch::<_MM_HINT_T1>(line),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at, level);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_on_huge_pages_keeps_what_it_is_given_as_it_grows() {
        let mut map: hashbrown::HashMap<u64, u64, hashbrown::DefaultHashBuilder, HugeAllocator> =
            hashbrown::HashMap::with_hasher_in(hashbrown::DefaultHashBuilder::default(), HugeAllocator);
        for key in 0..10_000_u64 {
            map.insert(key, key * 3);
        }
        assert!((0..10_000).all(|key| map.get(&key) == Some(&(key * 3))));
        assert_eq!(map.get(&10_000), None);
    }

    #[test]
    fn huge_bytes_start_on_a_huge_page() {
        let mut block = HugeBytes::new(3 << 20).expect("mapped");
        block.bytes_mut().fill(7);
        assert_eq!(block.bytes().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert!(block.bytes().iter().all(|byte| *byte == 7));
    }
}
