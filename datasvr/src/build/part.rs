//! One part on its way to being built: its rows in the one order, one row per key.
//!
//! ```text
//!   rows of run 0   ┐
//!   rows of run 1   ├─ sort (h, precedence) ─ duplicates ─ expired ─▶ records in the one order
//!   rows of slice 3 ┘
//! ```
//!
//! The order of the result depends on keys and on places in the frozen input alone, not on how rows fell into runs or slices.

use fkv_formats::record::{Key, RecordRef};
use fkv_formats::schema::KeyType;
use fkv_meta::record::Duplicates;

use super::order::{entry, hash, ordinal, sort};
use super::scatter::Run;

/// Rows of one part, wherever they lie, by ordinal.
pub(crate) trait PartRows {
    /// Type of the keys: only keys of type `bytes` may share a hash.
    fn key_type(&self) -> KeyType;
    /// Whether rows may be tombstones, or expire.
    fn may_go(&self) -> bool;
    /// A row as a record.
    fn record(&self, ordinal: u32) -> RecordRef<'_>;
    /// A row's place in the frozen input, for messages.
    fn place(&self, ordinal: u32) -> Place;
}

/// A place in the frozen input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Which slice of the plan; 0 if there are none.
    pub(crate) slice: u32,
    /// Which row of it.
    pub(crate) row: u32,
}

/// Two rows with one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clash {
    /// The second row.
    pub(crate) second: Place,
    /// The first row.
    pub(crate) first: Place,
    /// The key, as text.
    pub(crate) key: String,
}

/// Which rows of a part become records.
#[derive(Debug)]
pub(crate) struct Winners<R> {
    /// The rows.
    pub(crate) rows: R,
    /// Their entries, in the one order.
    entries: Vec<u128>,
    /// Rows that another row with the same key replaced.
    pub(crate) duplicates: u64,
    /// Records left out because they had expired.
    pub(crate) expired: u64,
    /// Keys left out because the row that won deletes them.
    pub(crate) deleted: u64,
    /// Where duplicates are an error: the places of the two rows that come first in the input.
    pub(crate) clash: Option<Clash>,
}

impl<R: PartRows> Winners<R> {
    /// Lets one row per key win. `entries` are those of all rows, in any order; of rows with one key, the one with greater
    /// precedence comes later in the input.
    pub(crate) fn of(rows: R, mut entries: Vec<u128>, duplicates: Duplicates) -> Self {
        sort(&mut entries);
        let mut found = Self { rows, entries: Vec::new(), duplicates: 0, expired: 0, deleted: 0, clash: None };
        let (mut kept, mut start) = (0, 0);
        while start < entries.len() {
            let h = hash(entries[start]);
            let mut end = start + 1;
            while end < entries.len() && hash(entries[end]) == h {
                end += 1;
            }
            if end - start == 1 {
                entries[kept] = entries[start];
                kept += 1;
            } else {
                kept += found.settle(&mut entries, start..end, kept, duplicates);
            }
            start = end;
        }
        entries.truncate(kept);
        found.entries = entries;
        found
    }

    /// Settles the entries of one hash, and puts those that win at `kept` and behind; gives how many. One key as a rule,
    /// several where byte strings collide.
    fn settle(
        &mut self,
        entries: &mut [u128],
        group: std::ops::Range<usize>,
        kept: usize,
        duplicates: Duplicates,
    ) -> usize {
        let (rows, mut won) = (&self.rows, 0);
        let mut members = entries[group].to_vec();
        if rows.key_type() == KeyType::Bytes {
            // A stable sort: rows of one key stay in input order.
            members.sort_by(|a, b| rows.record(ordinal(*a)).key.cmp(&rows.record(ordinal(*b)).key));
        }
        for same in members.chunk_by(|a, b| rows.record(ordinal(*a)).key == rows.record(ordinal(*b)).key) {
            let (Some(first), Some(last)) = (same.first(), same.last()) else { continue };
            self.duplicates += as_u64(same.len() - 1);
            if let (Duplicates::Error, [first, second, ..]) = (duplicates, same) {
                let clash = Clash {
                    second: rows.place(ordinal(*second)),
                    first: rows.place(ordinal(*first)),
                    key: key_text(rows.record(ordinal(*first)).key),
                };
                self.clash = Some(self.clash.take().map_or(clash.clone(), |earlier| earlier.min(clash)));
            }
            entries[kept + won] = if duplicates == Duplicates::Last { *last } else { *first };
            won += 1;
        }
        won
    }

    /// Leaves out tombstones, and what has expired at Unix second `as_of`: only once all rows of the part have been seen, or
    /// an older row would come back.
    pub(crate) fn purge(&mut self, as_of: u32) {
        if !self.rows.may_go() {
            return;
        }
        let (rows, expired, deleted) = (&self.rows, &mut self.expired, &mut self.deleted);
        self.entries.retain(|entry| {
            let record = rows.record(ordinal(*entry));
            let has_expired = record.is_expired(as_of);
            *expired += u64::from(has_expired);
            *deleted += u64::from(record.value.is_none());
            !has_expired && record.value.is_some()
        });
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> u64 {
        as_u64(self.entries.len())
    }

    /// The hashes of the records, in the one order.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.entries.iter().map(|entry| hash(*entry))
    }

    /// The ordinals of the rows that are the records, in the one order.
    pub(crate) fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().map(|entry| ordinal(*entry))
    }

    /// The records, in the one order.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordRef<'_>> + '_ {
        self.ordinals().map(|ordinal| self.rows.record(ordinal))
    }
}

