//! One part of an in-memory build: gather its rows from all runs, sort them, let one row per key win.
//!
//! ```text
//!   run 0: part p ┐
//!   run 1: part p ├─ sort (h, key, index) ─ duplicates ─ expired ─▶ records in the one order
//!   run 2: part p ┘
//! ```
//!
//! The order of the result depends on keys and on places in the frozen input alone, not on how rows fell into runs.

use fkv_formats::record::{Key, RecordRef, is_expired};
use fkv_meta::record::Duplicates;

use super::rows::KeyColumn;
use super::scatter::Run;

/// Which rows of a part become records, in the one order.
#[derive(Debug)]
pub(crate) struct PartRows<'a> {
    runs: &'a [Run],
    /// Run and row of each record.
    winners: Vec<(u32, u32)>,
    /// Rows that another row with the same key replaced.
    pub(crate) duplicates: u64,
    /// Records left out because they had expired.
    pub(crate) expired: u64,
    /// Where duplicates are an error: the places of the two rows that come first in the input.
    pub(crate) clash: Option<Clash>,
}

/// Two rows with one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clash {
    /// Place of the second row in the frozen input.
    pub(crate) second: u32,
    /// Place of the first row.
    pub(crate) first: u32,
    /// The key, as text.
    pub(crate) key: String,
}

impl<'a> PartRows<'a> {
    /// The rows of `part` in `runs`.
    pub(crate) fn of(runs: &'a [Run], part: u16, duplicates: Duplicates, as_of: u32) -> Self {
        let rows: usize = runs.iter().map(|run| run.part(part).len()).sum();
        let mut sources: Vec<(u32, u32)> = Vec::with_capacity(rows);
        // h, index, place in `sources`: one number that sorts without a look at the row.
        let mut order: Vec<u128> = Vec::with_capacity(rows);
        for (number, run) in runs.iter().enumerate() {
            for row in run.part(part) {
                let place = as_u32(sources.len());
                sources.push((as_u32(number), as_u32(row)));
                order.push(
                    u128::from(run.hashes[row]) << 64 | u128::from(run.rows.index[row]) << 32 | u128::from(place),
                );
            }
        }
        order.sort_unstable();
        let mut found = Self { runs, winners: Vec::with_capacity(rows), duplicates: 0, expired: 0, clash: None };
        let mut start = 0;
        while start < order.len() {
            let h = order[start] >> 64;
            let mut end = start + 1;
            while end < order.len() && order[end] >> 64 == h {
                end += 1;
            }
            let group = order[start..end].iter().map(|entry| sources[*entry as u32 as usize]);
            if end - start == 1 {
                found.winners.extend(group);
            } else {
                found.settle(group.collect(), duplicates);
            }
            start = end;
        }
        let before = found.winners.len();
        found.winners.retain(|(run, row)| {
            let expiry = &runs[*run as usize].rows.expiry;
            expiry.is_empty() || !is_expired(expiry[*row as usize], as_of)
        });
        found.expired = as_u64(before - found.winners.len());
        found
    }

    /// Rows of one hash, in input order: one key as a rule, several keys where byte strings collide.
    fn settle(&mut self, mut rows: Vec<(u32, u32)>, duplicates: Duplicates) {
        let runs = self.runs;
        // A stable sort: rows of one key stay in input order.
        rows.sort_by(|a, b| key(runs, *a).cmp(&key(runs, *b)));
        for same in rows.chunk_by(|a, b| key(runs, *a) == key(runs, *b)) {
            let (Some(first), Some(last)) = (same.first(), same.last()) else { continue };
            self.duplicates += as_u64(same.len() - 1);
            if let (Duplicates::Error, [first, second, ..]) = (duplicates, same) {
                let clash =
                    Clash { second: self.index(*second), first: self.index(*first), key: key_text(key(runs, *first)) };
                self.clash = Some(self.clash.take().map_or(clash.clone(), |earlier| earlier.min(clash)));
            }
            self.winners.push(if duplicates == Duplicates::Last { *last } else { *first });
        }
    }

    fn index(&self, (run, row): (u32, u32)) -> u32 {
        self.runs[run as usize].rows.index[row as usize]
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> u64 {
        as_u64(self.winners.len())
    }

    /// The records, in the one order.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordRef<'a>> + Clone + '_ {
        self.winners.iter().map(|(run, row)| {
            let (from, at) = (&self.runs[*run as usize], *row as usize);
            let key = key(self.runs, (*run, *row));
            let expiry = from.rows.expiry.get(at).copied().unwrap_or(0);
            RecordRef { h: from.hashes[at], key, expiry, value: Some(from.rows.values.get(at)) }
        })
    }
}

