//! How a record of a slice is written: follows from the schema and what the slice keeps.

use super::{SliceRecord, SliceSpec, WHAT};
use crate::error::FormatError;
use crate::hash::{hash_bytes, unhash_u64};
use crate::record::{Input, KEY_BYTES_MAX, Key, RecordRef, VALUE_BYTES_MAX, put_blob};
use crate::schema::KeyType;

const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;

/// How the records of a slice are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    pub(super) key: KeyType,
    /// Bytes of a stored value; `None` if they vary.
    pub(super) width: Option<usize>,
    pub(super) ttl: bool,
    pub(super) tombstones: bool,
    pub(super) places: bool,
    /// Bytes of every record; `None` if they vary.
    fixed: Option<usize>,
}

impl RecordLayout {
    /// That of slices of this kind.
    #[must_use]
    pub fn of(spec: &SliceSpec) -> Self {
        let SliceSpec { ref schema, tombstones, places } = *spec;
        let (key, width, ttl) = (schema.key, schema.stored_width(), schema.ttl);
        let fixed = match (key, width, tombstones) {
            (KeyType::U64, Some(width), false) => Some(8 + 4 * usize::from(places) + 4 * usize::from(ttl) + width),
            _ => None,
        };
        Self { key, width, ttl, tombstones, places, fixed }
    }

    /// Bytes of every record; `None` if they vary.
    #[must_use]
    pub const fn fixed_len(&self) -> Option<usize> {
        self.fixed
    }

    /// Bytes of a record, which fits.
    pub(super) fn len(&self, record: &SliceRecord<'_>) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        // A length takes a byte for every 7 bits.
        let blob = |len: usize| len + (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize;
        let key = match record.record.key {
            Key::U64(_) => 8,
            Key::Bytes(key) => blob(key.len()),
        };
        let head = usize::from(self.tombstones) + key + 4 * usize::from(self.places);
        match record.record.value {
            None => head,
            Some(value) => {
                let value = if self.width.is_some() { value.len() } else { blob(value.len()) };
                head + 4 * usize::from(self.ttl) + value
            }
        }
    }

    /// What is wrong with a record that cannot be written this way.
    pub(super) fn unfit(&self, slice_record: &SliceRecord<'_>) -> Option<String> {
        let record = &slice_record.record;
        match (self.key, record.key) {
            (KeyType::U64, Key::U64(_)) => {}
            (KeyType::Bytes, Key::Bytes(key)) => {
                if key.len() > KEY_BYTES_MAX {
                    return Some(format!("its key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len()));
                }
            }
            _ => return Some("its key is of another type than the table's".to_owned()),
        }
        match (record.value, self.width) {
            (None, _) if !self.tombstones => return Some("the slice holds no tombstones".to_owned()),
            (None, _) if record.expiry != 0 => return Some("a tombstone does not expire".to_owned()),
            (Some(value), Some(width)) if value.len() != width => {
                return Some(format!("its value has {} bytes, not {width}", value.len()));
            }
            (Some(value), None) if value.len() > VALUE_BYTES_MAX => {
                return Some(format!("its value has {} bytes, the limit is {VALUE_BYTES_MAX}", value.len()));
            }
            _ => {}
        }
        if record.expiry != 0 && !self.ttl {
            return Some("it has an expiry time, but the table declares no TTL".to_owned());
        }
        if slice_record.place != 0 && !self.places {
            return Some("it has a place, but the slice keeps none".to_owned());
        }
        None
    }

    /// Appends a record, which fits.
    #[inline]
    pub(super) fn put(&self, SliceRecord { record, place }: &SliceRecord<'_>, out: &mut Vec<u8>) {
        if self.tombstones {
            out.push(if record.value.is_some() { VALUE } else { TOMBSTONE });
        }
        match record.key {
            Key::U64(_) => out.extend_from_slice(&record.h.to_le_bytes()),
            Key::Bytes(key) => put_blob(out, key),
        }
        if self.places {
            out.extend_from_slice(&place.to_le_bytes());
        }
        let Some(value) = record.value else { return };
        if self.ttl {
            out.extend_from_slice(&record.expiry.to_le_bytes());
        }
        if self.width.is_some() {
            out.extend_from_slice(value);
        } else {
            put_blob(out, value);
        }
    }

    /// Reads the record at the front of `bytes`; gives it and its length.
    ///
    /// # Errors
    /// `Truncated` or `Damaged`.
    #[inline]
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<(SliceRecord<'a>, usize), FormatError> {
        let Some(len) = self.fixed else { return self.decode_any(bytes) };
        let (Some((h, _)), Some(record)) = (bytes.split_first_chunk(), bytes.get(..len)) else {
            return Err(FormatError::Truncated { what: WHAT, needed: len as u64, found: bytes.len() as u64 });
        };
        let number = |at: usize| {
            record.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        };
        let place = if self.places { number(8) } else { 0 };
        let behind = if self.places { 12 } else { 8 };
        let (expiry, value_at) = if self.ttl { (number(behind), behind + 4) } else { (0, behind) };
        let h = u64::from_le_bytes(*h);
        let record = RecordRef { h, key: Key::U64(unhash_u64(h)), expiry, value: record.get(value_at..) };
        Ok((SliceRecord { record, place }, len))
    }

    fn decode_any<'a>(&self, bytes: &'a [u8]) -> Result<(SliceRecord<'a>, usize), FormatError> {
        let mut input = Input::new(WHAT, bytes);
        let kind = if self.tombstones { input.byte()? } else { VALUE };
        if kind > TOMBSTONE {
            return Err(FormatError::damaged(WHAT, format!("a record is of unknown kind {kind}")));
        }
        let (h, key) = match self.key {
            KeyType::U64 => {
                let h = input.u64()?;
                (h, Key::U64(unhash_u64(h)))
            }
            KeyType::Bytes => {
                let key = input.blob(KEY_BYTES_MAX)?;
                (hash_bytes(key), Key::Bytes(key))
            }
        };
        let place = if self.places { input.u32()? } else { 0 };
        let (mut expiry, mut value) = (0, None);
        if kind == VALUE {
            if self.ttl {
                expiry = input.u32()?;
            }
            value = Some(match self.width {
                Some(width) => input.take(width)?,
                None => input.blob(VALUE_BYTES_MAX)?,
            });
        }
        Ok((SliceRecord { record: RecordRef { h, key, expiry, value }, place }, input.position()))
    }
}
