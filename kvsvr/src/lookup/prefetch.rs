//! Asking the CPU for a cache line before it is needed.
//!
//! Which cache to ask for it depends on the machine. A line for the first level is there when it is read, and costs a few cycles
//! less. But the first level waits for fewer lines at once than the second: where a virtual machine's host backs memory by small
//! pages, every line takes long, and random lines come half as fast that way. So a server tries both, once, on the first large
//! image it has loaded.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

use fkv_env::Clock;
use fkv_formats::hash::hash_u64;

/// The cache that lines are asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    First,
    Second,
}

/// What was learned of this machine.
static LEVEL: OnceLock<Level> = OnceLock::new();
/// Smaller images are in the caches for the most part.
const MEMORY_MIN: usize = 64 << 20;
const ROUNDS: usize = 5;
const LINES: usize = 8192;
/// Lines under way.
const AHEAD: usize = 96;
/// The second level is taken if its time is below this share of the first one's.
const GAIN: f64 = 0.85;

impl Level {
    /// The one that serves lookups best on this machine, as far as is known.
    pub(crate) fn best() -> Self {
        LEVEL.get().copied().unwrap_or(Self::First)
    }

    /// Finds out which one serves best, within a few milliseconds, unless that is known or `memory` is too small to tell.
    pub(crate) fn learn(clock: &dyn Clock, memory: &[u8]) {
        if memory.len() >= MEMORY_MIN {
            LEVEL.get_or_init(|| Self::measure(clock, memory));
        }
    }

    fn measure(clock: &dyn Clock, memory: &[u8]) -> Self {
        let mut fastest = [Duration::MAX; 2];
        for round in 0..ROUNDS {
            for (number, level) in [Self::First, Self::Second].into_iter().enumerate() {
                let places = places(memory.len(), round * 2 + number);
                let begun = clock.monotonic();
                black_box(gather(memory, &places, level));
                fastest[number] = fastest[number].min(clock.monotonic().saturating_sub(begun));
            }
        }
        let [first, second] = fastest.map(|time| time.as_secs_f64());
        let level = if second < GAIN * first { Self::Second } else { Self::First };
        tracing::info!(
            first_ns_per_line = first * 1e9 / LINES as f64,
            second_ns_per_line = second * 1e9 / LINES as f64,
            ?level,
            "chose the cache that lookups ask lines to"
        );
        level
    }
}

/// Random places in memory; others for every `seed`.
fn places(len: usize, seed: usize) -> Vec<usize> {
    let random = |number: usize| u128::from(hash_u64((seed * LINES + number) as u64));
    (0..LINES).map(|number| ((random(number) * len as u128) >> u64::BITS) as usize).collect()
}

/// Reads a byte at every place, each asked for some places before.
fn gather(memory: &[u8], places: &[usize], level: Level) -> u64 {
    let mut sum = 0;
    for (index, at) in places.iter().enumerate() {
        if let Some(ahead) = places.get(index + AHEAD) {
            prefetch(level, memory, *ahead);
        }
        sum += memory.get(*at).copied().map_or(0, u64::from);
    }
    sum
}

/// Starts to bring the line that holds `bytes[at]` into a cache. Beyond the end nothing happens.
#[inline]
pub(crate) fn prefetch(level: Level, bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        prefetch_line(level, std::ptr::from_ref(byte));
    }
}

/// Starts to bring the line at an address into a cache; any address will do.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_line(level: Level, line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch reads nothing the program can observe and never faults, whatever the address; SSE, which it
    // needs, is part of x86_64.
    unsafe {
        match level {
            Level::First => _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>()),
            Level::Second => _mm_prefetch::<_MM_HINT_T1>(line.cast::<i8>()),
        }
    }
}

/// Starts to bring the line at an address into a cache; any address will do.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn prefetch_line(level: Level, line: *const u8) {
    // SAFETY: PRFM is a hint that reads nothing the program can observe and never faults, whatever the address.
    unsafe {
        match level {
            Level::First => std::arch::asm!(
                "prfm pldl1keep, [{line}]",
                line = in(reg) line,
                options(nostack, readonly, preserves_flags)
            ),
            Level::Second => std::arch::asm!(
                "prfm pldl2keep, [{line}]",
                line = in(reg) line,
                options(nostack, readonly, preserves_flags)
            ),
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
pub(crate) fn prefetch_line(_level: Level, _line: *const u8) {
    // No hint on this architecture: lookups are slower, not different.
}

#[cfg(test)]
mod tests {
    use fkv_env::Env;

    use super::*;

    #[test]
    fn positions_beyond_the_end_are_harmless() {
        let bytes = [1_u8; 100];
        for level in [Level::First, Level::Second] {
            prefetch(level, &bytes, 0);
            prefetch(level, &bytes, 99);
            prefetch(level, &bytes, 100);
            prefetch(level, &bytes, usize::MAX);
            prefetch(level, &[], 0);
        }
    }

    #[test]
    fn every_place_is_read_and_lies_within_the_memory() {
        let memory: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for seed in 0..3 {
            let places = places(memory.len(), seed);
            let expected: u64 = places.iter().map(|at| u64::from(memory[*at])).sum();
            assert!(places.iter().any(|at| *at > memory.len() / 4 * 3), "all of it");
            for level in [Level::First, Level::Second] {
                assert_eq!(gather(&memory, &places, level), expected);
            }
        }
    }

    #[test]
    fn a_small_image_tells_nothing() {
        let env = Env::real(0).expect("threads start");
        Level::learn(env.clock.as_ref(), &[0; 4096]);
        assert_eq!(Level::best(), Level::First);
    }
}