/// The rows of a part in runs.
#[derive(Debug)]
pub(crate) struct RunRows<'a> {
    runs: &'a [Run],
    key_type: KeyType,
    may_go: bool,
    /// Run and row of each ordinal.
    sources: Vec<(u32, u32)>,
}

impl<'a> RunRows<'a> {
    /// The rows of `part` in `runs`, with their entries; `may_go` says whether they may expire or be tombstones.
    pub(crate) fn gather(runs: &'a [Run], part: u16, key_type: KeyType, may_go: bool) -> (Self, Vec<u128>) {
        let rows: usize = runs.iter().map(|run| run.part(part).len()).sum();
        let mut sources: Vec<(u32, u32)> = Vec::with_capacity(rows);
        let mut entries = Vec::with_capacity(rows);
        for (number, run) in runs.iter().enumerate() {
            for row in run.part(part) {
                entries.push(entry(run.hash(row), run.place(row), as_u32(sources.len())));
                sources.push((as_u32(number), as_u32(row)));
            }
        }
        (Self { runs, key_type, may_go, sources }, entries)
    }

    /// A row as a record, for as long as the runs last.
    #[inline]
    pub(crate) fn run_record(&self, ordinal: u32) -> RecordRef<'a> {
        let (run, row) = self.sources[ordinal as usize];
        self.runs[run as usize].record(row as usize)
    }

    /// A row's place in the input of its job.
    pub(crate) fn row_place(&self, ordinal: u32) -> u32 {
        let (run, row) = self.sources[ordinal as usize];
        self.runs[run as usize].place(row as usize)
    }
}

impl PartRows for RunRows<'_> {
    fn key_type(&self) -> KeyType {
        self.key_type
    }

    fn may_go(&self) -> bool {
        self.may_go
    }

    #[inline]
    fn record(&self, ordinal: u32) -> RecordRef<'_> {
        self.run_record(ordinal)
    }

    fn place(&self, ordinal: u32) -> Place {
        Place { slice: 0, row: self.row_place(ordinal) }
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("one job has fewer than 2^32 rows")
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
    use super::super::rows::{KeyColumn, RowShape, Rows, ValueColumn};
    use super::*;

    /// Rows (key, value, expiry) with one run for each slice given; indices count through all of them.
    fn runs(slices: &[&[(u64, u8, u32)]]) -> Vec<Run> {
        let mut index = 0;
        slices
            .iter()
            .map(|slice| {
                let mut rows = Rows::new(RowShape { key: KeyType::U64, width: Some(1), ttl: true, deletes: false });
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
            let (rows, entries) = RunRows::gather(runs, part, KeyType::U64, true);
            let mut winners = Winners::of(rows, entries, duplicates);
            winners.purge(as_of);
            let mut last = None;
            for record in winners.records() {
                assert!(last < Some(record.order()), "strictly ascending");
                last = Some(record.order());
                let (Key::U64(key), Some([value])) = (record.key, record.value) else { panic!("u64 → 1 byte") };
                records.push((key, *value));
            }
            assert_eq!(winners.hashes().count() as u64, winners.len());
            replaced += winners.duplicates;
            expired += winners.expired;
            clash = clash.into_iter().chain(winners.clash).min();
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
            assert_eq!((clash.first.row, clash.second.row, clash.key.as_str()), (0, 2, "1"));
        }
    }

    #[test]
    fn an_expired_winner_does_not_uncover_the_row_it_replaced() {
        let runs = runs(&[&[(1, 10, 0), (1, 11, 100), (2, 20, 100), (3, 30, 101)]]);
        assert_eq!(all(&runs, Duplicates::Last, 100), (vec![(3, 30)], 1, 2, None));
        assert_eq!(all(&runs, Duplicates::First, 100).0, [(1, 10), (3, 30)]);
    }

    /// Byte strings that share a hash, as if xxh3 had been broken.
    struct Colliding(Vec<&'static [u8]>);

    impl PartRows for Colliding {
        fn key_type(&self) -> KeyType {
            KeyType::Bytes
        }

        fn may_go(&self) -> bool {
            false
        }

        fn record(&self, ordinal: u32) -> RecordRef<'_> {
            RecordRef { h: 7, key: Key::Bytes(self.0[ordinal as usize]), expiry: 0, value: Some(b"") }
        }

        fn place(&self, ordinal: u32) -> Place {
            Place { slice: 0, row: ordinal }
        }
    }

    #[test]
    fn keys_that_share_a_hash_stay_apart() {
        let keys: Vec<&'static [u8]> = vec![b"b", b"a", b"b", b"c", b"a", b"b"];
        let entries = || (0..6).map(|n| entry(7, n, n)).collect::<Vec<_>>();
        let winners = Winners::of(Colliding(keys.clone()), entries(), Duplicates::Last);
        assert_eq!(winners.ordinals().collect::<Vec<_>>(), [4, 5, 3], "in the order of keys, the last of each");
        assert_eq!(winners.duplicates, 3);
        let winners = Winners::of(Colliding(keys.clone()), entries(), Duplicates::First);
        assert_eq!(winners.ordinals().collect::<Vec<_>>(), [1, 0, 3]);
        let clash = Winners::of(Colliding(keys), entries(), Duplicates::Error).clash.expect("two of three stand twice");
        assert_eq!((clash.first.row, clash.second.row, clash.key.as_str()), (0, 2, r#""b""#));
    }

    #[test]
    fn keys_in_messages_are_readable() {
        assert_eq!(key_text(Key::U64(7)), "7");
        assert_eq!(key_text(Key::Bytes(b"user \"a\"")), r#""user \"a\"""#);
        assert_eq!(key_text(Key::Bytes(&[0xff, 0])), "0xff00");
    }
}
