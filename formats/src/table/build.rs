//! Building a part of any kind: all at once from its records, or record by record as they come.
//!
//! ```text
//!   exact count, hashes ─▶ geometry ─▶ builder ◀─ records in ascending order of (h, key)
//!                             ▲            │
//!                             └─ next ─────┘ displaced: too tight for these keys
//! ```

use std::io::Write;

use crate::checksum::Origin;
use crate::error::BuildError;
use crate::id::Part;
use crate::record::RecordRef;
use crate::schema::{Schema, TableKind};
use crate::table::blk::BlkBuilder;
use crate::table::idx::{self, IdxBuilder};
use crate::table::mem::{self, MemBuilder};
use crate::table::{PartLayout, Profile};

/// The geometry of a part that is yet to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartGeometry {
    /// Of a memory table.
    Mem(mem::Geometry),
    /// Of an idx table.
    Idx(idx::Geometry),
    /// Of a blk table, which needs none.
    Blk,
}

impl PartGeometry {
    /// The geometry to try first for `records` records.
    ///
    /// # Errors
    /// `Limit` if there are no records, or too many.
    pub fn first(schema: &Schema, profile: Profile, records: u64) -> Result<Self, BuildError> {
        Ok(match schema.kind {
            TableKind::Mem => Self::Mem(mem::Geometry::first(schema, profile, records)?),
            TableKind::Idx => Self::Idx(idx::Geometry::first(schema, profile, records)?),
            TableKind::Blk => Self::Blk,
        })
    }

    /// The geometry of the records whose hashes are `hashes`, ascending.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn plan<H>(schema: &Schema, profile: Profile, hashes: H) -> Result<Self, BuildError>
    where
        H: Iterator<Item = u64> + Clone,
    {
        // Disorder would show as displacement: let the builder, which checks the order, name it.
        if !hashes.clone().is_sorted() {
            return Self::first(schema, profile, hashes.count() as u64);
        }
        Ok(match schema.kind {
            TableKind::Mem => Self::Mem(mem::Geometry::plan(schema, profile, hashes)?),
            TableKind::Idx => Self::Idx(idx::Geometry::plan(schema, profile, hashes)?),
            TableKind::Blk => Self::Blk,
        })
    }

    /// The geometry to try when this one proved too tight; none after the last, which always fits.
    #[must_use]
    pub fn next(&self) -> Option<Self> {
        match self {
            Self::Mem(geometry) => geometry.next().map(Self::Mem),
            Self::Idx(geometry) => geometry.next().map(Self::Idx),
            Self::Blk => None,
        }
    }

    /// Bytes of index that building will hold in memory, as far as they follow from the geometry.
    #[must_use]
    pub const fn building_bytes(&self) -> u64 {
        match self {
            Self::Mem(geometry) => geometry.building_bytes(),
            Self::Idx(geometry) => geometry.building_bytes(),
            Self::Blk => 0,
        }
    }
}

/// Builds the data of one part of a table of any kind from records in ascending order of `(h, key)`. After any error the
/// output is of no use.
#[derive(Debug)]
pub enum PartBuilder<W> {
    /// Of a memory table.
    Mem(MemBuilder<W>),
    /// Of an idx table.
    Idx(IdxBuilder<W>),
    /// Of a blk table.
    Blk(BlkBuilder<W>),
}

