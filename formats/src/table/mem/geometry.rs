//! How many buckets a part gets, and how many bytes of `h` its slots store: a pure function of its records.
//!
//! ```text
//!   rung 0   load of the profile      ─┐
//!   rung 1   3/4 of it                 ├ the first on which no record lies more than D_max lines from home
//!   rung 2   1/2 of it                ─┘
//!   rung 3   sorted: fits any records
//! ```

use crate::error::BuildError;
use crate::id::PART_COUNT;
use crate::route::place;
use crate::schema::{KeyType, Schema, TableKind};
use crate::table::Profile;
use crate::table::mem::line::{BYTES_KEY_H_BYTES, Probe, Shape, SlotSpec, U64_KEY_H_BYTES_MIN};

/// How many records may queue for lines at any point; `D_max` is that in whole lines.
///
/// With hashed keys a part is a queue with random arrivals and constant service: per line `λ = load · slots` records
/// arrive, Poisson, and `slots` are served. The queue `Q` behind a line obeys `Q' = max(0, Q + A − slots)`, so that for
/// the `θ > 0` with `E[e^{θ(A − slots)}] = 1`, which for Poisson is `load · (e^θ − 1) = θ`, Kingman's bound holds:
/// `P(Q ≥ q) ≤ e^{−θq}`. At a load of 0.9 `θ` is 0.207 whatever the number of slots: `P(Q ≥ 128) ≤ 3.1·10^−12` a line. A
/// table of 10^9 records has 2·10^8 lines, so that one such table in 1700 has one part (of 2400) that is built on the next
/// rung, a third larger than it might be; that is the whole price. A longer queue would cost every table: `D_max` counts
/// against the bits of `h` that slots must store.
const QUEUED_RECORDS_MAX: u32 = 128;
/// Numerators of the loads of the rungs, over 4.
const RUNG_QUARTERS: [u64; 3] = [4, 3, 2];
/// Most records of a part: ordinals have 4 bytes.
pub(super) const RECORDS_MAX: u64 = u32::MAX as u64;

/// The geometry of a memory part that is yet to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub(super) spec: SlotSpec,
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
    /// `Limit` if there are no records, too many, or the schema is not that of a memory table.
    pub fn first(schema: &Schema, profile: Profile, records: u64) -> Result<Self, BuildError> {
        let limit = |reason: String| Err(BuildError::Limit(reason));
        if schema.kind != TableKind::Mem {
            return limit(format!("a table of kind {} is not built as a memory table", schema.kind));
        }
        if let Err(reason) = schema.validate() {
            return limit(reason);
        }
        if let Err(reason) = profile.check() {
            return limit(reason.to_string());
        }
        if records == 0 {
            return limit("a part without records has no data: leave it out".to_owned());
        }
        if records > RECORDS_MAX {
            return limit(format!("a part holds at most {RECORDS_MAX} records, not {records}"));
        }
        let spec = SlotSpec::of_schema(schema, 8);
        let first = Self {
            spec,
            probe: Probe::Scan,
            buckets: 0,
            d_max: 0,
            records,
            load_permille: profile.load_permille,
            rung: 0,
        };
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

    /// Bytes that building will hold in memory: the index of parts whose records lie outside of it.
    #[must_use]
    pub const fn building_bytes(&self) -> u64 {
        match self.spec.shape {
            Shape::Inline => (self.d_max as u64 + 1) * 64,
            Shape::Dense | Shape::Heap => {
                let sorted = self.records.div_ceil(self.spec.slots as u64);
                (if self.buckets == 0 { sorted } else { self.buckets as u64 + self.d_max as u64 }) * 64
            }
        }
    }

    fn at_rung(&self, rung: u8) -> Option<Self> {
        let quarters = *RUNG_QUARTERS.get(usize::from(rung))?;
        let h_bytes = match self.spec.key {
            KeyType::U64 => U64_KEY_H_BYTES_MIN..=8,
            KeyType::Bytes => BYTES_KEY_H_BYTES..=BYTES_KEY_H_BYTES,
        };
        h_bytes.into_iter().find_map(|h_bytes| {
            let spec = SlotSpec::new(self.spec.key, self.spec.width, self.spec.ttl, h_bytes);
            // records is below 2^32 and the constants are small: no product comes near 2^64.
            let per_bucket = u64::from(spec.slots) * u64::from(self.load_permille) * quarters;
            let buckets = u32::try_from((self.records * 4000).div_ceil(per_bucket)).ok()?;
            let d_max = QUEUED_RECORDS_MAX.div_ceil(u32::from(spec.slots));
            // Lines are numbered in 32 bits, the spilled ones too.
            buckets.checked_add(d_max)?;
            let tells_apart = spec.key == KeyType::Bytes || is_exact(buckets, d_max, h_bytes);
            tells_apart.then_some(Self { spec, buckets, d_max, rung, ..*self })
        })
    }

    fn sorted(&self) -> Self {
        let spec = SlotSpec::new(self.spec.key, self.spec.width, self.spec.ttl, 8);
        Self { spec, probe: Probe::Sorted, buckets: 0, d_max: 0, rung: u8::MAX, ..*self }
    }

    /// Whether records with these ascending hashes fit.
    fn holds(&self, hashes: impl Iterator<Item = u64>) -> bool {
        let mut cursor = Cursor::new(self);
        hashes.map(|h| cursor.advance(h)).all(|at| at.is_some())
    }
}

/// Whether `h_bytes` low bytes tell apart all values of `h` that one line can hold.
pub(super) const fn is_exact(buckets: u32, d_max: u32, h_bytes: u8) -> bool {
    let per_bucket = (1u128 << 64).div_ceil(PART_COUNT as u128 * buckets as u128);
    (d_max as u128 + 1) * per_bucket <= 1u128 << (8 * h_bytes as u32)
}

/// The bucket of a hash.
#[inline]
pub(in crate::table) const fn bucket(h: u64, buckets: u32) -> u32 {
    // Below `buckets`, since the place is below 2^64.
    ((place(h) as u128 * buckets as u128) >> 64) as u32
}

/// Where records go, one after the other.
#[derive(Clone, Copy, Debug)]
pub(in crate::table) struct Cursor {
    probe: Probe,
    buckets: u32,
    d_max: u32,
    slots: u8,
    line: u32,
    used: u8,
}

/// Where one record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::table) struct Place {
    pub(in crate::table) home: u32,
    pub(in crate::table) line: u32,
    pub(in crate::table) slot: u8,
}

impl Cursor {
    pub(super) const fn new(geometry: &Geometry) -> Self {
        let Geometry { probe, buckets, d_max, spec, .. } = *geometry;
        Self::of(probe, buckets, d_max, spec.slots)
    }

    pub(in crate::table) const fn of(probe: Probe, buckets: u32, d_max: u32, slots: u8) -> Self {
        Self { probe, buckets, d_max, slots, line: 0, used: 0 }
    }

    /// The place of the next record; `None` if it would be too far from home.
    pub(in crate::table) fn advance(&mut self, h: u64) -> Option<Place> {
        let mut home = match self.probe {
            Probe::Scan => bucket(h, self.buckets),
            Probe::Sorted => self.line,
        };
        if home > self.line {
            (self.line, self.used) = (home, 0);
        } else if self.used == self.slots {
            (self.line, self.used) = (self.line.checked_add(1)?, 0);
            if self.probe == Probe::Sorted {
                home = self.line;
            }
        }
        let place = Place { home, line: self.line, slot: self.used };
        self.used += 1;
        (place.line - place.home <= self.d_max).then_some(place)
    }
}
