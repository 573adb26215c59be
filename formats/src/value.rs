//! Values: from what the input holds to what is stored, and from there to what clients see.
//!
//! ```text
//!   input row ── encode ──▶ stored bytes ── serve ──▶ declared type, little-endian ── decode ──▶ Value
//!   f32s                    f32 or f16                f32 or f16
//! ```
//!
//! All numbers are little-endian. Narrowing rounds to the nearest `f16`, ties to even; every NaN becomes the one NaN
//! `0x7e00`, so that stored bytes do not depend on the processor; infinities stay. A finite `f32` that would round to
//! an infinity overflows: the schema says whether its row is refused or it becomes the largest finite `f16`.

use std::fmt;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::record::VALUE_BYTES_MAX;
use crate::schema::{F16Overflow, Schema, Storage, ValueType};

/// The smallest magnitude that rounds to an infinite `f16`: halfway between the largest finite one and 2^16.
const F16_OVERFLOWS: f32 = 65_520.0;
/// Numbers converted at once; they stay in the first-level cache.
const TILE: usize = 256;

/// A value that does not fit the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not the declared type.
    #[error("the table's value type is {declared}, not {given}")]
    Type {
        /// The declared type.
        declared: ValueType,
        /// What was given.
        given: &'static str,
    },
    /// Not the declared number of dimensions, or not a whole number of rows of them.
    #[error("the table's value type is {declared}: {given} numbers were given")]
    Dimension {
        /// The declared type.
        declared: ValueType,
        /// How many numbers were given.
        given: usize,
    },
    /// A finite number beyond the range of `f16`, and the schema says to reject it.
    #[error("dimension {index} is {number}, beyond the range of f16")]
    Overflow {
        /// Which dimension, from 0.
        index: usize,
        /// The number, as text.
        number: String,
    },
    /// Longer than [`VALUE_BYTES_MAX`].
    #[error("the value has {0} bytes, the limit is {VALUE_BYTES_MAX}")]
    TooLong(usize),
    /// Stored or served bytes of another length than the type's.
    #[error("a value of type {declared} has {expected} bytes, not {found}")]
    Width {
        /// The declared type.
        declared: ValueType,
        /// Its width in bytes.
        expected: usize,
        /// The bytes found.
        found: usize,
    },
}

/// Converts values of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueCodec {
    value: ValueType,
    storage: Storage,
    overflow: F16Overflow,
}

impl ValueCodec {
    /// The codec of a valid schema.
    #[must_use]
    pub const fn new(schema: &Schema) -> Self {
        Self { value: schema.value, storage: schema.storage, overflow: schema.f16_overflow }
    }

    /// Bytes of one stored value; `None` if values vary in length.
    #[must_use]
    pub const fn stored_width(&self) -> Option<usize> {
        self.value.stored_width(self.storage)
    }

    /// Bytes of one value as clients see it; `None` if values vary in length.
    #[must_use]
    pub const fn served_width(&self) -> Option<usize> {
        self.value.fixed_width()
    }

    /// Whether stored bytes are what clients see.
    #[must_use]
    pub const fn serves_as_stored(&self) -> bool {
        !matches!((self.value, self.storage), (ValueType::F32(_), Storage::F16))
    }

    /// Appends the stored form of one vector; gives how many of its numbers were saturated.
    ///
    /// # Errors
    /// `Type`, `Dimension` or `Overflow`; nothing is then appended.
    pub fn encode_f32s(&self, numbers: &[f32], out: &mut Vec<u8>) -> Result<u64, ValueError> {
        let (dimension, narrow) = self.vector()?;
        if numbers.len() != dimension {
            return Err(ValueError::Dimension { declared: self.value, given: numbers.len() });
        }
        if !narrow {
            append_f32s(numbers, out);
            return Ok(0);
        }
        let saturated = append_narrowed(numbers, out, |_| ());
        if saturated > 0 && self.overflow == F16Overflow::Reject {
            out.truncate(out.len() - numbers.len() * 2);
            let index = numbers.iter().position(|&number| overflows(number)).unwrap_or_default();
            return Err(ValueError::Overflow { index, number: numbers[index].to_string() });
        }
        Ok(saturated)
    }

