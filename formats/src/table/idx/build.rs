//! Building an idx part: blocks are written as they fill, index lines wait behind them.

use std::io::Write;

use crate::checksum::Origin;
use crate::error::BuildError;
use crate::id::Part;
use crate::record::RecordRef;
use crate::schema::Schema;
use crate::table::Profile;
use crate::table::disk::{BlockRead, BlockWriter};
use crate::table::idx::geometry::Geometry;
use crate::table::idx::layout::IdxLayout;
use crate::table::idx::{END, slot_spec};
use crate::table::intake::Intake;
use crate::table::mem::build::Lines;
use crate::table::mem::geometry::Cursor;

/// Builds the data of one part of an idx table from records in ascending order of `(h, key)`.
///
/// The number of records must be exactly the geometry's, or [`finish`](Self::finish) fails. After any error the output
/// is of no use.
#[derive(Debug)]
pub struct IdxBuilder<W> {
    geometry: Geometry,
    intake: Intake,
    cursor: Cursor,
    blocks: BlockWriter<W>,
    /// Hash and number of the records whose run is not known yet.
    unit: Option<(u64, u64)>,
    lines: Lines,
    index: Vec<u8>,
}

impl<W: Write> IdxBuilder<W> {
    /// A builder of `part` that writes its blocks to `out`. Their checksums are seeded with `origin`.
    pub fn new(geometry: Geometry, origin: Origin, part: Part, out: W) -> Self {
        let spec = geometry.spec;
        Self {
            geometry,
            intake: Intake::new(spec, part, geometry.records),
            cursor: geometry.cursor(),
            blocks: BlockWriter::new(spec, origin, part, out),
            unit: None,
            lines: Lines::default(),
            index: Vec::new(),
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// `OutOfOrder`, `WrongPart`, `Unfit`, `Count`; `Displaced` if the geometry is too tight for these keys; `Limit`; `Io`.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), BuildError> {
        let value = self.intake.take(&record)?;
        let unit = match self.unit {
            Some((h, count)) if h == record.h => (h, count + 1),
            _ => {
                self.close_unit()?;
                (record.h, 1)
            }
        };
        self.unit = Some(unit);
        self.blocks.push(&record, value)
    }

    /// What is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        self.blocks.get_mut()
    }

    fn close_unit(&mut self) -> Result<(), BuildError> {
        let Some((h, count)) = self.unit.take() else { return Ok(()) };
        let BlockRead { first, blocks } = self.blocks.close_unit()?;
        let spec = slot_spec(self.geometry.probe);
        for _ in 0..count {
            let place = self.cursor.advance(h).ok_or(BuildError::Displaced)?;
            self.lines.flush_below(place.home, &mut self.index)?;
            self.lines.open(&spec, place, u64::from(first));
            // The records of a line take up 11 times 4,098 blocks at most, or a run of 16,384 and 10 times that.
            let delta = |block: u64| u16::try_from(block - self.lines.base);
            let (delta, end) = (delta(u64::from(first)), delta(u64::from(first) + u64::from(blocks)));
            let (Ok(delta), Ok(end)) = (delta, end) else {
                return Err(BuildError::Limit(format!("the records of an index line need {blocks} blocks and more")));
            };
            self.lines.put(&spec, place, h, &delta.to_le_bytes());
            self.lines.line(place.line)[END..END + 2].copy_from_slice(&end.to_le_bytes());
        }
        Ok(())
    }

    /// Writes what is left of the blocks; gives the layout, the resident section, which the caller is to write behind the
    /// blocks, and the output.
    ///
    /// # Errors
    /// `Count` if records are missing; `Displaced`; `Io`.
    pub fn finish_blocks(mut self) -> Result<(IdxLayout, Vec<u8>, W), BuildError> {
        let Geometry { spec, probe, buckets, d_max, records, .. } = self.geometry;
        self.close_unit()?;
        if self.intake.taken() != records {
            return Err(BuildError::Count { announced: records, found: self.intake.taken() });
        }
        // All buckets have their lines, also those behind the last record.
        let lines = self.lines.count().max(buckets);
        self.lines.flush_below(lines, &mut self.index)?;
        let (blocks, out) = self.blocks.finish()?;
        let layout = IdxLayout { spec, probe, blocks, buckets, lines, d_max, records };
        // What readers will check holds before anything depends on it.
        assert_eq!(IdxLayout::parse(&layout.header()), Ok(layout), "a builder's header is one that readers accept");
        assert_eq!(layout.resident_len(), self.index.len() as u64, "all lines are there");
        Ok((layout, self.index, out))
    }

    /// Writes what is left, the resident section too; gives the layout and the output.
    ///
    /// # Errors
    /// As [`finish_blocks`](Self::finish_blocks).
    pub fn finish(self) -> Result<(IdxLayout, W), BuildError> {
        let (layout, resident, mut out) = self.finish_blocks()?;
        out.write_all(&resident)?;
        Ok((layout, out))
    }
}

/// Builds the data of one part from all its records, in ascending order of `(h, key)`, with the first geometry that holds
/// them; gives the resident section by itself, as [`IdxBuilder::finish_blocks`] does.
///
/// # Errors
/// As [`Geometry::plan`] and [`IdxBuilder`], but never `Displaced`.
pub fn build_part<W: Write>(
    schema: &Schema,
    profile: Profile,
    origin: Origin,
    part: Part,
    records: &[RecordRef<'_>],
    out: W,
) -> Result<(IdxLayout, Vec<u8>, W), BuildError> {
    // Disorder would show as displacement: let the builder, which checks the order, name it.
    let geometry = if records.is_sorted_by_key(|record| record.h) {
        Geometry::plan(schema, profile, records.iter().map(|record| record.h))?
    } else {
        Geometry::first(schema, profile, records.len() as u64)?
    };
    let mut builder = IdxBuilder::new(geometry, origin, part, out);
    for record in records {
        builder.push(*record)?;
    }
    builder.finish_blocks()
}
