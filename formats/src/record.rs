//! The record: a key with its hash, an expiry time, and a value or a tombstone.
//!
//! ```text
//!   encoded   flags u8 │ [expiry u32] │ key                   │ [value]
//!             bit 0: tombstone (no value follows)
//!             bit 1: an expiry follows; otherwise the record never expires
//!                                       u64 key: 8 bytes        length, bytes
//!                                       bytes key: length, bytes
//! ```
//!
//! Lengths are LEB128 of at most 5 bytes, in their shortest form; numbers are little-endian. The hash is not stored.
//! All files hold records in ascending order of `(h, key)`.

use crate::error::FormatError;
use crate::hash::{hash_bytes, hash_u64};
use crate::id::Part;
use crate::route::part_of;
use crate::schema::KeyType;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

const TOMBSTONE: u8 = 1;
const EXPIRES: u8 = 2;

/// A key. Keys of one table are all of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key<'a> {
    /// A 64-bit integer.
    U64(u64),
    /// A byte string of at most [`KEY_BYTES_MAX`] bytes.
    Bytes(&'a [u8]),
}

impl Key<'_> {
    /// The key's hash.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        match *self {
            Self::U64(key) => hash_u64(key),
            Self::Bytes(key) => hash_bytes(key),
        }
    }

    /// The key's type.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        match self {
            Self::U64(_) => KeyType::U64,
            Self::Bytes(_) => KeyType::Bytes,
        }
    }
}

/// Anything with a place in the one order of records.
pub trait Ordered {
    /// The hash of the key.
    fn h(&self) -> u64;
    /// The key.
    fn key(&self) -> Key<'_>;
}

/// A record that borrows its key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The hash of the key.
    pub h: u64,
    /// The key.
    pub key: Key<'a>,
    /// Unix second at which the record expires; 0 for never.
    pub expiry: u32,
    /// The value as stored; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Ordered for RecordRef<'_> {
    fn h(&self) -> u64 {
        self.h
    }

    fn key(&self) -> Key<'_> {
        self.key
    }
}

impl<T: Ordered + ?Sized> Ordered for &T {
    fn h(&self) -> u64 {
        (**self).h()
    }

    fn key(&self) -> Key<'_> {
        (**self).key()
    }
}

/// Whether a record with this expiry time has expired at Unix second `at`.
#[inline]
#[must_use]
pub const fn is_expired(expiry: u32, at: u32) -> bool {
    expiry != 0 && expiry <= at
}

impl<'a> RecordRef<'a> {
    /// A record; computes the hash.
    #[must_use]
    pub fn new(key: Key<'a>, expiry: u32, value: Option<&'a [u8]>) -> Self {
        Self { h: key.hash(), key, expiry, value }
    }

    /// The record's place in the one order.
    #[inline]
    #[must_use]
    pub const fn order(&self) -> (u64, Key<'a>) {
        (self.h, self.key)
    }

    /// The record's part.
    #[inline]
    #[must_use]
    pub const fn part(&self) -> Part {
        part_of(self.h)
    }

    /// Whether the record has expired at Unix second `at`.
    #[inline]
    #[must_use]
    pub const fn is_expired(&self, at: u32) -> bool {
        is_expired(self.expiry, at)
    }

