//! The reply body.
//!
//! ```text
//!   header, 32 bytes                      section, 168 bytes
//!   0   4  magic "FKVR"                   0    8  table uid
//!   4   2  format version                 8    1  section status
//!   6   2  flags: zero                    9    1  value type: 0 none, 1 bytes, 2 i64, 3 f32, 4 f16
//!   8   8  topology generation here       10   2  dimension (f32, f16: 1 or more; i64: 1; otherwise 0)
//!   16  8  server's clock, Unix ms        12   4  number of keys (0 unless the status is ok)
//!   24  2  number of sections             16   8  served version (0: nothing served)
//!   26  6  zero                           24  32  served content id
//!                                         56   8  served epoch
//!                                         64   8  aligned version (0: none)
//!                                         72  32  aligned content id
//!                                         104  8  aligned epoch
//!                                         112  8  other held version (0: none)
//!                                         120 32  other held content id
//!                                         152  4  as_of, Unix seconds
//!                                         156  4  keys found
//!                                         160  4  length of the value bytes
//!                                         164  4  zero
//! ```

use bytes::Bytes;
use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
use fkv_formats::schema::ValueType;

use super::layout::{
    FORMAT, HEADER_BYTES, KEYS_MAX, REPLY_BYTES_MAX, REPLY_MAGIC, SECTIONS_MAX, aligned, array, len_at,
    reply_header as header, reply_section as section, status_bytes, u16_at, u32_at, u64_at,
};
use super::{HeldContent, KeyStatus, PackedError, SectionLabel, SectionStatus, Shown};

/// What stands before the sections of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The topology generation this server knows.
    pub generation: u64,
    /// This server's clock, in Unix milliseconds.
    pub server_ms: u64,
}

/// A reply body whose every field has been checked.
#[derive(Clone, Debug)]
pub struct Reply {
    body: Bytes,
    header: ReplyHeader,
    sections: Vec<Parsed>,
}

/// Where a section's answers lie. Ranges are within the body.
#[derive(Clone, Copy, Debug)]
struct Parsed {
    label: SectionLabel,
    status: SectionStatus,
    value_type: Option<ValueType>,
    count: usize,
    found: usize,
    statuses_at: usize,
    values_at: usize,
    value_bytes: usize,
}

/// A section of a reply, borrowed from the body.
#[derive(Clone, Copy, Debug)]
pub struct ReplySection<'a> {
    parsed: &'a Parsed,
    statuses: &'a [u8],
    /// End offsets, for values of varying length; otherwise empty.
    ends: &'a [[u8; 4]],
    values: &'a [u8],
}

impl Reply {
    /// Checks `body` and finds its sections.
    ///
    /// # Errors
    /// What is wrong with it; see [`PackedError`].
    pub fn parse(body: Bytes) -> Result<Self, PackedError> {
        if body.len() > REPLY_BYTES_MAX {
            return Err(PackedError::TooLong { bytes: body.len(), max: REPLY_BYTES_MAX });
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
    pub fn header(&self) -> ReplyHeader {
        self.header
    }

    /// The sections, in the order of the request's.
    #[must_use]
    pub fn sections(&self) -> impl ExactSizeIterator<Item = ReplySection<'_>> {
        self.sections.iter().map(|parsed| parsed.borrow(&self.body))
    }

    /// `part`, which must lie in this body, as bytes that keep the body alive without a copy.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.body.slice_ref(part)
    }

    /// Section `index`, if there is one.
    #[must_use]
    pub fn section(&self, index: usize) -> Option<ReplySection<'_>> {
        self.sections.get(index).map(|parsed| parsed.borrow(&self.body))
    }
}

impl Parsed {
    fn borrow<'a>(&'a self, body: &'a [u8]) -> ReplySection<'a> {
        let ends = if self.value_type == Some(ValueType::Bytes) { self.count * 4 } else { 0 };
        let values_at = self.values_at + ends;
        ReplySection {
            parsed: self,
            statuses: &body[self.statuses_at..self.statuses_at + status_bytes(self.count)],
            ends: body[self.values_at..values_at].as_chunks().0,
            values: &body[values_at..values_at + self.value_bytes],
        }
    }
}

impl<'a> ReplySection<'a> {
    /// Of which content it is.
    #[must_use]
    pub fn label(&self) -> SectionLabel {
        self.parsed.label
    }

    /// How it went.
    #[must_use]
    pub fn status(&self) -> SectionStatus {
        self.parsed.status
    }

    /// Type of its values; none unless the status is ok.
    #[must_use]
    pub fn value_type(&self) -> Option<ValueType> {
        self.parsed.value_type
    }

