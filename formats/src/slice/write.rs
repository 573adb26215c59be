//! Writing slices: record by record, or part by part as they were encoded elsewhere.

use std::io::Write;

use xxhash_rust::xxh3::xxh3_64;

use super::directory::{ENTRIES, Entry, Footer};
use super::{CHUNK_HEAD_BYTES, HEADER_BYTES, RecordLayout, SliceDirectory, SliceId, SliceRecord, SliceSpec, magic};
use crate::checksum::{self, CHUNK_BYTES};
use crate::error::BuildError;
use crate::id::{PART_COUNT, Part};
use crate::record::Key;

/// What a finished slice consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSummary {
    /// Length of the object in bytes.
    pub len: u64,
    /// Its directory.
    pub directory: SliceDirectory,
}

/// The chunks of one part of a slice, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPart {
    id: SliceId,
    part: Part,
    layout: RecordLayout,
    records: u32,
    bytes: Vec<u8>,
}

impl EncodedPart {
    /// How many records there are.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Their chunks.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Encodes the records of one part, in ascending order of `(h, key)`.
///
/// # Errors
/// `OutOfOrder`, `WrongPart`, `Unfit`, `Limit`.
pub fn encode_part<'a>(
    id: SliceId,
    spec: &SliceSpec,
    part: Part,
    records: impl IntoIterator<Item = SliceRecord<'a>>,
) -> Result<EncodedPart, BuildError> {
    let layout = RecordLayout::of(spec);
    let mut bytes = Vec::new();
    let mut encoder = PartEncoder::new(id, layout, part);
    for record in records {
        encoder.push(&record, &mut bytes)?;
    }
    encoder.flush(&mut bytes)?;
    Ok(EncodedPart { id, part, layout, records: encoder.records, bytes })
}

/// Writes the chunks of one part; holds one chunk.
#[derive(Debug)]
struct PartEncoder {
    id: SliceId,
    layout: RecordLayout,
    part: Part,
    /// The chunk being filled, from its head on; empty between chunks.
    chunk: Vec<u8>,
    chunk_records: u32,
    chunks: u32,
    records: u32,
    /// Bytes of the chunks written.
    written: u64,
    last_h: u64,
    /// The key of the record before, where several keys may share a hash.
    last_key: Vec<u8>,
}

impl PartEncoder {
    const fn new(id: SliceId, layout: RecordLayout, part: Part) -> Self {
        Self {
            id,
            layout,
            part,
            chunk: Vec::new(),
            chunk_records: 0,
            chunks: 0,
            records: 0,
            written: 0,
            last_h: 0,
            last_key: Vec::new(),
        }
    }

    fn push(&mut self, record: &SliceRecord<'_>, out: &mut impl Write) -> Result<(), BuildError> {
        self.check(record)?;
        let len = self.layout.len(record);
        if self.chunk.len() + len > CHUNK_BYTES && self.chunk_records > 0 {
            self.flush(out)?;
        }
        if self.chunk.is_empty() {
            self.chunk.extend_from_slice(&[0; CHUNK_HEAD_BYTES]);
        }
        self.layout.put(record, &mut self.chunk);
        self.chunk_records += 1;
        self.records += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush(out)?;
        }
        Ok(())
    }

    fn check(&mut self, record: &SliceRecord<'_>) -> Result<(), BuildError> {
        let index = u64::from(self.records);
        if let Some(reason) = self.layout.unfit(record) {
            return Err(BuildError::Unfit { index, reason });
        }
        let (h, found) = (record.record.h, record.record.part());
        if found != self.part {
            return Err(BuildError::WrongPart { index, part: self.part.0, found: found.0 });
        }
        debug_assert_eq!(record.record.key.hash(), h, "a record carries its key's hash");
        let key: &[u8] = match record.record.key {
            Key::U64(_) => &[],
            Key::Bytes(key) => key,
        };
        if self.records > 0 && (self.last_h, self.last_key.as_slice()) >= (h, key) {
            return Err(BuildError::OutOfOrder { index });
        }
        if self.records == u32::MAX {
            return Err(BuildError::Limit(format!("a slice holds fewer than 2^32 records of part {}", self.part)));
        }
        self.last_h = h;
        if !key.is_empty() || !self.last_key.is_empty() {
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        Ok(())
    }

    /// Writes the chunk, if there is one.
    fn flush(&mut self, out: &mut impl Write) -> Result<(), BuildError> {
        if self.chunk_records == 0 {
            return Ok(());
        }
        let len = u32::try_from(self.chunk.len() - CHUNK_HEAD_BYTES).expect("a record is shorter than 2^32 bytes");
        self.chunk[8..12].copy_from_slice(&len.to_le_bytes());
        self.chunk[12..16].copy_from_slice(&self.chunk_records.to_le_bytes());
        let sum = checksum::slice_chunk(&self.id, self.part, self.chunks, &self.chunk[8..]);
        self.chunk[..8].copy_from_slice(&sum.to_le_bytes());
        out.write_all(&self.chunk)?;
        self.written += self.chunk.len() as u64;
        self.chunks = self.chunks.checked_add(1).expect("fewer chunks than records");
        self.chunk_records = 0;
        self.chunk.clear();
        if self.chunk.capacity() > 4 * CHUNK_BYTES {
            // What a long record took is given back.
            self.chunk = Vec::new();
        }
        Ok(())
    }
}

