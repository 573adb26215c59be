//! The request body.
//!
//! ```text
//!   header, 32 bytes                                section, 64 bytes
//!   0   4  magic "FKVQ"                             0   8  table uid
//!   4   2  format version                           8   1  selector: 0 aligned, 1 content, 2 version
//!   6   2  flags: bit 0 canary                      9   1  key type: 0 u64, 1 bytes
//!   8   8  topology generation the client believes  10  1  value form: 0 native, 1 f32, 2 f16
//!   16  8  read_ts, Unix milliseconds               11  1  zero
//!   24  2  number of sections                       12  4  number of keys
//!   26  6  zero                                     16  8  version (selector 2, otherwise zero)
//!                                                   24 32  content id (selector 1, otherwise zero)
//!                                                   56  4  length of the key bytes (bytes keys, otherwise zero)
//!                                                   60  4  zero
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use fkv_formats::id::{ContentId, TableUid, Version};
use fkv_formats::schema::KeyType;

use super::PackedError;
use super::layout::{
    FORMAT, HEADER_BYTES, KEY_BYTES_MAX, KEYS_MAX, REQUEST_BYTES_MAX, REQUEST_MAGIC, SECTIONS_MAX, aligned, array,
    len_at, put, request_header as header, request_section as section, u16_at, u32_at, u32_of, u64_at,
};

/// What stands before the sections of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHeader {
    /// Whether a canary sect may answer with canary content.
    pub canary: bool,
    /// The topology generation the client routed by; 0 if it knows none.
    pub generation: u64,
    /// The time by which expiry is judged, in Unix milliseconds; the same for every role of one call.
    pub read_ts_ms: u64,
}

/// Which content a section asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// What the server shows by default.
    Aligned,
    /// Exactly this content.
    Content(ContentId),
    /// Whatever this version holds.
    Version(Version),
}

/// In which type the client wants values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueForm {
    /// As the table declares them.
    #[default]
    Native,
    /// Float vectors as `f32`.
    F32,
    /// Float vectors as `f16`, rounded to nearest even where the table has more.
    F16,
}

/// What a section asks, without its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionHeader {
    /// The table.
    pub table: TableUid,
    /// Which content of it.
    pub selector: Selector,
    /// In which type values are wanted.
    pub form: ValueForm,
}

/// A request body whose every field has been checked.
#[derive(Clone, Debug)]
pub struct Request {
    body: Bytes,
    header: RequestHeader,
    sections: Vec<Parsed>,
}

/// Where a section's keys lie. Ranges are within the body.
#[derive(Clone, Copy, Debug)]
struct Parsed {
    header: SectionHeader,
    key_type: KeyType,
    count: usize,
    keys_at: usize,
    key_bytes: usize,
}

/// A section of a request.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// What it asks.
    pub header: SectionHeader,
    /// For which keys.
    pub keys: Keys<'a>,
}

/// The keys of a section, borrowed from the body.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// 64-bit keys.
    U64(U64Keys<'a>),
    /// Byte keys.
    Bytes(BytesKeys<'a>),
}

/// 64-bit keys, borrowed from the body.
#[derive(Clone, Copy, Debug)]
pub struct U64Keys<'a> {
    /// Eight bytes a key.
    packed: &'a [[u8; 8]],
}

/// Byte keys, borrowed from the body. Their offsets have been checked.
#[derive(Clone, Copy, Debug)]
pub struct BytesKeys<'a> {
    ends: &'a [[u8; 4]],
    bytes: &'a [u8],
}