    /// Number of keys it answers; 0 unless the status is ok.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.parsed.count
    }

    /// Number of keys found.
    #[must_use]
    pub fn found_count(&self) -> usize {
        self.parsed.found
    }

    /// Values of the found keys, in key order and without gaps.
    #[must_use]
    pub fn values(&self) -> &'a [u8] {
        self.values
    }

    /// Whether no key is [`KeyStatus::NotHere`].
    #[must_use]
    pub fn is_all_here(&self) -> bool {
        // A key that is not here is `11`: both its bits set.
        self.statuses.iter().all(|byte| byte & (byte >> 1) & 0x55 == 0)
    }

    /// The status of key `index`. Panics at or beyond [`Self::key_count`].
    #[must_use]
    pub fn key_status(&self, index: usize) -> KeyStatus {
        assert!(index < self.parsed.count, "key {index} of {}", self.parsed.count);
        KeyStatus::from_bits(self.statuses[index / 4] >> (index % 4 * 2))
    }

    /// Each key's status and value, in key order; the value is empty unless the key was found.
    #[must_use]
    pub fn answers(&self) -> Answers<'a> {
        Answers {
            statuses: self.statuses,
            ends: self.ends,
            values: self.values,
            width: self.parsed.value_type.and_then(ValueType::fixed_width),
            next: 0,
            count: self.parsed.count,
            value_at: 0,
        }
    }
}

/// Iterates over a section's answers; see [`ReplySection::answers`].
#[derive(Clone, Debug)]
pub struct Answers<'a> {
    statuses: &'a [u8],
    ends: &'a [[u8; 4]],
    values: &'a [u8],
    width: Option<usize>,
    next: usize,
    count: usize,
    value_at: usize,
}

