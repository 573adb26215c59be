//! What a table is declared to hold. The schema is frozen into each version's content id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::table::kind_number;

/// Where a table's records live while served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Keys and values in memory.
    Mem,
    /// Keys in memory, values on SSD.
    Idx,
    /// A block index in memory, keys and values on SSD.
    Blk,
}

/// The type of a table's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// 64-bit integers. Signed input sign-extends and is reinterpreted.
    U64,
    /// Byte strings of at most [`crate::record::KEY_BYTES_MAX`] bytes; text is its UTF-8.
    Bytes,
}

/// The type of a table's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ValueType {
    /// Byte strings of any length up to [`crate::record::VALUE_BYTES_MAX`].
    Bytes,
    /// One signed 64-bit integer.
    I64,
    /// A vector of this many 32-bit floats.
    F32(u16),
    /// A vector of this many 16-bit floats.
    F16(u16),
}

/// How `f32` values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As declared.
    #[default]
    Native,
    /// `f32` rounded to `f16` at build time.
    F16,
}

/// What becomes of a finite `f32` beyond the range of `f16` when a table stores `f16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum F16Overflow {
    /// The row is a bad row.
    #[default]
    Reject,
    /// The value becomes the largest finite `f16` of its sign; such rows are counted.
    Saturate,
}

/// A table's declared schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schema {
    /// Where records live.
    pub kind: TableKind,
    /// Type of the keys.
    pub key: KeyType,
    /// Type of the values.
    pub value: ValueType,
    /// How `f32` values are stored.
    #[serde(default)]
    pub storage: Storage,
    /// Overflow policy where `storage` narrows.
    #[serde(default)]
    pub f16_overflow: F16Overflow,
    /// Whether records carry an expiry time.
    #[serde(default)]
    pub ttl: bool,
}

impl ValueType {
    /// Largest dimension of a vector value.
    pub const DIMENSION_MAX: u16 = 16_384;

    /// Bytes of one value as clients see it; `None` if values vary in length.
    #[must_use]
    pub const fn fixed_width(self) -> Option<usize> {
        match self {
            Self::Bytes => None,
            Self::I64 => Some(8),
            Self::F32(d) => Some(d as usize * 4),
            Self::F16(d) => Some(d as usize * 2),
        }
    }

    /// Bytes of one value stored this way; `None` if values vary in length.
    #[must_use]
    pub const fn stored_width(self, storage: Storage) -> Option<usize> {
        match (self, storage) {
            (Self::F32(d), Storage::F16) => Some(d as usize * 2),
            (value, _) => value.fixed_width(),
        }
    }
}

impl Schema {
    /// Bytes of one value as stored; `None` if values vary in length.
    #[must_use]
    pub const fn stored_width(&self) -> Option<usize> {
        self.value.stored_width(self.storage)
    }

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// A sentence that says what to change.
    pub fn validate(&self) -> Result<(), String> {
        if let ValueType::F32(d) | ValueType::F16(d) = self.value
            && !(1..=ValueType::DIMENSION_MAX).contains(&d)
        {
            return Err(format!("value type {}: the dimension must be 1 to {}", self.value, ValueType::DIMENSION_MAX));
        }
        if self.storage == Storage::F16 && !matches!(self.value, ValueType::F32(_)) {
            return Err(format!("storage f16 needs a value type f32[d], not {}", self.value));
        }
        Ok(())
    }
}

/// Bytes of an encoded schema.
pub const SCHEMA_BYTES: usize = 8;

impl Schema {
    /// The schema as stored in packs and forms and hashed into content ids.
    ///
    /// ```text
    ///   kind u8 │ key u8 │ value u8 │ storage u8 │ overflow u8 │ ttl u8 │ dimension u16
    ///
    ///   kind     1 mem, 2 idx, 3 blk          storage   0 native, 1 f16
    ///   key      0 u64, 1 bytes               overflow  0 reject, 1 saturate
    ///   value    0 bytes, 1 i64, 2 f32, 3 f16 dimension 0 unless the value is a vector
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SCHEMA_BYTES] {
        let (value, dimension) = match self.value {
            ValueType::Bytes => (0, 0),
            ValueType::I64 => (1, 0),
            ValueType::F32(d) => (2, d),
            ValueType::F16(d) => (3, d),
        };
        let kind = kind_number(self.kind);
        let key = match self.key {
            KeyType::U64 => 0,
            KeyType::Bytes => 1,
        };
        let storage = u8::from(self.storage == Storage::F16);
        let overflow = u8::from(self.f16_overflow == F16Overflow::Saturate);
        let [low, high] = dimension.to_le_bytes();
        [kind, key, value, storage, overflow, u8::from(self.ttl), low, high]
    }

    /// Reads a stored schema.
    ///
    /// # Errors
    /// `Damaged` if a field has an unknown value, or the schema is not a valid one.
    pub fn from_bytes(bytes: [u8; SCHEMA_BYTES]) -> Result<Self, FormatError> {
        let damaged = |reason: String| FormatError::damaged("schema", reason);
        let [kind, key, value, storage, overflow, ttl, low, high] = bytes;
        let dimension = u16::from_le_bytes([low, high]);
        let unknown = || damaged(format!("it has unknown values: {bytes:02x?}"));
        let flag = |byte: u8| if byte < 2 { Ok(byte == 1) } else { Err(unknown()) };
        let schema = Self {
            kind: match kind {
                1 => TableKind::Mem,
                2 => TableKind::Idx,
                3 => TableKind::Blk,
                _ => return Err(unknown()),
            },
            key: if flag(key)? { KeyType::Bytes } else { KeyType::U64 },
            value: match (value, dimension) {
                (0, 0) => ValueType::Bytes,
                (1, 0) => ValueType::I64,
                (2, d) => ValueType::F32(d),
                (3, d) => ValueType::F16(d),
                _ => return Err(unknown()),
            },
            storage: if flag(storage)? { Storage::F16 } else { Storage::Native },
            f16_overflow: if flag(overflow)? { F16Overflow::Saturate } else { F16Overflow::Reject },
            ttl: flag(ttl)?,
        };
        schema.validate().map_err(damaged)?;
        Ok(schema)
    }
}

