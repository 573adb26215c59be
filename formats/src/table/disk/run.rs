//! Reading a run: check its bytes, find a record, list all.

use crate::checksum::{self, Origin};
use crate::error::FormatError;
use crate::hash::{hash_bytes, hash_u64};
use crate::id::Part;
use crate::record::{Key, RecordRef};
use crate::table::Found;
use crate::table::disk::{BLOCK_BYTES, HEAD_BYTES, RUN_BLOCKS_MAX, RecordSpec, TAG_BYTES};

/// Tags compared at once.
const LANES: usize = 16;

/// A run whose bytes are those that were written there.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    bytes: &'a [u8],
    tags: &'a [[u8; TAG_BYTES]],
    offsets: Offsets<'a>,
}

/// Where the records of a run begin.
#[derive(Clone, Copy, Debug)]
enum Offsets<'a> {
    Narrow(&'a [[u8; 2]]),
    Wide(&'a [[u8; 4]]),
}

impl<'a> Run<'a> {
    /// How many blocks the run has that begins with these bytes, at least 16. The bytes are not checked: what they say is
    /// to be bounded by what can be read, and is true if the run verifies.
    #[must_use]
    pub fn blocks_announced(bytes: &[u8]) -> Option<u32> {
        let blocks = u32::from_le_bytes(*bytes.get(8..12)?.first_chunk()?);
        (1..=RUN_BLOCKS_MAX).contains(&blocks).then_some(blocks)
    }

    /// Checks the bytes of one read: those of one whole run of `part`, which begins at block `first_block`. `origin` comes
    /// from the layer that refers to the part.
    ///
    /// # Errors
    /// `Truncated` or `Checksum` if the bytes are not those written; `Damaged` if what was written contradicts the format.
    pub fn verify(bytes: &'a [u8], origin: Origin, part: Part, first_block: u32) -> Result<Self, FormatError> {
        let damaged =
            |reason: String| FormatError::damaged("block", format!("block {first_block} of part {part}: {reason}"));
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            let needed = bytes.len().max(1).next_multiple_of(BLOCK_BYTES) as u64;
            return Err(FormatError::Truncated { what: "block", needed, found: bytes.len() as u64 });
        }
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| damaged("it is cut off".to_owned()))?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let sum = u64::from(number(0)) | u64::from(number(4)) << 32;
        if sum != checksum::run(origin, part, first_block, &bytes[8..]) {
            return Err(FormatError::Checksum { what: format!("block {first_block} of part {part}") });
        }
        let (blocks, records) = (number(8), number(12));
        if blocks as usize != bytes.len() / BLOCK_BYTES || blocks > RUN_BLOCKS_MAX {
            return Err(damaged(format!("it is one of {blocks} blocks, {} were read", bytes.len() / BLOCK_BYTES)));
        }
        Self::of(bytes, blocks, records)
            .ok_or_else(|| damaged(format!("{records} records in a run of {blocks} blocks")))
    }

    /// The run in these bytes, if its directory lies within them.
    fn of(bytes: &'a [u8], blocks: u32, records: u32) -> Option<Self> {
        let records = records as usize;
        // Every record has two bytes of tag: below this bound, no product overflows.
        if records == 0 || records > bytes.len() / TAG_BYTES {
            return None;
        }
        let (tags, behind) = bytes.get(HEAD_BYTES..)?.split_at_checked(records * TAG_BYTES)?;
        let offsets = if blocks == 1 {
            Offsets::Narrow(behind.get(..records * 2)?.as_chunks().0)
        } else {
            Offsets::Wide(behind.get(..records * 4)?.as_chunks().0)
        };
        Some(Self { bytes, tags: tags.as_chunks().0, offsets })
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.tags.len() as u32
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        (self.bytes.len() / BLOCK_BYTES) as u32
    }

    /// The record of a key with hash `h`. The value is part of the bytes verified.
    #[inline]
    #[must_use]
    pub fn find(&self, spec: &RecordSpec, h: u64, key: Key<'_>) -> Option<Found<'a>> {
        if let Offsets::Wide(_) = self.offsets
            && self.tags.len() > LANES
        {
            return self.find_among_many(spec, h, key);
        }
        let wanted = (h as u16).to_le_bytes();
        let (lanes, rest) = self.tags.as_chunks::<LANES>();
        for (at, lane) in lanes.iter().enumerate() {
            let hits = hits(lane, wanted);
            if hits != 0
                && let Some(found) = self.among(at * LANES, hits, spec, key)
            {
                return Some(found);
            }
        }
        let hits = rest.iter().enumerate().fold(0, |hits, (at, tag)| hits | u32::from(*tag == wanted) << at);
        self.among(lanes.len() * LANES, hits, spec, key)
    }

    /// Among the records `first` + the bits of `hits`, the one with `key`.
    #[inline]
    fn among(&self, first: usize, mut hits: u32, spec: &RecordSpec, key: Key<'_>) -> Option<Found<'a>> {
        while hits != 0 {
            let at = first + hits.trailing_zeros() as usize;
            if let Ok((stored, found, _)) = spec.read(self.bytes.get(self.offset(at)?..)?)
                && stored == key
            {
                return Some(found);
            }
            hits &= hits - 1;
        }
        None
    }

    /// A binary search: in a run of several blocks whose keys collide, tags may all be equal.
    #[cold]
    fn find_among_many(&self, spec: &RecordSpec, h: u64, key: Key<'_>) -> Option<Found<'a>> {
        let record = |at: usize| spec.read(self.bytes.get(self.offset(at)?..)?).ok();
        let (mut low, mut high) = (0, self.tags.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let stored = record(middle)?.0;
            if (stored.hash(), stored) < (h, key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let (stored, found, _) = record(low)?;
        (stored == key).then_some(found)
    }

    fn offset(&self, at: usize) -> Option<usize> {
        match self.offsets {
            Offsets::Narrow(offsets) => offsets.get(at).map(|offset| usize::from(u16::from_le_bytes(*offset))),
            Offsets::Wide(offsets) => offsets.get(at).map(|offset| u32::from_le_bytes(*offset) as usize),
        }
    }

    /// All records, in order. Ends with an error if they contradict each other or the run's directory.
    #[must_use]
    pub fn iter(&self, spec: RecordSpec) -> RunRecords<'a> {
        let offset_bytes = if self.blocks() == 1 { 2 } else { 4 };
        let position = HEAD_BYTES + self.tags.len() * (TAG_BYTES + offset_bytes);
        RunRecords { run: *self, spec, at: 0, position, failed: false }
    }
}

/// The lanes that are `wanted`, as bits: a loop without branches, which compilers turn into vector instructions.
#[inline]
fn hits(lane: &[[u8; TAG_BYTES]; LANES], wanted: [u8; TAG_BYTES]) -> u32 {
    let mut hits = 0;
    for (at, tag) in lane.iter().enumerate() {
        hits |= u32::from(*tag == wanted) << at;
    }
    hits
}

/// The records of a run.
#[derive(Clone, Debug)]
pub struct RunRecords<'a> {
    run: Run<'a>,
    spec: RecordSpec,
    at: usize,
    /// Where the next record must begin.
    position: usize,
    failed: bool,
}

impl<'a> RunRecords<'a> {
    fn step(&mut self) -> Result<Option<RecordRef<'a>>, FormatError> {
        let at = self.at;
        let damaged = |reason: &str| FormatError::damaged("block", format!("record {at} of its run {reason}"));
        let bytes = self.run.bytes;
        let Some(tag) = self.run.tags.get(at) else {
            let padding = bytes.get(self.position..).unwrap_or_default();
            return if padding.iter().all(|&byte| byte == 0) { Ok(None) } else { Err(damaged("is one too many")) };
        };
        if self.run.offset(at) != Some(self.position) {
            return Err(damaged("is not where its offset says"));
        }
        let (key, found, len) = self.spec.read(bytes.get(self.position..).unwrap_or_default())?;
        let h = match key {
            Key::U64(key) => hash_u64(key),
            Key::Bytes(key) => hash_bytes(key),
        };
        if (h as u16).to_le_bytes() != *tag {
            return Err(damaged("has another tag than its key"));
        }
        self.at += 1;
        self.position += len;
        Ok(Some(RecordRef { h, key, expiry: found.expiry, value: Some(found.value) }))
    }
}

impl<'a> Iterator for RunRecords<'a> {
    type Item = Result<RecordRef<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}
