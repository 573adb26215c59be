//! The validated geometry of a part, and its header.
//!
//! ```text
//!  24  shape u8 │ probe u8 │ h bytes u8 │ slots u8 │ buckets u32
//!  32  lines u32 │ d_max u32
//!  40  index offset u64
//!  48  0 × 16
//!
//!   shape   0 inline, 1 dense, 2 heap
//!   probe   0 scan, 1 sorted (buckets and d_max are then 0)
//! ```

use crate::error::FormatError;
use crate::schema::{KeyType, Schema};
use crate::table::mem::batch::LineFormat;
use crate::table::mem::geometry::{RECORDS_MAX, bucket, is_exact};
use crate::table::mem::line::{BYTES_KEY_H_BYTES, LINE_BYTES, Probe, Shape, SlotSpec, U64_KEY_H_BYTES_MIN};
use crate::table::{HEADER_BYTES, KIND_MEM, PartHeader, WIDTH_VARIES, field, header_data_len, header_records};

const WHAT: &str = "memory part header";
const FLAG_TTL: u8 = 1;
/// Widest value of fixed width: the largest vector there is.
const WIDTH_MAX: u32 = 4 * crate::schema::ValueType::DIMENSION_MAX as u32;
/// Records of a part end before this offset: bases have 6 bytes.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 48;

/// The layout of one part's image: small, to be kept in a flat array, one per part.
///
/// The image is the part's data, exactly [`data_len`](Self::data_len) bytes, verified when it was loaded. Lookups in
/// other bytes find nothing or something wrong, but never panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemLayout {
    pub(super) index_offset: u64,
    pub(super) records: u64,
    pub(super) mask: u64,
    pub(super) buckets: u32,
    pub(super) lines: u32,
    pub(super) d_max: u32,
    pub(super) used_mask: u32,
    pub(super) spec: SlotSpec,
    pub(super) probe: Probe,
}

impl MemLayout {
    pub(super) const fn new(
        spec: SlotSpec,
        probe: Probe,
        buckets: u32,
        lines: u32,
        d_max: u32,
        records: u64,
        index_offset: u64,
    ) -> Self {
        let (mask, used_mask) = (spec.mask(), (1 << spec.slots) - 1);
        Self { index_offset, records, mask, buckets, lines, d_max, used_mask, spec, probe }
    }

    /// Reads and validates a part header.
    ///
    /// # Errors
    /// `Damaged` says which field contradicts the format.
    pub fn parse(header: &PartHeader) -> Result<Self, FormatError> {
        let damaged = |reason: String| Err(FormatError::damaged(WHAT, reason));
        let [kind, key, flags, codec] = field(header, 0);
        let [shape, probe, h_bytes, slots] = field(header, 24);
        let number = |offset| u32::from_le_bytes(field(header, offset));
        let (width, buckets, lines, d_max) = (number(4), number(28), number(32), number(36));
        let (records, data_len) = (header_records(header), header_data_len(header));
        let index_offset = u64::from_le_bytes(field(header, 40));
        if kind != KIND_MEM {
            return damaged(format!("the table kind is {kind}, not {KIND_MEM}"));
        }
        let key = match key {
            0 => KeyType::U64,
            1 => KeyType::Bytes,
            _ => return damaged(format!("unknown key type {key}")),
        };
        let probe = match probe {
            0 => Probe::Scan,
            1 => Probe::Sorted,
            _ => return damaged(format!("unknown probe {probe}")),
        };
        if flags & !FLAG_TTL != 0 || codec != 0 || header[48..HEADER_BYTES].iter().any(|&byte| byte != 0) {
            return damaged(format!("flags {flags:#04x}, codec {codec} or reserved bytes are not 0"));
        }
        // Keeps sums of a width and an offset far from 2^64, and an inline stride within a byte.
        if width == 0 || width > WIDTH_MAX && width != WIDTH_VARIES {
            return damaged(format!("a value width of {width}"));
        }
        let h_bytes_legal = match (probe, key) {
            (Probe::Sorted, _) => 8..=8,
            (Probe::Scan, KeyType::U64) => U64_KEY_H_BYTES_MIN..=8,
            (Probe::Scan, KeyType::Bytes) => BYTES_KEY_H_BYTES..=BYTES_KEY_H_BYTES,
        };
        // Keeps the shift of the mask below 64 and every slot within its line.
        if !h_bytes_legal.contains(&h_bytes) {
            return damaged(format!("slots store {h_bytes} bytes of the hash"));
        }
        let spec = SlotSpec::new(key, width, flags & FLAG_TTL != 0, h_bytes);
        if (shape, slots) != (spec.shape as u8, spec.slots) {
            return damaged(format!("shape {shape} with {slots} slots a line does not follow from key and value"));
        }
        // Keeps records · slots and records · dense record far from 2^64.
        if !(1..=RECORDS_MAX).contains(&records) {
            return damaged(format!("{records} records"));
        }
        match probe {
            Probe::Scan => {
                // Not 0 keeps the division in the exactness check defined. Every home has a line behind it, which
                // lookups read together with it.
                let lines_max = u64::from(buckets) + u64::from(d_max);
                if buckets == 0 || lines <= buckets || u64::from(lines) > lines_max {
                    return damaged(format!("{lines} lines for {buckets} buckets"));
                }
                if key == KeyType::U64 && !is_exact(buckets, d_max, h_bytes) {
                    return damaged(format!("{h_bytes} bytes of the hash do not make {buckets} buckets exact"));
                }
                if records > u64::from(lines) * u64::from(slots) {
                    return damaged(format!("{records} records do not fit {lines} lines"));
                }
            }
            Probe::Sorted => {
                if buckets != 0 || d_max != 0 || u64::from(lines) != records.div_ceil(u64::from(slots)) {
                    return damaged(format!("{lines} lines for {records} sorted records"));
                }
            }
        }
        let index_legal = match spec.shape {
            Shape::Inline => index_offset == 0,
            Shape::Dense => index_offset == (records * spec.dense_record()).next_multiple_of(LINE_BYTES as u64),
            // Keeps the end of the index far from 2^64.
            Shape::Heap => index_offset <= RECORD_BYTES_MAX && index_offset.is_multiple_of(LINE_BYTES as u64),
        };
        if !index_legal {
            return damaged(format!("the index cannot begin at byte {index_offset}"));
        }
        let layout = Self::new(spec, probe, buckets, lines, d_max, records, index_offset);
        if data_len != layout.data_len() {
            return damaged(format!("a data length of {data_len}, not {}", layout.data_len()));
        }
        Ok(layout)
    }

