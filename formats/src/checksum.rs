//! Checksums: one per chunk of 64 KiB of a part, and one digest per part.
//!
//! ```text
//!   seed    xxh3_64( uid u64 │ origin version u64 │ part u32 │ chunk u32 )
//!   chunk   xxh3_64( bytes of the chunk, seed )
//!   run     xxh3_64( bytes of the run from byte 8 on,
//!                    xxh3_64( "fkvblock" │ uid u64 │ origin version u64 │ part u32 │ first block u32 ))
//!   slice   xxh3_64( bytes of the chunk from byte 8 on,
//!                    xxh3_64( "fkvslice" │ uid u64 │ task u64 │ plan u32 │ number u32 │ piece u32 │ part u32 │ chunk u32 ))
//!   part    SHA-256( part header, 64 bytes │ chunk checksums, u64 each )
//! ```
//!
//! The data of an idx or blk part has two sections, blocks and what is resident: chunks are cut from each by itself, and
//! numbered through. Blocks are read one at a time, so each run of them carries a checksum of its own.
//!
//! The seed ties a chunk to its place, so that a chunk of another table, version, part or position never passes.
//! The digest covers the part header too: equal digests mean equal geometry and equal data, hence equal answers.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::FormatError;
use crate::id::{Digest, Part, TableUid, Version};
use crate::pack::PackPart;
use crate::slice::SliceId;
use crate::table::PartHeader;

/// Bytes under one chunk checksum; the last chunk of a part may be shorter.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Where stored bytes come from: the table, and the version that first had this content. Release, fold and checkpoint
/// keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The table.
    pub uid: TableUid,
    /// The version that first had the content.
    pub version: Version,
}

/// How many chunks a section of `len` bytes has.
#[must_use]
pub const fn chunk_count(len: u64) -> u64 {
    len.div_ceil(CHUNK_BYTES as u64)
}

/// The checksum of the bytes of one chunk.
#[must_use]
pub fn chunk(origin: Origin, part: Part, index: u32, bytes: &[u8]) -> u64 {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&origin.uid.0.to_le_bytes());
    place[8..16].copy_from_slice(&origin.version.0.to_le_bytes());
    place[16..20].copy_from_slice(&u32::from(part.0).to_le_bytes());
    place[20..].copy_from_slice(&index.to_le_bytes());
    xxh3_64_with_seed(bytes, xxh3_64(&place))
}

/// The checksum of a run of blocks: of its bytes behind the checksum itself. Its seed takes in a word of its own, so that
/// no chunk passes for a run.
#[inline]
#[must_use]
pub fn run(origin: Origin, part: Part, first_block: u32, bytes: &[u8]) -> u64 {
    let mut place = [0; 32];
    place[..8].copy_from_slice(b"fkvblock");
    place[8..16].copy_from_slice(&origin.uid.0.to_le_bytes());
    place[16..24].copy_from_slice(&origin.version.0.to_le_bytes());
    place[24..28].copy_from_slice(&u32::from(part.0).to_le_bytes());
    place[28..].copy_from_slice(&first_block.to_le_bytes());
    xxh3_64_with_seed(bytes, xxh3_64(&place))
}

/// The checksum of a chunk of a slice: of its bytes behind the checksum itself.
#[inline]
#[must_use]
pub fn slice_chunk(id: &SliceId, part: Part, index: u32, bytes: &[u8]) -> u64 {
    let mut place = [0; 44];
    place[..8].copy_from_slice(b"fkvslice");
    place[8..16].copy_from_slice(&id.uid.0.to_le_bytes());
    place[16..24].copy_from_slice(&id.task.0.to_le_bytes());
    place[24..28].copy_from_slice(&id.plan.to_le_bytes());
    place[28..32].copy_from_slice(&id.number.to_le_bytes());
    place[32..36].copy_from_slice(&id.piece.to_le_bytes());
    place[36..40].copy_from_slice(&u32::from(part.0).to_le_bytes());
    place[40..].copy_from_slice(&index.to_le_bytes());
    xxh3_64_with_seed(bytes, xxh3_64(&place))
}

