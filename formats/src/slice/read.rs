//! Reading the records of a part of a slice: chunk by chunk, each verified before its records are given.

use super::{CHUNK_HEAD_BYTES, RECORD_BYTES_MAX, RecordLayout, SliceId, SlicePart, SliceRecord, WHAT};
use crate::checksum::{self, CHUNK_BYTES};
use crate::error::FormatError;
use crate::id::Part;
use crate::record::Key;

/// A walk through the chunks of a part. It borrows nothing: between two steps the bytes read so far may be let go.
#[derive(Clone, Debug)]
pub struct ChunkWalk {
    id: SliceId,
    layout: RecordLayout,
    part: Part,
    /// Number of the next chunk.
    chunk: u32,
    bytes_left: u64,
    records_left: u32,
}

/// A step of a [`ChunkWalk`].
#[derive(Clone, Debug)]
pub enum Walked<'a> {
    /// The next chunk; the one after it begins directly behind it.
    Chunk(Chunk<'a>),
    /// This many bytes are needed from where the chunk begins.
    Needs(usize),
    /// There are no more.
    End,
}

/// A chunk that was verified.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    layout: RecordLayout,
    part: Part,
    records: u32,
    /// The records.
    bytes: &'a [u8],
}

impl ChunkWalk {
    pub(super) const fn new(part: &SlicePart) -> Self {
        Self {
            id: part.id,
            layout: part.layout,
            part: part.part,
            chunk: 0,
            bytes_left: part.len(),
            records_left: part.records,
        }
    }

    /// Bytes of the chunks to come.
    #[must_use]
    pub const fn bytes_left(&self) -> u64 {
        self.bytes_left
    }

    /// Records of the chunks to come.
    #[must_use]
    pub const fn records_left(&self) -> u32 {
        self.records_left
    }

    /// How the records are written.
    #[must_use]
    pub const fn layout(&self) -> RecordLayout {
        self.layout
    }

    /// Takes the next chunk, which begins where `bytes` begin. Nothing moves unless there is one.
    ///
    /// # Errors
    /// `Checksum` or `Damaged` name the part and the chunk.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Walked<'a>, FormatError> {
        let (part, number) = (self.part, self.chunk);
        let damaged = |reason: String| FormatError::damaged(WHAT, format!("chunk {number} of part {part}: {reason}"));
        if self.bytes_left == 0 {
            return match self.records_left {
                0 => Ok(Walked::End),
                left => Err(damaged(format!("it is missing, and {left} records with it"))),
            };
        }
        if self.bytes_left <= CHUNK_HEAD_BYTES as u64 {
            return Err(damaged("there are bytes that are no chunk".to_owned()));
        }
        let Some(head) = bytes.first_chunk::<CHUNK_HEAD_BYTES>() else { return Ok(Walked::Needs(CHUNK_HEAD_BYTES)) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, records) = (word(8) as usize, word(12));
        // Bounds what a reader has to hold before the checksum is known to be right.
        if len == 0 || len > RECORD_BYTES_MAX || (records != 1 && len > CHUNK_BYTES - CHUNK_HEAD_BYTES) {
            return Err(damaged(format!("{records} records cannot have {len} bytes")));
        }
        let whole = CHUNK_HEAD_BYTES + len;
        if records == 0 || records > self.records_left || whole as u64 > self.bytes_left {
            return Err(damaged(format!("{records} records of {len} bytes are not there")));
        }
        let Some(chunk) = bytes.get(..whole) else { return Ok(Walked::Needs(whole)) };
        let stored = u64::from_le_bytes(std::array::from_fn(|at| head[at]));
        if stored != checksum::slice_chunk(&self.id, self.part, self.chunk, &chunk[8..]) {
            return Err(FormatError::Checksum { what: format!("chunk {number} of part {part} of the slice") });
        }
        self.chunk = self.chunk.wrapping_add(1);
        self.bytes_left -= whole as u64;
        self.records_left -= records;
        Ok(Walked::Chunk(Chunk { layout: self.layout, part, records, bytes: &chunk[CHUNK_HEAD_BYTES..] }))
    }
}

