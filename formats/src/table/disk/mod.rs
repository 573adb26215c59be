//! Blocks: where the records of idx and blk parts are, on SSD.
//!
//! ```text
//!   part data   │ block section: n × 4096 bytes │ resident section: what a server holds in memory │
//!
//!   run         one block, or several that are read as one:
//!                 0  checksum u64 of the rest of the run     xxh3_64, seeded with the run's place
//!                 8  blocks of the run u32
//!                12  records u32
//!                16  tags        low 16 bits of h, u16 each
//!                    offsets     of the records from the run's beginning: u16 each, u32 in a run of several blocks
//!                    records     one directly behind the other, in ascending order of (h, key)
//!                    0… to the end of the run
//!
//!   record      [expiry u32] │ key                 │ [value length] │ value
//!                              u64 key: 8 bytes
//!                              bytes key: length, bytes            lengths are LEB128, see crate::record
//! ```
//!
//! **Runs.** Records are put into blocks in their order, each into the block of the record before if it fits. A record
//! that does not fit any block gets a run of as many blocks as it needs to itself. Some records must lie together so
//! that one read has them all: those with one `h` (idx), those that share the top 32 bits of `f` (blk). Such a *unit* is
//! placed as if it were one record. A run has at most 16,384 blocks; a unit that needs more is refused.
//!
//! **Checksum.** One for the whole run, whatever its length: it is always read as a whole, its records are then where
//! they were written, and a value of several blocks can be passed on without being put together. The seed names table,
//! origin version, part and the number of the first block; see [`crate::checksum::run`].
//!
//! **Reading.** The resident section tells which run may have a key, and how long that is: a lookup is one read. Then
//! [`Run::verify`] checks the bytes, and [`Run::find`] compares tags, and the whole key where they are equal.

use std::ops::Range;

use crate::error::FormatError;
use crate::record::{Input, KEY_BYTES_MAX, Key, RecordRef, VALUE_BYTES_MAX, put_blob};
use crate::schema::{KeyType, Schema, ValueType};
use crate::table::{
    Found, HEADER_BYTES, PartHeader, WIDTH_VARIES, field, header_data_len, header_records, kind_number,
};

mod records;
mod run;
mod write;

pub use records::BlockRecords;
pub use run::{Run, RunRecords};
pub(in crate::table) use write::BlockWriter;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Most blocks of a run: 64 MiB, room for the longest record and for several of them with one hash.
pub const RUN_BLOCKS_MAX: u32 = 1 << 14;
/// Bytes of a run before its tags.
pub(in crate::table) const HEAD_BYTES: usize = 16;
/// Bytes of the tag of a record.
const TAG_BYTES: usize = 2;
/// Where part headers of idx and blk parts have their number of blocks.
pub(in crate::table) const BLOCKS_AT: usize = 28;
/// Widest value of fixed width: the largest vector there is.
const WIDTH_MAX: u32 = 4 * ValueType::DIMENSION_MAX as u32;
const FLAG_TTL: u8 = 1;

/// One read in the block section of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRead {
    /// Number of the first block.
    pub first: u32,
    /// Number of blocks, 1 to [`RUN_BLOCKS_MAX`].
    pub blocks: u32,
}

impl BlockRead {
    /// The bytes to read, counted from the beginning of the part's data.
    #[inline]
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        let start = self.first as u64 * BLOCK_BYTES as u64;
        start..start + self.len() as u64
    }

    /// How many bytes to read, a multiple of [`BLOCK_BYTES`].
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no read is empty")]
    pub const fn len(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// The read, if it lies within a section of `blocks` blocks and is not too long.
    #[inline]
    pub(in crate::table) fn within(self, blocks: u32) -> Option<Self> {
        let legal = (1..=RUN_BLOCKS_MAX).contains(&self.blocks) && self.first < blocks;
        (legal && self.blocks <= blocks - self.first).then_some(self)
    }
}

/// How a record is written in a block: follows from the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpec {
    pub(in crate::table) key: KeyType,
    pub(in crate::table) ttl: bool,
    /// Bytes of a stored value, or [`WIDTH_VARIES`].
    pub(in crate::table) width: u32,
}

impl RecordSpec {
    /// That of a table with this schema.
    #[must_use]
    pub fn of_schema(schema: &Schema) -> Self {
        let width = schema.stored_width().map_or(WIDTH_VARIES, |width| u32::try_from(width).unwrap_or(WIDTH_VARIES));
        Self { key: schema.key, ttl: schema.ttl, width }
    }

