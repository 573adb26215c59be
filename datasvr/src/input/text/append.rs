//! The cells of a row ─▶ a row of the table, by the rules that columns of Parquet are read by.

use fkv_formats::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use fkv_formats::schema::{KeyType, ValueType};
use fkv_formats::value::{ValueCodec, ValueError};
use fkv_meta::record::NullPolicy;

use super::super::bad::Reason;
use super::super::decode::{Decoded, Load};
use super::cell::{Cell, Cells, Slots, not_a_number, shown, too_large};
use super::number::{NoNumber, float, integer};
use super::vector::{Found, vector};
use crate::build::rows::{KeyColumn, Rows, ValueColumn};

/// A row that cannot be used: the slot to blame and what is wrong with it.
pub(crate) type Fault = (usize, Reason);

/// Appends rows; its buffers live from one to the next.
#[derive(Debug)]
pub(crate) struct Appender<'a> {
    load: &'a Load,
    slots: Slots,
    codec: ValueCodec,
    numbers: Vec<f32>,
    nulls: Vec<usize>,
    /// The stored value of the row, if values have one width.
    value: Vec<u8>,
}

/// What a row's value is.
enum Value<'a> {
    /// It is in `Appender::value`.
    Stored,
    /// These bytes.
    Bytes(&'a [u8]),
}

enum Key<'a> {
    U64(u64),
    Bytes(&'a [u8]),
}

impl<'a> Appender<'a> {
    pub(crate) fn new(load: &'a Load, slots: Slots) -> Self {
        let codec = ValueCodec::new(&load.schema);
        Self { load, slots, codec, numbers: Vec::new(), nulls: Vec::new(), value: Vec::new() }
    }

    /// Appends the row in `data`, whose place in the frozen input is `index`, unless it has no value.
    pub(crate) fn append(
        &mut self,
        cells: &Cells,
        data: &[u8],
        index: u32,
        rows: &mut Rows,
        decoded: &mut Decoded,
    ) -> Result<(), Fault> {
        let key = self.key(cells.get(data, Slots::KEY)).map_err(|reason| (Slots::KEY, reason))?;
        let deletes = match self.slots.deletes {
            Some(slot) => flag(cells.get(data, slot)).map_err(|reason| (slot, reason))?,
            None => false,
        };
        // Of a row that deletes its key nothing else matters.
        let value = if deletes { Some(self.no_value()) } else { self.value(cells, data, decoded)? };
        let Some(value) = value else {
            decoded.nulls += 1;
            return Ok(());
        };
        let expiry = match self.slots.expiry {
            Some(slot) if !deletes => expiry(cells.get(data, slot)).map_err(|reason| (slot, reason))?,
            _ => 0,
        };
        match (&mut rows.values, value) {
            (ValueColumn::Fixed { data, .. }, _) => data.extend_from_slice(&self.value),
            (ValueColumn::Bytes(values), Value::Bytes(bytes)) => values.push(bytes),
            (ValueColumn::Bytes(values), Value::Stored) => values.push(&self.value),
        }
        match (&mut rows.keys, key) {
            (KeyColumn::U64(keys), Key::U64(key)) => keys.push(key),
            (KeyColumn::Bytes(keys), Key::Bytes(key)) => keys.push(key),
            _ => unreachable!("keys are read as the schema has them, and rows are shaped by it"),
        }
        if rows.shape.ttl {
            rows.expiry.push(expiry);
        }
        if rows.shape.deletes {
            rows.deletes.push(deletes);
        }
        rows.index.push(index);
        Ok(())
    }

    /// What stands for the value of a row without one.
    fn no_value<'c>(&mut self) -> Value<'c> {
        self.value.clear();
        self.codec.encode_zero(&mut self.value);
        Value::Stored
    }

