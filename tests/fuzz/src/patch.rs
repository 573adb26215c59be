//! Patches: a few changes to bytes that are otherwise sound.
//!
//! ```text
//!   op u8: bits 0–2 what, bits 3–7 which region (modulo)
//!     0 set u8   1 set u16   2 set u32   3 set u64     place, bytes
//!     4 flip a bit                                     place, bit u8
//!     5 add to a u32                                   place, i8
//!     6 copy bytes of the region                       place, from, length u8
//!     7 fill                                           place, byte u8, length u8
//! ```

use std::ops::Range;

use crate::Choices;

/// Changes `bytes` within `regions`, which lie in it, as `choices` say; at most `count` times.
pub fn patch(bytes: &mut [u8], regions: &[Range<usize>], count: u8, choices: &mut Choices<'_>) {
    let regions: Vec<&Range<usize>> = regions.iter().filter(|region| !region.is_empty()).collect();
    if regions.is_empty() {
        return;
    }
    for _ in 0..count {
        if choices.is_empty() {
            return;
        }
        let op = choices.u8();
        let region = &mut bytes[regions[usize::from(op >> 3) % regions.len()].clone()];
        let at = choices.below(region.len());
        match op & 7 {
            0 => put(region, at, &choices.array::<1>()),
            1 => put(region, at, &choices.array::<2>()),
            2 => put(region, at, &choices.array::<4>()),
            3 => put(region, at, &choices.array::<8>()),
            4 => region[at] ^= 1 << (choices.u8() & 7),
            5 => {
                let mut number = [0; 4];
                let there = &region[at..region.len().min(at + 4)];
                number[..there.len()].copy_from_slice(there);
                let added = u32::from_le_bytes(number).wrapping_add_signed(i32::from(choices.u8() as i8));
                put(region, at, &added.to_le_bytes());
            }
            6 => {
                let from = choices.below(region.len());
                let len = usize::from(choices.u8()).min(region.len() - at).min(region.len() - from);
                region.copy_within(from..from + len, at);
            }
            _ => {
                let byte = choices.u8();
                let end = region.len().min(at + usize::from(choices.u8()));
                region[at..end].fill(byte);
            }
        }
    }
}

/// Writes as many of `new` as the region has room for.
fn put(region: &mut [u8], at: usize, new: &[u8]) {
    let len = new.len().min(region.len() - at);
    region[at..at + len].copy_from_slice(&new[..len]);
}
