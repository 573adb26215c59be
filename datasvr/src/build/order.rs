//! The one order of the rows of a part.
//!
//! ```text
//!   entry    h, 64 bits │ precedence, 32 bits │ ordinal, 32 bits         one number that sorts without a look at the row
//!   deal     by the place of h within the part: a few entries to each bucket
//!   sort     each bucket by itself, in the first-level cache
//! ```
//!
//! Hashes are spread evenly, so that dealing does nearly all the work of sorting. Where they are not, as with one key in many
//! rows, a bucket gets many entries and is sorted like any other list.

use fkv_formats::route::place;

/// Entries of a bucket, on average.
const BUCKET_ENTRIES: usize = 4;
/// Fewer entries are not worth dealing.
const DEALT_MIN: usize = 64;
/// More entries of a bucket are not sorted by insertion.
const INSERTED_MAX: usize = 24;

/// The entry of row `ordinal`; of rows with one key, that with the greater precedence comes later.
#[inline]
#[must_use]
pub(crate) const fn entry(h: u64, precedence: u32, ordinal: u32) -> u128 {
    (h as u128) << 64 | (precedence as u128) << 32 | ordinal as u128
}

/// The hash of an entry.
#[inline]
#[must_use]
pub(crate) const fn hash(entry: u128) -> u64 {
    (entry >> 64) as u64
}

/// The ordinal of an entry.
#[inline]
#[must_use]
pub(crate) const fn ordinal(entry: u128) -> u32 {
    entry as u32
}

/// Sorts the entries of one part.
pub(crate) fn sort(entries: &mut Vec<u128>) {
    if entries.len() < DEALT_MIN {
        entries.sort_unstable();
        return;
    }
    let (mut least, mut most) = (u64::MAX, 0);
    for entry in entries.iter() {
        let at = place(hash(*entry));
        (least, most) = (least.min(at), most.max(at));
    }
    // Stretched to all 64 bits, whatever part of the part the entries are in.
    let stretch = (most - least).leading_zeros();
    if stretch == u64::BITS {
        entries.sort_unstable();
        return;
    }
    let buckets = entries.len().div_ceil(BUCKET_ENTRIES);
    let bucket = |entry: u128| {
        let at = (place(hash(entry)) - least) << stretch;
        ((u128::from(at) * buckets as u128) >> 64) as usize
    };
    let mut ends = vec![0u32; buckets];
    for entry in entries.iter() {
        ends[bucket(*entry)] += 1;
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += std::mem::replace(end, sum);
    }
    let mut dealt = vec![0u128; entries.len()];
    for entry in entries.iter() {
        let next = &mut ends[bucket(*entry)];
        dealt[*next as usize] = *entry;
        *next += 1;
    }
    // What was each bucket's next place is now its end.
    let mut start = 0;
    for end in ends {
        let end = end as usize;
        sort_bucket(&mut dealt[start..end]);
        start = end;
    }
    *entries = dealt;
}

fn sort_bucket(bucket: &mut [u128]) {
    if bucket.len() > INSERTED_MAX {
        bucket.sort_unstable();
        return;
    }
    for sorted in 1..bucket.len() {
        let entry = bucket[sorted];
        let mut at = sorted;
        while at > 0 && bucket[at - 1] > entry {
            bucket[at] = bucket[at - 1];
            at -= 1;
        }
        bucket[at] = entry;
    }
}

#[cfg(test)]
mod tests {
    use fkv_env::{Entropy, SeededEntropy};
    use fkv_formats::hash::hash_u64;

    use super::*;

    #[test]
    fn entries_are_sorted_however_their_hashes_lie() {
        let random = SeededEntropy::new(7);
        let width = u64::MAX / 2400;
        type Spread<'a> = Box<dyn Fn(u64) -> u64 + 'a>;
        let spreads: Vec<(&str, Spread<'_>)> = vec![
            ("over a part", Box::new(|n| 5 * width + 1000 + hash_u64(n) % (width - 2000))),
            ("over a sliver of a part", Box::new(|n| 5 * width + 1000 + hash_u64(n) % 5000)),
            ("all equal", Box::new(|_| 5 * width + 1000)),
            ("nearly all equal", Box::new(|n| 5 * width + 1000 + u64::from(n % 100 == 0))),
            ("one far from all others", Box::new(|n| 5 * width + 1000 + if n == 3 { width / 2 } else { n })),
            ("the last hashes of all", Box::new(|n| u64::MAX - hash_u64(n) % 1000)),
        ];
        for (name, spread) in &spreads {
            for count in [0, 1, 63, 64, 65, 1000, 40_000] {
                let entries: Vec<u128> =
                    (0..count).map(|n| entry(spread(n), random.below(50) as u32, n as u32)).collect();
                let (mut sorted, mut expected) = (entries.clone(), entries);
                sort(&mut sorted);
                expected.sort_unstable();
                assert!(sorted == expected, "{count} entries, {name}");
            }
        }
    }
}