macro_rules! word_enum {
    ($name:ident, $what:literal, $($variant:ident => $word:literal),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("unknown ", $what, " `{}`: expected ", $("`", $word, "` ",)+), text).trim_end().to_owned()),
                }
            }
        }
    };
}

word_enum!(TableKind, "table kind", Mem => "mem", Idx => "idx", Blk => "blk");
word_enum!(KeyType, "key type", U64 => "u64", Bytes => "bytes");
word_enum!(Storage, "storage", Native => "native", F16 => "f16");
word_enum!(F16Overflow, "f16 overflow policy", Reject => "reject", Saturate => "saturate");

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => f.write_str("bytes"),
            Self::I64 => f.write_str("i64"),
            Self::F32(1) => f.write_str("f32"),
            Self::F16(1) => f.write_str("f16"),
            Self::F32(d) => write!(f, "f32[{d}]"),
            Self::F16(d) => write!(f, "f16[{d}]"),
        }
    }
}

impl FromStr for ValueType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("unknown value type `{text}`: expected bytes, i64, f32, f32[d], f16 or f16[d]");
        let vector = |rest: &str| -> Option<u16> {
            if rest.is_empty() {
                return Some(1);
            }
            rest.strip_prefix('[')?.strip_suffix(']')?.parse().ok().filter(|d| (1..=Self::DIMENSION_MAX).contains(d))
        };
        match text {
            "bytes" => Ok(Self::Bytes),
            "i64" => Ok(Self::I64),
            _ if text.starts_with("f32") => vector(&text[3..]).map(Self::F32).ok_or_else(bad),
            _ if text.starts_with("f16") => vector(&text[3..]).map(Self::F16).ok_or_else(bad),
            _ => Err(bad()),
        }
    }
}

impl From<ValueType> for String {
    fn from(value: ValueType) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for ValueType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_survive_text() {
        for text in ["bytes", "i64", "f32", "f32[16]", "f16", "f16[768]"] {
            assert_eq!(text.parse::<ValueType>().expect("a known type").to_string(), text);
        }
        for text in ["f32[0]", "f32[]", "f32[1", "f64", "f32[99999]", "int"] {
            assert!(text.parse::<ValueType>().is_err(), "{text}");
        }
        assert_eq!("f32[1]".parse(), Ok(ValueType::F32(1)));
        assert_eq!(
            "disk".parse::<TableKind>().expect_err("unknown"),
            "unknown table kind `disk`: expected `mem` `idx` `blk`"
        );
    }

    #[test]
    fn half_storage_needs_floats() {
        let mut schema = Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: ValueType::F32(4),
            storage: Storage::F16,
            f16_overflow: F16Overflow::Reject,
            ttl: false,
        };
        assert_eq!(schema.validate(), Ok(()));
        assert_eq!((schema.stored_width(), schema.value.fixed_width()), (Some(8), Some(16)));
        schema.value = ValueType::I64;
        assert!(schema.validate().is_err());
    }

    #[test]
    fn schemas_survive_bytes_and_no_other_bytes_are_one() {
        let mut readable = 0;
        // Every byte at every place of a vector schema, and of one without a dimension.
        for base in [[1, 0, 2, 1, 0, 1, 16, 0], [1, 1, 0, 0, 0, 0, 0, 0]] {
            assert!(Schema::from_bytes(base).is_ok());
            for place in 0..SCHEMA_BYTES {
                for byte in 0..=255 {
                    let mut bytes = base;
                    bytes[place] = byte;
                    if let Ok(schema) = Schema::from_bytes(bytes) {
                        assert_eq!(schema.to_bytes(), bytes);
                        assert_eq!(schema.validate(), Ok(()));
                        readable += 1;
                    }
                }
            }
        }
        // 3 kinds, 2 keys, 1 value, 2 × 3 flags, 255 + 64 dimensions; 3 kinds, 2 keys, 2 values, 1 + 2 × 2 flags, 2.
        assert_eq!(readable, 331 + 14, "the byte format of schemas has changed");
    }
}
