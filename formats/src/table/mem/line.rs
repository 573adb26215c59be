//! One index line: where its slots and its trailer are.

use crate::schema::{KeyType, Schema};
use crate::table::WIDTH_VARIES;

/// Bytes of an index line: one cache line.
pub(in crate::table) const LINE_BYTES: usize = 64;
/// An index line.
pub(in crate::table) type Line = [u8; LINE_BYTES];
/// Where the meta byte is.
pub(in crate::table) const META: usize = LINE_BYTES - 1;
/// The reach that stands for itself or more.
pub(in crate::table) const REACH_MAX: u8 = 7;
/// Widest value that sits inline.
pub(in crate::table) const INLINE_WIDTH_MAX: u32 = 16;
/// Bytes of `h` in a slot of a table with `bytes` keys: one lookup in 7000 compares a wrong key.
pub(in crate::table) const BYTES_KEY_H_BYTES: u8 = 2;
/// Fewest bytes of `h` in a slot of a table with `u64` keys.
pub(in crate::table) const U64_KEY_H_BYTES_MIN: u8 = 4;
/// Slots are matched by reading 8 bytes each.
const WORD: usize = 8;

/// Where the values of a memory part are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In the index line.
    Inline,
    /// In an array of records of one width.
    Dense,
    /// In records of any length.
    Heap,
}

/// How a memory part is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// From the home line forward.
    Scan,
    /// By binary search over all slots.
    Sorted,
}

/// What slots hold and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::table) struct SlotSpec {
    pub(in crate::table) shape: Shape,
    pub(in crate::table) key: KeyType,
    pub(in crate::table) ttl: bool,
    /// Bytes of a stored value, or [`WIDTH_VARIES`].
    pub(in crate::table) width: u32,
    /// Low bytes of `h` stored.
    pub(in crate::table) h_bytes: u8,
    /// Bytes of a slot.
    pub(in crate::table) stride: u8,
    /// Slots of a line.
    pub(in crate::table) slots: u8,
}

impl SlotSpec {
    /// `width` is at most `INLINE_WIDTH_MAX` where it matters for the stride, so that nothing here overflows.
    pub(in crate::table) const fn new(key: KeyType, width: u32, ttl: bool, h_bytes: u8) -> Self {
        let shape = match key {
            KeyType::U64 if width <= INLINE_WIDTH_MAX => Shape::Inline,
            KeyType::U64 if width != WIDTH_VARIES => Shape::Dense,
            _ => Shape::Heap,
        };
        let payload = match shape {
            Shape::Inline => width as usize + if ttl { 4 } else { 0 },
            Shape::Dense => 0,
            Shape::Heap => 4,
        };
        let stride = h_bytes as usize + payload;
        let fitting = Self::trailer_of(shape) / stride;
        let readable = (LINE_BYTES - WORD) / stride + 1;
        let slots = if fitting < readable { fitting } else { readable };
        Self { shape, key, ttl, width, h_bytes, stride: stride as u8, slots: slots as u8 }
    }

    pub(in crate::table) fn of_schema(schema: &Schema, h_bytes: u8) -> Self {
        let width = schema.stored_width().map_or(WIDTH_VARIES, |width| u32::try_from(width).unwrap_or(WIDTH_VARIES));
        Self::new(schema.key, width, schema.ttl, h_bytes)
    }

    /// Slots of `h_bytes` of `h` and `payload` bytes beside a number in the trailer, as the dense shape has it; for indexes of
    /// records that are not in the image.
    pub(in crate::table) const fn pointing(h_bytes: u8, payload: u8, slots: u8) -> Self {
        let (key, stride) = (KeyType::U64, h_bytes + payload);
        Self { shape: Shape::Dense, key, ttl: false, width: 0, h_bytes, stride, slots }
    }

    const fn trailer_of(shape: Shape) -> usize {
        match shape {
            Shape::Inline => META,
            Shape::Dense => META - 4,
            Shape::Heap => META - 6,
        }
    }

