//! Rows as the input gives them: columns in input order, each row with its place in the frozen input.

use fkv_formats::schema::{KeyType, Schema};

/// What a row of a table consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowShape {
    /// Type of the keys.
    pub(crate) key: KeyType,
    /// Bytes of a stored value; `None` if they vary.
    pub(crate) width: Option<usize>,
    /// Whether rows carry an expiry time.
    pub(crate) ttl: bool,
}

impl RowShape {
    /// The shape of a table's rows.
    #[must_use]
    pub(crate) const fn of(schema: &Schema) -> Self {
        Self { key: schema.key, width: schema.stored_width(), ttl: schema.ttl }
    }

    /// The least memory a row takes while it is built.
    #[must_use]
    pub(crate) fn row_bytes_min(&self) -> u64 {
        let key = match self.key {
            KeyType::U64 => 8,
            KeyType::Bytes => 4,
        };
        let expiry = if self.ttl { 4 } else { 0 };
        let value = self.width.unwrap_or(4);
        // With its place in the input and the hash of its key.
        4 + 8 + key + expiry + u64::try_from(value).unwrap_or(u64::MAX)
    }
}

/// Byte strings one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteColumn {
    ends: Vec<u32>,
    data: Vec<u8>,
}

impl ByteColumn {
    /// How many.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string at `at`.
    #[must_use]
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.data[start as usize..self.ends[at] as usize]
    }

    /// Appends a string. All strings together must stay below 4 GiB, which [`Rows::is_full`] sees to.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(u32::try_from(self.data.len()).expect("rows are sealed far below 4 GiB"));
    }

    fn with_room(rows: usize, bytes: usize) -> Self {
        Self { ends: Vec::with_capacity(rows), data: Vec::with_capacity(bytes) }
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.data.clear();
    }

    fn bytes(&self) -> usize {
        self.ends.capacity() * 4 + self.data.capacity()
    }
}

/// A column of keys.
#[derive(Clone, Debug)]
pub(crate) enum KeyColumn {
    /// Integers.
    U64(Vec<u64>),
    /// Byte strings.
    Bytes(ByteColumn),
}

/// A column of values as they are stored.
#[derive(Clone, Debug)]
pub(crate) enum ValueColumn {
    /// Values of one width, one behind the other.
    Fixed {
        /// Bytes of a value.
        width: usize,
        /// The values.
        data: Vec<u8>,
    },
    /// Values of any length.
    Bytes(ByteColumn),
}

impl KeyColumn {
    fn new(key: KeyType) -> Self {
        match key {
            KeyType::U64 => Self::U64(Vec::new()),
            KeyType::Bytes => Self::Bytes(ByteColumn::default()),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::U64(keys) => keys.clear(),
            Self::Bytes(keys) => keys.clear(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::U64(keys) => keys.capacity() * 8,
            Self::Bytes(keys) => keys.bytes(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::U64(keys) => keys.len() * 8,
            Self::Bytes(keys) => keys.data.len(),
        }
    }
}

impl ValueColumn {
    fn new(width: Option<usize>) -> Self {
        width.map_or_else(|| Self::Bytes(ByteColumn::default()), |width| Self::Fixed { width, data: Vec::new() })
    }

    /// The value at `at`.
    #[must_use]
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        match self {
            Self::Fixed { width, data } => &data[at * width..(at + 1) * width],
            Self::Bytes(values) => values.get(at),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Fixed { data, .. } => data.clear(),
            Self::Bytes(values) => values.clear(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Fixed { data, .. } => data.capacity(),
            Self::Bytes(values) => values.bytes(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Fixed { data, .. } => data.len(),
            Self::Bytes(values) => values.data.len(),
        }
    }
}

/// Rows, column by column.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Their shape.
    pub(crate) shape: RowShape,
    /// Each row's place in the frozen input.
    pub(crate) index: Vec<u32>,
    /// Keys.
    pub(crate) keys: KeyColumn,
    /// Values.
    pub(crate) values: ValueColumn,
    /// Expiry times, 0 for never; empty if the table has none.
    pub(crate) expiry: Vec<u32>,
}

impl Rows {
    /// Rows after which a run is sealed.
    pub(crate) const ROWS_MAX: usize = 1 << 20;
    /// Bytes of keys and values after which a run is sealed.
    pub(crate) const BYTES_MAX: usize = 64 << 20;

    /// No rows.
    #[must_use]
    pub(crate) fn new(shape: RowShape) -> Self {
        let (keys, values) = (KeyColumn::new(shape.key), ValueColumn::new(shape.width));
        Self { shape, index: Vec::new(), keys, values, expiry: Vec::new() }
    }

    /// How many.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether the rows should be sealed before more are added.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= Self::ROWS_MAX || self.keys.data_len() + self.values.data_len() >= Self::BYTES_MAX
    }

    /// Bytes of memory held.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        (self.index.capacity() + self.expiry.capacity()) * 4 + self.keys.bytes() + self.values.bytes()
    }