impl Request {
    /// Checks `body` and finds its sections.
    ///
    /// # Errors
    /// What is wrong with it; see [`PackedError`].
    pub fn parse(body: Bytes) -> Result<Self, PackedError> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(PackedError::TooLong { bytes: body.len(), max: REQUEST_BYTES_MAX });
        }
        let (header, count) = parse_header(&body)?;
        let mut sections = Vec::with_capacity(count);
        let mut keys_left = KEYS_MAX;
        let mut at = HEADER_BYTES;
        for _ in 0..count {
            let (parsed, end) = parse_section(&body, at, KEYS_MAX - keys_left)?;
            keys_left -= parsed.count;
            sections.push(parsed);
            at = end;
        }
        match body.len() - at {
            0 => Ok(Self { body, header, sections }),
            left => Err(PackedError::Trailing(left)),
        }
    }

    /// What stands before the sections.
    #[must_use]
    pub fn header(&self) -> RequestHeader {
        self.header
    }

    /// The sections, in order; at least one.
    #[must_use]
    pub fn sections(&self) -> impl ExactSizeIterator<Item = Section<'_>> {
        self.sections.iter().map(|parsed| {
            let keys = &self.body[parsed.keys_at..];
            let keys = match parsed.key_type {
                KeyType::U64 => Keys::U64(U64Keys { packed: keys[..parsed.count * 8].as_chunks().0 }),
                KeyType::Bytes => {
                    let (ends, bytes) = keys.split_at(parsed.count * 4);
                    Keys::Bytes(BytesKeys { ends: ends.as_chunks().0, bytes: &bytes[..parsed.key_bytes] })
                }
            };
            Section { header: parsed.header, keys }
        })
    }

    /// Keys in all sections.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.sections.iter().map(|parsed| parsed.count).sum()
    }
}

impl<'a> Keys<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U64(keys) => keys.len(),
            Self::Bytes(keys) => keys.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match self {
            Self::U64(_) => KeyType::U64,
            Self::Bytes(_) => KeyType::Bytes,
        }
    }
}

impl<'a> U64Keys<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// All keys as they are packed, little-endian.
    #[inline]
    #[must_use]
    pub fn packed(&self) -> &'a [[u8; 8]] {
        self.packed
    }

    /// Key `index`. Panics at or beyond [`Self::len`].
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        u64::from_le_bytes(self.packed[index])
    }

    /// All of them, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + Clone + use<'a> {
        self.packed.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl<'a> BytesKeys<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Key `index`. Panics at or beyond [`Self::len`].
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let start = if index == 0 { 0 } else { self.end(index - 1) };
        &self.bytes[start..self.end(index)]
    }

    /// All of them, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let keys = *self;
        (0..keys.len()).map(move |index| keys.get(index))
    }

    #[inline]
    fn end(&self, index: usize) -> usize {
        len_at(&self.ends[index], 0)
    }
}

fn parse_header(body: &[u8]) -> Result<(RequestHeader, usize), PackedError> {
    if body.len() < HEADER_BYTES {
        return Err(PackedError::Truncated { what: "the header", needed: HEADER_BYTES, left: body.len() });
    }
    let magic = array(body, header::MAGIC);
    if magic != REQUEST_MAGIC {
        return Err(PackedError::Magic(magic));
    }
    let format = u16_at(body, header::FORMAT);
    if format != FORMAT {
        return Err(PackedError::Format(format));
    }
    let flags = u16_at(body, header::FLAGS);
    if flags & !header::FLAG_CANARY != 0 {
        return Err(PackedError::NotZero("an unknown request flag"));
    }
    if body[header::RESERVED..header::END] != [0; 6] {
        return Err(PackedError::NotZero("the end of the header"));
    }
    let sections = usize::from(u16_at(body, header::SECTIONS));
    if !(1..=SECTIONS_MAX).contains(&sections) {
        return Err(PackedError::Sections(sections));
    }
    let parsed = RequestHeader {
        canary: flags & header::FLAG_CANARY != 0,
        generation: u64_at(body, header::GENERATION),
        read_ts_ms: u64_at(body, header::READ_TS_MS),
    };
    Ok((parsed, sections))
}