impl<'a> Iterator for Answers<'a> {
    type Item = (KeyStatus, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let status = KeyStatus::from_bits(self.statuses[index / 4] >> (index % 4 * 2));
        if status != KeyStatus::Found {
            return Some((status, &[]));
        }
        let start = self.value_at;
        self.value_at = match self.width {
            Some(width) => start + width,
            None => len_at(&self.ends[index], 0),
        };
        Some((status, &self.values[start..self.value_at]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.next, Some(self.count - self.next))
    }
}

impl ExactSizeIterator for Answers<'_> {}

fn parse_header(body: &[u8]) -> Result<(ReplyHeader, usize), PackedError> {
    if body.len() < HEADER_BYTES {
        return Err(PackedError::Truncated { what: "the header", needed: HEADER_BYTES, left: body.len() });
    }
    let magic = array(body, header::MAGIC);
    if magic != REPLY_MAGIC {
        return Err(PackedError::Magic(magic));
    }
    let format = u16_at(body, header::FORMAT);
    if format != FORMAT {
        return Err(PackedError::Format(format));
    }
    if u16_at(body, header::FLAGS) != 0 {
        return Err(PackedError::NotZero("an unknown reply flag"));
    }
    if body[header::RESERVED..header::END] != [0; 6] {
        return Err(PackedError::NotZero("the end of the header"));
    }
    let sections = usize::from(u16_at(body, header::SECTIONS));
    if !(1..=SECTIONS_MAX).contains(&sections) {
        return Err(PackedError::Sections(sections));
    }
    let parsed =
        ReplyHeader { generation: u64_at(body, header::GENERATION), server_ms: u64_at(body, header::SERVER_MS) };
    Ok((parsed, sections))
}

/// Reads the section at `at` of a body that had `keys_before` keys so far; also gives where it ends.
fn parse_section(body: &[u8], at: usize, keys_before: usize) -> Result<(Parsed, usize), PackedError> {
    let left = body.len() - at;
    if left < section::END {
        return Err(PackedError::Truncated { what: "a section's header", needed: section::END, left });
    }
    let fields = &body[at..at + section::END];
    let code = fields[section::STATUS];
    let status = SectionStatus::from_code(code)
        .ok_or(PackedError::Unknown { what: "the section status", value: code.into() })?;
    let count = len_at(fields, section::COUNT);
    if count > KEYS_MAX - keys_before {
        return Err(PackedError::Keys(keys_before.saturating_add(count)));
    }
    let value_type = parse_value_type(fields)?;
    let label = parse_label(fields)?;
    let found = len_at(fields, section::FOUND);
    let value_bytes = len_at(fields, section::VALUE_BYTES);
    if u32_at(fields, section::RESERVED) != 0 {
        return Err(PackedError::NotZero("a reserved field of a section"));
    }
    let answered = status == SectionStatus::Ok;
    if answered != value_type.is_some() || answered != label.served.is_some() {
        return Err(PackedError::Contradiction("a section has a value type and a served content just if it is ok"));
    }
    if !answered && (count != 0 || found != 0 || value_bytes != 0) {
        return Err(PackedError::Contradiction("a section that is not ok gives answers"));
    }

    let statuses_at = at + section::END;
    let status_len = status_bytes(count);
    let ends_len = if value_type == Some(ValueType::Bytes) { count * 4 } else { 0 };
    // The body's limit is far below the overflow of these sums, whatever the fields say.
    let values_len = ends_len.saturating_add(value_bytes);
    let needed = aligned(status_len).saturating_add(values_len);
    let left = body.len() - statuses_at;
    if needed > left || aligned(needed) > left {
        return Err(PackedError::Truncated { what: "a section's answers", needed, left });
    }
    let values_at = statuses_at + aligned(status_len);
    let end = statuses_at + aligned(needed);
    let parsed = Parsed { label, status, value_type, count, found, statuses_at, values_at, value_bytes };
    check_answers(body, &parsed, ends_len)?;
    if body[values_at + values_len..end].iter().any(|byte| *byte != 0) {
        return Err(PackedError::NotZero("the padding after a section's values"));
    }
    Ok((parsed, end))
}

fn parse_value_type(fields: &[u8]) -> Result<Option<ValueType>, PackedError> {
    let dimension = u16_at(fields, section::DIMENSION);
    let float = (1..=ValueType::DIMENSION_MAX).contains(&dimension);
    match fields[section::VALUE_TYPE] {
        0 if dimension == 0 => Ok(None),
        1 if dimension == 0 => Ok(Some(ValueType::Bytes)),
        2 if dimension == 1 => Ok(Some(ValueType::I64)),
        3 if float => Ok(Some(ValueType::F32(dimension))),
        4 if float => Ok(Some(ValueType::F16(dimension))),
        0..=4 => Err(PackedError::Unknown { what: "the dimension", value: dimension.into() }),
        other => Err(PackedError::Unknown { what: "the value type", value: other.into() }),
    }
}

fn parse_label(fields: &[u8]) -> Result<SectionLabel, PackedError> {
    let shown = |version_at: usize, content_at: usize, epoch_at: usize| -> Result<Option<Shown>, PackedError> {
        let epoch = Epoch(u64_at(fields, epoch_at));
        let held = held(fields, version_at, content_at)?;
        if held.is_none() && epoch != Epoch(0) {
            return Err(PackedError::Contradiction("a label names an epoch without a version"));
        }
        Ok(held.map(|HeldContent { version, content }| Shown { version, content, epoch }))
    };
    Ok(SectionLabel {
        table: TableUid(u64_at(fields, section::UID)),
        served: shown(section::SERVED_VERSION, section::SERVED_CONTENT, section::SERVED_EPOCH)?,
        aligned: shown(section::ALIGNED_VERSION, section::ALIGNED_CONTENT, section::ALIGNED_EPOCH)?,
        other: held(fields, section::OTHER_VERSION, section::OTHER_CONTENT)?,
        as_of_s: u32_at(fields, section::AS_OF_S),
    })
}

fn held(fields: &[u8], version_at: usize, content_at: usize) -> Result<Option<HeldContent>, PackedError> {
    let version = Version(u64_at(fields, version_at));
    let content: [u8; 32] = array(fields, content_at);
    if version == Version(0) && content == [0; 32] {
        return Ok(None);
    }
    if version == Version(0) {
        return Err(PackedError::Contradiction("a label names a content id without a version"));
    }
    Ok(Some(HeldContent { version, content: ContentId(content) }))
}

/// Checks statuses against the counts, and offsets against the statuses.
fn check_answers(body: &[u8], parsed: &Parsed, ends_len: usize) -> Result<(), PackedError> {
    let statuses = &body[parsed.statuses_at..parsed.values_at];
    let used = status_bytes(parsed.count);
    if !parsed.count.is_multiple_of(4) && statuses[used - 1] >> (parsed.count % 4 * 2) != 0 {
        return Err(PackedError::NotZero("the padding after a section's statuses"));
    }
    if statuses[used..].iter().any(|byte| *byte != 0) {
        return Err(PackedError::NotZero("the padding after a section's statuses"));
    }
    // A found key is `01`: its low bit set, its high bit not.
    let found: u32 = statuses.iter().map(|byte| (byte & !(byte >> 1) & 0x55).count_ones()).sum();
    if usize::try_from(found) != Ok(parsed.found) {
        return Err(PackedError::Contradiction("the statuses of a section do not add up to its found keys"));
    }
    let Some(value_type) = parsed.value_type else { return Ok(()) };
    if let Some(width) = value_type.fixed_width() {
        if parsed.found.checked_mul(width) != Some(parsed.value_bytes) {
            return Err(PackedError::Contradiction("the values of a section are not one per found key"));
        }
        return Ok(());
    }
    let mut before = 0;
    let ends = body[parsed.values_at..parsed.values_at + ends_len].as_chunks::<4>().0;
    for (index, end) in ends.iter().enumerate() {
        let end = len_at(end, 0);
        if end < before {
            return Err(PackedError::Offsets("a section's values"));
        }
        if end > before && KeyStatus::from_bits(statuses[index / 4] >> (index % 4 * 2)) != KeyStatus::Found {
            return Err(PackedError::Contradiction("a key that was not found has a value"));
        }
        before = end;
    }
    if before == parsed.value_bytes { Ok(()) } else { Err(PackedError::Offsets("a section's values")) }
}