    /// Appends the stored form of many vectors, one after the other in `numbers`; gives how many numbers were
    /// saturated. Rows with a number that the schema rejects are named in `rejected`, ascending; their bytes are
    /// appended like the others and must not be used.
    ///
    /// # Errors
    /// `Type`, or `Dimension` if `numbers` is not a whole number of rows; nothing is then appended.
    pub fn encode_f32_rows(
        &self,
        numbers: &[f32],
        out: &mut Vec<u8>,
        rejected: &mut Vec<usize>,
    ) -> Result<u64, ValueError> {
        let (dimension, narrow) = self.vector()?;
        if dimension == 0 || !numbers.len().is_multiple_of(dimension) {
            return Err(ValueError::Dimension { declared: self.value, given: numbers.len() });
        }
        if !narrow {
            append_f32s(numbers, out);
            return Ok(0);
        }
        if self.overflow == F16Overflow::Saturate {
            return Ok(append_narrowed(numbers, out, |_| ()));
        }
        append_narrowed(numbers, out, |index| {
            let row = index / dimension;
            if rejected.last() != Some(&row) {
                rejected.push(row);
            }
        });
        Ok(0)
    }

    /// Appends the stored form of an integer.
    ///
    /// # Errors
    /// `Type`; nothing is then appended.
    pub fn encode_i64(&self, number: i64, out: &mut Vec<u8>) -> Result<(), ValueError> {
        if self.value != ValueType::I64 {
            return Err(ValueError::Type { declared: self.value, given: "i64" });
        }
        out.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }

    /// Appends the stored form of a byte string.
    ///
    /// # Errors
    /// `Type` or `TooLong`; nothing is then appended.
    pub fn encode_bytes(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        if self.value != ValueType::Bytes {
            return Err(ValueError::Type { declared: self.value, given: "bytes" });
        }
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(ValueError::TooLong(bytes.len()));
        }
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends the stored form of zero: all numbers 0, or an empty byte string.
    pub fn encode_zero(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.stored_width().unwrap_or(0), 0);
    }

    /// Appends what clients see of a stored value.
    ///
    /// # Errors
    /// `Width` or `TooLong` if these are not the bytes of a stored value; nothing is then appended.
    #[inline]
    pub fn serve(&self, stored: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        self.check_width(stored, self.stored_width())?;
        if self.serves_as_stored() {
            out.extend_from_slice(stored);
        } else {
            append_widened(stored, out);
        }
        Ok(())
    }

    /// Reads a value as clients see it.
    ///
    /// # Errors
    /// `Width` or `TooLong` if these are not the bytes of a value.
    pub fn decode(&self, served: &[u8]) -> Result<Value, ValueError> {
        self.check_width(served, self.served_width())?;
        Ok(match self.value {
            ValueType::Bytes => Value::Bytes(served.to_vec()),
            ValueType::I64 => Value::I64(words(served).next().map_or(0, i64::from_le_bytes)),
            ValueType::F32(_) => Value::F32(words(served).map(f32::from_le_bytes).collect()),
            ValueType::F16(_) => Value::F16(words(served).map(f16::from_le_bytes).collect()),
        })
    }

    /// The dimension of a vector type, and whether its `f32` input is narrowed.
    const fn vector(&self) -> Result<(usize, bool), ValueError> {
        match (self.value, self.storage) {
            (ValueType::F32(d), Storage::Native) => Ok((d as usize, false)),
            (ValueType::F32(d), Storage::F16) | (ValueType::F16(d), _) => Ok((d as usize, true)),
            _ => Err(ValueError::Type { declared: self.value, given: "f32" }),
        }
    }

    fn check_width(&self, bytes: &[u8], width: Option<usize>) -> Result<(), ValueError> {
        match width {
            Some(expected) if bytes.len() != expected => {
                Err(ValueError::Width { declared: self.value, expected, found: bytes.len() })
            }
            None if bytes.len() > VALUE_BYTES_MAX => Err(ValueError::TooLong(bytes.len())),
            _ => Ok(()),
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn overflows(number: f32) -> bool {
    number.abs() >= F16_OVERFLOWS && number.is_finite()
}

fn append_f32s(numbers: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + numbers.len() * 4, 0);
    for (to, number) in out[start..].as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *to = number.to_le_bytes();
    }
}

/// Appends `numbers` as `f16`; gives how many overflowed and calls `overflowed` with the index of each.
fn append_narrowed(numbers: &[f32], out: &mut Vec<u8>, mut overflowed: impl FnMut(usize)) -> u64 {
    let start = out.len();
    out.resize(start + numbers.len() * 2, 0);
    let mut halves = [f16::ZERO; TILE];
    let mut count = 0;
    for (tile, (numbers, to)) in numbers.chunks(TILE).zip(out[start..].chunks_mut(TILE * 2)).enumerate() {
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        // One pass without branches finds the rare tile that needs a second look. A NaN is in no range.
        if numbers.iter().fold(false, |odd, number| odd | !(0.0..F16_OVERFLOWS).contains(&number.abs())) {
            for (index, (half, &number)) in halves.iter_mut().zip(numbers).enumerate() {
                if number.is_nan() {
                    *half = f16::NAN;
                } else if overflows(number) {
                    *half = if number > 0.0 { f16::MAX } else { f16::MIN };
                    count += 1;
                    overflowed(tile * TILE + index);
                }
            }
        }
        for (to, half) in to.as_chunks_mut::<2>().0.iter_mut().zip(&*halves) {
            *to = half.to_le_bytes();
        }
    }
    count
}

