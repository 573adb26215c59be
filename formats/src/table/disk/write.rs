//! Writing blocks: units of records are put into the open block, or into a run of their own.

use std::io::Write;

use crate::checksum::{self, Origin};
use crate::error::BuildError;
use crate::id::Part;
use crate::record::RecordRef;
use crate::table::disk::{BLOCK_BYTES, BlockRead, HEAD_BYTES, RUN_BLOCKS_MAX, RecordSpec, TAG_BYTES};

/// Bytes of an offset in a run of one block, and of several.
const NARROW: usize = 2;
const WIDE: usize = 4;

/// Writes the block section of a part. Holds one block, and the records of one unit.
#[derive(Debug)]
pub(in crate::table) struct BlockWriter<W> {
    out: W,
    spec: RecordSpec,
    origin: Origin,
    part: Part,
    /// Blocks written.
    blocks: u32,
    /// The block being filled.
    open: Batch,
    /// The unit that has no place yet.
    unit: Batch,
    image: Vec<u8>,
}

/// Records that will be in one run.
#[derive(Debug, Default)]
struct Batch {
    tags: Vec<u16>,
    /// Where records begin in `bytes`.
    offsets: Vec<u32>,
    bytes: Vec<u8>,
}

impl Batch {
    fn clear(&mut self) {
        self.tags.clear();
        self.offsets.clear();
        self.bytes.clear();
    }

    /// Bytes of a run with these records, its padding aside.
    fn run_len(&self, offset_bytes: usize) -> usize {
        HEAD_BYTES + self.tags.len() * (TAG_BYTES + offset_bytes) + self.bytes.len()
    }

    /// Blocks of a run with these records.
    fn blocks(&self) -> usize {
        if self.run_len(NARROW) <= BLOCK_BYTES { 1 } else { self.run_len(WIDE).div_ceil(BLOCK_BYTES) }
    }
}

impl<W: Write> BlockWriter<W> {
    pub(in crate::table) fn new(spec: RecordSpec, origin: Origin, part: Part, out: W) -> Self {
        let (open, unit) = (Batch::default(), Batch::default());
        Self { out, spec, origin, part, blocks: 0, open, unit, image: Vec::new() }
    }

    /// What is written to.
    pub(in crate::table) const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Adds a record, which has been checked, to the unit.
    pub(in crate::table) fn push(&mut self, record: &RecordRef<'_>, value: &[u8]) -> Result<(), BuildError> {
        // A unit is closed before it outgrows a run, so that its length fits 4 bytes.
        let begin = u32::try_from(self.unit.bytes.len()).expect("a run is shorter than 2^32 bytes");
        self.unit.tags.push(record.h as u16);
        self.unit.offsets.push(begin);
        self.spec.put(record, value, &mut self.unit.bytes);
        if self.unit.blocks() > RUN_BLOCKS_MAX as usize {
            let (part, count) = (self.part, self.unit.tags.len());
            return Err(BuildError::Limit(format!(
                "{count} records of part {part} with neighbouring hashes need more than {RUN_BLOCKS_MAX} blocks of {BLOCK_BYTES} bytes"
            )));
        }
        Ok(())
    }

    /// Places the unit, which is not empty; gives the run that it is in.
    pub(in crate::table) fn close_unit(&mut self) -> Result<BlockRead, BuildError> {
        debug_assert!(!self.unit.tags.is_empty(), "a unit has records");
        let joint = self.open.run_len(NARROW) + self.unit.run_len(NARROW) - HEAD_BYTES;
        if joint <= BLOCK_BYTES {
            let behind = self.open.bytes.len() as u32;
            self.open.tags.append(&mut self.unit.tags);
            self.open.offsets.extend(self.unit.offsets.drain(..).map(|offset| behind + offset));
            self.open.bytes.append(&mut self.unit.bytes);
            return Ok(BlockRead { first: self.blocks, blocks: 1 });
        }
        self.flush()?;
        std::mem::swap(&mut self.open, &mut self.unit);
        let read = BlockRead { first: self.blocks, blocks: self.open.blocks() as u32 };
        if read.blocks > 1 {
            self.flush()?;
        }
        Ok(read)
    }

    /// Writes the open block, or the run in its place.
    fn flush(&mut self) -> Result<(), BuildError> {
        if self.open.tags.is_empty() {
            return Ok(());
        }
        let blocks = self.open.blocks();
        let offset_bytes = if blocks == 1 { NARROW } else { WIDE };
        let first_record = HEAD_BYTES + self.open.tags.len() * (TAG_BYTES + offset_bytes);
        self.image.clear();
        self.image.extend_from_slice(&[0; 8]);
        self.image.extend_from_slice(&(blocks as u32).to_le_bytes());
        self.image.extend_from_slice(&(self.open.tags.len() as u32).to_le_bytes());
        for tag in &self.open.tags {
            self.image.extend_from_slice(&tag.to_le_bytes());
        }
        for &offset in &self.open.offsets {
            // In one block below 2^16, in a run below 2^26.
            let offset = offset + first_record as u32;
            self.image.extend_from_slice(&offset.to_le_bytes()[..offset_bytes]);
        }
        self.image.extend_from_slice(&self.open.bytes);
        self.image.resize(blocks * BLOCK_BYTES, 0);
        let next = self.blocks.checked_add(blocks as u32).ok_or_else(|| {
            BuildError::Limit(format!("part {} needs more than 2^32 blocks of {BLOCK_BYTES} bytes", self.part))
        })?;
        let sum = checksum::run(self.origin, self.part, self.blocks, &self.image[8..]);
        self.image[..8].copy_from_slice(&sum.to_le_bytes());
        self.out.write_all(&self.image)?;
        self.blocks = next;
        self.open.clear();
        // What a long run took is given back.
        if blocks > 64 {
            self.image = Vec::new();
            self.open = Batch::default();
        }
        Ok(())
    }

    /// Writes what is left; gives the number of blocks and the output.
    pub(in crate::table) fn finish(mut self) -> Result<(u32, W), BuildError> {
        debug_assert!(self.unit.tags.is_empty(), "the last unit has been closed");
        self.flush()?;
        Ok((self.blocks, self.out))
    }
}
