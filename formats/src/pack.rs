//! Packs: one object that holds a range of finished parts of one table and origin.
//!
//! ```text
//!   header      64 bytes: magic "FKVPCK", format version u16, 0…
//!   parts       ascending, 0… between them; each from a multiple of 64 on, those of idx and blk tables of 4096
//!   directory   from a multiple of 64 on:
//!                 entries     80 bytes each, ascending by part
//!                 checksums   u64 per chunk of 64 KiB, part after part; of idx and blk parts
//!                             those of the block section, then those of the resident section
//!   footer      64 bytes
//!
//!   entry       0  part u16 │ 0 × 6
//!               8  offset of the part's data u64
//!              16  part header, 64 bytes (crate::table)
//!
//!   footer      0  directory length u64
//!               8  table uid u64
//!              16  origin version u64
//!              24  schema, 8 bytes
//!              32  parts u32 │ load u16 (thousandths) │ codec u8 │ filter u8
//!              40  checksum of the directory u64   xxh3_64
//!              48  checksum of bytes 0 to 48 u64   xxh3_64
//!              56  magic "FKVPCK", format version u16
//! ```
//!
//! A reader starts at the end: the footer tells how long the directory is, and one ranged read gets both.

use std::io::{self, Write};
use std::ops::{DerefMut, Range};

use xxhash_rust::xxh3::xxh3_64;

use crate::checksum::{self, CHUNK_BYTES, Chunker, Origin, chunk_count, part_digest};
use crate::error::{BuildError, FormatError};
use crate::id::{Digest, PART_COUNT, Part, TableUid, Version};
use crate::record::{Input, RecordRef};
use crate::schema::{Schema, TableKind};
use crate::table::disk::BLOCK_BYTES;
use crate::table::mem::MemLayout;
use crate::table::{
    HEADER_BYTES, PartHeader, PartLayout, Profile, build_sections, header_block_len, header_data_len, header_records,
    kind_number,
};

pub(crate) const MAGIC: [u8; 6] = *b"FKVPCK";
/// Directory and footer, and the data of memory parts, begin at multiples of this.
const ALIGN: u64 = 64;
/// Bytes of the footer, the least tail a reader needs.
pub const FOOTER_BYTES: usize = 64;
const ENTRY_BYTES: u64 = 16 + HEADER_BYTES as u64;
const WHAT: &str = "pack";

/// Part data of a table of this kind begins at multiples of this: of a block where there are blocks.
#[must_use]
pub const fn part_alignment(kind: TableKind) -> u64 {
    match kind {
        TableKind::Mem => ALIGN,
        TableKind::Idx | TableKind::Blk => BLOCK_BYTES as u64,
    }
}

/// A part in a pack, as its directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackPart {
    /// The part.
    pub part: Part,
    /// Where its data begins in the object.
    pub offset: u64,
    /// Its header.
    pub header: PartHeader,
    /// Its chunk checksums.
    pub chunks: Vec<u64>,
    /// SHA-256 of header and chunk checksums.
    pub digest: Digest,
}

impl PackPart {
    /// Length of its data in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        header_data_len(&self.header)
    }

    /// Whether it has no data; parts in packs always have some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its number of records.
    #[must_use]
    pub fn records(&self) -> u64 {
        header_records(&self.header)
    }

    /// Where its data is in the object.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len()
    }

    /// Length of the block section that its data begins with; 0 of a memory part.
    #[must_use]
    pub fn block_len(&self) -> u64 {
        header_block_len(&self.header)
    }

    /// Where its resident section is in the object: what a server holds in memory, of a memory part all its data.
    #[must_use]
    pub fn resident_range(&self) -> Range<u64> {
        self.offset + self.block_len()..self.offset + self.len()
    }

    /// The chunks of its block section; behind them, up to the last, are those of the resident section.
    #[must_use]
    pub fn block_chunks(&self) -> u32 {
        chunk_count(self.block_len()) as u32
    }

    /// Where a chunk is in the part's data; `None` if there is none of that number. Chunks have `CHUNK_BYTES` bytes, the last
    /// of the block section and the last of all may have fewer.
    #[must_use]
    pub fn chunk_range(&self, index: u32) -> Option<Range<u64>> {
        let (section, number) = match index.checked_sub(self.block_chunks()) {
            None => (0..self.block_len(), index),
            Some(number) => (self.block_len()..self.len(), number),
        };
        let start = section.start + u64::from(number) * CHUNK_BYTES as u64;
        (start < section.end).then(|| start..section.end.min(start + CHUNK_BYTES as u64))
    }

    /// Its layout.
    ///
    /// # Errors
    /// `Damaged` if the header contradicts the format.
    pub fn layout(&self) -> Result<PartLayout, FormatError> {
        PartLayout::parse(&self.header)
    }

    /// Its layout, as a part of a memory table.
    ///
    /// # Errors
    /// `Damaged` if the header contradicts the format, or is that of another kind of table.
    pub fn mem_layout(&self) -> Result<MemLayout, FormatError> {
        MemLayout::parse(&self.header)
    }

    /// Checks one chunk of its data, the bytes of [`chunk_range`](Self::chunk_range). `origin` comes from the layer that
    /// refers to the part.
    ///
    /// # Errors
    /// `Checksum` names the part and the chunk.
    pub fn verify_chunk(&self, origin: Origin, index: u32, bytes: &[u8]) -> Result<(), FormatError> {
        if self.chunks.get(index as usize) == Some(&checksum::chunk(origin, self.part, index, bytes)) {
            return Ok(());
        }
        Err(FormatError::Checksum { what: format!("chunk {index} of part {}", self.part) })
    }
}

