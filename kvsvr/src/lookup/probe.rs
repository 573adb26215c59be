//! Comparing the slots of two lines with a hash, in as few instructions as the CPU allows.
//!
//! ```text
//!   slots   bit s: slot s of the home line; bit 16 + s: slot s of the line behind it
//! ```
//!
//! With the lines in the cache the comparison is half of a lookup. AVX-512 VBMI gathers the stored bits of eight slots of
//! any stride with one permutation and compares them with one more instruction; SSE2, which every x86-64 has, compares
//! slots of the commonest stride, two at a time; elsewhere words are compared one by one.

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
pub(super) use self::x86::{Pairs, Permuted};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi16,
        _mm512_loadu_si512, _mm512_mask_cmpeq_epi64_mask, _mm512_maskz_permutexvar_epi8, _mm512_set1_epi64,
    };

    use super::{IndexLine, LineFormat, NEXT, Probe};

    const WORD: usize = 8;

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

    /// Any slots; the first eight by one permutation, `MORE` of them word by word.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Permuted<const MORE: bool> {
        /// Byte `i` of lane `s`: where byte `i` of the stored bits of slot `s` is.
        bytes: __m512i,
        /// The bytes of the lanes that are stored.
        stored: u64,
        lanes: u8,
        format: LineFormat,
    }

    impl<const MORE: bool> Permuted<MORE> {
        /// `None` if lines have more slots than lanes, or not, or if the CPU lacks an instruction that this needs.
        pub(in super::super) fn new(format: LineFormat) -> Option<Self> {
            if (format.slots() > 8) != MORE || !super::super::is_wide() {
                return None;
            }
            let lanes = usize::from(format.slots()).min(8);
            let mut bytes = [0_u8; 64];
            let mut stored = 0_u64;
            for lane in 0..lanes {
                for byte in 0..format.h_bytes() {
                    bytes[lane * WORD + byte] = (lane * format.stride() + byte) as u8;
                    stored |= 1 << (lane * WORD + byte);
                }
            }
            // SAFETY: 64 bytes are read from an array of 64, at any alignment; the CPU has AVX-512 F (checked above).
            let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            Some(Self { bytes, stored, lanes: u8::MAX >> (8 - lanes), format })
        }

        #[inline(always)]
        fn line(self, line: &IndexLine, wanted: u64) -> u32 {
            // SAFETY: a line has the 64 bytes that are read, at any alignment; the CPU has AVX-512 F and VBMI, or `new`
            // would have made no value.
            let eight = unsafe {
                let line = _mm512_loadu_si512(line.as_ptr().cast());
                let stored = _mm512_maskz_permutexvar_epi8(self.stored, self.bytes, line);
                _mm512_mask_cmpeq_epi64_mask(self.lanes, stored, _mm512_set1_epi64(wanted as i64))
            };
            u32::from(eight)
        }
    }

    impl<const MORE: bool> Probe for Permuted<MORE> {
        #[inline(always)]
        fn slots(self, home: &IndexLine, next: &IndexLine, wanted: u64) -> u32 {
            let mut slots = self.line(home, wanted) | self.line(next, wanted) << NEXT;
            if MORE {
                for slot in 8..self.format.slots() {
                    slots |= u32::from(self.format.holds(home, slot, wanted)) << slot;
                    slots |= u32::from(self.format.holds(next, slot, wanted)) << (NEXT + u32::from(slot));
                }
            }
            slots
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
                        if let Some(permuted) = Permuted::<false>::new(format) {
                            assert_eq!(permuted.slots(&lines[0], &lines[1], wanted), plain, "{format:?}");
                        }
                        if let Some(permuted) = Permuted::<true>::new(format) {
                            assert_eq!(permuted.slots(&lines[0], &lines[1], wanted), plain, "{format:?}");
                        }
                    }
                }
            }
        }
    }
}
