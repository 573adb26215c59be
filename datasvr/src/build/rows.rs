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
    /// Whether rows may delete their key.
    pub(crate) deletes: bool,
}

impl RowShape {
    /// The shape of a table's rows, in a load in which they may delete keys or not.
    #[must_use]
    pub(crate) const fn of(schema: &Schema, deletes: bool) -> Self {
        Self { key: schema.key, width: schema.stored_width(), ttl: schema.ttl, deletes }
    }

    /// The least memory a row takes while it waits to be built.
    #[must_use]
    pub(crate) fn row_bytes_min(&self) -> u64 {
        // A u64 key follows from its hash.
        let key = if self.has_varying_keys() { 4 } else { 0 };
        let (expiry, deletes) = (if self.ttl { 4 } else { 0 }, u64::from(self.deletes));
        let value = self.width.unwrap_or(4);
        // With its place in the input and the hash of its key.
        4 + 8 + key + expiry + deletes + u64::try_from(value).unwrap_or(u64::MAX)
    }

    /// The least that a record of such a row takes in a slice or a part, about.
    #[must_use]
    pub(crate) fn record_bytes_min(&self) -> u64 {
        self.row_bytes_min() - if self.has_varying_keys() { 12 } else { 4 }
    }

    /// Whether keys vary in length.
    #[must_use]
    pub(crate) const fn has_varying_keys(&self) -> bool {
        matches!(self.key, KeyType::Bytes)
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

    pub(super) fn with_room(rows: usize, bytes: usize) -> Self {
        Self { ends: Vec::with_capacity(rows), data: Vec::with_capacity(bytes) }
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.data.clear();
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        self.ends.capacity() * 4 + self.data.capacity()
    }

    /// Bytes of all strings together.
    pub(super) const fn data_len(&self) -> usize {
        self.data.len()
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

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
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
    /// Which rows delete their key, whatever value stands for them here; empty if none can.
    pub(crate) deletes: Vec<bool>,
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
        Self { shape, index: Vec::new(), keys, values, expiry: Vec::new(), deletes: Vec::new() }
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
        let words = self.index.capacity() + self.expiry.capacity();
        words * 4 + self.deletes.capacity() + self.keys.bytes() + self.values.bytes()
    }

    /// Forgets the rows and keeps the memory for more.
    pub(crate) fn clear(&mut self) {
        self.index.clear();
        self.expiry.clear();
        self.deletes.clear();
        self.keys.clear();
        self.values.clear();
    }
}