/// The directory of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDirectory {
    /// Table and origin version of all parts.
    pub origin: Origin,
    /// The table's schema.
    pub schema: Schema,
    /// How the parts were built.
    pub profile: Profile,
    /// The parts, ascending.
    pub parts: Vec<PackPart>,
}

/// What came of reading a directory from the tail of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryRead {
    /// The directory.
    Ready(PackDirectory),
    /// The tail was too short: this many of the object's last bytes are needed.
    NeedTail(u64),
}

/// What the end of a pack says.
struct Footer {
    directory_len: u64,
    origin: Origin,
    schema: Schema,
    parts: u32,
    profile: Profile,
    directory_checksum: u64,
}

impl PackDirectory {
    /// A tail of this many bytes holds the directory of most packs.
    pub const TAIL_GUESS: u64 = 64 << 10;

    /// Reads the directory from the last bytes of an object of `object_len` bytes.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Version`, `Checksum` or `Damaged`.
    pub fn parse(tail: &[u8], object_len: u64) -> Result<DirectoryRead, FormatError> {
        let tail_len = tail.len() as u64;
        let Some((before, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
            return Err(FormatError::Truncated { what: WHAT, needed: FOOTER_BYTES as u64, found: tail_len });
        };
        let footer = Footer::parse(footer)?;
        // The header and the footer take 64 bytes each: then no sum or difference below leaves 0..object_len.
        let directory_start = object_len
            .checked_sub(FOOTER_BYTES as u64)
            .and_then(|end| end.checked_sub(footer.directory_len))
            .filter(|&start| start >= ALIGN && tail_len <= object_len)
            .ok_or_else(|| {
                FormatError::damaged(WHAT, format!("a directory of {} bytes in {object_len}", footer.directory_len))
            })?;
        let needed = object_len - directory_start;
        if tail_len < needed {
            return Ok(DirectoryRead::NeedTail(needed));
        }
        let directory = &before[(tail_len - needed) as usize..];
        if xxh3_64(directory) != footer.directory_checksum {
            return Err(FormatError::Checksum { what: "pack directory".to_owned() });
        }
        let parts = parse_entries(directory, &footer, directory_start)?;
        let Footer { origin, schema, profile, .. } = footer;
        Ok(DirectoryRead::Ready(Self { origin, schema, profile, parts }))
    }

    /// The entry of `part`, if the pack holds it.
    #[must_use]
    pub fn part(&self, part: Part) -> Option<&PackPart> {
        let index = self.parts.binary_search_by_key(&part, |entry| entry.part).ok()?;
        self.parts.get(index)
    }

    /// Checks the bytes of a whole pack that no reader needs: its header, and the zeros between the parts.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Version`, or `Damaged` names the place.
    pub fn verify_gaps(&self, object: &[u8]) -> Result<(), FormatError> {
        let truncated = |needed| FormatError::Truncated { what: WHAT, needed, found: object.len() as u64 };
        check_magic(*object.first_chunk().ok_or_else(|| truncated(8))?)?;
        let mut gap = 8;
        // The directory begins at the next multiple behind the last part: where that is, the parts tell.
        let end = self.parts.last().map_or(ALIGN, |last| last.range().end.next_multiple_of(ALIGN));
        let parts = self.parts.iter().map(PackPart::range).map(|data| (data.start, data.end));
        for (begin, behind) in parts.chain([(end, end)]) {
            let range = gap as usize..usize::try_from(begin).unwrap_or(usize::MAX);
            let bytes = object.get(range).ok_or_else(|| truncated(begin))?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Err(FormatError::damaged(WHAT, format!("the bytes {gap} to {begin} are not 0")));
            }
            gap = behind;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.parts {
            bytes.extend_from_slice(&entry.part.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&entry.offset.to_le_bytes());
            bytes.extend_from_slice(&entry.header);
        }
        for chunk in self.parts.iter().flat_map(|entry| &entry.chunks) {
            bytes.extend_from_slice(&chunk.to_le_bytes());
        }
        bytes
    }
}

fn parse_entries(directory: &[u8], footer: &Footer, directory_start: u64) -> Result<Vec<PackPart>, FormatError> {
    let damaged = |reason: String| Err(FormatError::damaged(WHAT, reason));
    let (parts, kind) = (footer.parts, footer.schema.kind);
    // At most 2400 entries: the product is small, and the split checks it against the bytes that are there.
    if parts > u32::from(PART_COUNT) {
        return damaged(format!("{parts} parts"));
    }
    let entries_len = (u64::from(parts) * ENTRY_BYTES) as usize;
    let Some((entries, checksums)) = directory.split_at_checked(entries_len) else {
        return damaged(format!("{parts} entries in a directory of {} bytes", directory.len()));
    };
    let mut entries = Input::new(WHAT, entries);
    let mut checksums = Input::new(WHAT, checksums);
    let mut read: Vec<PackPart> = Vec::new();
    let mut end = ALIGN;
    for _ in 0..parts {
        let begin = end.next_multiple_of(part_alignment(kind));
        let part = Part(entries.u16()?);
        let reserved: [u8; 6] = entries.array()?;
        let offset = entries.u64()?;
        let header: PartHeader = entries.array()?;
        let ascends = read.last().is_none_or(|before| before.part < part);
        if !ascends || part.0 >= PART_COUNT || reserved != [0; 6] {
            return damaged(format!("part {part} is out of order or its entry is malformed"));
        }
        let (len, block_len) = (header_data_len(&header), header_block_len(&header));
        // Tells where chunks are; the rest of the header is checked when it is used.
        if header[0] != kind_number(kind) || block_len > len {
            return damaged(format!("part {part} is not one of a table of kind {kind}"));
        }
        // Parts lie one behind the other: exact places leave nothing to overlap. The end of each is checked against
        // the directory's beginning, so that rounding it up cannot overflow.
        let part_end = offset.checked_add(len).filter(|&part_end| part_end <= directory_start);
        let (Some(part_end), true) = (part_end, offset == begin && len > 0) else {
            return damaged(format!("part {part} cannot have {len} bytes at byte {offset}"));
        };
        end = part_end.next_multiple_of(ALIGN);
        // As many bytes of checksums as are taken here must be there: damage cannot make this allocate more.
        let bytes = usize::try_from((chunk_count(block_len) + chunk_count(len - block_len)) * 8).unwrap_or(usize::MAX);
        let chunks: Vec<u64> =
            checksums.take(bytes)?.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        let digest = part_digest(&header, &chunks);
        read.push(PackPart { part, offset, header, chunks, digest });
    }
    if end != directory_start || !checksums.rest().is_empty() {
        return damaged("the directory does not follow the parts, or is too long".to_owned());
    }
    Ok(read)
}

/// Checks the magic number and format version that packs begin and end with.
pub(crate) fn check_magic(bytes: [u8; 8]) -> Result<(), FormatError> {
    let [magic @ .., low, high] = bytes;
    if magic != MAGIC {
        return Err(FormatError::Magic { what: WHAT });
    }
    let found = u16::from_le_bytes([low, high]);
    if found != Profile::CURRENT.format {
        let known = u32::from(Profile::CURRENT.format);
        return Err(FormatError::Version { what: WHAT, found: u32::from(found), known });
    }
    Ok(())
}

fn magic() -> [u8; 8] {
    let [low, high] = Profile::CURRENT.format.to_le_bytes();
    let [a, b, c, d, e, f] = MAGIC;
    [a, b, c, d, e, f, low, high]
}

impl Footer {
    fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, FormatError> {
        let mut input = Input::new(WHAT, bytes);
        let (checked, _) = bytes.split_at(48);
        let directory_len = input.u64()?;
        let origin = Origin { uid: TableUid(input.u64()?), version: Version(input.u64()?) };
        let schema: [u8; 8] = input.array()?;
        let parts = input.u32()?;
        let load_permille = input.u16()?;
        let [codec, filter] = input.array()?;
        let directory_checksum = input.u64()?;
        let checksum = input.u64()?;
        check_magic(input.array()?)?;
        if checksum != xxh3_64(checked) {
            return Err(FormatError::Checksum { what: "pack footer".to_owned() });
        }
        let profile = Profile { format: Profile::CURRENT.format, load_permille, codec, filter };
        profile.check()?;
        Ok(Self { directory_len, origin, schema: Schema::from_bytes(schema)?, parts, profile, directory_checksum })
    }

    fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&self.directory_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.origin.uid.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.origin.version.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.schema.to_bytes());
        bytes[32..36].copy_from_slice(&self.parts.to_le_bytes());
        bytes[36..38].copy_from_slice(&self.profile.load_permille.to_le_bytes());
        bytes[38] = self.profile.codec;
        bytes[39] = self.profile.filter;
        bytes[40..48].copy_from_slice(&self.directory_checksum.to_le_bytes());
        let checksum = xxh3_64(&bytes[..48]);
        bytes[48..56].copy_from_slice(&checksum.to_le_bytes());
        bytes[56..].copy_from_slice(&magic());
        bytes
    }
}

/// What a finished pack consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSummary {
    /// Length of the object in bytes.
    pub len: u64,
    /// How many of its last bytes hold directory and footer.
    pub tail_len: u64,
    /// Its directory.
    pub directory: PackDirectory,
}

/// Writes a pack, part by part.
#[derive(Debug)]
pub struct PackWriter<W> {
    out: W,
    directory: PackDirectory,
    written: u64,
    /// The part begun and not finished.
    open: Option<Part>,
}

impl<W: Write> PackWriter<W> {
    /// Begins a pack of parts of the table `schema` describes, all of one origin.
    ///
    /// # Errors
    /// `Limit` if the schema or the profile is not one this build can write; `Io`.
    pub fn new(out: W, origin: Origin, schema: &Schema, profile: Profile) -> Result<Self, BuildError> {
        schema.validate().map_err(BuildError::Limit)?;
        profile.check().map_err(|error| BuildError::Limit(error.to_string()))?;
        let directory = PackDirectory { origin, schema: schema.clone(), profile, parts: Vec::new() };
        let mut writer = Self { out, directory, written: 0, open: None };
        let mut header = [0; ALIGN as usize];
        header[..8].copy_from_slice(&magic());
        writer.write(&header)?;
        Ok(writer)
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn bytes_written(&self) -> u64 {
        self.written
    }

    /// What the pack is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Begins `part`, which is above all parts before it. Its data goes to the writer returned, which must be
    /// [finished](PartWriter::finish).
    ///
    /// # Errors
    /// `PartOrder`; `Io`.
    pub fn start_part(&mut self, part: Part) -> Result<PartWriter<&mut Self>, BuildError> {
        self.open_part(part)?;
        Ok(PartWriter::new(self, part))
    }

    /// [`start_part`](Self::start_part), for a part that is written over a longer time: the pack moves into the writer, and
    /// comes back when that is [finished](PartWriter::finish).
    ///
    /// # Errors
    /// As [`start_part`](Self::start_part).
    pub fn into_part(mut self: Box<Self>, part: Part) -> Result<PartWriter<Box<Self>>, BuildError> {
        self.open_part(part)?;
        Ok(PartWriter::new(self, part))
    }

    fn open_part(&mut self, part: Part) -> Result<(), BuildError> {
        let refuse = |reason| Err(BuildError::PartOrder { part: part.0, reason });
        if self.open.is_some() {
            return refuse("the part before it was not finished");
        }
        if part.0 >= PART_COUNT {
            return refuse("there are only 2400 parts");
        }
        if self.directory.parts.last().is_some_and(|last| last.part >= part) {
            return refuse("parts come in ascending order");
        }
        self.align(part_alignment(self.directory.schema.kind))?;
        self.open = Some(part);
        Ok(())
    }

    /// Builds a part of these records, in ascending order of `(h, key)`, as the table's kind wants it; none leave the part
    /// out.
    ///
    /// # Errors
    /// As [`start_part`](Self::start_part), [`build_part`](crate::table::build_part) and [`PartWriter::finish`].
    pub fn add_part(&mut self, part: Part, records: &[RecordRef<'_>]) -> Result<(), BuildError> {
        if records.is_empty() {
            return Ok(());
        }
        let (origin, schema, profile) = (self.directory.origin, self.directory.schema.clone(), self.directory.profile);
        let writer = self.start_part(part)?;
        let (hashes, records) = (records.iter().map(|record| record.h), records.iter().copied());
        let (layout, resident, mut writer) = build_sections(&schema, profile, origin, part, hashes, records, writer)?;
        if layout.block_len() > 0 {
            writer.end_blocks();
        }
        writer.write_all(&resident)?;
        writer.finish(&layout).map(|_| ())
    }

    /// Adds a part whose data has been built.
    ///
    /// # Errors
    /// As [`start_part`](Self::start_part) and [`PartWriter::finish`].
    pub fn put_part(&mut self, part: Part, layout: &PartLayout, data: &[u8]) -> Result<(), BuildError> {
        let mut writer = self.start_part(part)?;
        let (blocks, resident) =
            data.split_at(usize::try_from(layout.block_len()).unwrap_or(data.len()).min(data.len()));
        writer.write_all(blocks)?;
        writer.end_blocks();
        writer.write_all(resident)?;
        writer.finish(layout).map(|_| ())
    }

    /// Writes directory and footer; gives what was written, and the output.
    ///
    /// # Errors
    /// `PartOrder` if a part was not finished; `Io`.
    pub fn finish(mut self) -> Result<(PackSummary, W), BuildError> {
        if let Some(part) = self.open {
            return Err(BuildError::PartOrder { part: part.0, reason: "it was not finished" });
        }
        self.align(ALIGN)?;
        let directory_start = self.written;
        let directory = self.directory.encode();
        let footer = Footer {
            directory_len: directory.len() as u64,
            origin: self.directory.origin,
            schema: self.directory.schema.clone(),
            parts: u32::try_from(self.directory.parts.len()).expect("at most 2400 parts"),
            profile: self.directory.profile,
            directory_checksum: xxh3_64(&directory),
        };
        self.write(&directory)?;
        self.write(&footer.encode())?;
        self.out.flush()?;
        let summary =
            PackSummary { len: self.written, tail_len: self.written - directory_start, directory: self.directory };
        Ok((summary, self.out))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn align(&mut self, alignment: u64) -> io::Result<()> {
        let padding = self.written.next_multiple_of(alignment) - self.written;
        self.write(&[0; BLOCK_BYTES][..padding as usize])
    }
}

/// Takes the data of one part of a pack, to which `P` leads.
#[derive(Debug)]
pub struct PartWriter<P> {
    pack: P,
    part: Part,
    offset: u64,
    chunker: Chunker,
}

impl<W: Write, P: DerefMut<Target = PackWriter<W>>> PartWriter<P> {
    fn new(pack: P, part: Part) -> Self {
        let (chunker, offset) = (Chunker::new(pack.directory.origin, part), pack.written);
        Self { pack, part, offset, chunker }
    }

    /// The pack.
    pub fn pack_mut(&mut self) -> &mut PackWriter<W> {
        &mut self.pack
    }

    /// Ends the block section of an idx or blk part: what is written from here on is resident. Chunks are cut anew.
    pub fn end_blocks(&mut self) {
        self.chunker.end_section();
    }

    /// Ends the part, whose data has this layout; gives the pack back.
    ///
    /// # Errors
    /// `Limit` if the layout is not that of the pack's table or of as many bytes as were written, in either section.
    pub fn finish(mut self, layout: &PartLayout) -> Result<P, BuildError> {
        layout.matches(&self.pack.directory.schema).map_err(|error| BuildError::Limit(error.to_string()))?;
        let blocks = self.chunker.ended();
        if blocks != layout.block_len() {
            let reason = format!("part {} has {blocks} bytes of blocks, its layout {}", self.part, layout.block_len());
            return Err(BuildError::Limit(reason));
        }
        let (chunks, len) = self.chunker.finish();
        if len != layout.data_len() {
            let reason = format!("part {} has {len} bytes, its layout {}", self.part, layout.data_len());
            return Err(BuildError::Limit(reason));
        }
        let header = layout.header();
        let digest = part_digest(&header, &chunks);
        self.pack.directory.parts.push(PackPart { part: self.part, offset: self.offset, header, chunks, digest });
        self.pack.open = None;
        Ok(self.pack)
    }
}

impl<W: Write, P: DerefMut<Target = PackWriter<W>>> Write for PartWriter<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Passed on in chunks at most, so that a short write does not repeat much.
        let written = self.pack.out.write(&bytes[..bytes.len().min(CHUNK_BYTES)])?;
        self.chunker.update(&bytes[..written]);
        self.pack.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pack.out.flush()
    }
}
