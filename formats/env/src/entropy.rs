//! Random bytes, for jitter and identifiers. Never for anything that must be repeatable across builds.

use std::fmt::Debug;
use std::sync::Mutex;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A source of random bytes.
pub trait Entropy: Send + Sync + Debug {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number in `0..bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        // Multiply-shift (Lemire): the bias of 2^-64 × bound does not matter for jitter.
        u64::try_from((u128::from(self.next_u64()) * u128::from(bound)) >> 64).unwrap_or(0)
    }
}

/// A seeded ChaCha12 stream; same seed, same bytes.
#[derive(Debug)]
pub struct SeededEntropy {
    rng: Mutex<ChaCha12Rng>,
}

impl SeededEntropy {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(ChaCha12Rng::seed_from_u64(seed)) }
    }
}

/// A stream seeded by the operating system.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that asks the system for entropy")]
pub fn system_entropy() -> SeededEntropy {
    SeededEntropy::new(rand::random())
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_stream() {
        let (a, b) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let stream: Vec<u64> = (0..8).map(|_| a.next_u64()).collect();
        assert_eq!(stream, (0..8).map(|_| b.next_u64()).collect::<Vec<_>>());
        assert_ne!(stream[0], SeededEntropy::new(8).next_u64());
        assert!((0..1000).all(|_| a.below(10) < 10));
        assert_eq!(a.below(0), 0);
    }
}
