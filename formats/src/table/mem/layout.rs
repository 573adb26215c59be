//! Reading: the validated geometry of a part, and lookups in its image.
//!
//! ```text
//!  24  shape u8 │ probe u8 │ h bytes u8 │ slots u8 │ buckets u32
//!  32  lines u32 │ d_max u32
//!  40  index offset u64
//!  48  0 × 16
//!
//!   shape   0 inline, 1 dense, 2 heap
//!   probe   0 scan, 1 sorted (buckets and d_max are then 0)
//! ```

use crate::error::FormatError;
use crate::record::{Input, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX};
use crate::schema::{KeyType, Schema};
use crate::table::mem::geometry::{RECORDS_MAX, bucket, is_exact};
use crate::table::mem::line::{
    BYTES_KEY_H_BYTES, LINE_BYTES, Line, META, Probe, REACH_MAX, Shape, SlotSpec, U64_KEY_H_BYTES_MIN, reach, used,
};
use crate::table::{HEADER_BYTES, KIND_MEM, PartHeader, WIDTH_VARIES, field, header_data_len, header_records};

const WHAT: &str = "memory part header";
const FLAG_TTL: u8 = 1;
/// Widest value of fixed width: the largest vector there is.
const WIDTH_MAX: u32 = 4 * crate::schema::ValueType::DIMENSION_MAX as u32;
/// Records of a part end before this offset: bases have 6 bytes.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 48;

/// The layout of one part's image: small, to be kept in a flat array, one per part.
///
/// The image is the part's data, exactly [`data_len`](Self::data_len) bytes, verified when it was loaded. Lookups in
/// other bytes find nothing or something wrong, but never panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemLayout {
    index_offset: u64,
    records: u64,
    mask: u64,
    buckets: u32,
    lines: u32,
    d_max: u32,
    used_mask: u32,
    spec: SlotSpec,
    probe: Probe,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The value as stored; empty for a tombstone.
    pub value: &'a [u8],
    /// Unix second at which the record expires; 0 for never.
    pub expiry: u32,
    /// Whether the record says that the key was deleted. Full loads have none.
    pub tombstone: bool,
}

/// The first half of a lookup: a slot whose record is, or may be, the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    record: u64,
    line: u32,
    slot: u8,
}

/// What the home line tells about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A slot there is, or may be, the key's.
    Located(Located),
    /// The key is absent.
    Absent,
    /// The key, if present, lies in the lines behind.
    Beyond(Beyond),
}

/// A lookup that goes on behind the home line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    home: u32,
    reach: u8,
}

impl Located {
    /// Byte offset of the record in the image, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn record(&self) -> usize {
        self.record as usize
    }
}

impl MemLayout {
    pub(super) const fn new(
        spec: SlotSpec,
        probe: Probe,
        buckets: u32,
        lines: u32,
        d_max: u32,
        records: u64,
        index_offset: u64,
    ) -> Self {
        let (mask, used_mask) = (spec.mask(), (1 << spec.slots) - 1);
        Self { index_offset, records, mask, buckets, lines, d_max, used_mask, spec, probe }
    }

