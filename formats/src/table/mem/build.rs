//! Building: a streaming append that holds the lines a home can still reach, and, where records lie outside the
//! index, the index.

use std::collections::VecDeque;
use std::io::Write;

use crate::error::BuildError;
use crate::id::Part;
use crate::record::{Key, RecordRef, put_blob};
use crate::schema::Schema;
use crate::table::Profile;
use crate::table::WIDTH_VARIES;
use crate::table::disk::RecordSpec;
use crate::table::intake::Intake;
use crate::table::mem::geometry::{Cursor, Geometry, Place};
use crate::table::mem::layout::{MemLayout, RECORD_BYTES_MAX};
use crate::table::mem::line::{LINE_BYTES, Line, META, Probe, REACH_MAX, Shape, SlotSpec, meta, reach, used};

/// Builds the image of one part from records in ascending order of `(h, key)`.
///
/// The number of records must be exactly the geometry's, or [`finish`](Self::finish) fails. After any error the output
/// is of no use.
#[derive(Debug)]
pub struct MemBuilder<W> {
    out: W,
    geometry: Geometry,
    part: Part,
    intake: Intake,
    cursor: Cursor,
    lines: Lines,
    /// Bytes of records written outside the index.
    record_bytes: u64,
    /// Index lines that wait behind the records; unused for the inline shape.
    index: Vec<u8>,
    scratch: Vec<u8>,
}

impl<W: Write> MemBuilder<W> {
    /// A builder of `part` that writes its image to `out`.
    pub fn new(geometry: Geometry, part: Part, out: W) -> Self {
        let SlotSpec { key, ttl, width, .. } = geometry.spec;
        Self {
            out,
            geometry,
            part,
            intake: Intake::new(RecordSpec { key, ttl, width }, part, geometry.records),
            cursor: Cursor::new(&geometry),
            lines: Lines::default(),
            record_bytes: 0,
            index: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// `OutOfOrder`, `WrongPart`, `Unfit`, `Count`; `Displaced` if the geometry is too tight for these keys; `Limit`; `Io`.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), BuildError> {
        let ordinal = self.intake.taken();
        let value = self.intake.take(&record)?;
        let place = self.cursor.advance(record.h).ok_or(BuildError::Displaced)?;
        let inline = self.geometry.spec.shape == Shape::Inline;
        if inline {
            self.lines.flush_below(place.home, &mut self.out)?;
        } else {
            self.lines.flush_below(place.home, &mut self.index)?;
        }
        let spec = self.geometry.spec;
        self.scratch.clear();
        match spec.shape {
            Shape::Inline => {
                self.scratch.extend_from_slice(value);
                self.put_expiry(record.expiry);
                self.lines.put(&spec, place, record.h, &self.scratch);
            }
            Shape::Dense => {
                self.scratch.extend_from_slice(value);
                self.put_expiry(record.expiry);
                self.lines.open(&spec, place, ordinal);
                self.lines.put(&spec, place, record.h, &[]);
            }
            Shape::Heap => {
                self.put_expiry(record.expiry);
                if let Key::Bytes(key) = record.key {
                    put_blob(&mut self.scratch, key);
                }
                if spec.width == WIDTH_VARIES {
                    put_blob(&mut self.scratch, value);
                } else {
                    self.scratch.extend_from_slice(value);
                }
                self.lines.open(&spec, place, self.record_bytes);
                // A line's records together are shorter than 2^32 bytes: 31 of 2^24 and a few more at most.
                let behind = u32::try_from(self.record_bytes - self.lines.base).expect("a line's records fit 4 bytes");
                self.lines.put(&spec, place, record.h, &behind.to_le_bytes());
            }
        }
        if !inline {
            self.out.write_all(&self.scratch)?;
            self.record_bytes += self.scratch.len() as u64;
            if self.record_bytes >= RECORD_BYTES_MAX {
                return Err(BuildError::Limit(format!("the records of part {} exceed 2^48 bytes", self.part)));
            }
        }
        Ok(())
    }

    /// What is written to; a buffer may be drained at any time.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    fn put_expiry(&mut self, expiry: u32) {
        if self.geometry.spec.ttl {
            self.scratch.extend_from_slice(&expiry.to_le_bytes());
        }
    }

