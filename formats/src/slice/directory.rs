//! The directory of a slice: where each part lies, and how many records it has.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    ChunkWalk, FLAG_PLACES, FLAG_TOMBSTONES, HEADER_BYTES, RecordLayout, SliceId, SliceRecords, SliceSpec, WHAT,
    check_magic, magic,
};
use crate::error::FormatError;
use crate::id::{PART_COUNT, Part, TableUid, TaskId};
use crate::record::Input;
use crate::schema::Schema;

/// Entries of a directory.
pub(super) const ENTRIES: usize = PART_COUNT as usize;
const ENTRY_BYTES: usize = 12;
const FOOTER_BYTES: usize = 80;
/// Bytes of the footer under its checksum.
const FOOTER_CHECKED: usize = 64;

/// Where a part ends, and its number of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) end: u64,
    pub(super) records: u32,
}

/// The directory of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceDirectory {
    id: SliceId,
    spec: SliceSpec,
    layout: RecordLayout,
    /// One for each part.
    entries: Vec<Entry>,
}

/// A part in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlicePart {
    pub(super) id: SliceId,
    pub(super) layout: RecordLayout,
    pub(super) part: Part,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) records: u32,
}

impl SlicePart {
    /// The part.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// Where its chunks are in the object.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Bytes of its chunks.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Number of its records.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// How its records are written.
    #[must_use]
    pub const fn layout(&self) -> RecordLayout {
        self.layout
    }

    /// Its records, from its chunks, which are [all its bytes](Self::range).
    #[must_use]
    pub fn read<'a>(&self, bytes: &'a [u8]) -> SliceRecords<'a> {
        SliceRecords::new(self, bytes)
    }

    /// A walk through its chunks, for a reader that does not hold all of them.
    #[must_use]
    pub const fn walk(&self) -> ChunkWalk {
        ChunkWalk::new(self)
    }
}

impl SliceDirectory {
    /// Directory and footer are this many bytes at the end of the object.
    pub const TAIL_BYTES: u64 = (ENTRIES * ENTRY_BYTES + FOOTER_BYTES) as u64;

    pub(super) fn new(id: SliceId, spec: SliceSpec, entries: Vec<Entry>) -> Self {
        let layout = RecordLayout::of(&spec);
        Self { id, spec, layout, entries }
    }

    /// Reads the directory from the last bytes of an object of `object_len` bytes: [`TAIL_BYTES`](Self::TAIL_BYTES) of
    /// them, or more.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Version`, `Checksum` or `Damaged`.
    pub fn parse(tail: &[u8], object_len: u64) -> Result<Self, FormatError> {
        let short = || FormatError::Truncated { what: WHAT, needed: Self::TAIL_BYTES, found: tail.len() as u64 };
        let (before, footer) = tail.split_last_chunk::<FOOTER_BYTES>().ok_or_else(short)?;
        let footer = Footer::parse(footer)?;
        let entries_at = before.len().checked_sub(ENTRIES * ENTRY_BYTES).ok_or_else(short)?;
        let entries = &before[entries_at..];
        if object_len.checked_sub(Self::TAIL_BYTES) != Some(footer.directory_start) {
            let reason = format!("its directory begins at byte {} of {object_len}", footer.directory_start);
            return Err(FormatError::damaged(WHAT, reason));
        }
        if xxh3_64(entries) != footer.directory_checksum {
            return Err(FormatError::Checksum { what: "slice directory".to_owned() });
        }
        let (mut input, mut read) = (Input::new(WHAT, entries), Vec::with_capacity(ENTRIES));
        let (mut start, mut records) = (HEADER_BYTES, 0u64);
        for part in 0..PART_COUNT {
            let entry = Entry { end: input.u64()?, records: input.u32()? };
            let is_empty = entry.end == start;
            if entry.end < start || entry.end > footer.directory_start || is_empty != (entry.records == 0) {
                let reason = format!("part {part} has {} records and ends at byte {}", entry.records, entry.end);
                return Err(FormatError::damaged(WHAT, reason));
            }
            start = entry.end;
            records += u64::from(entry.records);
            read.push(entry);
        }
        if start != footer.directory_start || records != footer.records {
            return Err(FormatError::damaged(WHAT, "its parts are not as many, or not as long, as its footer says"));
        }
        Ok(Self::new(footer.id, footer.spec, read))
    }

    /// Which slice it is.
    #[must_use]
    pub const fn id(&self) -> SliceId {
        self.id
    }

