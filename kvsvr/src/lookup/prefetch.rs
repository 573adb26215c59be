//! Asking the CPU for a cache line before it is needed.

/// Starts to bring the line that holds `bytes[at]` into the cache. Beyond the end nothing happens.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        prefetch_line(std::ptr::from_ref(byte));
    }
}

/// Starts to bring the line at an address into the second-level cache; any address will do. That cache waits for more
/// lines at once than the first one: asked to the latter, random lines come half as fast.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_line(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch reads nothing the program can observe and never faults, whatever the address; SSE, which it
    // needs, is part of x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast::<i8>()) };
}

/// Starts to bring the line at an address into the cache; any address will do.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn prefetch_line(line: *const u8) {
    // SAFETY: PRFM is a hint that reads nothing the program can observe and never faults, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{line}]", line = in(reg) line, options(nostack, readonly, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
pub(crate) fn prefetch_line(_line: *const u8) {
    // No hint on this architecture: lookups are slower, not different.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_beyond_the_end_are_harmless() {
        let bytes = [1_u8; 100];
        prefetch(&bytes, 0);
        prefetch(&bytes, 99);
        prefetch(&bytes, 100);
        prefetch(&bytes, usize::MAX);
        prefetch(&[], 0);
    }
}