/// Reads the section at `at` of a body that had `keys_before` keys so far; also gives where it ends.
fn parse_section(body: &[u8], at: usize, keys_before: usize) -> Result<(Parsed, usize), PackedError> {
    let left = body.len() - at;
    if left < section::END {
        return Err(PackedError::Truncated { what: "a section's header", needed: section::END, left });
    }
    let fields = &body[at..at + section::END];
    let count = len_at(fields, section::COUNT);
    if count > KEYS_MAX - keys_before {
        return Err(PackedError::Keys(keys_before.saturating_add(count)));
    }
    let selector = parse_selector(fields)?;
    let form = match fields[section::VALUE_FORM] {
        0 => ValueForm::Native,
        1 => ValueForm::F32,
        2 => ValueForm::F16,
        other => return Err(PackedError::Unknown { what: "the value form", value: other.into() }),
    };
    if fields[section::RESERVED] != 0 || u32_at(fields, section::RESERVED_END) != 0 {
        return Err(PackedError::NotZero("a reserved field of a section"));
    }
    let key_bytes = len_at(fields, section::KEY_BYTES);
    let (key_type, needed) = match fields[section::KEY_TYPE] {
        0 if key_bytes != 0 => {
            return Err(PackedError::Contradiction("a section of u64 keys gives a length of key bytes"));
        }
        0 => (KeyType::U64, count * 8),
        // The body's limit is far below the overflow of this sum, whatever the field says.
        1 => (KeyType::Bytes, (count * 4).saturating_add(key_bytes)),
        other => return Err(PackedError::Unknown { what: "the key type", value: other.into() }),
    };
    let keys_at = at + section::END;
    let left = body.len() - keys_at;
    if needed > left || aligned(needed) > left {
        return Err(PackedError::Truncated { what: "a section's keys", needed, left });
    }
    let end = keys_at + aligned(needed);
    if body[keys_at + needed..end].iter().any(|byte| *byte != 0) {
        return Err(PackedError::NotZero("the padding after a section's keys"));
    }
    if key_type == KeyType::Bytes {
        check_keys(&body[keys_at..keys_at + count * 4], key_bytes)?;
    }
    let header = SectionHeader { table: TableUid(u64_at(fields, section::UID)), selector, form };
    Ok((Parsed { header, key_type, count, keys_at, key_bytes }, end))
}

fn parse_selector(fields: &[u8]) -> Result<Selector, PackedError> {
    let version = u64_at(fields, section::VERSION);
    let content: [u8; 32] = array(fields, section::CONTENT);
    let kind = fields[section::SELECTOR];
    if kind != 2 && version != 0 {
        return Err(PackedError::Contradiction("a section that does not ask for a version names one"));
    }
    if kind != 1 && content != [0; 32] {
        return Err(PackedError::Contradiction("a section that does not ask for a content id names one"));
    }
    match kind {
        0 => Ok(Selector::Aligned),
        1 => Ok(Selector::Content(ContentId(content))),
        2 if version == 0 => Err(PackedError::Unknown { what: "the version asked for", value: 0 }),
        2 => Ok(Selector::Version(Version(version))),
        other => Err(PackedError::Unknown { what: "the selector", value: other.into() }),
    }
}

fn check_keys(ends: &[u8], key_bytes: usize) -> Result<(), PackedError> {
    let mut before = 0;
    for end in ends.as_chunks::<4>().0 {
        let end = len_at(end, 0);
        let bytes = end.checked_sub(before).ok_or(PackedError::Offsets("a section's keys"))?;
        if bytes > KEY_BYTES_MAX {
            return Err(PackedError::KeyTooLong { bytes, max: KEY_BYTES_MAX });
        }
        before = end;
    }
    if before == key_bytes { Ok(()) } else { Err(PackedError::Offsets("a section's keys")) }
}

/// Bytes a section of `count` 64-bit keys takes.
#[must_use]
pub const fn u64_section_bytes(count: usize) -> usize {
    section::END + count * 8
}

/// Bytes a section of `count` byte keys of `key_bytes` bytes in all takes.
#[must_use]
pub const fn bytes_section_bytes(count: usize, key_bytes: usize) -> usize {
    section::END + aligned(count * 4 + key_bytes)
}

/// Writes a request body. The caller keeps to the limits; they are asserted.
#[derive(Debug)]
pub struct RequestWriter {
    buffer: BytesMut,
    sections: u16,
    keys: usize,
}