    /// The bits of `h` that slots store.
    #[inline]
    pub(in crate::table) const fn mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.h_bytes as u32)
    }

    /// Bytes of a record of the dense shape.
    #[inline]
    pub(in crate::table) const fn dense_record(&self) -> u64 {
        self.width as u64 + if self.ttl { 4 } else { 0 }
    }

    #[inline]
    pub(in crate::table) const fn slot_at(&self, slot: u8) -> usize {
        slot as usize * self.stride as usize
    }

    /// Where the payload of `slot` begins.
    #[inline]
    pub(in crate::table) const fn payload_at(&self, slot: u8) -> usize {
        self.slot_at(slot) + self.h_bytes as usize
    }

    /// The stored bits of `h` of `slot`.
    #[inline]
    pub(in crate::table) fn stored_h(&self, line: &Line, slot: u8) -> u64 {
        word_at(line, self.slot_at(slot)) & self.mask()
    }

    /// The slots whose stored bits of `h` are `wanted`, as bits, whether in use or not.
    #[inline]
    pub(in crate::table) fn matching(&self, line: &Line, wanted: u64) -> u32 {
        let mask = self.mask();
        match self.stride {
            6 => matching::<6>(line, wanted, mask),
            8 => matching::<8>(line, wanted, mask),
            10 => matching::<10>(line, wanted, mask),
            14 => matching::<14>(line, wanted, mask),
            22 => matching::<22>(line, wanted, mask),
            stride => {
                let mut hits = 0;
                for slot in 0..=(LINE_BYTES - WORD) / usize::from(stride) {
                    let hit = (word_at(line, slot * usize::from(stride)) ^ wanted) & mask == 0;
                    hits |= u32::from(hit) << slot;
                }
                hits
            }
        }
    }

    /// Byte offset of the record of `slot`, from the base in the trailer. The shape is not inline.
    #[inline]
    pub(in crate::table) fn record_at(&self, line: &Line, slot: u8) -> u64 {
        let trailer = Self::trailer_of(self.shape);
        if self.shape == Shape::Dense {
            let base = u32_at(line, trailer);
            return (u64::from(base) + u64::from(slot)) * self.dense_record();
        }
        // The two bytes above the base are the meta byte and what the shift brings in.
        let base = word_at(line, LINE_BYTES - WORD) >> (8 * (trailer - (LINE_BYTES - WORD))) & 0xffff_ffff_ffff;
        base + u64::from(u32_at(line, self.payload_at(slot)))
    }

    /// Puts the base of a line's records into its trailer: an ordinal (dense) or a byte offset (heap).
    pub(in crate::table) fn set_base(&self, line: &mut Line, base: u64) {
        let trailer = Self::trailer_of(self.shape);
        line[trailer..META].copy_from_slice(&base.to_le_bytes()[..META - trailer]);
    }
}

/// Slots in use.
#[inline]
pub(in crate::table) const fn used(meta: u8) -> u8 {
    meta & 0x1f
}

/// How many lines further the last record of this home lives; [`REACH_MAX`] for that or more.
#[inline]
pub(in crate::table) const fn reach(meta: u8) -> u8 {
    meta >> 5
}

/// A meta byte.
pub(in crate::table) const fn meta(used: u8, reach: u8) -> u8 {
    used | reach << 5
}

#[inline]
pub(in crate::table) fn word_at(line: &Line, at: usize) -> u64 {
    u64::from_le_bytes(*line[at..].first_chunk().expect("words are read within the line"))
}

#[inline]
pub(in crate::table) fn u32_at(line: &Line, at: usize) -> u32 {
    u32::from_le_bytes(*line[at..].first_chunk().expect("numbers are read within the line"))
}

/// [`SlotSpec::matching`] for a stride known when compiling: a loop without branches.
#[inline]
pub(in crate::table) fn matching<const STRIDE: usize>(line: &Line, wanted: u64, mask: u64) -> u32 {
    let mut hits = 0;
    for slot in 0..=(LINE_BYTES - WORD) / STRIDE {
        let hit = (word_at(line, slot * STRIDE) ^ wanted) & mask == 0;
        hits |= u32::from(hit) << slot;
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_trailer_never_overlap() {
        for (key, widths) in
            [(KeyType::U64, &[1, 2, 4, 8, 12, 16, 17, 64, WIDTH_VARIES][..]), (KeyType::Bytes, &[4, WIDTH_VARIES])]
        {
            for &width in widths {
                for ttl in [false, true] {
                    for h_bytes in 2..=8 {
                        let spec = SlotSpec::new(key, width, ttl, h_bytes);
                        let end = spec.slot_at(spec.slots);
                        assert!((1..=31).contains(&spec.slots), "{spec:?}");
                        assert!(end <= SlotSpec::trailer_of(spec.shape), "{spec:?}");
                        assert!(spec.slot_at(spec.slots - 1) + WORD <= LINE_BYTES, "{spec:?}");
                    }
                }
            }
        }
        let floats = SlotSpec::new(KeyType::U64, 4, false, 6);
        assert_eq!((floats.slots, floats.stride, floats.shape), (6, 10, Shape::Inline));
    }

    #[test]
    fn every_stride_matches_alike() {
        let mut line: Line = std::array::from_fn(|index| (index as u8).wrapping_mul(37));
        for h_bytes in 2..=8 {
            for width in 1..=16 {
                let spec = SlotSpec::new(KeyType::U64, width, false, h_bytes);
                for slot in 0..spec.slots {
                    line.rotate_left(1);
                    let wanted = spec.stored_h(&line, slot);
                    let expected = (0..spec.slots).filter(|&other| spec.stored_h(&line, other) == wanted);
                    let expected = expected.fold(0, |hits, slot| hits | 1 << slot);
                    assert_eq!(spec.matching(&line, wanted) & ((1 << spec.slots) - 1), expected);
                }
            }
        }
    }

    #[test]
    fn bases_come_back() {
        for (width, base) in [(100, 0xfedc_ba98), (WIDTH_VARIES, 0xfedc_ba98_7654)] {
            let spec = SlotSpec::new(KeyType::U64, width, false, 6);
            let mut line = [0; LINE_BYTES];
            line[META] = 0xff;
            spec.set_base(&mut line, base);
            assert_eq!(line[META], 0xff);
            assert_eq!(spec.record_at(&line, 0), if width == 100 { base * 100 } else { base });
        }
    }
}