    /// Reads and validates a part header.
    ///
    /// # Errors
    /// `Damaged` says which field contradicts the format.
    pub fn parse(header: &PartHeader) -> Result<Self, FormatError> {
        let damaged = |reason: String| Err(FormatError::damaged(WHAT, reason));
        let [kind, key, flags, codec] = field(header, 0);
        let [shape, probe, h_bytes, slots] = field(header, 24);
        let number = |offset| u32::from_le_bytes(field(header, offset));
        let (width, buckets, lines, d_max) = (number(4), number(28), number(32), number(36));
        let (records, data_len) = (header_records(header), header_data_len(header));
        let index_offset = u64::from_le_bytes(field(header, 40));
        if kind != KIND_MEM {
            return damaged(format!("the table kind is {kind}, not {KIND_MEM}"));
        }
        let key = match key {
            0 => KeyType::U64,
            1 => KeyType::Bytes,
            _ => return damaged(format!("unknown key type {key}")),
        };
        let probe = match probe {
            0 => Probe::Scan,
            1 => Probe::Sorted,
            _ => return damaged(format!("unknown probe {probe}")),
        };
        if flags & !FLAG_TTL != 0 || codec != 0 || header[48..HEADER_BYTES].iter().any(|&byte| byte != 0) {
            return damaged(format!("flags {flags:#04x}, codec {codec} or reserved bytes are not 0"));
        }
        // Keeps sums of a width and an offset far from 2^64, and an inline stride within a byte.
        if width == 0 || width > WIDTH_MAX && width != WIDTH_VARIES {
            return damaged(format!("a value width of {width}"));
        }
        let h_bytes_legal = match (probe, key) {
            (Probe::Sorted, _) => 8..=8,
            (Probe::Scan, KeyType::U64) => U64_KEY_H_BYTES_MIN..=8,
            (Probe::Scan, KeyType::Bytes) => BYTES_KEY_H_BYTES..=BYTES_KEY_H_BYTES,
        };
        // Keeps the shift of the mask below 64 and every slot within its line.
        if !h_bytes_legal.contains(&h_bytes) {
            return damaged(format!("slots store {h_bytes} bytes of the hash"));
        }
        let spec = SlotSpec::new(key, width, flags & FLAG_TTL != 0, h_bytes);
        if (shape, slots) != (spec.shape as u8, spec.slots) {
            return damaged(format!("shape {shape} with {slots} slots a line does not follow from key and value"));
        }
        // Keeps records · slots and records · dense record far from 2^64.
        if !(1..=RECORDS_MAX).contains(&records) {
            return damaged(format!("{records} records"));
        }
        match probe {
            Probe::Scan => {
                // Not 0 keeps the division in the exactness check defined.
                let lines_max = u64::from(buckets) + u64::from(d_max);
                if buckets == 0 || lines < buckets || u64::from(lines) > lines_max {
                    return damaged(format!("{lines} lines for {buckets} buckets"));
                }
                if key == KeyType::U64 && !is_exact(buckets, d_max, h_bytes) {
                    return damaged(format!("{h_bytes} bytes of the hash do not make {buckets} buckets exact"));
                }
                if records > u64::from(lines) * u64::from(slots) {
                    return damaged(format!("{records} records do not fit {lines} lines"));
                }
            }
            Probe::Sorted => {
                if buckets != 0 || d_max != 0 || u64::from(lines) != records.div_ceil(u64::from(slots)) {
                    return damaged(format!("{lines} lines for {records} sorted records"));
                }
            }
        }
        let index_legal = match spec.shape {
            Shape::Inline => index_offset == 0,
            Shape::Dense => index_offset == (records * spec.dense_record()).next_multiple_of(LINE_BYTES as u64),
            // Keeps the end of the index far from 2^64.
            Shape::Heap => index_offset <= RECORD_BYTES_MAX && index_offset.is_multiple_of(LINE_BYTES as u64),
        };
        if !index_legal {
            return damaged(format!("the index cannot begin at byte {index_offset}"));
        }
        let layout = Self::new(spec, probe, buckets, lines, d_max, records, index_offset);
        if data_len != layout.data_len() {
            return damaged(format!("a data length of {data_len}, not {}", layout.data_len()));
        }
        Ok(layout)
    }

    /// The part header.
    #[must_use]
    pub fn header(&self) -> PartHeader {
        let spec = self.spec;
        let mut header = [0; HEADER_BYTES];
        header[0] = KIND_MEM;
        header[1] = spec.key as u8;
        header[2] = if spec.ttl { FLAG_TTL } else { 0 };
        header[4..8].copy_from_slice(&spec.width.to_le_bytes());
        header[8..16].copy_from_slice(&self.records.to_le_bytes());
        header[16..24].copy_from_slice(&self.data_len().to_le_bytes());
        header[24..28].copy_from_slice(&[spec.shape as u8, self.probe as u8, spec.h_bytes, spec.slots]);
        header[28..32].copy_from_slice(&self.buckets.to_le_bytes());
        header[32..36].copy_from_slice(&self.lines.to_le_bytes());
        header[36..40].copy_from_slice(&self.d_max.to_le_bytes());
        header[40..48].copy_from_slice(&self.index_offset.to_le_bytes());
        header
    }

