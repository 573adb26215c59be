//! Scatter: rows in input order ─▶ a run, the same rows grouped by part.
//!
//! ```text
//!   rows   k0 k1 k2 k3 …            run   part 0 │ part 1 │ … │ part 2399
//!          hash, count per part           offsets[p] .. offsets[p + 1]
//! ```
//!
//! A counting sort: one pass counts, one gives each row its place, then each column moves on its own, so that a pass
//! writes to one open line per part and stays in the second-level cache. Within a part the rows keep their order. Keys of
//! type `u64` are not kept: they follow from their hashes.

use fkv_formats::hash::{hash_bytes, hash_u64, unhash_u64};
use fkv_formats::id::PART_COUNT;
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;

use super::rows::{ByteColumn, KeyColumn, Rows, ValueColumn};

/// Rows grouped by part.
#[derive(Debug)]
pub(crate) struct Run {
    /// The hash of each key.
    hashes: Vec<u64>,
    /// Keys of type `bytes`.
    keys: Option<ByteColumn>,
    /// Each row's place in the input.
    places: Vec<u32>,
    values: ValueColumn,
    /// Expiry times, 0 for never; empty if the table has none.
    expiry: Vec<u32>,
    /// Which rows delete their key; empty if none can.
    deletes: Vec<bool>,
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
        let mut targets = Vec::with_capacity(hashes.len());
        for h in &hashes {
            let target = &mut next[usize::from(part_of(*h).0)];
            targets.push(*target);
            *target += 1;
        }
        let keys = match &rows.keys {
            KeyColumn::U64(_) => None,
            KeyColumn::Bytes(keys) => Some(permute_bytes(keys, &targets)),
        };
        let values = match &rows.values {
            ValueColumn::Fixed { width, data } => {
                ValueColumn::Fixed { width: *width, data: permute_fixed(data, *width, &targets) }
            }
            ValueColumn::Bytes(values) => ValueColumn::Bytes(permute_bytes(values, &targets)),
        };
        let expiry = if rows.expiry.is_empty() { Vec::new() } else { permute(&rows.expiry, &targets) };
        let deletes = if rows.deletes.is_empty() { Vec::new() } else { permute(&rows.deletes, &targets) };
        let (hashes, places) = (permute(&hashes, &targets), permute(&rows.index, &targets));
        Self { hashes, keys, places, values, expiry, deletes, offsets }
    }

    /// How many rows there are.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The rows of a part.
    #[must_use]
    pub(crate) fn part(&self, part: u16) -> std::ops::Range<usize> {
        let at = usize::from(part);
        self.offsets[at] as usize..self.offsets[at + 1] as usize
    }

    /// The hash of a row's key.
    #[inline]
    #[must_use]
    pub(crate) fn hash(&self, row: usize) -> u64 {
        self.hashes[row]
    }

    /// A row's place in the input.
    #[inline]
    #[must_use]
    pub(crate) fn place(&self, row: usize) -> u32 {
        self.places[row]
    }

    /// A row's expiry time, 0 for never.
    #[inline]
    #[must_use]
    pub(crate) fn expiry(&self, row: usize) -> u32 {
        self.expiry.get(row).copied().unwrap_or(0)
    }

    /// A row's key.
    #[inline]
    #[must_use]
    pub(crate) fn key(&self, row: usize) -> Key<'_> {
        match &self.keys {
            None => Key::U64(unhash_u64(self.hashes[row])),
            Some(keys) => Key::Bytes(keys.get(row)),
        }
    }

    /// A row as a record; a tombstone if it deletes its key.
    #[inline]
    #[must_use]
    pub(crate) fn record(&self, row: usize) -> RecordRef<'_> {
        let (h, key) = (self.hashes[row], self.key(row));
        if self.deletes.get(row) == Some(&true) {
            return RecordRef { h, key, expiry: 0, value: None };
        }
        RecordRef { h, key, expiry: self.expiry(row), value: Some(self.values.get(row)) }
    }

    /// Bytes of memory held.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, ByteColumn::bytes);
        let words = self.places.capacity() + self.expiry.capacity() + self.offsets.capacity();
        self.hashes.capacity() * 8 + words * 4 + self.deletes.capacity() + keys + self.values.bytes()
    }
}

/// Moves what stands at `i` to `targets[i]`.
fn permute<T: Copy + Default>(column: &[T], targets: &[u32]) -> Vec<T> {
    let mut out = vec![T::default(); column.len()];
    for (value, target) in column.iter().zip(targets) {
        out[*target as usize] = *value;
    }
    out
}