    /// Forgets the rows and keeps the memory for more.
    pub(crate) fn clear(&mut self) {
        self.index.clear();
        self.expiry.clear();
        self.keys.clear();
        self.values.clear();
    }

    /// The same rows in the order that puts row `i` at `places[i]`.
    #[must_use]
    pub(crate) fn permuted(&self, places: &[u32]) -> Self {
        let keys = match &self.keys {
            KeyColumn::U64(keys) => KeyColumn::U64(permute(keys, places)),
            KeyColumn::Bytes(keys) => KeyColumn::Bytes(permute_bytes(keys, places)),
        };
        let values = match &self.values {
            ValueColumn::Fixed { width, data } => {
                ValueColumn::Fixed { width: *width, data: permute_fixed(data, *width, places) }
            }
            ValueColumn::Bytes(values) => ValueColumn::Bytes(permute_bytes(values, places)),
        };
        let expiry = if self.expiry.is_empty() { Vec::new() } else { permute(&self.expiry, places) };
        Self { shape: self.shape, index: permute(&self.index, places), keys, values, expiry }
    }
}

fn permute<T: Copy + Default>(column: &[T], places: &[u32]) -> Vec<T> {
    let mut out = vec![T::default(); column.len()];
    for (value, place) in column.iter().zip(places) {
        out[*place as usize] = *value;
    }
    out
}

fn permute_fixed(data: &[u8], width: usize, places: &[u32]) -> Vec<u8> {
    fn exact<const W: usize>(data: &[u8], places: &[u32]) -> Vec<u8> {
        let mut out = vec![0; data.len()];
        let (from, _) = data.as_chunks::<W>();
        let (to, _) = out.as_chunks_mut::<W>();
        for (value, place) in from.iter().zip(places) {
            to[*place as usize] = *value;
        }
        out
    }
    match width {
        2 => exact::<2>(data, places),
        4 => exact::<4>(data, places),
        8 => exact::<8>(data, places),
        16 => exact::<16>(data, places),
        32 => exact::<32>(data, places),
        64 => exact::<64>(data, places),
        _ => {
            let mut out = vec![0; data.len()];
            for (value, place) in data.chunks_exact(width).zip(places) {
                let start = *place as usize * width;
                out[start..start + width].copy_from_slice(value);
            }
            out
        }
    }
}

fn permute_bytes(column: &ByteColumn, places: &[u32]) -> ByteColumn {
    let rows: Vec<u32> = (0..u32::try_from(column.len()).expect("rows are sealed at 2^20")).collect();
    let source = permute(&rows, places);
    let mut out = ByteColumn::with_room(column.len(), column.data.len());
    for row in source {
        out.push(column.get(row as usize));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_moves_together() {
        for width in [None, Some(2), Some(4), Some(5), Some(8), Some(16), Some(32), Some(64)] {
            for key in [KeyType::U64, KeyType::Bytes] {
                let mut rows = Rows::new(RowShape { key, width, ttl: true });
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
                let places: Vec<u32> = (0..50).map(|n| (n * 7) % 50).collect();
                let moved = rows.permuted(&places);
                for n in 0..50u32 {
                    let at = places[n as usize] as usize;
                    assert_eq!((moved.index[at], moved.expiry[at]), (1000 + n, n * 2));
                    assert_eq!(moved.values.get(at), value(n));
                    match &moved.keys {
                        KeyColumn::U64(keys) => assert_eq!(keys[at], u64::from(n)),
                        KeyColumn::Bytes(keys) => assert_eq!(keys.get(at), n.to_string().as_bytes()),
                    }
                }
            }
        }
    }
}
