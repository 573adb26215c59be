//! Lines as batch lookups read them: many parts of one format at once.
//!
//! ```text
//!   home line ─┬─ match ──────────▶ slot ─┬─ inline: value at payload_at(slot)
//!   next line ─┘                          └─ others: record_at(line, slot) in the image ─▶ read_record
//!              └─ none, reach ≥ 2 ─▶ the lines behind, to the reach
//! ```

use crate::schema::KeyType;
use crate::table::mem::line::{LINE_BYTES, META, REACH_MAX, Shape, SlotSpec, reach, used};
use crate::table::mem::lookup::{Found, read_record};

/// An index line.
pub type IndexLine = [u8; LINE_BYTES];

/// How the lines of a part are read. Parts of one table mostly have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFormat {
    pub(super) spec: SlotSpec,
    pub(super) d_max: u32,
}

impl LineFormat {
    /// Where values are.
    #[inline]
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.spec.shape
    }

    /// Type of the keys.
    #[inline]
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.spec.key
    }

    /// Whether records carry expiry times.
    #[inline]
    #[must_use]
    pub const fn has_expiry(&self) -> bool {
        self.spec.ttl
    }

    /// Bytes of every stored value, if they are of one width.
    #[inline]
    #[must_use]
    pub fn value_width(&self) -> Option<usize> {
        (self.spec.width != crate::table::WIDTH_VARIES).then_some(self.spec.width as usize)
    }

    /// Bytes from one slot to the next; the first begins the line with its low bytes of `h`.
    #[inline]
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.spec.stride as usize
    }

    /// Bytes of `h` in a slot; behind them is the payload.
    #[inline]
    #[must_use]
    pub const fn h_bytes(&self) -> usize {
        self.spec.h_bytes as usize
    }

    /// Slots of a line, at most 14.
    #[inline]
    #[must_use]
    pub const fn slots(&self) -> u8 {
        self.spec.slots
    }

    /// The bits of `h` that slots store.
    #[inline]
    #[must_use]
    pub const fn mask(&self) -> u64 {
        self.spec.mask()
    }

    /// Whether some line that is not full would look as if it held these bits of `h`: slots not in use are zero.
    #[inline]
    #[must_use]
    pub const fn is_vague(&self, stored_h: u64) -> bool {
        stored_h == 0
    }

    /// The slots that hold these stored bits of `h`, as bits; those not in use count as holding 0.
    #[inline]
    #[must_use]
    pub fn matching(&self, line: &IndexLine, stored_h: u64) -> u32 {
        self.spec.matching(line, stored_h) & ((1 << self.spec.slots) - 1)
    }

    /// Whether one slot holds these stored bits of `h`; one not in use counts as holding 0.
    #[inline]
    #[must_use]
    pub fn holds(&self, line: &IndexLine, slot: u8, stored_h: u64) -> bool {
        self.spec.stored_h(line, slot) == stored_h
    }

    /// How many lines behind its home line a key may lie; the last of them are there only if `ends` does not hold for
    /// a line before.
    #[inline]
    #[must_use]
    pub const fn distance_max(&self, home: &IndexLine) -> u32 {
        let reach = reach(home[META]);
        if reach < REACH_MAX { reach as u32 } else { self.d_max }
    }

    /// The reach in a home line: how many lines behind it to ask for, 7 standing for 7 or more.
    #[inline]
    #[must_use]
    pub const fn reach(home: &IndexLine) -> u8 {
        reach(home[META])
    }

    /// Whether no key whose home is before `line` lies behind it: it has room.
    #[inline]
    #[must_use]
    pub const fn ends(&self, line: &IndexLine) -> bool {
        used(line[META]) < self.spec.slots
    }

    /// The value and the expiry time in a slot of the inline shape.
    #[inline]
    #[must_use]
    pub fn inline_value<'a>(&self, line: &'a IndexLine, slot: u8) -> Option<Found<'a>> {
        read_record(&self.spec, line.get(self.spec.payload_at(slot)..)?).map(|(_, found)| found)
    }

    /// Byte offset in the image of the record of a slot. The shape is not inline.
    #[inline]
    #[must_use]
    pub fn record_at(&self, line: &IndexLine, slot: u8) -> u64 {
        self.spec.record_at(line, slot)
    }

    /// The record at the beginning of `bytes`: its key (empty for `u64` keys), and the rest.
    #[inline(always)]
    #[must_use]
    pub fn read_record<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], Found<'a>)> {
        read_record(&self.spec, bytes)
    }
}

const _: () = assert!(META == LINE_BYTES - 1);
