//! The one merge: sorted runs in, one sorted run out; of equal keys the newest run's record wins.
//!
//! ```text
//!   run 0 (oldest) ─┐
//!   run 1          ─┼─▶ tree of losers ──▶ records in (h, key) order, each key once
//!   run 2 (newest) ─┘
//! ```
//!
//! A tombstone is a record like any other: it wins over older records, and the caller decides whether it is kept (an
//! increment) or dropped (a full form). Likewise an expired record wins first and is dropped afterwards, so that it
//! never uncovers an older one.

use std::cmp::Ordering;

use crate::record::Ordered;

/// Why a merge stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError<E> {
    /// A run could not be read.
    #[error(transparent)]
    Run(E),
    /// A run is not in strictly ascending order of `(h, key)`.
    #[error("run {run} is not in ascending order of (hash, key)")]
    OutOfOrder {
        /// Index of the run, from 0 for the oldest.
        run: usize,
    },
}

/// A streaming merge of sorted runs, the oldest run first. Holds one record per run.
#[derive(Debug)]
pub struct Merge<I: Iterator, T> {
    runs: Vec<I>,
    /// The next record of each run; `None` at its end.
    heads: Vec<Option<T>>,
    /// `losers[0]` is the run with the least head; `losers[n]` the run that lost at inner node `n`. Leaf `run` hangs
    /// below node `(run + runs) / 2`.
    losers: Vec<usize>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Running,
    Ended,
}

impl<I, T, E> Merge<I, T>
where
    I: Iterator<Item = Result<T, E>>,
    T: Ordered,
{
    /// Merges `runs`, the oldest first, each in strictly ascending order of `(h, key)`.
    #[must_use]
    pub fn new(runs: Vec<I>) -> Self {
        let heads = runs.iter().map(|_| None).collect();
        let losers = vec![0; runs.len()];
        Self { runs, heads, losers, state: State::Fresh }
    }

    /// Whether run `a` goes before run `b`: the lesser head first, of equal heads the newer run's, ended runs last.
    fn goes_before(&self, a: usize, b: usize) -> bool {
        match (&self.heads[a], &self.heads[b]) {
            (Some(x), Some(y)) => compare(x, y).then(b.cmp(&a)) == Ordering::Less,
            (head, _) => head.is_some(),
        }
    }

    fn start(&mut self) -> Result<(), MergeError<E>> {
        for (head, run) in self.heads.iter_mut().zip(&mut self.runs) {
            *head = run.next().transpose().map_err(MergeError::Run)?;
        }
        let count = self.runs.len();
        // Winners of the subtrees, leaves at count..2·count.
        let mut winners: Vec<usize> = (0..2 * count).map(|node| node.saturating_sub(count)).collect();
        for node in (1..count).rev() {
            let (left, right) = (winners[2 * node], winners[2 * node + 1]);
            let left_wins = self.goes_before(left, right);
            winners[node] = if left_wins { left } else { right };
            self.losers[node] = if left_wins { right } else { left };
        }
        self.losers[0] = winners[1];
        Ok(())
    }

    /// Takes the least head and plays its run's next record up the tree.
    fn pop(&mut self) -> Result<Option<T>, MergeError<E>> {
        let mut winner = self.losers[0];
        let Some(record) = self.heads[winner].take() else { return Ok(None) };
        let next = self.runs[winner].next().transpose().map_err(MergeError::Run)?;
        if next.as_ref().is_some_and(|next| compare(&record, next) != Ordering::Less) {
            return Err(MergeError::OutOfOrder { run: winner });
        }
        self.heads[winner] = next;
        let mut node = (winner + self.runs.len()) / 2;
        while node > 0 {
            let loser = self.losers[node];
            if self.goes_before(loser, winner) {
                self.losers[node] = winner;
                winner = loser;
            }
            node /= 2;
        }
        self.losers[0] = winner;
        Ok(Some(record))
    }

    fn step(&mut self) -> Result<Option<T>, MergeError<E>> {
        if self.state == State::Fresh {
            self.state = State::Running;
            self.start()?;
        }
        let Some(record) = self.pop()? else { return Ok(None) };
        // Older records of the same key come right behind.
        while self.heads[self.losers[0]].as_ref().is_some_and(|head| compare(head, &record) == Ordering::Equal) {
            self.pop()?;
        }
        Ok(Some(record))
    }
}

