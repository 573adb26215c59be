//! Comparing the slots of two lines with a hash, in as few instructions as the CPU allows.
//!
//! ```text
//!   slots   bit s: slot s of the home line; bit 16 + s: slot s of the line behind it
//! ```
//!
//! For CPUs without the instructions that [`super::wide`] needs. SSE2, which every x86-64 has, compares slots of the
//! commonest stride, two at a time; elsewhere words are compared one by one.

use fkv_formats::table::mem::{IndexLine, LineFormat};

/// Slots of the line behind come from this bit on.
pub(super) const NEXT: u32 = 16;

/// A way to compare.
pub(super) trait Probe: Copy {
    /// The slots of both lines that hold the stored bits `wanted` of `h`. Slots not in use count as holding 0.
    fn slots(self, home: &IndexLine, next: &IndexLine, wanted: u64) -> u32;
}

/// Word by word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words(pub(super) LineFormat);

impl Probe for Words {
    #[inline(always)]
    fn slots(self, home: &IndexLine, next: &IndexLine, wanted: u64) -> u32 {
        self.0.matching(home, wanted) | self.0.matching(next, wanted) << NEXT
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use self::x86::Pairs;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi16,
    };

    use super::{IndexLine, LineFormat, NEXT, Probe};

    /// Slots of 6 bytes of `h` and 4 of payload: two fit one register of 16 bytes.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Pairs;

    impl Pairs {
        pub(in super::super) fn new(format: &LineFormat) -> Option<Self> {
            ((format.h_bytes(), format.stride(), format.slots()) == (6, 10, 6)).then_some(Self)
        }

        /// Which of the words of slots `2·pair` and `2·pair + 1` are `wanted`: words 0–2 and 5–7 of eight.
        #[inline(always)]
        fn words(line: &IndexLine, pair: usize, wanted: __m128i) -> __m128i {
            let at = &line[pair * 20..pair * 20 + 16];
            // SAFETY: 16 bytes are read from a slice of 16, at any alignment; SSE2 is part of x86-64.
            unsafe { _mm_cmpeq_epi16(_mm_loadu_si128(at.as_ptr().cast()), wanted) }
        }
    }

    impl Probe for Pairs {
        #[inline(always)]
        fn slots(self, home: &IndexLine, next: &IndexLine, wanted: u64) -> u32 {
            let (low, middle, high) = (wanted as i16, (wanted >> 16) as i16, (wanted >> 32) as i16);
            // SAFETY: SSE2 is part of x86-64.
            let wanted = unsafe { _mm_set_epi16(high, middle, low, 0, 0, high, middle, low) };
            let both = |a: __m128i, b: __m128i| {
                // SAFETY: as above.
                let bits = unsafe { _mm_movemask_epi8(_mm_packs_epi16(a, b)) };
                u64::from(bits as u16)
            };
            let words = |line, pair| Self::words(line, pair, wanted);
            let bits = both(words(home, 0), words(home, 1))
                | both(words(home, 2), words(next, 0)) << 16
                | both(words(next, 1), words(next, 2)) << 32;
            // Bits 0 and 5 of each eight are left where all three words of a slot match.
            let slots = bits & bits >> 1 & bits >> 2 & 0x2121_2121_2121;
            // Bits 0, 5, 8, 13, … become bits 0 and 1 of every eight, then of every two.
            let slots = (slots | slots >> 4) & 0x0303_0303_0303;
            let slots = slots | slots >> 6 | slots >> 12;
            (slots as u32 % 0x40) | (((slots >> 24) as u32 % 0x40) << NEXT)
        }
    }
}

#[cfg(test)]
mod tests {
    use fkv_formats::hash::unhash_u64;
    use fkv_formats::id::Part;
    use fkv_formats::record::{Key, RecordRef};
    use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
    use fkv_formats::table::Profile;
    use fkv_formats::table::mem::build_part;

    use super::*;

    fn formats() -> Vec<LineFormat> {
        let mut formats = Vec::new();
        for value in [ValueType::F16(1), ValueType::F32(1), ValueType::I64, ValueType::F32(4), ValueType::F32(16)] {
            for ttl in [false, true] {
                for count in [1_u64, 40, 600, 20_000] {
                    let (kind, key, storage) = (TableKind::Mem, KeyType::U64, Storage::Native);
                    let schema = Schema { kind, key, value, storage, f16_overflow: F16Overflow::Reject, ttl };
                    let width = vec![1; value.fixed_width().expect("fixed")];
                    let step = u64::MAX / 2400 / count;
                    let records: Vec<RecordRef<'_>> =
                        (0..count).map(|i| RecordRef::new(Key::U64(unhash_u64(i * step)), 0, Some(&width))).collect();
                    let (layout, _) =
                        build_part(&schema, Profile::CURRENT, Part(0), &records, Vec::new()).expect("built");
                    formats.push(layout.line_format().expect("not sorted"));
                }
            }
        }
        formats
    }

    /// Every way must agree with the plain one for every format, on lines full of near matches.
    #[test]
    fn all_ways_to_compare_agree() {
        let mut state = 7_u64;
        let mut next = || {
            state = fkv_formats::hash::hash_u64(state.wrapping_add(1));
            state
        };
        for format in formats() {
            for _ in 0..300 {
                // Few distinct bytes, so that slots often match in part and sometimes whole.
                let kinds = next() % 3 + 1;
                let mut line = || -> IndexLine { std::array::from_fn(|_| (next() % kinds) as u8) };
                let lines = [line(), line()];
                for slot in 0..2 * usize::from(format.slots()) {
                    let line = &lines[slot / usize::from(format.slots())];
                    let at = slot % usize::from(format.slots()) * format.stride();
                    let wanted = u64::from_le_bytes(*line[at..].first_chunk().expect("8 bytes")) & format.mask();
                    let plain = Words(format).slots(&lines[0], &lines[1], wanted);
                    assert_ne!(plain, 0);
                    #[cfg(target_arch = "x86_64")]
                    {
                        if let Some(pairs) = Pairs::new(&format) {
                            assert_eq!(pairs.slots(&lines[0], &lines[1], wanted), plain, "{format:?}");
                        }
                    }
                }
            }
        }
    }
}
