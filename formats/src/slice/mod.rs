//! Slices: what a slice job leaves for part jobs. One object holds a sorted run of the records of one task, grouped by
//! part, each key once.
//!
//! ```text
//!   header      8 bytes: magic "FKVSLC", format version u16
//!   parts       part 0, part 1 … part 2399, one directly behind the other; a part is chunks, one directly behind the
//!               other, none if it has no records
//!   directory   2400 entries of 12 bytes: where the part ends in the object u64 │ its records u32
//!   footer      80 bytes
//!
//!   chunk       0  checksum of the rest of the chunk u64
//!               8  length of its records u32
//!              12  number of its records u32, at least 1
//!              16  records, whole ones, in ascending order of (h, key)
//!
//!   record      [kind u8] │ key │ [place u32] │ [expiry u32] │ [value]
//!
//!   kind        if records may be tombstones: 0 a value, 1 a tombstone, which has neither expiry nor value
//!   key         of type u64: its hash u64, from which it follows; of type bytes: length, bytes
//!   place       if the slice keeps places: the row's place in the input of its job
//!   expiry      if the table declares TTL; 0 is never
//!   value       of one width: its bytes; otherwise length, bytes
//!
//!   footer      0  table uid u64
//!               8  task u64
//!              16  plan u32 │ number u32
//!              24  piece u32 │ flags u8 (bit 0: tombstones, bit 1: places) │ 0 × 3
//!              32  schema, 8 bytes
//!              40  records u64
//!              48  where the directory begins u64
//!              56  checksum of the directory u64   xxh3_64
//!              64  checksum of bytes 0 to 64 u64   xxh3_64
//!              72  magic "FKVSLC", format version u16
//! ```
//!
//! A chunk has at most 64 KiB, its head included, or one record. Its checksum is seeded with everything that tells its
//! place: table, task, plan, slice, piece, part, and its number within the part. So any range of parts that was read
//! verifies by itself, and a reader needs to hold no more than one chunk of a part at once.
//!
//! Lengths are LEB128 of at most 5 bytes, in their shortest form; numbers are little-endian.

mod directory;
mod read;
mod record;
mod write;

use crate::error::FormatError;
use crate::id::{TableUid, TaskId};
use crate::record::{KEY_BYTES_MAX, RecordRef, VALUE_BYTES_MAX};
use crate::schema::Schema;

pub use directory::{SliceDirectory, SlicePart};
pub use read::{Chunk, ChunkRecords, ChunkWalk, SliceRecords, Walked};
pub use record::RecordLayout;
pub use write::{EncodedPart, SliceSummary, SliceWriter, encode_part};

pub(crate) const MAGIC: [u8; 6] = *b"FKVSLC";
const FORMAT: u16 = 1;
const WHAT: &str = "slice";
/// Bytes of the header.
const HEADER_BYTES: u64 = 8;
/// Bytes of a chunk before its records.
pub const CHUNK_HEAD_BYTES: usize = 16;
/// Longest record: kind, key, place, expiry, value, with the lengths of key and value.
const RECORD_BYTES_MAX: usize = 1 + 2 + KEY_BYTES_MAX + 4 + 4 + 5 + VALUE_BYTES_MAX;

/// Which slice an object is. Everything in it counts only as this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId {
    /// The table.
    pub uid: TableUid,
    /// The task.
    pub task: TaskId,
    /// Which plan of the task: 0, or the number of its retry.
    pub plan: u32,
    /// Number of the slice in the plan: slices are numbered in the order of the input.
    pub number: u32,
    /// Which of the objects of that slice, where memory did not suffice for one.
    pub piece: u32,
}

/// What the records of a slice consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSpec {
    /// The table's schema.
    pub schema: Schema,
    /// Whether records may be tombstones.
    pub tombstones: bool,
    /// Whether each record keeps the place of its row in the input of the slice.
    pub places: bool,
}

/// A record of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceRecord<'a> {
    /// The record; without a value it is a tombstone.
    pub record: RecordRef<'a>,
    /// Its row's place in the input of the slice; 0 if the slice keeps no places.
    pub place: u32,
}

const FLAG_TOMBSTONES: u8 = 1;
const FLAG_PLACES: u8 = 2;

impl SliceSpec {
    const fn flags(&self) -> u8 {
        let tombstones = if self.tombstones { FLAG_TOMBSTONES } else { 0 };
        let places = if self.places { FLAG_PLACES } else { 0 };
        tombstones | places
    }
}

fn magic() -> [u8; 8] {
    let [low, high] = FORMAT.to_le_bytes();
    let [a, b, c, d, e, f] = MAGIC;
    [a, b, c, d, e, f, low, high]
}

/// Checks the magic number and format version that slices begin and end with.
pub(crate) fn check_magic(bytes: [u8; 8]) -> Result<(), FormatError> {
    let [magic @ .., low, high] = bytes;
    if magic != MAGIC {
        return Err(FormatError::Magic { what: WHAT });
    }
    let found = u16::from_le_bytes([low, high]);
    if found != FORMAT {
        return Err(FormatError::Version { what: WHAT, found: u32::from(found), known: u32::from(FORMAT) });
    }
    Ok(())
}