fn compare<T: Ordered>(a: &T, b: &T) -> Ordering {
    a.h().cmp(&b.h()).then_with(|| a.key().cmp(&b.key()))
}

impl<I, T, E> Iterator for Merge<I, T>
where
    I: Iterator<Item = Result<T, E>>,
    T: Ordered,
{
    type Item = Result<T, MergeError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Ended || self.runs.is_empty() {
            return None;
        }
        let next = self.step().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = State::Ended;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{Key, RecordRef};

    fn run<'a>(records: &[RecordRef<'a>]) -> std::vec::IntoIter<Result<RecordRef<'a>, Infallible>> {
        records.iter().copied().map(Ok).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_run_out_of_order_is_refused_not_merged_wrongly() {
        let mut records: Vec<RecordRef<'_>> = (0..10).map(|key| RecordRef::new(Key::U64(key), 0, None)).collect();
        records.sort_by_key(RecordRef::order);
        let sorted = run(&records);
        records.swap(3, 4);
        let mut merge = Merge::new(vec![sorted, run(&records)]);
        let error = merge.find_map(Result::err).expect("the second run is out of order");
        assert_eq!(error, MergeError::OutOfOrder { run: 1 });
        assert!(merge.next().is_none(), "an error ends the merge");
        records[4] = records[3];
        assert!(Merge::new(vec![run(&records[3..5])]).any(|record| record.is_err()), "a key twice in one run");
    }

    #[test]
    fn an_unreadable_run_ends_the_merge() {
        let good = RecordRef::new(Key::U64(1), 0, None);
        let runs = vec![vec![Ok(good), Err("broken")].into_iter()];
        let all: Vec<_> = Merge::new(runs).collect();
        assert_eq!(all.last(), Some(&Err(MergeError::Run("broken"))));
        let none: Vec<std::vec::IntoIter<Result<RecordRef<'_>, Infallible>>> = Vec::new();
        assert_eq!(Merge::new(none).count(), 0);
    }

    proptest! {
        #[test]
        fn the_newest_record_of_every_key_comes_out_once_and_in_order(
            runs in prop::collection::vec(prop::collection::btree_map(0u64..40, any::<Option<u8>>(), 0..40), 0..9),
            spelled: bool,
        ) {
            let name = |key: u64| key.to_string().into_bytes();
            let names: Vec<Vec<u8>> = (0..40).map(name).collect();
            let values: Vec<Vec<Option<[u8; 2]>>> = runs.iter().enumerate()
                .map(|(index, run)| run.values().map(|value| value.map(|value| [index as u8, value])).collect())
                .collect();
            let mut model = BTreeMap::new();
            let mut sorted = Vec::new();
            for (run, values) in runs.iter().zip(&values) {
                let mut records: Vec<RecordRef<'_>> = run.keys().zip(values).map(|(&key, value)| {
                    let key = if spelled { Key::Bytes(&names[key as usize]) } else { Key::U64(key) };
                    RecordRef::new(key, 0, value.as_ref().map(|value| &value[..]))
                }).collect();
                records.sort_by_key(RecordRef::order);
                model.extend(records.iter().map(|record| (record.order(), *record)));
                sorted.push(records);
            }
            let merged: Result<Vec<_>, _> = Merge::new(sorted.iter().map(|records| self::run(records)).collect()).collect();
            prop_assert_eq!(merged, Ok(model.into_values().collect()));
        }
    }
}