    /// Type of the keys.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key
    }

    /// Whether records carry expiry times.
    #[must_use]
    pub const fn has_expiry(&self) -> bool {
        self.ttl
    }

    /// Bytes of every stored value; `None` if they vary.
    #[must_use]
    pub fn value_width(&self) -> Option<usize> {
        (self.width != WIDTH_VARIES).then_some(self.width as usize)
    }

    /// Bytes of a record in a block, its place in the run's directory aside.
    #[must_use]
    pub fn record_len(&self, record: &RecordRef<'_>) -> usize {
        // A length takes a byte for every 7 bits.
        let blob = |len: usize| len + (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize;
        let key = match record.key {
            Key::U64(_) => 8,
            Key::Bytes(key) => blob(key.len()),
        };
        let value = record.value.map_or(0, <[u8]>::len);
        let value = if self.width == WIDTH_VARIES { blob(value) } else { value };
        key + value + if self.ttl { 4 } else { 0 }
    }

    /// Appends a record that a builder has checked.
    fn put(&self, record: &RecordRef<'_>, value: &[u8], out: &mut Vec<u8>) {
        if self.ttl {
            out.extend_from_slice(&record.expiry.to_le_bytes());
        }
        match record.key {
            Key::U64(key) => out.extend_from_slice(&key.to_le_bytes()),
            Key::Bytes(key) => put_blob(out, key),
        }
        if self.width == WIDTH_VARIES {
            put_blob(out, value);
        } else {
            out.extend_from_slice(value);
        }
    }

    /// Reads the record at the front of `bytes`; gives its length too.
    #[inline]
    fn read<'a>(&self, bytes: &'a [u8]) -> Result<(Key<'a>, Found<'a>, usize), FormatError> {
        let mut input = Input::new("record in a block", bytes);
        let expiry = if self.ttl { input.u32()? } else { 0 };
        let key = match self.key {
            KeyType::U64 => Key::U64(input.u64()?),
            KeyType::Bytes => Key::Bytes(input.blob(KEY_BYTES_MAX)?),
        };
        let value =
            if self.width == WIDTH_VARIES { input.blob(VALUE_BYTES_MAX)? } else { input.take(self.width as usize)? };
        Ok((key, Found { value, expiry, tombstone: false }, input.position()))
    }

    /// Checks that a part with records like these is one of a table with this schema.
    pub(in crate::table) fn matches(&self, schema: &Schema, what: &'static str) -> Result<(), FormatError> {
        if *self == Self::of_schema(schema) {
            return Ok(());
        }
        let values =
            self.value_width().map_or("values of any length".to_owned(), |width| format!("values of {width} bytes"));
        let expiry = if self.ttl { "with" } else { "no" };
        let reason = format!("it has {} keys, {values} and {expiry} expiry times", self.key);
        Err(FormatError::Foreign { what, reason })
    }
}

/// What the headers of idx and blk parts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::table) struct DiskHeader {
    pub(in crate::table) kind: crate::schema::TableKind,
    pub(in crate::table) spec: RecordSpec,
    pub(in crate::table) records: u64,
    pub(in crate::table) blocks: u32,
    pub(in crate::table) data_len: u64,
}

/// Most records of a part.
pub(in crate::table) const RECORDS_MAX: u64 = u32::MAX as u64;

impl DiskHeader {
    /// Reads the fields in common. The length of the block section is then at most the data's.
    pub(in crate::table) fn parse(
        header: &PartHeader,
        kind: crate::schema::TableKind,
        what: &'static str,
    ) -> Result<Self, FormatError> {
        let damaged = |reason: String| Err(FormatError::damaged(what, reason));
        let [found, key, flags, codec] = field(header, 0);
        if found != kind_number(kind) {
            return damaged(format!("the table kind is {found}, not {}", kind_number(kind)));
        }
        let key = match key {
            0 => KeyType::U64,
            1 => KeyType::Bytes,
            _ => return damaged(format!("unknown key type {key}")),
        };
        if flags & !FLAG_TTL != 0 || codec != 0 {
            return damaged(format!("flags {flags:#04x} or codec {codec} are unknown"));
        }
        let width = u32::from_le_bytes(field(header, 4));
        if width == 0 || width > WIDTH_MAX && width != WIDTH_VARIES {
            return damaged(format!("a value width of {width}"));
        }
        let (records, data_len) = (header_records(header), header_data_len(header));
        let blocks = u32::from_le_bytes(field(header, BLOCKS_AT));
        // Keeps every sum below far from 2^64.
        if !(1..=RECORDS_MAX).contains(&records) || blocks == 0 {
            return damaged(format!("{records} records in {blocks} blocks"));
        }
        if u64::from(blocks) * BLOCK_BYTES as u64 > data_len {
            return damaged(format!("{blocks} blocks in {data_len} bytes"));
        }
        let spec = RecordSpec { key, ttl: flags & FLAG_TTL != 0, width };
        Ok(Self { kind, spec, records, blocks, data_len })
    }

    /// A header with the fields in common; the rest is the kind's own.
    pub(in crate::table) fn encode(&self) -> PartHeader {
        let mut header = [0; HEADER_BYTES];
        header[0] = kind_number(self.kind);
        header[1] = self.spec.key as u8;
        header[2] = if self.spec.ttl { FLAG_TTL } else { 0 };
        header[4..8].copy_from_slice(&self.spec.width.to_le_bytes());
        header[8..16].copy_from_slice(&self.records.to_le_bytes());
        header[16..24].copy_from_slice(&self.data_len.to_le_bytes());
        header[BLOCKS_AT..BLOCKS_AT + 4].copy_from_slice(&self.blocks.to_le_bytes());
        header
    }
}

const _: () = assert!(KeyType::U64 as u8 == 0 && KeyType::Bytes as u8 == 1);
