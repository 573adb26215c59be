//! All records of a block section, in their order, for merges, checks and people.

use crate::checksum::Origin;
use crate::error::FormatError;
use crate::id::Part;
use crate::record::{Key, RecordRef};
use crate::table::disk::{BLOCK_BYTES, BlockRead, RecordSpec, Run, RunRecords};

/// The records of the block section of a part, in ascending order of `(h, key)`. Every run is verified before its records
/// are given; ends with an error if one does not verify or the section contradicts itself.
#[derive(Debug)]
pub struct BlockRecords<'a> {
    spec: RecordSpec,
    section: &'a [u8],
    origin: Origin,
    part: Part,
    records: u64,
    read: u64,
    /// The run that `open` goes through.
    place: BlockRead,
    open: Option<RunRecords<'a>>,
    last: Option<(u64, Key<'a>)>,
    failed: bool,
}

impl<'a> BlockRecords<'a> {
    /// The `records` records of the block section `section` of `part`.
    pub(in crate::table) fn new(spec: RecordSpec, section: &'a [u8], origin: Origin, part: Part, records: u64) -> Self {
        let place = BlockRead { first: 0, blocks: 0 };
        Self { spec, section, origin, part, records, read: 0, place, open: None, last: None, failed: false }
    }

    /// The run of the record given last.
    #[must_use]
    pub const fn place(&self) -> BlockRead {
        self.place
    }

    fn damaged(&self, reason: &str) -> FormatError {
        let (part, block) = (self.part, self.place.first);
        FormatError::damaged("block section", format!("part {part}, block {block}: {reason}"))
    }

    fn step(&mut self) -> Result<Option<RecordRef<'a>>, FormatError> {
        loop {
            if let Some(record) = self.open.as_mut().and_then(Iterator::next) {
                let record = record?;
                if record.part() != self.part {
                    return Err(self.damaged("a key that does not belong there"));
                }
                if self.last.is_some_and(|last| last >= record.order()) {
                    return Err(self.damaged("a record that is not above the one before it"));
                }
                if self.read == self.records {
                    return Err(self.damaged("more records than the header says"));
                }
                self.last = Some(record.order());
                self.read += 1;
                return Ok(Some(record));
            }
            // Below the number of blocks of the section.
            let first = self.place.first + self.place.blocks;
            let rest = self.section.get(first as usize * BLOCK_BYTES..).unwrap_or_default();
            if rest.is_empty() {
                return if self.read == self.records {
                    Ok(None)
                } else {
                    Err(self.damaged(&format!("{} records, not {}", self.read, self.records)))
                };
            }
            self.place = BlockRead { first, blocks: 1 };
            let blocks = Run::blocks_announced(rest).filter(|&blocks| blocks as usize <= rest.len() / BLOCK_BYTES);
            // The head of a damaged run may say anything; then its first block alone does not verify.
            self.place.blocks = blocks.unwrap_or(1);
            let bytes = rest.get(..self.place.len()).unwrap_or(rest);
            self.open = Some(Run::verify(bytes, self.origin, self.part, first)?.iter(self.spec));
        }
    }
}

impl<'a> Iterator for BlockRecords<'a> {
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