    fn key<'c>(&self, cell: Cell<'c>) -> Result<Key<'c>, Reason> {
        match self.load.schema.key {
            KeyType::U64 => match cell {
                Cell::Null => Err(Reason::NullKey),
                Cell::Text(text) | Cell::Number(text) => {
                    match integer(text).and_then(|number| number.map(|n| n.bits()).transpose()) {
                        Ok(Some(key)) => Ok(Key::U64(key)),
                        Ok(None) => Err(Reason::NullKey),
                        Err(error) => Err(not_an_integer(error, text, "u64")),
                    }
                }
                other => Err(wrong_kind(other, "an integer")),
            },
            KeyType::Bytes => match self.text(cell, KEY_BYTES_MAX) {
                Ok(Some(key)) => Ok(Key::Bytes(key)),
                Ok(None) => Err(Reason::NullKey),
                Err(TextFault::TooLong(len)) => Err(Reason::KeyTooLong { len, max: KEY_BYTES_MAX }),
                Err(TextFault::Other(reason)) => Err(reason),
            },
        }
    }

    /// The row's value; `None` if there is none, and the row is left out.
    fn value<'c>(
        &mut self,
        cells: &'c Cells,
        data: &'c [u8],
        decoded: &mut Decoded,
    ) -> Result<Option<Value<'c>>, Fault> {
        const FIRST: usize = Slots::VALUES;
        self.value.clear();
        let found = match self.load.schema.value {
            ValueType::Bytes => match self.text(cells.get(data, FIRST), VALUE_BYTES_MAX) {
                Ok(Some(bytes)) => return Ok(Some(Value::Bytes(bytes))),
                Ok(None) => false,
                Err(TextFault::TooLong(len)) => {
                    return Err((FIRST, Reason::ValueTooLong { len, max: VALUE_BYTES_MAX }));
                }
                Err(TextFault::Other(reason)) => return Err((FIRST, reason)),
            },
            ValueType::I64 => match signed(cells.get(data, FIRST)).map_err(|reason| (FIRST, reason))? {
                Some(number) => {
                    self.codec.encode_i64(number, &mut self.value).map_err(|error| (FIRST, other(&error)))?;
                    true
                }
                None => false,
            },
            ValueType::F32(d) | ValueType::F16(d) => {
                let found = if self.slots.values == 1 {
                    self.one_cell(cells.get(data, FIRST), usize::from(d)).map_err(|reason| (FIRST, reason))?
                } else {
                    self.many_cells(cells, data)?
                };
                if found {
                    if let (NullPolicy::Skip, Some(at)) = (self.load.spec.nulls, self.nulls.first()) {
                        let slot = if self.slots.values == 1 { FIRST } else { FIRST + at };
                        return Err((slot, Reason::NullElement { at: *at }));
                    }
                    match self.codec.encode_f32s(&self.numbers, &mut self.value) {
                        Ok(saturated) => decoded.saturated += saturated,
                        Err(ValueError::Overflow { number, .. }) => {
                            return Err((FIRST, Reason::OutOfRange { number, stored: "f16" }));
                        }
                        Err(error) => return Err((FIRST, other(&error))),
                    }
                }
                found
            }
        };
        match (found, self.load.spec.nulls) {
            (true, _) => Ok(Some(Value::Stored)),
            (false, NullPolicy::Skip) => Ok(None),
            (false, NullPolicy::Zero) => {
                self.codec.encode_zero(&mut self.value);
                Ok(Some(Value::Stored))
            }
        }
    }

    /// The vector in one cell, in `numbers` and `nulls`; whether there is one.
    fn one_cell(&mut self, cell: Cell<'_>, dimension: usize) -> Result<bool, Reason> {
        let text = match cell {
            Cell::Null => return Ok(false),
            Cell::Text(text) | Cell::Number(text) | Cell::List(text) => text,
            other => return Err(wrong_kind(other, if dimension == 1 { "a number" } else { "an array of numbers" })),
        };
        // Most cells of one element are plain numbers.
        if dimension == 1 {
            match float(text) {
                Ok(None) => return Ok(false),
                Ok(Some(number)) => {
                    self.nulls.clear();
                    self.numbers.clear();
                    self.numbers.push(number);
                    return Ok(true);
                }
                Err(NoNumber::TooLarge) => return Err(too_large(text)),
                Err(NoNumber::Malformed) => {}
            }
        }
        match vector(text, dimension, &mut self.numbers, &mut self.nulls)? {
            Found::Nothing => Ok(false),
            Found::Elements(found) if found != dimension => Err(Reason::WrongLength { found, expected: dimension }),
            Found::Elements(_) => Ok(true),
        }
    }

    /// The vector whose elements are in a cell each; whether there is one: not if all of them are null.
    fn many_cells(&mut self, cells: &Cells, data: &[u8]) -> Result<bool, Fault> {
        self.numbers.clear();
        self.nulls.clear();
        for at in 0..self.slots.values {
            let slot = Slots::VALUES + at;
            let number = match cells.get(data, slot) {
                Cell::Null => None,
                Cell::Text(text) | Cell::Number(text) => match float(text) {
                    Ok(number) => number,
                    Err(NoNumber::TooLarge) => return Err((slot, too_large(text))),
                    Err(NoNumber::Malformed) => return Err((slot, not_a_number(text))),
                },
                other => return Err((slot, wrong_kind(other, "a number"))),
            };
            if number.is_none() {
                self.nulls.push(at);
            }
            self.numbers.push(number.unwrap_or(0.0));
        }
        Ok(self.nulls.len() < self.slots.values)
    }

    /// The text of a cell.
    fn text<'c>(&self, cell: Cell<'c>, len_max: usize) -> Result<Option<&'c [u8]>, TextFault> {
        match cell {
            Cell::Null => Ok(None),
            Cell::Text(text) if text.len() > len_max => Err(TextFault::TooLong(text.len())),
            Cell::Text(text) if std::str::from_utf8(text).is_err() => Err(TextFault::Other(Reason::NotUtf8)),
            Cell::Text(text) => Ok(Some(text)),
            other => Err(TextFault::Other(wrong_kind(other, "text"))),
        }
    }
}

