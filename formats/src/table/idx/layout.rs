//! The validated geometry of an idx part, and its header; its bytes are drawn in the module above.

use crate::error::FormatError;
use crate::schema::{Schema, TableKind};
use crate::table::disk::{BLOCK_BYTES, DiskHeader, RecordSpec};
use crate::table::idx::{TAG_SLOTS, slot_spec};
use crate::table::mem::geometry::bucket;
use crate::table::mem::line::{LINE_BYTES, Probe};
use crate::table::{PartHeader, field};

const WHAT: &str = "idx part header";

/// The layout of one part of an idx table: small, to be kept in a flat array, one per part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdxLayout {
    pub(super) spec: RecordSpec,
    pub(super) probe: Probe,
    pub(super) blocks: u32,
    pub(super) buckets: u32,
    pub(super) lines: u32,
    pub(super) d_max: u32,
    pub(super) records: u64,
}

impl IdxLayout {
    /// Reads and validates a part header.
    ///
    /// # Errors
    /// `Damaged` says which field contradicts the format.
    pub fn parse(header: &PartHeader) -> Result<Self, FormatError> {
        let damaged = |reason: String| Err(FormatError::damaged(WHAT, reason));
        let DiskHeader { spec, records, blocks, data_len, .. } = DiskHeader::parse(header, TableKind::Idx, WHAT)?;
        let [probe, h_bytes, slots, reserved] = field(header, 24);
        let number = |offset| u32::from_le_bytes(field(header, offset));
        let (buckets, lines, d_max) = (number(32), number(36), number(40));
        let probe = match probe {
            0 => Probe::Scan,
            1 => Probe::Sorted,
            _ => return damaged(format!("unknown probe {probe}")),
        };
        if reserved != 0 || header[44..].iter().any(|&byte| byte != 0) {
            return damaged("reserved bytes are not 0".to_owned());
        }
        let slot = slot_spec(probe);
        if (h_bytes, slots) != (slot.h_bytes, slot.slots) {
            return damaged(format!("{slots} slots with {h_bytes} bytes of the hash"));
        }
        let lines_legal = match probe {
            // Records in lines: keeps both products far from 2^64.
            Probe::Scan => {
                let lines_max = u64::from(buckets) + u64::from(d_max);
                buckets != 0
                    && (u64::from(buckets)..=lines_max).contains(&u64::from(lines))
                    && records <= u64::from(lines) * u64::from(TAG_SLOTS)
            }
            Probe::Sorted => buckets == 0 && d_max == 0 && u64::from(lines) == records.div_ceil(u64::from(slot.slots)),
        };
        if !lines_legal {
            return damaged(format!("{lines} lines for {buckets} buckets and {records} records"));
        }
        let layout = Self { spec, probe, blocks, buckets, lines, d_max, records };
        if data_len != layout.data_len() {
            return damaged(format!("a data length of {data_len}, not {}", layout.data_len()));
        }
        Ok(layout)
    }

    /// The part header.
    #[must_use]
    pub fn header(&self) -> PartHeader {
        let (data_len, slot) = (self.data_len(), slot_spec(self.probe));
        let Self { spec, records, blocks, .. } = *self;
        let mut header = DiskHeader { kind: TableKind::Idx, spec, records, blocks, data_len }.encode();
        header[24..27].copy_from_slice(&[self.probe as u8, slot.h_bytes, slot.slots]);
        header[32..36].copy_from_slice(&self.buckets.to_le_bytes());
        header[36..40].copy_from_slice(&self.lines.to_le_bytes());
        header[40..44].copy_from_slice(&self.d_max.to_le_bytes());
        header
    }

    /// Checks that the part is one of a table with this schema.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn matches(&self, schema: &Schema) -> Result<(), FormatError> {
        self.spec.matches(schema, "idx part")
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
        self.lines as u64 * LINE_BYTES as u64
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// How keys are looked up.
    #[must_use]
    pub const fn probe(&self) -> Probe {
        self.probe
    }

    /// Number of index lines, those that only hold spilled entries included.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        self.lines
    }

    /// Number of buckets; 0 in a sorted part.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Slots of a line.
    #[must_use]
    pub const fn slots(&self) -> u8 {
        slot_spec(self.probe).slots
    }

    /// How many lines from home an entry may lie.
    #[must_use]
    pub const fn d_max(&self) -> u32 {
        self.d_max
    }

    /// Byte offset in the resident section of the line that a lookup of `h` reads first, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn first_line(&self, h: u64) -> usize {
        let line = match self.probe {
            Probe::Scan => bucket(h, self.buckets),
            Probe::Sorted => self.lines / 2,
        };
        line as usize * LINE_BYTES
    }
}
