//! A block of text ─▶ rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::bad::{BadRow, Reason, RowPlace};
use super::super::decode::{Decoded, Load};
use super::super::error::InputError;
use super::append::Appender;
use super::cell::{Cells, Slots};
use super::fields::{Dialect, Record, Records, Wanted};
use super::json::{self, Names};
use super::layout::{Reads, TextLayout};
use super::split::Block;
use crate::build::rows::Rows;

/// Rows after which whoever waits for them may take them.
const BATCH_ROWS: u64 = 8192;

/// A block to decode.
#[derive(Debug)]
pub(crate) struct TextBlock {
    /// URL of the file.
    pub(crate) url: String,
    /// The file's place in the frozen list.
    pub(crate) file: u32,
    /// Where its columns are.
    pub(crate) layout: Arc<TextLayout>,
    /// Its records.
    pub(crate) block: Block,
    /// Whether the records before it were counted, so that they have numbers.
    pub(crate) numbered: bool,
    /// Its first record's place in the frozen input.
    pub(crate) first_index: u32,
}

/// Decodes a block into `rows`, calling `after_batch` with the number of rows after some of them, which may seal and clear
/// them.
pub(crate) fn decode(
    block: &TextBlock,
    load: &Load,
    rows: &mut Rows,
    after_batch: &mut dyn FnMut(&mut Rows, u64) -> Result<(), InputError>,
) -> Result<Decoded, InputError> {
    let layout = &*block.layout;
    let mut decoding = Decoding {
        block,
        load,
        appender: Appender::new(load, layout.slots),
        cells: Cells::new(layout.slots),
        decoded: Decoded::default(),
        number: 0,
        told: 0,
        rows,
        after_batch,
    };
    match &layout.reads {
        Reads::Fields { dialect, wanted } => decoding.fields(*dialect, wanted)?,
        Reads::Objects { names, seen, .. } => decoding.objects(names, seen)?,
    }
    decoding.finish()
}

struct Decoding<'a> {
    block: &'a TextBlock,
    load: &'a Load,
    appender: Appender<'a>,
    cells: Cells,
    decoded: Decoded,
    /// Number of the next record in the block.
    number: u64,
    /// Rows that `after_batch` knows of.
    told: u64,
    rows: &'a mut Rows,
    after_batch: &'a mut dyn FnMut(&mut Rows, u64) -> Result<(), InputError>,
}

impl Decoding<'_> {
    fn fields(&mut self, dialect: Dialect, wanted: &Wanted) -> Result<(), InputError> {
        let block = self.block;
        let mut records = Records::new(&block.block.bytes, dialect);
        while let Some(start) = records.next_start() {
            match records.read(wanted, &mut self.cells) {
                Record::Blank => {}
                Record::Bad(reason) => self.bad(start, None, &reason)?,
                Record::Cells => self.row(start)?,
            }
        }
        Ok(())
    }

    fn objects(&mut self, names: &Names, seen: &[AtomicBool]) -> Result<(), InputError> {
        let block = self.block;
        let data = &block.block.bytes[..];
        let mut start = 0;
        let mut members = vec![false; seen.len()];
        while start < data.len() {
            let after = memchr::memchr(b'\n', &data[start..]).map_or(data.len(), |at| start + at + 1);
            let end = start + data[start..after].trim_ascii_end().len();
            if start == end {
                // A line of blanks is counted, because it is not known to be empty before it is looked at.
                self.number += u64::from(!matches!(&data[start..after], b"\n" | b"\r\n" | b"\r"));
            } else {
                match json::read(data, start, end, names, &mut self.cells, &mut members) {
                    Ok(()) if self.cells.is_missing(Slots::KEY) => {
                        self.bad(start, Some(Slots::KEY), &Reason::NoMember)?;
                    }
                    Ok(()) => self.row(start)?,
                    Err(reason) => self.bad(start, None, &reason)?,
                }
            }
            start = after;
        }
        for (seen, member) in seen.iter().zip(members) {
            if member {
                seen.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Appends the row in `cells`, which begins at `start`.
    fn row(&mut self, start: usize) -> Result<(), InputError> {
        let index = self.block.first_index.wrapping_add(u32::try_from(self.number).unwrap_or(u32::MAX));
        let data = &self.block.block.bytes[..];
        match self.appender.append(&self.cells, data, index, self.rows, &mut self.decoded) {
            Ok(()) => self.count(),
            Err((slot, reason)) => self.bad(start, Some(slot), &reason),
        }
    }

    /// Notes a bad row.
    fn bad(&mut self, start: usize, slot: Option<usize>, reason: &Reason) -> Result<(), InputError> {
        self.block.note(self.load, self.number, start, slot, reason);
        self.count()
    }

    fn count(&mut self) -> Result<(), InputError> {
        self.number += 1;
        self.decoded.rows += 1;
        if self.decoded.rows - self.told < BATCH_ROWS {
            return Ok(());
        }
        self.tell()
    }

    fn tell(&mut self) -> Result<(), InputError> {
        self.load.bad.check()?;
        (self.after_batch)(self.rows, self.decoded.rows - self.told)?;
        self.told = self.decoded.rows;
        Ok(())
    }

    fn finish(mut self) -> Result<Decoded, InputError> {
        let counted = self.block.block.records;
        if self.number != counted {
            let reason = format!("{} records were read where {counted} had been counted", self.number);
            return Err(InputError::Damaged { file: self.block.url.clone(), reason });
        }
        self.tell()?;
        Ok(self.decoded)
    }
}

impl TextBlock {
    /// Notes the record with this number in the block, which begins at `start`, as a bad row.
    fn note(&self, load: &Load, number: u64, start: usize, slot: Option<usize>, reason: &Reason) {
        let begin = self.block.begin;
        let byte = begin.byte + start as u64;
        load.bad.note(self.file, byte, || {
            let place = if self.numbered {
                let lines = memchr::memchr_iter(b'\n', &self.block.bytes[..start]).count() as u64;
                RowPlace { row: Some(begin.row + number), line: Some(begin.line + lines), byte: None }
            } else {
                RowPlace { row: None, line: None, byte: Some(byte) }
            };
            let column = slot.map(|slot| column(load, slot).to_owned());
            BadRow { file: self.url.clone(), place, column, reason: reason.to_string() }
        });
    }
}

/// The name of the column that a slot is for.
fn column(load: &Load, slot: usize) -> &str {
    let spec = &load.spec;
    match slot.checked_sub(Slots::VALUES) {
        None => &spec.key_column,
        Some(value) => match spec.value_columns.get(value) {
            Some(column) => column,
            None if Slots::of(spec).deletes == Some(slot) => spec.delete_column.as_deref().unwrap_or_default(),
            None => spec.expiry_column.as_deref().unwrap_or_default(),
        },
    }
}