impl<W: Write> PartBuilder<W> {
    /// A builder of `part` that writes to `out`. Checksums of blocks are seeded with `origin`.
    ///
    /// # Errors
    /// `Limit` if the profile is unknown, or the geometry is that of another kind of table.
    pub fn new(
        schema: &Schema,
        profile: Profile,
        origin: Origin,
        part: Part,
        geometry: PartGeometry,
        out: W,
    ) -> Result<Self, BuildError> {
        Ok(match (geometry, schema.kind) {
            (PartGeometry::Mem(geometry), TableKind::Mem) => Self::Mem(MemBuilder::new(geometry, part, out)),
            (PartGeometry::Idx(geometry), TableKind::Idx) => Self::Idx(IdxBuilder::new(geometry, origin, part, out)),
            (PartGeometry::Blk, TableKind::Blk) => Self::Blk(BlkBuilder::new(schema, profile, origin, part, out)?),
            (_, kind) => return Err(BuildError::Limit(format!("the geometry is not that of a table of kind {kind}"))),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// `OutOfOrder`, `WrongPart`, `Unfit`, `Count`; `Displaced` if the geometry is too tight for these keys; `Limit`; `Io`.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), BuildError> {
        match self {
            Self::Mem(builder) => builder.push(record),
            Self::Idx(builder) => builder.push(record),
            Self::Blk(builder) => builder.push(record),
        }
    }

    /// What is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        match self {
            Self::Mem(builder) => builder.get_mut(),
            Self::Idx(builder) => builder.get_mut(),
            Self::Blk(builder) => builder.get_mut(),
        }
    }

    /// Writes what is left, but not the resident section of an idx or blk part: that is given, and is to be written next.
    /// Gives also the layout and the output.
    ///
    /// # Errors
    /// `Count` if records are missing; `Displaced`; `Limit`; `Io`.
    pub fn finish(self) -> Result<(PartLayout, Vec<u8>, W), BuildError> {
        match self {
            Self::Mem(builder) => builder.finish().map(|(layout, out)| (layout.into(), Vec::new(), out)),
            Self::Idx(builder) => builder.finish_blocks().map(|(layout, rest, out)| (layout.into(), rest, out)),
            Self::Blk(builder) => builder.finish_blocks().map(|(layout, rest, out)| (layout.into(), rest, out)),
        }
    }
}

/// Builds the data of one part of a table of any kind from all its records, in ascending order of `(h, key)`.
///
/// # Errors
/// As [`PartGeometry::plan`] and [`PartBuilder`], but never `Displaced`.
pub fn build_part<W: Write>(
    schema: &Schema,
    profile: Profile,
    origin: Origin,
    part: Part,
    records: &[RecordRef<'_>],
    out: W,
) -> Result<(PartLayout, W), BuildError> {
    let hashes = records.iter().map(|record| record.h);
    build_part_of(schema, profile, origin, part, hashes, records.iter().copied(), out)
}

/// [`build_part`] of records that do not lie in memory one behind the other; `hashes` are those of `records`.
///
/// # Errors
/// As [`build_part`].
pub fn build_part_of<'a, W: Write>(
    schema: &Schema,
    profile: Profile,
    origin: Origin,
    part: Part,
    hashes: impl Iterator<Item = u64> + Clone,
    records: impl Iterator<Item = RecordRef<'a>>,
    out: W,
) -> Result<(PartLayout, W), BuildError> {
    let (layout, resident, mut out) = build_sections(schema, profile, origin, part, hashes, records, out)?;
    out.write_all(&resident)?;
    Ok((layout, out))
}

/// [`build_part_of`], without writing the resident section of an idx or blk part: that is given, and is to be written next.
pub(crate) fn build_sections<'a, W: Write>(
    schema: &Schema,
    profile: Profile,
    origin: Origin,
    part: Part,
    hashes: impl Iterator<Item = u64> + Clone,
    records: impl Iterator<Item = RecordRef<'a>>,
    out: W,
) -> Result<(PartLayout, Vec<u8>, W), BuildError> {
    let geometry = PartGeometry::plan(schema, profile, hashes)?;
    match PartBuilder::new(schema, profile, origin, part, geometry, out)? {
        // One loop for each kind, without a choice within.
        PartBuilder::Mem(mut builder) => {
            for record in records {
                builder.push(record)?;
            }
            PartBuilder::Mem(builder).finish()
        }
        PartBuilder::Idx(mut builder) => {
            for record in records {
                builder.push(record)?;
            }
            PartBuilder::Idx(builder).finish()
        }
        PartBuilder::Blk(mut builder) => {
            for record in records {
                builder.push(record)?;
            }
            PartBuilder::Blk(builder).finish()
        }
    }
}