fn key(runs: &[Run], (run, row): (u32, u32)) -> Key<'_> {
    match &runs[run as usize].rows.keys {
        KeyColumn::U64(keys) => Key::U64(keys[row as usize]),
        KeyColumn::Bytes(keys) => Key::Bytes(keys.get(row as usize)),
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("one task has fewer than 2^32 rows")
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).expect("usize has at most 64 bits")
}

/// A key for a message: numbers as they are, text in quotes, other bytes in hexadecimal.
fn key_text(key: Key<'_>) -> String {
    match key {
        Key::U64(key) => key.to_string(),
        Key::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => format!("{text:?}"),
            Err(_) => format!("0x{}", hex::encode(bytes)),
        },
    }
}

#[cfg(test)]
mod tests {
    use fkv_formats::schema::KeyType;

    use super::super::rows::{RowShape, Rows, ValueColumn};
    use super::*;

    /// Rows (key, value, expiry) with one run for each slice given; indices count through all of them.
    fn runs(slices: &[&[(u64, u8, u32)]]) -> Vec<Run> {
        let mut index = 0;
        slices
            .iter()
            .map(|slice| {
                let mut rows = Rows::new(RowShape { key: KeyType::U64, width: Some(1), ttl: true });
                for (key, value, expiry) in *slice {
                    let KeyColumn::U64(keys) = &mut rows.keys else { panic!("u64 keys") };
                    keys.push(*key);
                    let ValueColumn::Fixed { data, .. } = &mut rows.values else { panic!("fixed values") };
                    data.push(*value);
                    rows.expiry.push(*expiry);
                    rows.index.push(index);
                    index += 1;
                }
                Run::of(&rows)
            })
            .collect()
    }

    fn all(runs: &[Run], duplicates: Duplicates, as_of: u32) -> (Vec<(u64, u8)>, u64, u64, Option<Clash>) {
        let (mut records, mut replaced, mut expired, mut clash) = (Vec::new(), 0, 0, None::<Clash>);
        for part in 0..fkv_formats::id::PART_COUNT {
            let rows = PartRows::of(runs, part, duplicates, as_of);
            let mut last = None;
            for record in rows.records() {
                assert!(last < Some(record.order()), "strictly ascending");
                last = Some(record.order());
                let (Key::U64(key), Some([value])) = (record.key, record.value) else { panic!("u64 → 1 byte") };
                records.push((key, *value));
            }
            replaced += rows.duplicates;
            expired += rows.expired;
            clash = clash.into_iter().chain(rows.clash).min();
        }
        records.sort_unstable();
        (records, replaced, expired, clash)
    }

    #[test]
    fn the_winner_depends_on_input_order_not_on_runs() {
        let one = runs(&[&[(1, 10, 0), (2, 20, 0), (1, 11, 0), (3, 30, 0), (1, 12, 0)]]);
        let two = runs(&[&[(1, 10, 0), (2, 20, 0)], &[(1, 11, 0), (3, 30, 0), (1, 12, 0)]]);
        let swapped: Vec<Run> =
            runs(&[&[(1, 10, 0), (2, 20, 0)], &[(1, 11, 0), (3, 30, 0), (1, 12, 0)]]).into_iter().rev().collect();
        for runs in [&one, &two, &swapped] {
            assert_eq!(all(runs, Duplicates::Last, 0), (vec![(1, 12), (2, 20), (3, 30)], 2, 0, None));
            assert_eq!(all(runs, Duplicates::First, 0).0, [(1, 10), (2, 20), (3, 30)]);
            let clash = all(runs, Duplicates::Error, 0).3.expect("key 1 stands three times");
            assert_eq!((clash.first, clash.second, clash.key.as_str()), (0, 2, "1"));
        }
    }

    #[test]
    fn an_expired_winner_does_not_uncover_the_row_it_replaced() {
        let runs = runs(&[&[(1, 10, 0), (1, 11, 100), (2, 20, 100), (3, 30, 101)]]);
        assert_eq!(all(&runs, Duplicates::Last, 100), (vec![(3, 30)], 1, 2, None));
        assert_eq!(all(&runs, Duplicates::First, 100).0, [(1, 10), (3, 30)]);
    }

    #[test]
    fn keys_in_messages_are_readable() {
        assert_eq!(key_text(Key::U64(7)), "7");
        assert_eq!(key_text(Key::Bytes(b"user \"a\"")), r#""user \"a\"""#);
        assert_eq!(key_text(Key::Bytes(&[0xff, 0])), "0xff00");
    }
}
