//! Which keys are asked for, and what is stored under them.

#[cfg(feature = "rivals")]
use crate::zipf::Zipf;

/// Keys of a batch.
pub(crate) const BATCH: usize = 4096;
/// Floats of a value: 400 bytes.
pub(crate) const DIMENSION: u16 = 100;
#[cfg(any(test, feature = "rivals"))]
/// A prime above any number of keys: multiplying by it takes neighbours apart and no two keys together.
const SCATTER: u128 = (1 << 61) - 1;

/// Appends the value of a key.
pub(crate) fn put_value(key: u64, value: &mut Vec<u8>) {
    for dimension in 0..u64::from(DIMENSION) {
        value.extend_from_slice(&((key * 131 + dimension) as f32).to_le_bytes());
    }
}

/// Keys to compare answers for, before anything is timed: a batch of present ones, all over `0..count`, and one of absent ones.
pub(crate) fn sample(count: u64) -> impl Iterator<Item = u64> {
    let present = (0..BATCH as u64).map(move |index| index * 7919 % count);
    present.chain(count..count + BATCH as u64)
}

/// How often which key is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    /// All of `count` keys from `first` on alike.
    Uniform { first: u64, count: u64 },
    #[cfg(feature = "rivals")]
    /// Zipf's law over the keys `0..count`; keys of neighbouring ranks are far apart.
    Zipf { law: Zipf, count: u64 },
}

#[cfg(feature = "rivals")]
impl Law {
    /// Zipf's law with an exponent over the keys `0..count`.
    pub(crate) fn zipf(count: u64, exponent: f64) -> Self {
        Self::Zipf { law: Zipf::new(count, exponent), count }
    }
}

/// Endless keys of a law.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    law: Law,
    random: Random,
}

impl Keys {
    /// Other keys for each of `worker` and `round`.
    pub(crate) fn new(law: Law, round: u64, worker: u64) -> Self {
        Self { law, random: Random::new(round << 16 | worker) }
    }

    /// The next batch.
    pub(crate) fn batch(&mut self) -> Vec<u64> {
        (0..BATCH).map(|_| self.next_key()).collect()
    }

    fn next_key(&mut self) -> u64 {
        match &self.law {
            Law::Uniform { first, count } => first + self.random.next() % count,
            #[cfg(feature = "rivals")]
            Law::Zipf { law, count } => {
                let rank = law.draw(|| self.random.unit());
                (u128::from(rank) * SCATTER % u128::from(*count)) as u64
            }
        }
    }
}

/// Seeded random numbers (xorshift64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 56 random bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    #[cfg(any(test, feature = "rivals"))]
    /// A number from 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 3) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_keys_are_distinct_and_far_apart() {
        for count in [1000_u64, 3_000_000, 10_000_000] {
            let mut hot: Vec<u64> =
                (1..=1000_u64).map(|rank| (u128::from(rank) * SCATTER % u128::from(count)) as u64).collect();
            hot.sort_unstable();
            hot.dedup();
            assert_eq!(hot.len(), 1000);
            // No block of some ten records has two of them in general.
            let near = hot.windows(2).filter(|pair| pair[1] - pair[0] < 10).count();
            assert!(count < 100_000 || near < 100, "{near} of 1000 hot keys share a block of {count} keys");
        }
    }

    #[test]
    fn uniform_keys_stay_in_their_range_and_reach_all_of_it() {
        let mut keys = Keys::new(Law::Uniform { first: 500, count: 100 }, 1, 2);
        let mut seen: Vec<u64> = keys.batch();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (500..600).collect::<Vec<_>>());
    }
}