/// The digest of a part.
#[must_use]
pub fn part_digest(header: &PartHeader, chunks: &[u64]) -> Digest {
    let mut sha = Sha256::new();
    sha.update(header);
    for chunk in chunks {
        sha.update(chunk.to_le_bytes());
    }
    Digest(sha.finalize().into())
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Checks the data of a part against its directory entry. `origin` comes from the layer that refers to the part,
/// never from the pack or the version served.
///
/// # Errors
/// `Truncated` if the length differs, `Checksum` for the first chunk that does not match.
pub fn verify_part(data: &[u8], part: &PackPart, origin: Origin) -> Result<(), FormatError> {
    if data.len() as u64 != part.len() {
        return Err(FormatError::Truncated { what: "part", needed: part.len(), found: data.len() as u64 });
    }
    // The section's length was checked when the directory was read.
    let (blocks, resident) = data.split_at(usize::try_from(part.block_len()).unwrap_or(data.len()).min(data.len()));
    for (index, bytes) in (0..).zip(blocks.chunks(CHUNK_BYTES).chain(resident.chunks(CHUNK_BYTES))) {
        part.verify_chunk(origin, index, bytes)?;
    }
    Ok(())
}

/// A writer that passes bytes on and computes their SHA-256 and length.
#[derive(Debug)]
pub struct Sha256Writer<W> {
    out: W,
    sha: Sha256,
    len: u64,
}

impl<W: Write> Sha256Writer<W> {
    /// Passes bytes on to `out`.
    pub fn new(out: W) -> Self {
        Self { out, sha: Sha256::new(), len: 0 }
    }

    /// What bytes are passed on to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// The digest and number of the bytes written, and what they were passed on to.
    pub fn finish(self) -> (Digest, u64, W) {
        (Digest(self.sha.finalize().into()), self.len, self.out)
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sha.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Computes chunk checksums of bytes that arrive in pieces of any size.
#[derive(Debug)]
pub(crate) struct Chunker {
    origin: Origin,
    part: Part,
    pending: Vec<u8>,
    chunks: Vec<u64>,
    len: u64,
    /// Bytes of the sections that have ended.
    ended: u64,
}

impl Chunker {
    pub(crate) fn new(origin: Origin, part: Part) -> Self {
        Self { origin, part, pending: Vec::new(), chunks: Vec::new(), len: 0, ended: 0 }
    }

    /// Ends a section: the next chunk begins with the next byte.
    pub(crate) fn end_section(&mut self) {
        let last = std::mem::take(&mut self.pending);
        if !last.is_empty() {
            self.close(&last);
        }
        self.ended = self.len;
    }

    /// Bytes of the sections that have ended.
    pub(crate) const fn ended(&self) -> u64 {
        self.ended
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.pending.is_empty() && bytes.len() >= CHUNK_BYTES {
                let (whole, rest) = bytes.split_at(CHUNK_BYTES);
                self.close(whole);
                bytes = rest;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == CHUNK_BYTES {
                let whole = std::mem::take(&mut self.pending);
                self.close(&whole);
                self.pending = whole;
                self.pending.clear();
            }
        }
    }

    fn close(&mut self, bytes: &[u8]) {
        let index = u32::try_from(self.chunks.len()).expect("a part is shorter than 2^48 bytes");
        self.chunks.push(chunk(self.origin, self.part, index, bytes));
    }

    /// The chunk checksums and the number of bytes.
    pub(crate) fn finish(mut self) -> (Vec<u64>, u64) {
        self.end_section();
        (self.chunks, self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin = Origin { uid: TableUid(7), version: Version(3) };

    #[test]
    fn a_chunk_from_another_place_does_not_pass() {
        let bytes = [5; 100];
        let sum = chunk(ORIGIN, Part(9), 1, &bytes);
        assert_ne!(sum, chunk(Origin { uid: TableUid(8), ..ORIGIN }, Part(9), 1, &bytes));
        assert_ne!(sum, chunk(Origin { version: Version(4), ..ORIGIN }, Part(9), 1, &bytes));
        assert_ne!(sum, chunk(ORIGIN, Part(10), 1, &bytes));
        assert_ne!(sum, chunk(ORIGIN, Part(9), 2, &bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_of_any_size_give_the_same_checksums(len in 0usize..300_000, piece in 1usize..200_000) {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut chunker = Chunker::new(ORIGIN, Part(1));
            bytes.chunks(piece).for_each(|piece| chunker.update(piece));
            let whole: Vec<u64> = (0..).zip(bytes.chunks(CHUNK_BYTES)).map(|(i, b)| chunk(ORIGIN, Part(1), i, b)).collect();
            prop_assert_eq!(whole.len() as u64, chunk_count(len as u64));
            prop_assert_eq!(chunker.finish(), (whole, len as u64));
        }

        #[test]
        fn the_sha_writer_agrees_with_the_whole(bytes: Vec<u8>) {
            let mut writer = Sha256Writer::new(Vec::new());
            writer.write_all(&bytes).expect("memory takes all");
            prop_assert_eq!(writer.finish(), (sha256(&bytes), bytes.len() as u64, bytes));
        }
    }
}