    /// Writes what is left; gives the layout and the output.
    ///
    /// # Errors
    /// `Count` if records are missing; `Io`.
    pub fn finish(mut self) -> Result<(MemLayout, W), BuildError> {
        let Geometry { spec, probe, buckets, d_max, records, .. } = self.geometry;
        if self.intake.taken() != records {
            return Err(BuildError::Count { announced: records, found: self.intake.taken() });
        }
        // All buckets have their lines, also those behind the last record, and each has a line behind it.
        let lines = match probe {
            Probe::Scan => self.lines.count().max(buckets + 1),
            Probe::Sorted => self.lines.count(),
        };
        let index_offset = self.record_bytes.next_multiple_of(LINE_BYTES as u64);
        if spec.shape == Shape::Inline {
            self.lines.flush_below(lines, &mut self.out)?;
        } else {
            self.lines.flush_below(lines, &mut self.index)?;
            let padding = index_offset - self.record_bytes;
            self.out.write_all(&[0; LINE_BYTES][..padding as usize])?;
            self.out.write_all(&self.index)?;
        }
        let layout = MemLayout::new(spec, probe, buckets, lines, d_max, records, index_offset);
        // What readers will check holds before anything depends on it.
        assert_eq!(MemLayout::parse(&layout.header()), Ok(layout), "a builder's header is one that readers accept");
        Ok((layout, self.out))
    }
}

/// The index lines that can still change: from the home of the last record to its line.
#[derive(Debug, Default)]
pub(in crate::table) struct Lines {
    pending: VecDeque<Line>,
    /// Number of the first pending line.
    first: u32,
    /// What the records of the last line count from.
    pub(in crate::table) base: u64,
}

impl Lines {
    /// Number of lines begun.
    pub(in crate::table) fn count(&self) -> u32 {
        self.first + self.pending.len() as u32
    }

    /// Writes the lines below `home`, which no record can reach any more, and empty lines up to it.
    pub(in crate::table) fn flush_below(&mut self, home: u32, out: &mut impl Write) -> Result<(), BuildError> {
        while self.first < home {
            let line = self.pending.pop_front().unwrap_or([0; LINE_BYTES]);
            out.write_all(&line)?;
            self.first += 1;
        }
        Ok(())
    }

    /// Begins the line of `place` if its record is the line's first.
    pub(in crate::table) fn open(&mut self, spec: &SlotSpec, place: Place, base: u64) {
        if place.slot == 0 {
            self.base = base;
            spec.set_base(self.line(place.line), base);
        }
    }

    pub(in crate::table) fn line(&mut self, number: u32) -> &mut Line {
        let index = (number - self.first) as usize;
        if index >= self.pending.len() {
            self.pending.resize(index + 1, [0; LINE_BYTES]);
        }
        &mut self.pending[index]
    }

    pub(in crate::table) fn put(&mut self, spec: &SlotSpec, place: Place, h: u64, payload: &[u8]) {
        let line = self.line(place.line);
        let (slot, payload_at) = (spec.slot_at(place.slot), spec.payload_at(place.slot));
        line[slot..payload_at].copy_from_slice(&h.to_le_bytes()[..payload_at - slot]);
        line[payload_at..payload_at + payload.len()].copy_from_slice(payload);
        line[META] = meta(used(line[META]) + 1, reach(line[META]));
        let distance = (place.line - place.home).min(u32::from(REACH_MAX)) as u8;
        let home = self.line(place.home);
        home[META] = meta(used(home[META]), distance);
    }
}

/// Builds the image of one part from all its records, in ascending order of `(h, key)`, with the first geometry that
/// holds them.
///
/// # Errors
/// As [`Geometry::plan`] and [`MemBuilder`], but never `Displaced`.
pub fn build_part<W: Write>(
    schema: &Schema,
    profile: Profile,
    part: Part,
    records: &[RecordRef<'_>],
    out: W,
) -> Result<(MemLayout, W), BuildError> {
    // Disorder would show as displacement: let the builder, which checks the order, name it.
    let geometry = if records.is_sorted_by_key(|record| record.h) {
        Geometry::plan(schema, profile, records.iter().map(|record| record.h))?
    } else {
        Geometry::first(schema, profile, records.len() as u64)?
    };
    let mut builder = MemBuilder::new(geometry, part, out);
    for record in records {
        builder.push(*record)?;
    }
    builder.finish()
}

const _: () = assert!(Probe::Scan as u8 == 0 && Probe::Sorted as u8 == 1);
const _: () = assert!(Shape::Inline as u8 == 0 && Shape::Dense as u8 == 1 && Shape::Heap as u8 == 2);
