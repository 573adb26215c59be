//! Building a blk part: blocks are written as they fill; an entry per block, and the hashes for the filter, wait.

use std::io::Write;

use crate::checksum::Origin;
use crate::error::BuildError;
use crate::filter::{Fuse8, HASHES_MAX};
use crate::id::Part;
use crate::record::RecordRef;
use crate::schema::{Schema, TableKind};
use crate::table::Profile;
use crate::table::blk::layout::BlkLayout;
use crate::table::blk::{directory_len, number_of, top};
use crate::table::disk::{BlockRead, BlockWriter, RECORDS_MAX, RecordSpec};
use crate::table::idx::check;
use crate::table::intake::Intake;

/// Builds the data of one part of a blk table from records in ascending order of `(h, key)`. After any error the output is
/// of no use.
///
/// Holds 4 bytes per block; with a filter also 8 bytes per key, and 32 when it is built. Parts with more than eight million keys
/// get no filter.
#[derive(Debug)]
pub struct BlkBuilder<W> {
    spec: RecordSpec,
    intake: Intake,
    blocks: BlockWriter<W>,
    /// The top bits that the records without a place share.
    unit: Option<u32>,
    entries: Vec<u32>,
    /// Hashes, each once; none if there is to be no filter.
    hashes: Option<Vec<u64>>,
}

impl<W: Write> BlkBuilder<W> {
    /// A builder of `part` that writes its blocks to `out`. Their checksums are seeded with `origin`.
    ///
    /// # Errors
    /// `Limit` if the schema is not that of a blk table, or the profile is unknown.
    pub fn new(schema: &Schema, profile: Profile, origin: Origin, part: Part, out: W) -> Result<Self, BuildError> {
        check(schema, profile, TableKind::Blk)?;
        let spec = RecordSpec::of_schema(schema);
        Ok(Self {
            spec,
            intake: Intake::new(spec, part, RECORDS_MAX),
            blocks: BlockWriter::new(spec, origin, part, out),
            unit: None,
            entries: Vec::new(),
            hashes: (profile.filter == Profile::FILTER_FUSE8).then(Vec::new),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// `OutOfOrder`, `WrongPart`, `Unfit`, `Count`, `Limit`; `Io`.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), BuildError> {
        let value = self.intake.take(&record)?;
        if self.unit != Some(top(record.h)) {
            self.close_unit()?;
            self.unit = Some(top(record.h));
        }
        if let Some(hashes) = &mut self.hashes
            && hashes.last() != Some(&record.h)
        {
            hashes.push(record.h);
            if hashes.len() > HASHES_MAX {
                self.hashes = None;
            }
        }
        self.blocks.push(&record, value)
    }

    /// What is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        self.blocks.get_mut()
    }

    fn close_unit(&mut self) -> Result<(), BuildError> {
        let Some(unit) = self.unit.take() else { return Ok(()) };
        let BlockRead { first, blocks } = self.blocks.close_unit()?;
        // A unit that begins a block begins all blocks of its run.
        if first as usize == self.entries.len() {
            self.entries.resize(first as usize + blocks as usize, unit);
        }
        Ok(())
    }

    /// Writes what is left of the blocks; gives the layout, the resident section, which the caller is to write behind the
    /// blocks, and the output.
    ///
    /// # Errors
    /// `Limit` if there are no records; `Io`.
    pub fn finish_blocks(mut self) -> Result<(BlkLayout, Vec<u8>, W), BuildError> {
        self.close_unit()?;
        if self.intake.taken() == 0 {
            return Err(BuildError::Limit("a part without records has no data: leave it out".to_owned()));
        }
        let (blocks, out) = self.blocks.finish()?;
        assert_eq!(blocks as usize, self.entries.len(), "every block has its entry");
        let filter = self.hashes.take().and_then(|hashes| Fuse8::build(&hashes));
        let (spec, records) = (self.spec, self.intake.taken());
        let layout = BlkLayout { spec, blocks, records, filter: filter.as_ref().map(|(filter, _)| *filter) };
        let mut resident = Vec::with_capacity(usize::try_from(layout.resident_len()).unwrap_or(0));
        for entry in &self.entries {
            resident.extend_from_slice(&entry.to_le_bytes());
        }
        for number in directory(&self.entries) {
            resident.extend_from_slice(&number.to_le_bytes());
        }
        if let Some((_, fingerprints)) = filter {
            resident.resize(layout.filter_at() as usize, 0);
            resident.extend_from_slice(&fingerprints);
        }
        // What readers will check holds before anything depends on it.
        assert_eq!(BlkLayout::parse(&layout.header()), Ok(layout), "a builder's header is one that readers accept");
        assert_eq!(layout.resident_len(), resident.len() as u64, "all entries are there");
        Ok((layout, resident, out))
    }

    /// Writes what is left, the resident section too; gives the layout and the output.
    ///
    /// # Errors
    /// As [`finish_blocks`](Self::finish_blocks).
    pub fn finish(self) -> Result<(BlkLayout, W), BuildError> {
        let (layout, resident, mut out) = self.finish_blocks()?;
        out.write_all(&resident)?;
        Ok((layout, out))
    }
}

/// The directory of ascending entries: of each number, how many entries are under smaller ones.
pub(super) fn directory(entries: &[u32]) -> impl Iterator<Item = u32> {
    let numbers = directory_len(entries.len() as u32);
    let mut below = 0;
    (0..numbers).map(move |number| {
        while entries.get(below).is_some_and(|&entry| number_of(entry, numbers) < number) {
            below += 1;
        }
        below as u32
    })
}

/// Builds the data of one part from all its records, in ascending order of `(h, key)`; gives the resident section by itself,
/// as [`BlkBuilder::finish_blocks`] does.
///
/// # Errors
/// As [`BlkBuilder`].
pub fn build_part<W: Write>(
    schema: &Schema,
    profile: Profile,
    origin: Origin,
    part: Part,
    records: &[RecordRef<'_>],
    out: W,
) -> Result<(BlkLayout, Vec<u8>, W), BuildError> {
    let mut builder = BlkBuilder::new(schema, profile, origin, part, out)?;
    for record in records {
        builder.push(*record)?;
    }
    builder.finish_blocks()
}