fn permute_fixed(data: &[u8], width: usize, targets: &[u32]) -> Vec<u8> {
    fn exact<const W: usize>(data: &[u8], targets: &[u32]) -> Vec<u8> {
        let mut out = vec![0; data.len()];
        let (from, _) = data.as_chunks::<W>();
        let (to, _) = out.as_chunks_mut::<W>();
        for (value, target) in from.iter().zip(targets) {
            to[*target as usize] = *value;
        }
        out
    }
    match width {
        2 => exact::<2>(data, targets),
        4 => exact::<4>(data, targets),
        8 => exact::<8>(data, targets),
        16 => exact::<16>(data, targets),
        32 => exact::<32>(data, targets),
        64 => exact::<64>(data, targets),
        _ => {
            let mut out = vec![0; data.len()];
            for (value, target) in data.chunks_exact(width).zip(targets) {
                let start = *target as usize * width;
                out[start..start + width].copy_from_slice(value);
            }
            out
        }
    }
}

fn permute_bytes(column: &ByteColumn, targets: &[u32]) -> ByteColumn {
    let rows: Vec<u32> = (0..u32::try_from(column.len()).expect("rows are sealed at 2^20")).collect();
    let source = permute(&rows, targets);
    let mut out = ByteColumn::with_room(column.len(), column.data_len());
    for row in source {
        out.push(column.get(row as usize));
    }
    out
}

#[cfg(test)]
mod tests {
    use fkv_formats::schema::KeyType;

    use super::super::rows::RowShape;
    use super::*;

    #[test]
    fn every_row_lands_in_its_part_in_input_order() {
        for key in [KeyType::U64, KeyType::Bytes] {
            let mut rows = Rows::new(RowShape { key, width: Some(8), ttl: false, deletes: false });
            for n in 0..20_000u64 {
                match &mut rows.keys {
                    KeyColumn::U64(keys) => keys.push(n / 2),
                    KeyColumn::Bytes(keys) => keys.push((n / 2).to_string().as_bytes()),
                }
                let ValueColumn::Fixed { data, .. } = &mut rows.values else { panic!("fixed values") };
                data.extend(n.to_le_bytes());
                rows.index.push(n as u32);
            }
            let run = Run::of(&rows);
            let mut seen = 0;
            for part in 0..PART_COUNT {
                let range = run.part(part);
                assert_eq!(range.start, seen);
                seen = range.end;
                let mut last = None;
                for at in range {
                    let (record, place) = (run.record(at), run.place(at));
                    let spelled = (place / 2).to_string();
                    let expected = match key {
                        KeyType::U64 => Key::U64(u64::from(place / 2)),
                        KeyType::Bytes => Key::Bytes(spelled.as_bytes()),
                    };
                    assert_eq!(record, RecordRef::new(expected, 0, Some(&u64::from(place).to_le_bytes())));
                    assert_eq!(record.part().0, part);
                    // Both rows of a key share its part, the earlier one first.
                    assert!(last < Some(place), "ascending within the part");
                    last = Some(place);
                }
            }
            assert_eq!(seen, rows.len());
        }
    }

    #[test]
    fn every_column_moves_together() {
        for width in [None, Some(2), Some(4), Some(5), Some(8), Some(16), Some(32), Some(64)] {
            for key in [KeyType::U64, KeyType::Bytes] {
                let mut rows = Rows::new(RowShape { key, width, ttl: true, deletes: false });
                let value = |n: u32| vec![n as u8; width.unwrap_or(n as usize)];
                for n in 0..50u32 {
                    rows.index.push(1000 + n);
                    rows.expiry.push(n * 2);
                    match &mut rows.keys {
                        KeyColumn::U64(keys) => keys.push(u64::from(n)),
                        KeyColumn::Bytes(keys) => keys.push(n.to_string().as_bytes()),
                    }
                    match &mut rows.values {
                        ValueColumn::Fixed { data, .. } => data.extend(value(n)),
                        ValueColumn::Bytes(values) => values.push(&value(n)),
                    }
                }
                let run = Run::of(&rows);
                assert_eq!(run.len(), 50);
                for at in 0..50 {
                    let n = run.place(at) - 1000;
                    assert_eq!(run.expiry(at), n * 2);
                    let spelled = n.to_string();
                    let expected = match key {
                        KeyType::U64 => Key::U64(u64::from(n)),
                        KeyType::Bytes => Key::Bytes(spelled.as_bytes()),
                    };
                    assert_eq!(run.record(at), RecordRef::new(expected, n * 2, Some(&value(n))));
                    assert_eq!(run.hash(at), expected.hash());
                }
            }
        }
    }
}