enum TextFault {
    TooLong(usize),
    Other(Reason),
}

fn signed(cell: Cell<'_>) -> Result<Option<i64>, Reason> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Text(text) | Cell::Number(text) => integer(text)
            .and_then(|number| number.map(|n| n.signed()).transpose())
            .map_err(|error| not_an_integer(error, text, "i64")),
        other => Err(wrong_kind(other, "an integer")),
    }
}

/// Whether a row deletes its key.
fn flag(cell: Cell<'_>) -> Result<bool, Reason> {
    match cell {
        Cell::Null => Ok(false),
        Cell::Flag(flag) => Ok(flag),
        Cell::Text(text) | Cell::Number(text) => match text.trim_ascii() {
            b"" | b"0" => Ok(false),
            b"1" => Ok(true),
            text if text.eq_ignore_ascii_case(b"false") => Ok(false),
            text if text.eq_ignore_ascii_case(b"true") => Ok(true),
            text => Err(Reason::NotFlag { text: shown(text) }),
        },
        other => Err(wrong_kind(other, "true or false")),
    }
}

/// Seconds; 0 is never.
fn expiry(cell: Cell<'_>) -> Result<u32, Reason> {
    match cell {
        Cell::Null => Ok(0),
        Cell::Text(text) | Cell::Number(text) => {
            let seconds = integer(text).and_then(|number| number.map(|n| n.unsigned()).transpose());
            let seconds = seconds.ok().and_then(|seconds| u32::try_from(seconds.unwrap_or(0)).ok());
            seconds.ok_or_else(|| Reason::BadExpiry { number: shown(text.trim_ascii()) })
        }
        other => Err(wrong_kind(other, "Unix seconds")),
    }
}

fn wrong_kind(found: Cell<'_>, expected: &'static str) -> Reason {
    Reason::WrongKind { found: found.kind(), expected }
}

fn not_an_integer(error: NoNumber, text: &[u8], stored: &'static str) -> Reason {
    let text = shown(text.trim_ascii());
    match error {
        NoNumber::Malformed => Reason::NotInteger { text },
        NoNumber::TooLarge => Reason::OutOfRange { number: text, stored },
    }
}

fn other(error: &ValueError) -> Reason {
    Reason::Other(error.to_string())
}