impl<'a> Chunk<'a> {
    /// Bytes of the chunk, its head included.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no chunk is empty")]
    pub const fn len(&self) -> usize {
        CHUNK_HEAD_BYTES + self.bytes.len()
    }

    /// Number of its records.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Its records.
    #[must_use]
    pub const fn iter(&self) -> ChunkRecords<'a> {
        let Self { layout, part, records, bytes } = *self;
        ChunkRecords { layout, part, left: records, bytes, at: 0, last: None }
    }
}

impl<'a> IntoIterator for Chunk<'a> {
    type Item = Result<SliceRecord<'a>, FormatError>;
    type IntoIter = ChunkRecords<'a>;

    fn into_iter(self) -> ChunkRecords<'a> {
        self.iter()
    }
}

/// The records of a chunk, in strictly ascending order of `(h, key)`. Ends with an error if the chunk contradicts itself.
#[derive(Clone, Debug)]
pub struct ChunkRecords<'a> {
    layout: RecordLayout,
    part: Part,
    left: u32,
    bytes: &'a [u8],
    at: usize,
    last: Option<(u64, Key<'a>)>,
}

impl ChunkRecords<'_> {
    /// Where the next record begins, counted from the first record of the chunk.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for ChunkRecords<'a> {
    type Item = Result<SliceRecord<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.at == self.bytes.len() {
            return None;
        }
        let next = self.step();
        if next.is_err() {
            (self.left, self.at) = (0, self.bytes.len());
        }
        Some(next)
    }
}

impl<'a> ChunkRecords<'a> {
    #[inline]
    fn step(&mut self) -> Result<SliceRecord<'a>, FormatError> {
        if self.left == 0 {
            return Err(self.damaged("bytes are left behind its records"));
        }
        let (record, len) = self.layout.decode(self.bytes.get(self.at..).unwrap_or_default())?;
        let order = record.record.order();
        if self.last.is_some_and(|last| last >= order) {
            return Err(self.damaged("a record is not above the one before it"));
        }
        if record.record.part() != self.part {
            return Err(self.damaged("a key does not belong there"));
        }
        self.last = Some(order);
        self.left -= 1;
        self.at += len;
        Ok(record)
    }

    #[cold]
    fn damaged(&self, reason: &str) -> FormatError {
        FormatError::damaged(WHAT, format!("a chunk of part {}: {reason}", self.part))
    }
}

/// All records of a part, in strictly ascending order of `(h, key)`. Ends with an error if the part contradicts itself.
#[derive(Clone, Debug)]
pub struct SliceRecords<'a> {
    walk: ChunkWalk,
    /// The chunks to come.
    bytes: &'a [u8],
    open: Option<ChunkRecords<'a>>,
    last: Option<(u64, Key<'a>)>,
    failed: bool,
}

impl<'a> SliceRecords<'a> {
    pub(super) fn new(part: &SlicePart, bytes: &'a [u8]) -> Self {
        Self { walk: part.walk(), bytes, open: None, last: None, failed: false }
    }

    /// Ends the walk through a chunk, and begins that through the next; false at the end.
    fn advance(&mut self) -> Result<bool, FormatError> {
        let found = self.bytes.len() as u64;
        if found != self.walk.bytes_left() {
            return Err(FormatError::Truncated { what: "part of the slice", needed: self.walk.bytes_left(), found });
        }
        self.last = self.open.take().and_then(|open| open.last);
        match self.walk.step(self.bytes)? {
            Walked::End => Ok(false),
            Walked::Needs(needed) => {
                Err(FormatError::Truncated { what: "part of the slice", needed: needed as u64, found })
            }
            Walked::Chunk(chunk) => {
                self.bytes = self.bytes.get(chunk.len()..).unwrap_or_default();
                // The first record has to be above the last one of the chunk before.
                self.open = Some(ChunkRecords { last: self.last, ..chunk.iter() });
                Ok(true)
            }
        }
    }
}

impl<'a> Iterator for SliceRecords<'a> {
    type Item = Result<SliceRecord<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            if let Some(next) = self.open.as_mut().and_then(Iterator::next) {
                self.failed = next.is_err();
                return Some(next);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