fn append_widened(stored: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + stored.len() * 2, 0);
    let (mut halves, mut numbers) = ([f16::ZERO; TILE], [0f32; TILE]);
    for (from, to) in stored.chunks(TILE * 2).zip(out[start..].chunks_mut(TILE * 4)) {
        let count = from.len() / 2;
        for (half, bytes) in halves.iter_mut().zip(words(from)) {
            *half = f16::from_le_bytes(bytes);
        }
        halves[..count].convert_to_f32_slice(&mut numbers[..count]);
        for (to, number) in to.as_chunks_mut::<4>().0.iter_mut().zip(&numbers) {
            *to = number.to_le_bytes();
        }
    }
}

/// A value as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A byte string.
    Bytes(Vec<u8>),
    /// An integer.
    I64(i64),
    /// A vector of 32-bit floats.
    F32(Vec<f32>),
    /// A vector of 16-bit floats.
    F16(Vec<f16>),
}

impl fmt::Display for Value {
    /// Numbers as text, vectors in brackets unless they have one dimension; printable ASCII in quotes, other bytes as
    /// hexadecimal digits after `0x`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn vector<T: fmt::Display>(f: &mut fmt::Formatter<'_>, numbers: &[T]) -> fmt::Result {
            if let [number] = numbers {
                return number.fmt(f);
            }
            f.write_str("[")?;
            for (index, number) in numbers.iter().enumerate() {
                if index > 0 {
                    f.write_str(", ")?;
                }
                number.fmt(f)?;
            }
            f.write_str("]")
        }
        match self {
            Self::Bytes(bytes) => f.write_str(&printable(bytes)),
            Self::I64(number) => number.fmt(f),
            Self::F32(numbers) => vector(f, numbers),
            Self::F16(numbers) => vector(f, numbers),
        }
    }
}