    /// What its records consist of.
    #[must_use]
    pub const fn spec(&self) -> &SliceSpec {
        &self.spec
    }

    /// Number of records of all parts.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records_in(0..PART_COUNT)
    }

    /// Number of records of a range of parts.
    #[must_use]
    pub fn records_in(&self, parts: Range<u16>) -> u64 {
        let range = usize::from(parts.start).min(ENTRIES)..usize::from(parts.end).min(ENTRIES);
        self.entries.get(range).unwrap_or_default().iter().map(|entry| u64::from(entry.records)).sum()
    }

    /// Where the chunks of a range of parts are in the object: one range, that of all behind the last part is empty.
    #[must_use]
    pub fn range(&self, parts: Range<u16>) -> Range<u64> {
        let start = self.end_before(parts.start);
        start..self.end_before(parts.end).max(start)
    }

    /// A part; of a part number that does not exist, one without records.
    #[must_use]
    pub fn part(&self, part: Part) -> SlicePart {
        let start = self.end_before(part.0);
        let entry = self.entries.get(usize::from(part.0)).copied().unwrap_or(Entry { end: start, records: 0 });
        SlicePart { id: self.id, layout: self.layout, part, start, end: entry.end, records: entry.records }
    }

    /// Where the parts before `part` end.
    fn end_before(&self, part: u16) -> u64 {
        match usize::from(part).min(ENTRIES).checked_sub(1) {
            Some(before) => self.entries.get(before).map_or(HEADER_BYTES, |entry| entry.end),
            None => HEADER_BYTES,
        }
    }

    /// Checks that this is the slice expected.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn check(&self, id: &SliceId, spec: &SliceSpec) -> Result<(), FormatError> {
        let foreign = |reason: String| Err(FormatError::Foreign { what: WHAT, reason });
        if self.id != *id {
            return foreign(format!("it is {:?}, not {id:?}", self.id));
        }
        if self.spec != *spec {
            return foreign(format!("its records are {:?}, not {spec:?}", self.spec));
        }
        Ok(())
    }

    pub(super) fn encode_entries(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRIES * ENTRY_BYTES);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.end.to_le_bytes());
            bytes.extend_from_slice(&entry.records.to_le_bytes());
        }
        bytes
    }
}

/// What the end of a slice says.
pub(super) struct Footer {
    pub(super) id: SliceId,
    pub(super) spec: SliceSpec,
    pub(super) records: u64,
    pub(super) directory_start: u64,
    pub(super) directory_checksum: u64,
}

impl Footer {
    fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, FormatError> {
        let mut input = Input::new(WHAT, bytes);
        let (checked, _) = bytes.split_at(FOOTER_CHECKED);
        let (uid, task) = (TableUid(input.u64()?), TaskId(input.u64()?));
        let (plan, number, piece) = (input.u32()?, input.u32()?, input.u32()?);
        let [flags, reserved @ ..] = input.array::<4>()?;
        let schema = input.array()?;
        let (records, directory_start, directory_checksum) = (input.u64()?, input.u64()?, input.u64()?);
        let checksum = input.u64()?;
        check_magic(input.array()?)?;
        if checksum != xxh3_64(checked) {
            return Err(FormatError::Checksum { what: "slice footer".to_owned() });
        }
        if flags & !(FLAG_TOMBSTONES | FLAG_PLACES) != 0 || reserved != [0; 3] {
            return Err(FormatError::damaged(WHAT, format!("unknown flags {flags:#04x}, or bytes that are not 0")));
        }
        let schema = Schema::from_bytes(schema)?;
        let (tombstones, places) = (flags & FLAG_TOMBSTONES != 0, flags & FLAG_PLACES != 0);
        let (id, spec) = (SliceId { uid, task, plan, number, piece }, SliceSpec { schema, tombstones, places });
        Ok(Self { id, spec, records, directory_start, directory_checksum })
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&self.id.uid.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.task.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.id.plan.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.id.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.id.piece.to_le_bytes());
        bytes[28] = self.spec.flags();
        bytes[32..40].copy_from_slice(&self.spec.schema.to_bytes());
        bytes[40..48].copy_from_slice(&self.records.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.directory_start.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.directory_checksum.to_le_bytes());
        let checksum = xxh3_64(&bytes[..FOOTER_CHECKED]);
        bytes[64..72].copy_from_slice(&checksum.to_le_bytes());
        bytes[72..].copy_from_slice(&magic());
        bytes
    }
}
