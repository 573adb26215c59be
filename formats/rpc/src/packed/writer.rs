//! Writes a reply body in one pass over the keys.
//!
//! ```text
//!   ReplyWriter ── dense(label, type, keys) ───▶ DenseWriter ──── found/absent/… per key ── finish
//!               ── variable(label, keys) ──────▶ VariableWriter ─ found/absent/… per key ── finish
//!               ── refuse(label, status)         a section without answers
//! ```
//!
//! Statuses (and ends, where values vary in length) have their place before the first key; values are appended as keys
//! are found, so that a reply takes the memory of what it holds. With the capacity asked for nothing moves meanwhile.

use bytes::{BufMut, Bytes, BytesMut};
use fkv_formats::schema::ValueType;

use super::layout::{
    FORMAT, HEADER_BYTES, KEYS_MAX, REPLY_BYTES_MAX, REPLY_MAGIC, SECTIONS_MAX, aligned, put, reply_header as header,
    reply_section as section, status_bytes, u32_of,
};
use super::{HeldContent, KeyStatus, ReplyHeader, SectionLabel, SectionStatus, Shown};

/// The values do not fit in one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the values do not fit in one reply; ask for fewer keys")]
pub struct ReplyTooLarge;

/// Bytes that `keys` answers of `value_type` take at most; where values vary in length, without the values.
#[must_use]
pub const fn reply_section_bytes(value_type: ValueType, keys: usize) -> usize {
    let values = match value_type.fixed_width() {
        Some(width) => keys * width,
        None => keys * 4,
    };
    section::END + aligned(status_bytes(keys)) + aligned(values)
}

/// Writes a reply body.
#[derive(Debug)]
pub struct ReplyWriter {
    buffer: BytesMut,
    /// Longest body, less what refusals of all sections still to come could take.
    bytes_max: usize,
    sections: u16,
    /// Whether a section has been begun and neither finished nor refused.
    open: bool,
}