/// Bytes for people: printable ASCII in quotes, anything else as hexadecimal digits after `0x`.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    if bytes.iter().all(|&byte| (byte == b' ' || byte.is_ascii_graphic()) && !matches!(byte, b'"' | b'\\')) {
        format!("\"{}\"", String::from_utf8_lossy(bytes))
    } else {
        bytes.iter().fold(String::from("0x"), |text, byte| text + &format!("{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::{KeyType, TableKind};

    fn codec(value: ValueType, storage: Storage, f16_overflow: F16Overflow) -> ValueCodec {
        let schema = Schema { kind: TableKind::Mem, key: KeyType::U64, value, storage, f16_overflow, ttl: false };
        assert_eq!(schema.validate(), Ok(()));
        ValueCodec::new(&schema)
    }

    fn served(codec: ValueCodec, stored: &[u8]) -> Value {
        let mut out = Vec::new();
        codec.serve(stored, &mut out).expect("the stored width");
        codec.decode(&out).expect("the served width")
    }

    #[test]
    fn overflow_is_refused_or_saturated_as_declared() {
        let row = [1.5, -70_000.0, 65_519.0, f32::INFINITY];
        let mut out = vec![9];
        let reject = codec(ValueType::F32(4), Storage::F16, F16Overflow::Reject);
        let error = reject.encode_f32s(&row, &mut out).expect_err("70000 overflows");
        assert_eq!(error, ValueError::Overflow { index: 1, number: "-70000".into() });
        assert_eq!(out, [9], "a refused row leaves nothing behind");
        let saturate = codec(ValueType::F32(4), Storage::F16, F16Overflow::Saturate);
        assert_eq!(saturate.encode_f32s(&row, &mut out), Ok(1));
        assert_eq!(served(saturate, &out[1..]), Value::F32(vec![1.5, -65_504.0, 65_504.0, f32::INFINITY]));
        // 65519.996 is the last f32 that rounds down to 65504.
        let edge = codec(ValueType::F16(2), Storage::Native, F16Overflow::Reject);
        assert_eq!(edge.encode_f32s(&[F16_OVERFLOWS.next_down(), -F16_OVERFLOWS.next_down()], &mut out), Ok(0));
        assert!(edge.encode_f32s(&[0.0, F16_OVERFLOWS], &mut out).is_err());
        assert_eq!(f16::from_f32(F16_OVERFLOWS.next_down()), f16::MAX);
        assert_eq!(f16::from_f32(F16_OVERFLOWS), f16::INFINITY);
    }

    #[test]
    fn every_nan_is_stored_as_the_same_bytes() {
        let codec = codec(ValueType::F16(1), Storage::Native, F16Overflow::Reject);
        for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0x7fff_ffff] {
            let mut out = Vec::new();
            assert_eq!(codec.encode_f32s(&[f32::from_bits(bits)], &mut out), Ok(0));
            assert_eq!(out, [0x00, 0x7e]);
        }
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let floats = codec(ValueType::F32(2), Storage::Native, F16Overflow::Reject);
        let integer = codec(ValueType::I64, Storage::Native, F16Overflow::Reject);
        let bytes = codec(ValueType::Bytes, Storage::Native, F16Overflow::Reject);
        let mut out = Vec::new();
        assert!(floats.encode_f32s(&[1.0], &mut out).is_err());
        assert!(floats.encode_f32_rows(&[1.0; 3], &mut out, &mut Vec::new()).is_err());
        assert!(floats.encode_i64(1, &mut out).is_err());
        assert!(integer.encode_bytes(b"x", &mut out).is_err());
        assert!(bytes.encode_f32s(&[1.0], &mut out).is_err());
        assert!(bytes.encode_bytes(&vec![0; VALUE_BYTES_MAX + 1], &mut out).is_err());
        assert!(floats.serve(&[0; 7], &mut out).is_err());
        assert!(integer.decode(&[0; 7]).is_err());
        assert!(out.is_empty());
        integer.encode_i64(-2, &mut out).expect("an integer");
        assert_eq!(served(integer, &out), Value::I64(-2));
    }

    #[test]
    fn values_print_for_people() {
        assert_eq!(Value::F32(vec![0.1]).to_string(), "0.1");
        assert_eq!(Value::F16(vec![f16::ONE, f16::NEG_INFINITY]).to_string(), "[1, -inf]");
        assert_eq!(Value::Bytes(b"item 7".to_vec()).to_string(), "\"item 7\"");
        assert_eq!(Value::Bytes(vec![0, 255]).to_string(), "0x00ff");
        assert_eq!(Value::I64(-3).to_string(), "-3");
    }

    proptest! {
        #[test]
        fn narrowing_in_tiles_equals_one_number_at_a_time(
            bits in prop::collection::vec(prop_oneof![any::<u32>(), (0x4700_0000u32..0x4800_0000)], 0..700),
        ) {
            let numbers: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let mut out = Vec::new();
            let mut indices = Vec::new();
            let count = append_narrowed(&numbers, &mut out, |index| indices.push(index));
            prop_assert_eq!(count as usize, indices.len());
            for (index, (number, stored)) in numbers.iter().zip(words::<2>(&out)).enumerate() {
                let half = f16::from_le_bytes(stored);
                let expected = f16::from_f32(*number);
                if number.is_nan() {
                    prop_assert_eq!(half.to_bits(), 0x7e00);
                } else if number.is_finite() && expected.is_infinite() {
                    prop_assert!(indices.binary_search(&index).is_ok());
                    prop_assert_eq!(half, if *number > 0.0 { f16::MAX } else { f16::MIN });
                } else {
                    prop_assert_eq!(half.to_bits(), expected.to_bits());
                }
            }
            let mut wide = Vec::new();
            append_widened(&out, &mut wide);
            for (stored, wide) in words::<2>(&out).zip(words::<4>(&wide)) {
                let (stored, wide) = (f16::from_le_bytes(stored).to_f32(), f32::from_le_bytes(wide));
                prop_assert!(stored == wide || (stored.is_nan() && wide.is_nan()));
            }
        }

        #[test]
        fn rows_at_once_equal_row_by_row(
            numbers in prop::collection::vec(-80_000f32..80_000.0, 0..200),
            saturate: bool,
            narrow: bool,
        ) {
            let numbers = &numbers[..numbers.len() / 3 * 3];
            let overflow = if saturate { F16Overflow::Saturate } else { F16Overflow::Reject };
            let storage = if narrow { Storage::F16 } else { Storage::Native };
            let codec = codec(ValueType::F32(3), storage, overflow);
            let (mut all, mut rejected) = (Vec::new(), Vec::new());
            let saturated = codec.encode_f32_rows(numbers, &mut all, &mut rejected).expect("whole rows");
            let width = codec.stored_width().expect("fixed");
            let mut expected = 0;
            for (row, (numbers, stored)) in numbers.chunks_exact(3).zip(all.chunks_exact(width)).enumerate() {
                let mut one = Vec::new();
                match codec.encode_f32s(numbers, &mut one) {
                    Ok(count) => {
                        expected += count;
                        prop_assert_eq!(one, stored);
                        prop_assert!(!rejected.contains(&row));
                    }
                    Err(_) => prop_assert!(rejected.contains(&row)),
                }
            }
            prop_assert_eq!(saturated, expected);
        }
    }
}
