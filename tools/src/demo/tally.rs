//! What readers saw, and whether it was right.

use std::collections::BTreeMap;
use std::time::Duration;

use fkv_formats::id::ContentId;

use super::data::{Generation, Shape};

/// The label of an answer, as far as the demo judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The version the answer says it is of.
    pub(super) version: u64,
    /// Its content.
    pub(super) content: ContentId,
    /// Its epoch.
    pub(super) epoch: u64,
}

/// Counts of one stretch of reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Batches answered.
    pub(super) batches: u64,
    /// Keys answered.
    pub(super) keys: u64,
    /// Keys found.
    pub(super) found: u64,
    /// Answers that are of no generation: a wrong value, or absent where every generation has the key.
    pub(super) wrong: u64,
    /// Batches with answers of different generations, or of another one than the label says.
    pub(super) mixed: u64,
    /// Batches that ended in an error.
    pub(super) failed: u64,
    /// Answers with an older epoch than the same reader saw before.
    pub(super) fell_back: u64,
    /// How often a reader saw a newer epoch of a table than before.
    pub(super) flips: u64,
    /// The first fault of any kind, in words.
    pub(super) first_fault: Option<String>,
    /// Time of each batch, in microseconds.
    latencies_us: Vec<u32>,
}

/// How a batch's answers must be judged: what is right, by key and generation.
#[derive(Debug)]
pub(super) struct Judge {
    /// The generation of each version, as far as versions are known.
    generations: BTreeMap<u64, Generation>,
}

impl Judge {
    /// Versions 1 and 2 are the two loads; 3 is the release of 1.
    pub(super) fn new() -> Self {
        Self { generations: [(1, Generation(1)), (2, Generation(2)), (3, Generation(1))].into() }
    }

    /// Judges a batch of one table: `answers` are the values by index, `None` for absent keys.
    pub(super) fn batch<'v>(
        &self,
        tally: &mut Tally,
        shape: Shape,
        seen: Seen,
        answers: impl Iterator<Item = (u64, Option<&'v [f32]>)>,
    ) {
        let Some(&labelled) = self.generations.get(&seen.version) else {
            tally.wrong += 1;
            tally.fault(|| format!("table {} answered with version {}, which nobody made", shape.table, seen.version));
            return;
        };
        let mut strangers = 0;
        for (index, value) in answers {
            tally.keys += 1;
            tally.found += u64::from(value.is_some());
            if is_right(shape, labelled, index, value) {
                continue;
            }
            let other = self.generations.values().find(|&&other| is_right(shape, other, index, value));
            match other {
                Some(_) => strangers += 1,
                None => tally.wrong += 1,
            }
            tally.fault(|| {
                let key = Shape::key(index);
                let what = match (value, other) {
                    (_, Some(other)) => format!("the answer of generation {}", other.0),
                    (None, _) => "absent".to_owned(),
                    (Some(value), _) => format!("{value:?}"),
                };
                format!("table {}, version {}, key {key}: {what}", shape.table, seen.version)
            });
        }
        tally.mixed += u64::from(strangers > 0);
    }
}

fn is_right(shape: Shape, generation: Generation, index: u64, value: Option<&[f32]>) -> bool {
    let Some(value) = value else { return !shape.holds(generation, index) };
    if !shape.holds(generation, index) || value.len() != usize::from(shape.dimension) {
        return false;
    }
    let key = Shape::key(index);
    (0u16..)
        .zip(value)
        .all(|(dimension, feature)| feature.to_bits() == Shape::feature(key, dimension, generation).to_bits())
}

impl Tally {
    /// Notes how long a batch took.
    pub(super) fn took(&mut self, time: Duration) {
        self.latencies_us.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Notes a fault; only the first one is put into words.
    pub(super) fn fault(&mut self, words: impl FnOnce() -> String) {
        self.first_fault.get_or_insert_with(words);
    }

    /// Adds what another stretch saw.
    pub(super) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.keys += other.keys;
        self.found += other.found;
        self.wrong += other.wrong;
        self.mixed += other.mixed;
        self.failed += other.failed;
        self.fell_back += other.fell_back;
        self.flips += other.flips;
        self.first_fault = self.first_fault.take().or(other.first_fault);
        self.latencies_us.extend(other.latencies_us);
    }

    /// Whether everything was as it must be.
    pub(super) fn is_clean(&self) -> bool {
        self.wrong + self.mixed + self.failed + self.fell_back == 0
    }

    /// The time within which this share of the batches was answered, in milliseconds; 0 without batches.
    pub(super) fn percentile_ms(&self, per_thousand: usize) -> f64 {
        let mut sorted = self.latencies_us.clone();
        if sorted.is_empty() {
            return 0.0;
        }
        let rank = (sorted.len() * per_thousand).div_ceil(1000).clamp(1, sorted.len()) - 1;
        let (_, &mut us, _) = sorted.select_nth_unstable(rank);
        f64::from(us) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { table: "t", rows: 1000, dimension: 2 };

    fn value(index: u64, generation: u32) -> Vec<f32> {
        let key = Shape::key(index);
        (0..SHAPE.dimension).map(|dimension| Shape::feature(key, dimension, Generation(generation))).collect()
    }

    fn judged(version: u64, answers: &[(u64, Option<Vec<f32>>)]) -> Tally {
        let mut tally = Tally::default();
        let answers = answers.iter().map(|(index, value)| (*index, value.as_deref()));
        Judge::new().batch(&mut tally, SHAPE, Seen { version, content: ContentId([0; 32]), epoch: version }, answers);
        tally
    }

    #[test]
    fn right_answers_are_clean() {
        let in_both = 500;
        let tally = judged(1, &[(in_both, Some(value(in_both, 1))), (0, None), (2000, None)]);
        assert!(tally.is_clean() && tally.first_fault.is_none(), "{tally:?}");
        assert_eq!((tally.keys, tally.found), (3, 1));
        assert!(judged(2, &[(in_both, Some(value(in_both, 2)))]).is_clean());
        assert!(judged(3, &[(in_both, Some(value(in_both, 1)))]).is_clean(), "the release shows the first load");
    }

    #[test]
    fn answers_of_another_generation_are_mixed() {
        let tally = judged(1, &[(500, Some(value(500, 1))), (501, Some(value(501, 2)))]);
        assert_eq!((tally.mixed, tally.wrong), (1, 0), "{tally:?}");
        // User 15 is in generation 1 only: absent is what generation 2 says.
        assert_eq!(judged(1, &[(15, None)]).mixed, 1);
        assert_eq!(judged(3, &[(500, Some(value(500, 2)))]).mixed, 1);
    }

    #[test]
    fn answers_of_no_generation_are_wrong() {
        let mut torn = value(500, 1);
        torn[1] = value(500, 2)[1];
        for (index, answer) in [(500, Some(torn)), (500, Some(value(501, 1))), (500, None), (500, Some(vec![0.0]))] {
            let tally = judged(1, &[(index, answer)]);
            assert_eq!((tally.mixed, tally.wrong), (0, 1), "{tally:?}");
            assert!(tally.first_fault.is_some() && !tally.is_clean());
        }
        assert_eq!(judged(9, &[]).wrong, 1, "nobody made version 9");
    }

    #[test]
    fn percentiles_are_ranks() {
        let mut tally = Tally::default();
        assert_eq!(tally.percentile_ms(500), 0.0);
        (1..=100).for_each(|ms| tally.took(Duration::from_millis(ms)));
        assert_eq!(
            (tally.percentile_ms(500), tally.percentile_ms(990), tally.percentile_ms(1000)),
            (50.0, 99.0, 100.0)
        );
    }
}