impl RequestWriter {
    /// A body whose sections will take `section_bytes` (the sum of [`u64_section_bytes`] and
    /// [`bytes_section_bytes`]).
    #[must_use]
    pub fn new(header: RequestHeader, section_bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + section_bytes);
        buffer.put_slice(&REQUEST_MAGIC);
        buffer.put_u16_le(FORMAT);
        buffer.put_u16_le(if header.canary { header::FLAG_CANARY } else { 0 });
        buffer.put_u64_le(header.generation);
        buffer.put_u64_le(header.read_ts_ms);
        buffer.put_bytes(0, header::END - header::SECTIONS);
        debug_assert_eq!(buffer.len(), HEADER_BYTES, "the header is written whole");
        Self { buffer, sections: 0, keys: 0 }
    }

    /// Adds a section of 64-bit keys.
    pub fn u64_section(&mut self, header: SectionHeader, keys: impl ExactSizeIterator<Item = u64>) {
        let count = keys.len();
        self.section(header, KeyType::U64, count, 0);
        let start = self.buffer.len();
        self.buffer.put_bytes(0, count * 8);
        let mut filled = 0;
        for (packed, key) in self.buffer[start..].as_chunks_mut::<8>().0.iter_mut().zip(keys) {
            *packed = key.to_le_bytes();
            filled += 1;
        }
        assert_eq!(filled, count, "the iterator told its length truly");
    }

    /// Adds a section of byte keys, which are `key_bytes` bytes in all.
    pub fn bytes_section<'a>(
        &mut self,
        header: SectionHeader,
        key_bytes: usize,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        let count = keys.len();
        self.section(header, KeyType::Bytes, count, key_bytes);
        let ends_at = self.buffer.len();
        self.buffer.put_bytes(0, count * 4);
        let bytes_at = self.buffer.len();
        let mut filled = 0;
        for key in keys {
            self.buffer.put_slice(key);
            let end = u32_of(self.buffer.len() - bytes_at);
            put(&mut self.buffer, ends_at + filled * 4, &end.to_le_bytes());
            filled += 1;
        }
        assert_eq!(filled, count, "the iterator told its length truly");
        assert_eq!(self.buffer.len() - bytes_at, key_bytes, "the caller summed the keys' lengths");
        let padded = aligned(self.buffer.len());
        self.buffer.put_bytes(0, padded - self.buffer.len());
    }

    /// The body.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        assert!(self.sections > 0, "a request has at least one section");
        put(&mut self.buffer, header::SECTIONS, &self.sections.to_le_bytes());
        self.buffer.freeze()
    }

    fn section(&mut self, header: SectionHeader, key_type: KeyType, count: usize, key_bytes: usize) {
        self.sections += 1;
        self.keys += count;
        assert!(usize::from(self.sections) <= SECTIONS_MAX, "at most {SECTIONS_MAX} sections");
        assert!(self.keys <= KEYS_MAX, "at most {KEYS_MAX} keys");
        let (selector, version, content) = match header.selector {
            Selector::Aligned => (0, 0, [0; 32]),
            Selector::Content(content) => (1, 0, content.0),
            Selector::Version(version) => (2, version.0, [0; 32]),
        };
        let start = self.buffer.len();
        self.buffer.put_u64_le(header.table.0);
        self.buffer.put_u8(selector);
        self.buffer.put_u8(match key_type {
            KeyType::U64 => 0,
            KeyType::Bytes => 1,
        });
        self.buffer.put_u8(match header.form {
            ValueForm::Native => 0,
            ValueForm::F32 => 1,
            ValueForm::F16 => 2,
        });
        self.buffer.put_u8(0);
        self.buffer.put_u32_le(u32_of(count));
        self.buffer.put_u64_le(version);
        self.buffer.put_slice(&content);
        self.buffer.put_u32_le(u32_of(key_bytes));
        self.buffer.put_u32_le(0);
        debug_assert_eq!(self.buffer.len() - start, section::END, "the section's header is written whole");
    }
}
