//! The validated geometry of a blk part, and its header; its bytes are drawn in the module above.

use crate::error::FormatError;
use crate::filter::Fuse8;
use crate::schema::{Schema, TableKind};
use crate::table::blk::directory_len;
use crate::table::disk::{BLOCK_BYTES, DiskHeader, RecordSpec};
use crate::table::{PartHeader, Profile, field};

const WHAT: &str = "blk part header";
/// Fingerprints begin at multiples of this in the resident section.
const FILTER_ALIGN: u64 = 64;

/// The layout of one part of a blk table: small, to be kept in a flat array, one per part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkLayout {
    pub(super) spec: RecordSpec,
    pub(super) blocks: u32,
    pub(super) records: u64,
    pub(super) filter: Option<Fuse8>,
}

impl BlkLayout {
    /// Reads and validates a part header.
    ///
    /// # Errors
    /// `Damaged` says which field contradicts the format.
    pub fn parse(header: &PartHeader) -> Result<Self, FormatError> {
        let damaged = |reason: String| Err(FormatError::damaged(WHAT, reason));
        let DiskHeader { spec, records, blocks, data_len, .. } = DiskHeader::parse(header, TableKind::Blk, WHAT)?;
        let [filter, segment_bits] = field(header, 24);
        let segments = u32::from_le_bytes(field(header, 32));
        let seed = u64::from_le_bytes(field(header, 40));
        let filter = match filter {
            0 if (segment_bits, segments, seed) == (0, 0, 0) => None,
            Profile::FILTER_FUSE8 => Some(Fuse8::new(seed, segments, segment_bits, WHAT)?),
            _ => return damaged(format!("unknown filter {filter}")),
        };
        let reserved = [&header[26..28], &header[36..40], &header[48..]];
        if reserved.iter().any(|bytes| bytes.iter().any(|&byte| byte != 0)) {
            return damaged("reserved bytes are not 0".to_owned());
        }
        let layout = Self { spec, blocks, records, filter };
        if data_len != layout.data_len() {
            return damaged(format!("a data length of {data_len}, not {}", layout.data_len()));
        }
        Ok(layout)
    }

    /// The part header.
    #[must_use]
    pub fn header(&self) -> PartHeader {
        let Self { spec, blocks, records, filter } = *self;
        let data_len = self.data_len();
        let mut header = DiskHeader { kind: TableKind::Blk, spec, records, blocks, data_len }.encode();
        if let Some(filter) = filter {
            header[24..26].copy_from_slice(&[Profile::FILTER_FUSE8, filter.segment_bits()]);
            header[32..36].copy_from_slice(&filter.segments().to_le_bytes());
            header[40..48].copy_from_slice(&filter.seed().to_le_bytes());
        }
        header
    }

    /// Checks that the part is one of a table with this schema.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn matches(&self, schema: &Schema) -> Result<(), FormatError> {
        self.spec.matches(schema, "blk part")
    }

    /// How records are written.
    #[must_use]
    pub const fn record_spec(&self) -> RecordSpec {
        self.spec
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Length of the part's data in bytes.
    #[must_use]
    pub const fn data_len(&self) -> u64 {
        self.block_len() + self.resident_len()
    }

    /// Length of the block section, which the data begins with.
    #[must_use]
    pub const fn block_len(&self) -> u64 {
        self.blocks as u64 * BLOCK_BYTES as u64
    }

    /// Length of the resident section, which the data ends with.
    #[must_use]
    pub const fn resident_len(&self) -> u64 {
        match self.filter {
            None => self.index_len(),
            Some(filter) => self.filter_at() + filter.len(),
        }
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Length of the filter's fingerprints in bytes; 0 without a filter.
    #[must_use]
    pub const fn filter_len(&self) -> u64 {
        match self.filter {
            None => 0,
            Some(filter) => filter.len(),
        }
    }

    /// Length of entries and directory, which the resident section begins with.
    #[must_use]
    pub const fn index_len(&self) -> u64 {
        (self.blocks as u64 + directory_len(self.blocks) as u64) * 4
    }

    /// Where the fingerprints begin in the resident section.
    pub(super) const fn filter_at(&self) -> u64 {
        self.index_len().next_multiple_of(FILTER_ALIGN)
    }
}