    /// The part header.
    #[must_use]
    pub fn header(&self) -> PartHeader {
        let spec = self.spec;
        let mut header = [0; HEADER_BYTES];
        header[0] = KIND_MEM;
        header[1] = spec.key as u8;
        header[2] = if spec.ttl { FLAG_TTL } else { 0 };
        header[4..8].copy_from_slice(&spec.width.to_le_bytes());
        header[8..16].copy_from_slice(&self.records.to_le_bytes());
        header[16..24].copy_from_slice(&self.data_len().to_le_bytes());
        header[24..28].copy_from_slice(&[spec.shape as u8, self.probe as u8, spec.h_bytes, spec.slots]);
        header[28..32].copy_from_slice(&self.buckets.to_le_bytes());
        header[32..36].copy_from_slice(&self.lines.to_le_bytes());
        header[36..40].copy_from_slice(&self.d_max.to_le_bytes());
        header[40..48].copy_from_slice(&self.index_offset.to_le_bytes());
        header
    }

    /// Checks that the part is one of a table with this schema.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn matches(&self, schema: &Schema) -> Result<(), FormatError> {
        let expected = SlotSpec::of_schema(schema, self.spec.h_bytes);
        if self.spec == expected {
            return Ok(());
        }
        let reason = format!(
            "it has {} keys, {} and {} expiry times",
            self.spec.key,
            self.value_width().map_or("values of any length".to_owned(), |width| format!("values of {width} bytes")),
            if self.spec.ttl { "with" } else { "no" },
        );
        Err(FormatError::Foreign { what: "memory part", reason })
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Length of the image in bytes.
    #[must_use]
    pub const fn data_len(&self) -> u64 {
        self.index_offset + self.lines as u64 * LINE_BYTES as u64
    }

    /// Where values are.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.spec.shape
    }

    /// How keys are looked up.
    #[must_use]
    pub const fn probe(&self) -> Probe {
        self.probe
    }

    /// Type of the keys.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.spec.key
    }

    /// Whether records carry expiry times.
    #[must_use]
    pub const fn has_expiry(&self) -> bool {
        self.spec.ttl
    }

    /// Bytes of every stored value; `None` if they vary.
    #[must_use]
    pub fn value_width(&self) -> Option<usize> {
        (self.spec.width != WIDTH_VARIES).then_some(self.spec.width as usize)
    }

    /// Number of index lines, those that only hold spilled records included.
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
        self.spec.slots
    }

    /// Bytes of `h` in a slot.
    #[must_use]
    pub const fn h_bytes(&self) -> u8 {
        self.spec.h_bytes
    }

    /// How the lines of the part are read; `None` if it is sorted.
    #[must_use]
    pub const fn line_format(&self) -> Option<LineFormat> {
        match self.probe {
            Probe::Scan => Some(LineFormat { spec: self.spec, d_max: self.d_max }),
            Probe::Sorted => None,
        }
    }

    /// How many lines from home a record may lie.
    #[must_use]
    pub const fn d_max(&self) -> u32 {
        self.d_max
    }

    /// Where the index lines begin.
    #[must_use]
    pub const fn index_offset(&self) -> u64 {
        self.index_offset
    }

    /// Byte offset in the image of the line that a lookup of `h` reads first, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn first_line(&self, h: u64) -> usize {
        let line = match self.probe {
            Probe::Scan => bucket(h, self.buckets),
            Probe::Sorted => self.lines / 2,
        };
        self.index_offset as usize + line as usize * LINE_BYTES
    }
}