    /// Checks that the part is one of a table with this schema.
    ///
    /// # Errors
    /// `Foreign` says what differs.
    pub fn matches(&self, schema: &Schema) -> Result<(), FormatError> {
        let expected = SlotSpec::of_schema(schema, self.spec.h_bytes);
        if self.spec == expected {
            return Ok(());
        }
        let reason = format!(
            "it has {} keys, {} and {} expiry times",
            self.spec.key,
            self.value_width().map_or("values of any length".to_owned(), |width| format!("values of {width} bytes")),
            if self.spec.ttl { "with" } else { "no" },
        );
        Err(FormatError::Foreign { what: "memory part", reason })
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Length of the image in bytes.
    #[must_use]
    pub const fn data_len(&self) -> u64 {
        self.index_offset + self.lines as u64 * LINE_BYTES as u64
    }

    /// Where values are.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.spec.shape
    }

    /// How keys are looked up.
    #[must_use]
    pub const fn probe(&self) -> Probe {
        self.probe
    }

    /// Type of the keys.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.spec.key
    }

    /// Whether records carry expiry times.
    #[must_use]
    pub const fn has_expiry(&self) -> bool {
        self.spec.ttl
    }

    /// Bytes of every stored value; `None` if they vary.
    #[must_use]
    pub fn value_width(&self) -> Option<usize> {
        (self.spec.width != WIDTH_VARIES).then_some(self.spec.width as usize)
    }

    /// Number of index lines, those that only hold spilled records included.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        self.lines
    }

    /// Number of buckets; 0 in a sorted part.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Slots of a line.
    #[must_use]
    pub const fn slots(&self) -> u8 {
        self.spec.slots
    }

    /// Bytes of `h` in a slot.
    #[must_use]
    pub const fn h_bytes(&self) -> u8 {
        self.spec.h_bytes
    }

    /// How many lines from home a record may lie.
    #[must_use]
    pub const fn d_max(&self) -> u32 {
        self.d_max
    }

    /// Where the index lines begin.
    #[must_use]
    pub const fn index_offset(&self) -> u64 {
        self.index_offset
    }

    pub(super) const fn spec(&self) -> SlotSpec {
        self.spec
    }

    /// Byte offset in the image of the line that a lookup of `h` reads first, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn first_line(&self, h: u64) -> usize {
        let line = match self.probe {
            Probe::Scan => bucket(h, self.buckets),
            Probe::Sorted => self.lines / 2,
        };
        self.index_offset as usize + line as usize * LINE_BYTES
    }

    /// Looks up a key with hash `h`, which belongs to this part.
    #[inline]
    #[must_use]
    pub fn find<'a>(&self, image: &'a [u8], h: u64, key: Key<'_>) -> Option<Found<'a>> {
        self.resolve(image, self.locate(image, h)?, h, key)
    }

    /// The first half of a lookup: reads index lines only. `None` proves that the key is absent. For `u64` keys
    /// something located is the key's record; for `bytes` keys it nearly always is, and [`resolve`](Self::resolve)
    /// decides.
    #[inline]
    #[must_use]
    pub fn locate(&self, image: &[u8], h: u64) -> Option<Located> {
        if self.probe == Probe::Sorted {
            return self.locate_sorted(image, h);
        }
        match self.locate_home(image, h) {
            Home::Located(located) => Some(located),
            Home::Absent => None,
            Home::Beyond(beyond) => self.locate_beyond(image, h, beyond),
        }
    }

    /// [`locate`](Self::locate) as far as the home line tells: for batches, which prefetch the next line of all keys
    /// that need one before they read any. Sorted parts are searched to the end at once.
    #[inline]
    #[must_use]
    pub fn locate_home(&self, image: &[u8], h: u64) -> Home {
        if self.probe == Probe::Sorted {
            return self.locate_sorted(image, h).map_or(Home::Absent, Home::Located);
        }
        let home = bucket(h, self.buckets);
        let Some(line) = self.line(image, home) else { return Home::Absent };
        let hits = self.hits(line, h);
        if hits != 0 {
            return Home::Located(self.at(line, home, hits.trailing_zeros() as u8));
        }
        let reach = reach(line[META]);
        if reach == 0 { Home::Absent } else { Home::Beyond(Beyond { home, reach }) }
    }

    /// Byte offset in the image of the line that [`locate_beyond`](Self::locate_beyond) reads first, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn next_line(&self, beyond: Beyond) -> usize {
        self.index_offset as usize + (beyond.home as usize + 1) * LINE_BYTES
    }

    /// [`locate`](Self::locate) in the lines behind the home line.
    #[inline]
    #[must_use]
    pub fn locate_beyond(&self, image: &[u8], h: u64, beyond: Beyond) -> Option<Located> {
        self.scan(image, h, beyond.home, beyond.reach, beyond.home + 1)
    }

    /// The second half of a lookup: reads the record.
    #[inline]
    #[must_use]
    pub fn resolve<'a>(&self, image: &'a [u8], located: Located, h: u64, key: Key<'_>) -> Option<Found<'a>> {
        match (self.spec.key, key) {
            (KeyType::U64, _) => self.record(image, located.record).map(|(_, found)| found),
            (KeyType::Bytes, Key::Bytes(key)) => self.resolve_bytes(image, located, h, key),
            (KeyType::Bytes, Key::U64(_)) => None,
        }
    }

    fn resolve_bytes<'a>(&self, image: &'a [u8], located: Located, h: u64, key: &[u8]) -> Option<Found<'a>> {
        if self.probe == Probe::Sorted {
            return self.resolve_sorted(image, located, h, key);
        }
        let mut located = located;
        loop {
            let (stored, found) = self.record(image, located.record)?;
            if stored == key {
                return Some(found);
            }
            located = self.locate_after(image, located, h)?;
        }
    }

    /// The next candidate after `located`, whose record had another key.
    #[cold]
    fn locate_after(&self, image: &[u8], located: Located, h: u64) -> Option<Located> {
        let line = self.line(image, located.line)?;
        let later = self.hits(line, h) & (u32::MAX << located.slot << 1);
        if later != 0 {
            return Some(self.at(line, located.line, later.trailing_zeros() as u8));
        }
        let home = bucket(h, self.buckets);
        let home_reach = reach(self.line(image, home)?[META]);
        self.scan(image, h, home, home_reach, located.line.checked_add(1)?)
    }

    /// Looks for `h` in the lines from `next` to the end of `home`'s reach.
    fn scan(&self, image: &[u8], h: u64, home: u32, home_reach: u8, next: u32) -> Option<Located> {
        let distance = if home_reach < REACH_MAX { u32::from(home_reach) } else { self.d_max };
        // `home` is a bucket, and buckets + d_max lines are counted in 32 bits; a reach from damaged bytes may lead
        // past the last line, which is then not there.
        for number in next..=home.saturating_add(distance).min(self.lines.saturating_sub(1)) {
            let line = self.line(image, number)?;
            let hits = self.hits(line, h);
            if hits != 0 {
                return Some(self.at(line, number, hits.trailing_zeros() as u8));
            }
            // Whatever has its home further up would have gone here first.
            if used(line[META]) < self.spec.slots {
                return None;
            }
        }
        None
    }

    /// The first slot of a sorted part that holds `h`.
    #[cold]
    fn locate_sorted(&self, image: &[u8], h: u64) -> Option<Located> {
        let entry = self.partition(0, |entry| Some(self.sorted_entry(image, entry)?.0 < h))?;
        let (stored, located) = self.sorted_entry(image, entry)?;
        (stored == h).then_some(located)
    }

    /// Among the entries that hold `h`, from `located` on, the one whose record has `key`. They are in order of keys.
    fn resolve_sorted<'a>(&self, image: &'a [u8], located: Located, h: u64, key: &[u8]) -> Option<Found<'a>> {
        let first = u64::from(located.line) * u64::from(self.spec.slots) + u64::from(located.slot);
        let entry = self.partition(first, |entry| {
            let (stored_h, at) = self.sorted_entry(image, entry)?;
            Some(stored_h == h && self.record(image, at.record)?.0 < key)
        })?;
        let (stored_h, at) = self.sorted_entry(image, entry)?;
        let (stored, found) = self.record(image, at.record)?;
        (stored_h == h && stored == key).then_some(found)
    }

    /// The first entry from `first` on for which `before` does not hold; `None` if there is none, or if `before` cannot
    /// tell.
    fn partition(&self, first: u64, before: impl Fn(u64) -> Option<bool>) -> Option<u64> {
        let (mut low, mut high) = (first, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < self.records).then_some(low)
    }

    /// Hash and slot of an entry of a sorted part.
    fn sorted_entry(&self, image: &[u8], entry: u64) -> Option<(u64, Located)> {
        let slots = u64::from(self.spec.slots);
        let number = u32::try_from(entry / slots).ok()?;
        let slot = (entry % slots) as u8;
        let line = self.line(image, number)?;
        Some((self.spec.stored_h(line, slot), self.at(line, number, slot)))
    }

    /// The slots in use that hold the stored bits of `h`.
    #[inline]
    fn hits(&self, line: &Line, h: u64) -> u32 {
        let in_use = !(u32::MAX << used(line[META]));
        self.spec.matching(line, h & self.mask) & in_use & self.used_mask
    }

    #[inline]
    pub(super) fn line<'a>(&self, image: &'a [u8], number: u32) -> Option<&'a Line> {
        let at = usize::try_from(self.index_offset).ok()? + number as usize * LINE_BYTES;
        image.get(at..)?.first_chunk()
    }

    #[inline]
    pub(super) fn at(&self, line: &Line, number: u32, slot: u8) -> Located {
        let record = match self.spec.shape {
            Shape::Inline => u64::from(number) * LINE_BYTES as u64 + self.spec.payload_at(slot) as u64,
            Shape::Dense | Shape::Heap => self.spec.record_at(line, slot),
        };
        Located { record, line: number, slot }
    }

    /// The stored key (empty for `u64` keys) and the rest of the record at byte `at`.
    #[inline]
    pub(super) fn record<'a>(&self, image: &'a [u8], at: u64) -> Option<(&'a [u8], Found<'a>)> {
        let bytes = image.get(usize::try_from(at).ok()?..)?;
        if self.spec.shape == Shape::Heap {
            return self.heap_record(bytes).ok();
        }
        let (value, rest) = bytes.split_at_checked(self.spec.width as usize)?;
        let expiry = if self.spec.ttl { u32::from_le_bytes(*rest.first_chunk()?) } else { 0 };
        Some((&[], Found { value, expiry, tombstone: false }))
    }

    fn heap_record<'a>(&self, bytes: &'a [u8]) -> Result<(&'a [u8], Found<'a>), FormatError> {
        let mut input = Input::new("memory record", bytes);
        let expiry = if self.spec.ttl { input.u32()? } else { 0 };
        let key = match self.spec.key {
            KeyType::U64 => &[],
            KeyType::Bytes => input.blob(KEY_BYTES_MAX)?,
        };
        let value = match self.value_width() {
            Some(width) => input.take(width)?,
            None => input.blob(VALUE_BYTES_MAX)?,
        };
        Ok((key, Found { value, expiry, tombstone: false }))
    }
}