/// Writes a slice. Holds the directory, and one chunk.
#[derive(Debug)]
pub struct SliceWriter<W> {
    out: W,
    id: SliceId,
    spec: SliceSpec,
    layout: RecordLayout,
    entries: Vec<Entry>,
    written: u64,
    records: u64,
    /// The part whose records are being pushed.
    open: Option<PartEncoder>,
}

impl<W: Write> SliceWriter<W> {
    /// Begins a slice.
    ///
    /// # Errors
    /// `Limit` if the schema makes no sense; `Io`.
    pub fn new(out: W, id: SliceId, spec: &SliceSpec) -> Result<Self, BuildError> {
        spec.schema.validate().map_err(BuildError::Limit)?;
        let layout = RecordLayout::of(spec);
        let (entries, spec) = (Vec::with_capacity(ENTRIES), spec.clone());
        let mut writer = Self { out, id, spec, layout, entries, written: HEADER_BYTES, records: 0, open: None };
        writer.out.write_all(&magic())?;
        Ok(writer)
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn bytes_written(&self) -> u64 {
        self.written
    }

    /// What the slice is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Appends a record, which is above all records before it in the order of `(h, key)`. After any error the output is
    /// of no use.
    ///
    /// # Errors
    /// `PartOrder`, `OutOfOrder`, `Unfit`, `Limit`; `Io`.
    pub fn push(&mut self, record: &SliceRecord<'_>) -> Result<(), BuildError> {
        let part = record.record.part();
        if self.open.as_ref().is_none_or(|open| open.part != part) {
            self.end_parts_before(part)?;
            self.open = Some(PartEncoder::new(self.id, self.layout, part));
        }
        let open = self.open.as_mut().expect("it was opened just now");
        open.push(record, &mut self.out)
    }

    /// Appends a part that was encoded by itself, and is above all parts before it.
    ///
    /// # Errors
    /// `PartOrder`; `Limit` if it is a part of another slice; `Io`.
    pub fn append(&mut self, encoded: &EncodedPart) -> Result<(), BuildError> {
        if (encoded.id, encoded.layout) != (self.id, self.layout) {
            return Err(BuildError::Limit(format!("part {} was encoded for another slice", encoded.part)));
        }
        self.end_parts_before(encoded.part)?;
        self.out.write_all(&encoded.bytes)?;
        self.end_part(encoded.records, encoded.bytes.len() as u64);
        Ok(())
    }

    /// Ends the open part, and all parts up to `part`, which has to be above it.
    fn end_parts_before(&mut self, part: Part) -> Result<(), BuildError> {
        self.close()?;
        if part.0 >= PART_COUNT || usize::from(part.0) < self.entries.len() {
            return Err(BuildError::PartOrder { part: part.0, reason: "parts come in ascending order" });
        }
        while self.entries.len() < usize::from(part.0) {
            self.end_part(0, 0);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BuildError> {
        if let Some(mut open) = self.open.take() {
            open.flush(&mut self.out)?;
            self.end_part(open.records, open.written);
        }
        Ok(())
    }

    fn end_part(&mut self, records: u32, len: u64) {
        self.written += len;
        self.records += u64::from(records);
        self.entries.push(Entry { end: self.written, records });
    }

    /// Writes directory and footer; gives what was written, and the output.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<(SliceSummary, W), BuildError> {
        self.close()?;
        while self.entries.len() < ENTRIES {
            self.end_part(0, 0);
        }
        let directory = SliceDirectory::new(self.id, self.spec, self.entries);
        let entries = directory.encode_entries();
        let footer = Footer {
            id: self.id,
            spec: directory.spec().clone(),
            records: self.records,
            directory_start: self.written,
            directory_checksum: xxh3_64(&entries),
        };
        self.out.write_all(&entries)?;
        let footer = footer.encode();
        self.out.write_all(&footer)?;
        self.out.flush()?;
        let len = self.written + (entries.len() + footer.len()) as u64;
        Ok((SliceSummary { len, directory }, self.out))
    }
}