impl ReplyWriter {
    /// A body of at most `bytes_max` bytes (and never more than [`REPLY_BYTES_MAX`]) with room for `capacity` bytes
    /// of sections (see [`reply_section_bytes`]) before it has to grow.
    #[must_use]
    pub fn new(header: ReplyHeader, capacity: usize, bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(REPLY_BYTES_MAX).saturating_sub(SECTIONS_MAX * section::END);
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + capacity.min(REPLY_BYTES_MAX));
        buffer.put_slice(&REPLY_MAGIC);
        buffer.put_u16_le(FORMAT);
        buffer.put_u16_le(0);
        buffer.put_u64_le(header.generation);
        buffer.put_u64_le(header.server_ms);
        buffer.put_bytes(0, header::END - header::SECTIONS);
        debug_assert_eq!(buffer.len(), HEADER_BYTES, "the header is written whole");
        Self { buffer, bytes_max, sections: 0, open: false }
    }

    /// Adds a section without answers. The label's served content is left out.
    pub fn refuse(&mut self, label: SectionLabel, status: SectionStatus) {
        assert!(status != SectionStatus::Ok, "a refused section has a reason");
        let at = self.begin(0);
        self.fill(at, &refused(label), status, None, 0, 0, 0);
        self.open = false;
    }

    /// Begins a section of `keys` values of fixed width.
    ///
    /// # Errors
    /// [`ReplyTooLarge`] if they would not fit if all were found; nothing is written then.
    pub fn dense(
        &mut self,
        label: SectionLabel,
        value_type: ValueType,
        keys: usize,
    ) -> Result<DenseWriter<'_>, ReplyTooLarge> {
        assert!(label.served.is_some(), "answers are of some content");
        assert!(keys <= KEYS_MAX, "at most {KEYS_MAX} keys");
        let width = value_type.fixed_width().expect("a dense section has values of fixed width");
        let statuses = aligned(status_bytes(keys));
        if self.buffer.len() + section::END + statuses + aligned(keys * width) > self.bytes_max {
            return Err(ReplyTooLarge);
        }
        let at = self.begin(statuses);
        let statuses_at = at + section::END;
        let values_at = statuses_at + statuses;
        let cursor = Cursor { writer: self, label, at, statuses_at, keys, next: 0, found: 0 };
        Ok(DenseWriter { cursor, value_type, width, values_at })
    }

    /// Begins a section of `keys` values of varying length.
    ///
    /// # Errors
    /// [`ReplyTooLarge`] if not even empty values would fit; nothing is written then.
    pub fn variable(&mut self, label: SectionLabel, keys: usize) -> Result<VariableWriter<'_>, ReplyTooLarge> {
        assert!(label.served.is_some(), "answers are of some content");
        assert!(keys <= KEYS_MAX, "at most {KEYS_MAX} keys");
        let body = aligned(status_bytes(keys)) + keys * 4;
        if self.buffer.len() + section::END + aligned(body) > self.bytes_max {
            return Err(ReplyTooLarge);
        }
        let at = self.begin(body);
        let statuses_at = at + section::END;
        let ends_at = statuses_at + aligned(status_bytes(keys));
        let cursor = Cursor { writer: self, label, at, statuses_at, keys, next: 0, found: 0 };
        Ok(VariableWriter { cursor, ends_at, values_at: ends_at + keys * 4 })
    }

    /// The body.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        assert!(!self.open, "every section begun was finished or refused");
        assert!(self.sections > 0, "a reply has at least one section");
        put(&mut self.buffer, header::SECTIONS, &self.sections.to_le_bytes());
        self.buffer.freeze()
    }

    /// Makes room for a section's header and `body` zeros; gives where the header stands.
    fn begin(&mut self, body: usize) -> usize {
        assert!(!self.open, "one section at a time");
        self.sections += 1;
        assert!(usize::from(self.sections) <= SECTIONS_MAX, "at most {SECTIONS_MAX} sections");
        self.open = true;
        let at = self.buffer.len();
        debug_assert!(at.is_multiple_of(super::layout::ALIGN), "sections begin at blocks");
        self.buffer.put_bytes(0, section::END + body);
        at
    }

    /// Writes the header of the section at `at`.
    #[allow(clippy::too_many_arguments, reason = "one argument per field of the header")]
    fn fill(
        &mut self,
        at: usize,
        label: &SectionLabel,
        status: SectionStatus,
        value_type: Option<ValueType>,
        keys: usize,
        found: usize,
        value_bytes: usize,
    ) {
        let (kind, dimension): (u8, u16) = match value_type {
            None => (0, 0),
            Some(ValueType::Bytes) => (1, 0),
            Some(ValueType::I64) => (2, 1),
            Some(ValueType::F32(dimension)) => (3, dimension),
            Some(ValueType::F16(dimension)) => (4, dimension),
        };
        let fields = &mut self.buffer[at..at + section::END];
        put(fields, section::UID, &label.table.0.to_le_bytes());
        fields[section::STATUS] = status.code();
        fields[section::VALUE_TYPE] = kind;
        put(fields, section::DIMENSION, &dimension.to_le_bytes());
        put(fields, section::COUNT, &u32_of(keys).to_le_bytes());
        if let Some(Shown { version, content, epoch }) = label.served {
            put(fields, section::SERVED_VERSION, &version.0.to_le_bytes());
            put(fields, section::SERVED_CONTENT, &content.0);
            put(fields, section::SERVED_EPOCH, &epoch.0.to_le_bytes());
        }
        if let Some(Shown { version, content, epoch }) = label.aligned {
            put(fields, section::ALIGNED_VERSION, &version.0.to_le_bytes());
            put(fields, section::ALIGNED_CONTENT, &content.0);
            put(fields, section::ALIGNED_EPOCH, &epoch.0.to_le_bytes());
        }
        if let Some(HeldContent { version, content }) = label.other {
            put(fields, section::OTHER_VERSION, &version.0.to_le_bytes());
            put(fields, section::OTHER_CONTENT, &content.0);
        }
        put(fields, section::AS_OF_S, &label.as_of_s.to_le_bytes());
        put(fields, section::FOUND, &u32_of(found).to_le_bytes());
        put(fields, section::VALUE_BYTES, &u32_of(value_bytes).to_le_bytes());
    }
}

/// `label` without answers.
fn refused(label: SectionLabel) -> SectionLabel {
    SectionLabel { served: None, as_of_s: 0, ..label }
}

/// Where a section under way stands.
#[derive(Debug)]
struct Cursor<'w> {
    writer: &'w mut ReplyWriter,
    label: SectionLabel,
    at: usize,
    statuses_at: usize,
    keys: usize,
    next: usize,
    found: usize,
}

impl Cursor<'_> {
    /// Notes the next key's status.
    #[inline]
    fn note(&mut self, status: KeyStatus) {
        assert!(self.next < self.keys, "one status per key");
        self.writer.buffer[self.statuses_at + self.next / 4] |= status.bits() << (self.next % 4 * 2);
        self.next += 1;
    }

    /// Notes the status of the next `keys` keys: found where `found` has a bit, else absent.
    #[inline]
    fn note_found(&mut self, keys: usize, found: u64) {
        /// Two bits a key for four keys.
        const STATUSES: [u8; 16] = {
            let mut statuses = [0; 16];
            let mut found = 0;
            while found < 16 {
                let mut key = 0;
                while key < 4 {
                    let status = if found >> key & 1 == 1 { KeyStatus::Found } else { KeyStatus::Absent };
                    statuses[found] |= status.bits() << (2 * key);
                    key += 1;
                }
                found += 1;
            }
            statuses
        };
        if self.next.is_multiple_of(4) {
            let at = self.statuses_at + self.next / 4;
            let statuses = &mut self.writer.buffer[at..at + keys.div_ceil(4)];
            for (index, byte) in statuses.iter_mut().enumerate() {
                *byte = STATUSES[(found >> (4 * index) & 15) as usize];
            }
            self.next += keys;
        } else {
            for key in 0..keys {
                self.note(if found >> key & 1 == 1 { KeyStatus::Found } else { KeyStatus::Absent });
            }
        }
    }

    /// Pads the buffer behind the values, which end at `values_end`, and writes the header.
    fn finish(self, value_type: ValueType, values_end: usize, value_bytes: usize) {
        assert_eq!(self.next, self.keys, "every key has a status");
        let padding = aligned(values_end) - values_end;
        self.writer.buffer.put_bytes(0, padding);
        let Self { writer, label, at, keys, found, .. } = self;
        writer.fill(at, &label, SectionStatus::Ok, Some(value_type), keys, found, value_bytes);
        writer.open = false;
    }

    /// Takes the answers back.
    fn refuse(self, status: SectionStatus) {
        assert!(status != SectionStatus::Ok, "a refused section has a reason");
        let Self { writer, label, at, .. } = self;
        writer.buffer.truncate(at);
        writer.buffer.put_bytes(0, section::END);
        writer.fill(at, &refused(label), status, None, 0, 0, 0);
        writer.open = false;
    }
}