    /// Appends the encoded record.
    ///
    /// # Panics
    /// If the key or the value is longer than allowed: callers check what comes from outside.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let tombstone = if self.value.is_none() { TOMBSTONE } else { 0 };
        let expires = if self.expiry != 0 { EXPIRES } else { 0 };
        out.push(tombstone | expires);
        if self.expiry != 0 {
            out.extend_from_slice(&self.expiry.to_le_bytes());
        }
        match self.key {
            Key::U64(key) => out.extend_from_slice(&key.to_le_bytes()),
            Key::Bytes(key) => {
                assert!(key.len() <= KEY_BYTES_MAX, "key lengths are checked where keys enter");
                put_blob(out, key);
            }
        }
        if let Some(value) = self.value {
            assert!(value.len() <= VALUE_BYTES_MAX, "value lengths are checked where values enter");
            put_blob(out, value);
        }
    }

    /// Reads one encoded record from the front of `bytes`; gives it and the number of bytes read.
    ///
    /// # Errors
    /// `Truncated` or `Damaged`.
    pub fn decode(bytes: &'a [u8], key_type: KeyType) -> Result<(Self, usize), FormatError> {
        let mut input = Input::new("record", bytes);
        let flags = input.byte()?;
        if flags & !(TOMBSTONE | EXPIRES) != 0 {
            return Err(FormatError::damaged("record", format!("unknown flags {flags:#04x}")));
        }
        let expiry = if flags & EXPIRES == 0 { 0 } else { input.u32()? };
        if flags & EXPIRES != 0 && expiry == 0 {
            return Err(FormatError::damaged("record", "it says it expires, but never does"));
        }
        let key = match key_type {
            KeyType::U64 => Key::U64(input.u64()?),
            KeyType::Bytes => Key::Bytes(input.blob(KEY_BYTES_MAX)?),
        };
        let value = if flags & TOMBSTONE == 0 { Some(input.blob(VALUE_BYTES_MAX)?) } else { None };
        Ok((Self::new(key, expiry, value), input.position()))
    }
}

/// Appends a length as LEB128.
pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    let mut rest = len;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a length and bytes.
pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Bounds-checked reading from the front of untrusted bytes.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    what: &'static str,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, position: 0 }
    }

    pub(crate) const fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let taken = self.rest().get(..len).ok_or_else(|| FormatError::Truncated {
            what: self.what,
            needed: (self.position as u64).saturating_add(len as u64),
            found: self.bytes.len() as u64,
        })?;
        self.position += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(self.take(N)?.try_into().expect("the slice has the length asked for"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length of at most `max`, in its shortest LEB128 form.
    pub(crate) fn len(&mut self, max: usize) -> Result<usize, FormatError> {
        let mut len = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            len |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(FormatError::damaged(self.what, "a length is not in its shortest form"));
                }
                return usize::try_from(len).ok().filter(|&len| len <= max).ok_or_else(|| {
                    FormatError::damaged(self.what, format!("a length of {len} is above the limit of {max}"))
                });
            }
        }
        Err(FormatError::damaged(self.what, "a length has more than 5 bytes"))
    }

    pub(crate) fn blob(&mut self, max: usize) -> Result<&'a [u8], FormatError> {
        let len = self.len(max)?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expiry_zero_is_never_and_the_second_itself_has_expired() {
        assert!(!is_expired(0, u32::MAX));
        assert!(is_expired(10, 10));
        assert!(!is_expired(11, 10));
    }

    #[test]
    fn a_length_in_a_longer_form_is_damage() {
        // flags, key length 1 written as two bytes.
        assert!(RecordRef::decode(&[1, 0x81, 0x00, b'k'], KeyType::Bytes).is_err());
        assert!(RecordRef::decode(&[1, 0x01, b'k'], KeyType::Bytes).is_ok());
        assert!(RecordRef::decode(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0], KeyType::Bytes).is_err());
        assert!(RecordRef::decode(&[4, 0x01, b'k'], KeyType::Bytes).is_err(), "an unknown flag");
        assert!(RecordRef::decode(&[3, 0, 0, 0, 0, 0x01, b'k'], KeyType::Bytes).is_err(), "an expiry of 0");
    }

    proptest! {
        #[test]
        fn records_survive_encoding_and_no_cut_is_taken_for_one(
            key in prop_oneof![any::<u64>().prop_map(Err), prop::collection::vec(any::<u8>(), 0..300).prop_map(Ok)],
            expiry: u32,
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let key = match &key { Ok(bytes) => Key::Bytes(bytes), Err(number) => Key::U64(*number) };
            let record = RecordRef::new(key, expiry, value.as_deref());
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let len = bytes.len();
            bytes.push(7);
            prop_assert_eq!(RecordRef::decode(&bytes, key.key_type()), Ok((record, len)));
            for cut in 0..len {
                prop_assert!(RecordRef::decode(&bytes[..cut], key.key_type()).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            for key_type in [KeyType::U64, KeyType::Bytes] {
                if let Ok((record, len)) = RecordRef::decode(&bytes, key_type) {
                    let mut again = Vec::new();
                    record.encode(&mut again);
                    prop_assert_eq!(&bytes[..len], again, "one record, one encoding");
                }
            }
        }
    }
}
