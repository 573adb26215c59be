//! How many buckets the index of a part gets: a pure function of its records, in the rungs of a memory table.

use crate::error::BuildError;
use crate::schema::{Schema, TableKind};
use crate::table::Profile;
use crate::table::disk::{RECORDS_MAX, RecordSpec};
use crate::table::idx::{TAG_SLOTS, slot_spec};
use crate::table::mem::geometry::Cursor;
use crate::table::mem::line::Probe;

/// How many records may queue for lines at any point; `D_max` is that in whole lines. Of hashed keys, a queue is that long
/// in less than one of 10^9 lines at a load of 0.9.
const QUEUED_RECORDS_MAX: u32 = 128;
/// Numerators of the loads of the rungs, over 4; below the last is the sorted one.
const RUNG_QUARTERS: [u64; 3] = [4, 3, 2];

/// The geometry of an idx part that is yet to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub(super) spec: RecordSpec,
    pub(super) probe: Probe,
    pub(super) buckets: u32,
    pub(super) d_max: u32,
    pub(super) records: u64,
    load_permille: u16,
    rung: u8,
}

impl Geometry {
    /// The geometry to try first for `records` records.
    ///
    /// # Errors
    /// `Limit` if there are no records, too many, or the schema is not that of an idx table.
    pub fn first(schema: &Schema, profile: Profile, records: u64) -> Result<Self, BuildError> {
        check(schema, profile, TableKind::Idx)?;
        let limit = |reason: String| Err(BuildError::Limit(reason));
        if records == 0 {
            return limit("a part without records has no data: leave it out".to_owned());
        }
        if records > RECORDS_MAX {
            return limit(format!("a part holds at most {RECORDS_MAX} records, not {records}"));
        }
        let (spec, load_permille) = (RecordSpec::of_schema(schema), profile.load_permille);
        let first = Self { spec, probe: Probe::Scan, buckets: 0, d_max: 0, records, load_permille, rung: 0 };
        Ok(first.at_rung(0).unwrap_or_else(|| first.sorted()))
    }

    /// The geometry to try when this one proved too tight; none after the last, which always fits.
    #[must_use]
    pub fn next(&self) -> Option<Self> {
        match self.probe {
            Probe::Scan => Some(self.at_rung(self.rung + 1).unwrap_or_else(|| self.sorted())),
            Probe::Sorted => None,
        }
    }

    /// The geometry of the records whose hashes are `hashes`, ascending.
    ///
    /// # Errors
    /// As [`Geometry::first`].
    pub fn plan<I>(schema: &Schema, profile: Profile, hashes: I) -> Result<Self, BuildError>
    where
        I: Iterator<Item = u64> + Clone,
    {
        let mut geometry = Self::first(schema, profile, hashes.clone().count() as u64)?;
        while !geometry.holds(hashes.clone()) {
            geometry = geometry.next().expect("the sorted rung holds any records");
        }
        Ok(geometry)
    }

    /// The number of records announced.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of index that building will hold in memory.
    #[must_use]
    pub const fn building_bytes(&self) -> u64 {
        let sorted = self.records.div_ceil(slot_spec(Probe::Sorted).slots as u64);
        (if self.buckets == 0 { sorted } else { self.buckets as u64 + self.d_max as u64 }) * 64
    }

    fn at_rung(&self, rung: u8) -> Option<Self> {
        let quarters = *RUNG_QUARTERS.get(usize::from(rung))?;
        // records is below 2^32 and the constants are small: no product comes near 2^64.
        let per_bucket = u64::from(TAG_SLOTS) * u64::from(self.load_permille) * quarters;
        let buckets = u32::try_from((self.records * 4000).div_ceil(per_bucket)).ok()?;
        let d_max = QUEUED_RECORDS_MAX.div_ceil(u32::from(TAG_SLOTS));
        // Lines are numbered in 32 bits, the spilled ones too.
        buckets.checked_add(d_max)?;
        Some(Self { buckets, d_max, rung, ..*self })
    }

    const fn sorted(&self) -> Self {
        Self { probe: Probe::Sorted, buckets: 0, d_max: 0, rung: u8::MAX, ..*self }
    }

    /// Whether records with these ascending hashes fit.
    fn holds(&self, hashes: impl Iterator<Item = u64>) -> bool {
        let mut cursor = self.cursor();
        hashes.map(|h| cursor.advance(h)).all(|at| at.is_some())
    }

    pub(super) const fn cursor(&self) -> Cursor {
        Cursor::of(self.probe, self.buckets, self.d_max, slot_spec(self.probe).slots)
    }
}

/// Checks that a part of this kind can be built.
pub(in crate::table) fn check(schema: &Schema, profile: Profile, kind: TableKind) -> Result<(), BuildError> {
    if schema.kind != kind {
        let reason = format!("a table of kind {} is not built as one of kind {kind}", schema.kind);
        return Err(BuildError::Limit(reason));
    }
    schema.validate().map_err(BuildError::Limit)?;
    profile.check().map_err(|error| BuildError::Limit(error.to_string()))
}
