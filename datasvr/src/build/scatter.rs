//! Scatter: rows in input order ─▶ a run, the same rows grouped by part.
//!
//! ```text
//!   rows   k0 k1 k2 k3 …            run   part 0 │ part 1 │ … │ part 2399
//!          hash, count per part           offsets[p] .. offsets[p + 1]
//! ```
//!
//! A counting sort: one pass counts, one gives each row its place, then each column moves on its own, so that a pass
//! writes to one open line per part and stays in the second-level cache. Within a part the rows keep their order.

use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::PART_COUNT;
use fkv_formats::route::part_of;

use super::rows::{KeyColumn, Rows};

/// Rows grouped by part.
#[derive(Debug)]
pub(crate) struct Run {
    /// The rows.
    pub(crate) rows: Rows,
    /// The hash of each key.
    pub(crate) hashes: Vec<u64>,
    /// Part `p` has the rows `offsets[p]..offsets[p + 1]`.
    offsets: Vec<u32>,
}

impl Run {
    /// Groups `rows` by part.
    #[must_use]
    pub(crate) fn of(rows: &Rows) -> Self {
        let mut hashes = Vec::with_capacity(rows.len());
        match &rows.keys {
            KeyColumn::U64(keys) => hashes.extend(keys.iter().map(|key| hash_u64(*key))),
            KeyColumn::Bytes(keys) => hashes.extend((0..keys.len()).map(|at| hash_bytes(keys.get(at)))),
        }
        let mut offsets = vec![0u32; usize::from(PART_COUNT) + 1];
        for h in &hashes {
            offsets[usize::from(part_of(*h).0) + 1] += 1;
        }
        for part in 0..usize::from(PART_COUNT) {
            offsets[part + 1] += offsets[part];
        }
        let mut next = offsets.clone();
        let mut places = Vec::with_capacity(hashes.len());
        for h in &hashes {
            let place = &mut next[usize::from(part_of(*h).0)];
            places.push(*place);
            *place += 1;
        }
        let mut grouped = vec![0; hashes.len()];
        for (h, place) in hashes.iter().zip(&places) {
            grouped[*place as usize] = *h;
        }
        Self { rows: rows.permuted(&places), hashes: grouped, offsets }
    }

    /// The rows of a part.
    #[must_use]
    pub(crate) fn part(&self, part: u16) -> std::ops::Range<usize> {
        let at = usize::from(part);
        self.offsets[at] as usize..self.offsets[at + 1] as usize
    }

    /// Bytes of memory held.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes() + self.hashes.capacity() * 8 + self.offsets.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use fkv_formats::schema::KeyType;

    use super::super::rows::{RowShape, ValueColumn};
    use super::*;

    #[test]
    fn every_row_lands_in_its_part_in_input_order() {
        let mut rows = Rows::new(RowShape { key: KeyType::U64, width: Some(8), ttl: false });
        for n in 0..20_000u64 {
            let KeyColumn::U64(keys) = &mut rows.keys else { panic!("u64 keys") };
            keys.push(n / 2);
            let ValueColumn::Fixed { data, .. } = &mut rows.values else { panic!("fixed values") };
            data.extend(n.to_le_bytes());
            rows.index.push(n as u32);
        }
        let run = Run::of(&rows);
        let KeyColumn::U64(keys) = &run.rows.keys else { panic!("u64 keys") };
        let mut seen = 0;
        for part in 0..PART_COUNT {
            let range = run.part(part);
            assert_eq!(range.start, seen);
            seen = range.end;
            let mut last = [None; 2];
            for at in range {
                assert_eq!(run.hashes[at], hash_u64(keys[at]));
                assert_eq!(part_of(run.hashes[at]).0, part);
                let index = run.rows.index[at];
                assert_eq!(run.rows.values.get(at), u64::from(index).to_le_bytes());
                assert_eq!(keys[at], u64::from(index / 2));
                // Both rows of a key share its part, the earlier one first.
                assert!(last[0] < Some(index), "ascending within the part");
                last[0] = Some(index);
            }
        }
        assert_eq!(seen, rows.len());
    }
}
