//! The layout of a part of any kind.

use std::ops::Range;

use crate::checksum::Origin;
use crate::error::FormatError;
use crate::id::Part;
use crate::record::RecordRef;
use crate::schema::{Schema, TableKind};
use crate::table::blk::BlkLayout;
use crate::table::disk::{BlockRecords, RecordSpec};
use crate::table::idx::IdxLayout;
use crate::table::mem::{self, MemLayout};
use crate::table::{KIND_MEM, PartHeader, kind_number};

/// The layout of one part: small, to be kept in a flat array, one per part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartLayout {
    /// Of a memory table.
    Mem(MemLayout),
    /// Of a table with an index entry per key in memory.
    Idx(IdxLayout),
    /// Of a table with an index entry per block in memory.
    Blk(BlkLayout),
}

impl From<MemLayout> for PartLayout {
    fn from(layout: MemLayout) -> Self {
        Self::Mem(layout)
    }
}

impl From<IdxLayout> for PartLayout {
    fn from(layout: IdxLayout) -> Self {
        Self::Idx(layout)
    }
}

impl From<BlkLayout> for PartLayout {
    fn from(layout: BlkLayout) -> Self {
        Self::Blk(layout)
    }
}

impl PartLayout {
    /// Reads and validates a part header.
    ///
    /// # Errors
    /// `Damaged` says which field contradicts the format.
    pub fn parse(header: &PartHeader) -> Result<Self, FormatError> {
        const KIND_IDX: u8 = kind_number(TableKind::Idx);
        const KIND_BLK: u8 = kind_number(TableKind::Blk);
        match header[0] {
            KIND_MEM => MemLayout::parse(header).map(Self::Mem),
            KIND_IDX => IdxLayout::parse(header).map(Self::Idx),
            KIND_BLK => BlkLayout::parse(header).map(Self::Blk),
            kind => Err(FormatError::damaged("part header", format!("unknown table kind {kind}"))),
        }
    }

    /// The part header.
    #[must_use]
    pub fn header(&self) -> PartHeader {
        match self {
            Self::Mem(layout) => layout.header(),
            Self::Idx(layout) => layout.header(),
            Self::Blk(layout) => layout.header(),
        }
    }

    /// The kind of table.
    #[must_use]
    pub const fn kind(&self) -> TableKind {
        match self {
            Self::Mem(_) => TableKind::Mem,
            Self::Idx(_) => TableKind::Idx,
            Self::Blk(_) => TableKind::Blk,
        }
    }

    /// Checks that the part is one of a table with this schema.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn matches(&self, schema: &Schema) -> Result<(), FormatError> {
        if self.kind() != schema.kind {
            let reason = format!("it is of kind {}, not {}", self.kind(), schema.kind);
            return Err(FormatError::Foreign { what: "part", reason });
        }
        match self {
            Self::Mem(layout) => layout.matches(schema),
            Self::Idx(layout) => layout.matches(schema),
            Self::Blk(layout) => layout.matches(schema),
        }
    }

    /// Length of the data in bytes.
    #[must_use]
    pub const fn data_len(&self) -> u64 {
        match self {
            Self::Mem(layout) => layout.data_len(),
            Self::Idx(layout) => layout.data_len(),
            Self::Blk(layout) => layout.data_len(),
        }
    }

    /// Length of the block section, which the data begins with and which stays on SSD; 0 of a memory part.
    #[must_use]
    pub const fn block_len(&self) -> u64 {
        match self {
            Self::Mem(_) => 0,
            Self::Idx(layout) => layout.block_len(),
            Self::Blk(layout) => layout.block_len(),
        }
    }

    /// Length of the resident section, which the data ends with and which a server holds in memory.
    #[must_use]
    pub const fn resident_len(&self) -> u64 {
        self.data_len() - self.block_len()
    }

    /// Where the resident section is in the data.
    #[must_use]
    pub const fn resident(&self) -> Range<u64> {
        self.block_len()..self.data_len()
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        match self {
            Self::Mem(layout) => layout.records(),
            Self::Idx(layout) => layout.records(),
            Self::Blk(layout) => layout.records(),
        }
    }

    /// Whether records carry expiry times.
    #[must_use]
    pub const fn has_expiry(&self) -> bool {
        match self {
            Self::Mem(layout) => layout.has_expiry(),
            Self::Idx(layout) => layout.record_spec().has_expiry(),
            Self::Blk(layout) => layout.record_spec().has_expiry(),
        }
    }

    /// How records are written in blocks; `None` of a memory part.
    #[must_use]
    pub const fn record_spec(&self) -> Option<RecordSpec> {
        match self {
            Self::Mem(_) => None,
            Self::Idx(layout) => Some(layout.record_spec()),
            Self::Blk(layout) => Some(layout.record_spec()),
        }
    }

    /// The records of `part`, whose data begins with `data`: all of it, or of an idx or blk part the block section at least.
    /// `origin` comes from the layer that refers to the part.
    #[must_use]
    pub fn iter<'a>(&self, data: &'a [u8], part: Part, origin: Origin) -> PartRecords<'a> {
        let blocks = |spec, len: u64, records| {
            let section = data.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(data);
            PartRecords::Disk(BlockRecords::new(spec, section, origin, part, records))
        };
        match self {
            Self::Mem(layout) => PartRecords::Mem(layout.iter(data, part)),
            Self::Idx(layout) => blocks(layout.record_spec(), layout.block_len(), layout.records()),
            Self::Blk(layout) => blocks(layout.record_spec(), layout.block_len(), layout.records()),
        }
    }
}

/// The records of a part of any kind, in ascending order of `(h, key)`. Ends with an error if the data contradicts itself.
#[derive(Debug)]
pub enum PartRecords<'a> {
    /// Of a memory part.
    Mem(mem::Records<'a>),
    /// Of an idx or blk part; every block is verified.
    Disk(BlockRecords<'a>),
}

impl<'a> Iterator for PartRecords<'a> {
    type Item = Result<RecordRef<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Mem(records) => records.next(),
            Self::Disk(records) => records.next(),
        }
    }
}