/// Writes the answers of a section whose values have a fixed width.
#[derive(Debug)]
#[must_use = "finish or refuse the section"]
pub struct DenseWriter<'w> {
    cursor: Cursor<'w>,
    value_type: ValueType,
    width: usize,
    values_at: usize,
}

impl DenseWriter<'_> {
    /// The next key is found: the place of its value, zeroed, to be filled.
    #[inline]
    pub fn found(&mut self) -> &mut [u8] {
        self.cursor.note(KeyStatus::Found);
        self.cursor.found += 1;
        let buffer = &mut self.cursor.writer.buffer;
        let at = buffer.len();
        buffer.put_bytes(0, self.width);
        &mut buffer[at..]
    }

    /// The next key has no value, for this reason.
    #[inline]
    pub fn missing(&mut self, status: KeyStatus) {
        assert!(status != KeyStatus::Found, "a found key has a value");
        self.cursor.note(status);
    }

    /// Answers the next `keys` keys, at most 64, at once: each is found or absent. `fill` gets zeroed room for their
    /// values, puts those of the keys found at its beginning, one after the other, and tells which keys these are: bit
    /// `i` stands for the `i`-th.
    #[inline]
    pub fn fill(&mut self, keys: usize, fill: impl FnOnce(&mut [u8]) -> u64) {
        assert!(keys <= 64 && self.cursor.keys - self.cursor.next >= keys, "at most 64 keys, one status each");
        let buffer = &mut self.cursor.writer.buffer;
        let at = buffer.len();
        buffer.put_bytes(0, keys * self.width);
        let found = fill(&mut buffer[at..]);
        assert!(keys == 64 || found >> keys == 0, "no more keys are found than are asked for");
        let count = found.count_ones() as usize;
        buffer.truncate(at + count * self.width);
        self.cursor.found += count;
        self.cursor.note_found(keys, found);
    }

    /// Ends the section. Every key must have a status.
    pub fn finish(self) {
        let end = self.cursor.writer.buffer.len();
        self.cursor.finish(self.value_type, end, end - self.values_at);
    }

    /// Takes the answers back and refuses the section.
    pub fn refuse(self, status: SectionStatus) {
        self.cursor.refuse(status);
    }
}

/// Writes the answers of a section whose values vary in length.
#[derive(Debug)]
#[must_use = "finish or refuse the section"]
pub struct VariableWriter<'w> {
    cursor: Cursor<'w>,
    ends_at: usize,
    values_at: usize,
}

impl VariableWriter<'_> {
    /// The next key is found.
    ///
    /// # Errors
    /// [`ReplyTooLarge`] if its value does not fit any more; refuse the section then.
    #[inline]
    pub fn found(&mut self, value: &[u8]) -> Result<(), ReplyTooLarge> {
        let buffer = &mut self.cursor.writer.buffer;
        if aligned(buffer.len() + value.len()) > self.cursor.writer.bytes_max {
            return Err(ReplyTooLarge);
        }
        buffer.put_slice(value);
        self.end();
        self.cursor.note(KeyStatus::Found);
        self.cursor.found += 1;
        Ok(())
    }

    /// The next key has no value, for this reason.
    #[inline]
    pub fn missing(&mut self, status: KeyStatus) {
        assert!(status != KeyStatus::Found, "a found key has a value");
        self.end();
        self.cursor.note(status);
    }

    /// Ends the section. Every key must have a status.
    pub fn finish(self) {
        let end = self.cursor.writer.buffer.len();
        self.cursor.finish(ValueType::Bytes, end, end - self.values_at);
    }

    /// Takes the answers back and refuses the section.
    pub fn refuse(self, status: SectionStatus) {
        self.cursor.refuse(status);
    }

    /// Notes where the values written so far end, for the next key.
    #[inline]
    fn end(&mut self) {
        assert!(self.cursor.next < self.cursor.keys, "one status per key");
        let end = u32_of(self.cursor.writer.buffer.len() - self.values_at);
        put(&mut self.cursor.writer.buffer, self.ends_at + self.cursor.next * 4, &end.to_le_bytes());
    }
}
