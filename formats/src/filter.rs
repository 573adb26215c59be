//! Filters: which keys are surely absent. A binary fuse filter (Graf and Lemire, 2022) of 8-bit fingerprints over `h`.
//!
//! ```text
//!   fingerprints   (segments + 2) · L bytes, L = 2^segment bits
//!
//!   x    = mix(h + seed)
//!   p0   = (x · segments · L) >> 64                  in 128 bits
//!   p1   = p0 + L   with its low bits xor (x >> 18) mod L
//!   p2   = p0 + 2·L with its low bits xor x mod L
//!   present   byte[p0] ^ byte[p1] ^ byte[p2] = low byte of (x ^ x >> 32)
//!
//!   mix   x ^= x >> 33, x *= 0xff51afd7ed558ccd, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53, x ^= x >> 33
//! ```
//!
//! Every present hash passes; of the others one in 256 does. The seeds tried are a fixed sequence, and all sizes are
//! computed with integers: equal hashes give equal bytes, on every machine.

use crate::error::FormatError;

/// More hashes are not filtered: while a filter is built it takes about 32 bytes for each.
pub(crate) const HASHES_MAX: usize = 8 << 20;
/// Seeds tried before a filter is given up. One in a few hundred fails.
const TRIES: u32 = 64;
/// Bits of the longest segment.
const SEGMENT_BITS_MAX: u8 = 18;
/// Hashes from which on segments have so many bits: 2.25 and the logarithm to the base of 3.33, rounded down.
const SEGMENT_BITS: [(usize, u8); 17] = [
    (0, 2),
    (3, 3),
    (9, 4),
    (28, 5),
    (92, 6),
    (304, 7),
    (1010, 8),
    (3362, 9),
    (11_193, 10),
    (37_273, 11),
    (124_118, 12),
    (413_310, 13),
    (1_376_322, 14),
    (4_583_150, 15),
    (15_261_887, 16),
    (50_822_082, 17),
    (169_237_530, SEGMENT_BITS_MAX),
];

/// Bytes of fingerprints for so many hashes: 1.125 each, more if they are few; the construction needs that much room.
/// The paper's `0.875 + 0.25 · log2(10^6) / log2(n)`, in thousandths, with a logarithm that is straight between powers of 2.
const fn room(hashes: usize) -> usize {
    let hashes = if hashes < 2 { 2 } else { hashes };
    let whole = hashes.ilog2() as usize;
    let log2_thousandths = whole * 1000 + (hashes - (1 << whole)) * 1000 / (1 << whole);
    let permille = 875 + 250 * 19_932 / log2_thousandths;
    let permille = if permille < 1125 { 1125 } else { permille };
    (hashes * permille).div_ceil(1000)
}

/// The geometry of a filter, without its fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fuse8 {
    seed: u64,
    segments: u32,
    segment_bits: u8,
}

impl Fuse8 {
    /// Builds the filter of `hashes`, each of them once; gives its fingerprints too. `None` if there are too many, or, which
    /// has never been seen, no seed works.
    pub(crate) fn build(hashes: &[u64]) -> Option<(Self, Vec<u8>)> {
        if hashes.is_empty() || hashes.len() > HASHES_MAX {
            return None;
        }
        let (_, segment_bits) = *SEGMENT_BITS.iter().rev().find(|(least, _)| hashes.len() >= *least)?;
        let room = room(hashes.len());
        let segments = u32::try_from(room.div_ceil(1 << segment_bits).saturating_sub(2).max(1)).ok()?;
        let mut work = Work::default();
        (0..TRIES).find_map(|attempt| {
            let filter = Self { seed: mix(u64::from(attempt) + 1), segments, segment_bits };
            work.fingerprints(&filter, hashes).map(|bytes| (filter, bytes))
        })
    }

    /// Reads a geometry.
    ///
    /// # Errors
    /// `Damaged` if no filter has it.
    pub(crate) fn new(seed: u64, segments: u32, segment_bits: u8, what: &'static str) -> Result<Self, FormatError> {
        // Keeps the length far below 2^63, and shifts below 64.
        if segments == 0 || !(2..=SEGMENT_BITS_MAX).contains(&segment_bits) {
            return Err(FormatError::damaged(
                what,
                format!("a filter of {segments} segments of 2^{segment_bits} bytes"),
            ));
        }
        Ok(Self { seed, segments, segment_bits })
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) const fn segments(&self) -> u32 {
        self.segments
    }

    pub(crate) const fn segment_bits(&self) -> u8 {
        self.segment_bits
    }

    /// Length of the fingerprints in bytes.
    pub(crate) const fn len(&self) -> u64 {
        (self.segments as u64 + 2) << self.segment_bits
    }

    /// Where the three fingerprints of a hash are, all below [`len`](Self::len), and what they sum up to.
    #[inline]
    pub(crate) const fn places(&self, h: u64) -> ([u64; 3], u8) {
        let x = mix(h.wrapping_add(self.seed));
        let segment = 1u64 << self.segment_bits;
        let mask = segment - 1;
        let first = ((x as u128 * ((self.segments as u64) << self.segment_bits) as u128) >> 64) as u64;
        // Changing the low bits leaves a place within its segment.
        let second = (first + segment) ^ ((x >> 18) & mask);
        let third = (first + 2 * segment) ^ (x & mask);
        ([first, second, third], (x ^ (x >> 32)) as u8)
    }

    /// Whether a hash may be among those the filter was built of. Fingerprints cut short say no.
    #[inline]
    pub(crate) fn may_contain(&self, fingerprints: &[u8], h: u64) -> bool {
        let (places, sum) = self.places(h);
        let at = |place: u64| fingerprints.get(place as usize).copied();
        match (at(places[0]), at(places[1]), at(places[2])) {
            (Some(a), Some(b), Some(c)) => a ^ b ^ c == sum,
            _ => false,
        }
    }
}

/// A bijection that makes every bit depend on all: murmur3's finisher.
#[inline]
const fn mix(word: u64) -> u64 {
    let mut x = word;
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// What building takes, kept from one try to the next.
#[derive(Default)]
struct Work {
    /// Of each place: how often it is used, times 4, and the xor of which of the three places it is to its hashes.
    uses: Vec<u8>,
    /// Of each place: the xor of its hashes.
    hashes: Vec<u64>,
    /// Places used once.
    alone: Vec<u32>,
    /// Hashes in the order in which they were taken out, and which of its places each was alone in.
    order: Vec<u64>,
    own: Vec<u8>,
}

impl Work {
    /// Takes out hash after hash that has a place of its own; if all can be taken out, assigns fingerprints in reverse.
    fn fingerprints(&mut self, filter: &Fuse8, hashes: &[u64]) -> Option<Vec<u8>> {
        let len = usize::try_from(filter.len()).ok()?;
        self.uses.clear();
        self.uses.resize(len, 0);
        self.hashes.clear();
        self.hashes.resize(len, 0);
        self.alone.clear();
        self.order.clear();
        self.own.clear();
        for &h in hashes {
            for (which, place) in (0u8..).zip(filter.places(h).0) {
                // More than 63 uses of a place: hopeless for this seed.
                let uses = &mut self.uses[place as usize];
                *uses = uses.checked_add(4)? ^ which;
                self.hashes[place as usize] ^= h;
            }
        }
        self.alone.extend((0u32..).zip(&self.uses).filter(|(_, uses)| **uses >> 2 == 1).map(|(place, _)| place));
        while let Some(place) = self.alone.pop() {
            let uses = self.uses[place as usize];
            if uses >> 2 != 1 {
                continue;
            }
            let (h, own) = (self.hashes[place as usize], uses & 3);
            self.order.push(h);
            self.own.push(own);
            for (which, place) in (0u8..).zip(filter.places(h).0) {
                let uses = &mut self.uses[place as usize];
                *uses = (*uses - 4) ^ which;
                self.hashes[place as usize] ^= h;
                if *uses >> 2 == 1 {
                    self.alone.push(place as u32);
                }
            }
        }
        if self.order.len() != hashes.len() {
            return None;
        }
        let mut bytes = vec![0; len];
        for (&h, &own) in self.order.iter().zip(&self.own).rev() {
            let (places, sum) = filter.places(h);
            // Its own place is still 0: no hash taken out later has it.
            let rest = places.iter().fold(sum, |rest, &place| rest ^ bytes[place as usize]);
            bytes[places[usize::from(own)] as usize] = rest;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: u64, salt: u64) -> Vec<u64> {
        let mut hashes: Vec<u64> = (0..count).map(|i| mix(mix(i) ^ salt) >> 11).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    #[test]
    fn every_hash_of_any_number_passes_and_few_others_do() {
        for count in (1..200).chain([303, 304, 1009, 1010, 5000, 11_193, 40_000, 500_000]) {
            let present = hashes(count, 1);
            let (filter, bytes) = Fuse8::build(&present).expect("some seed works");
            assert_eq!(bytes.len() as u64, filter.len());
            assert!(present.iter().all(|&h| filter.may_contain(&bytes, h)), "{count} hashes");
            assert_eq!(Fuse8::build(&present), Some((filter, bytes.clone())), "the same bytes again");
            let strangers = hashes(100_000, 2);
            let passing = strangers.iter().filter(|&&h| filter.may_contain(&bytes, h)).count();
            assert!(passing < 700, "{passing} of 100,000 strangers pass a filter of {count}");
            if count >= 40_000 {
                assert!(bytes.len() as f64 <= 1.25 * count as f64, "{} bytes for {count}", bytes.len());
            }
        }
    }

    #[test]
    fn neighbouring_hashes_are_filtered_too() {
        let present: Vec<u64> = (1000..21_000).collect();
        let (filter, bytes) = Fuse8::build(&present).expect("some seed works");
        assert!(present.iter().all(|&h| filter.may_contain(&bytes, h)));
        let passing = (21_000..121_000u64).filter(|&h| filter.may_contain(&bytes, h)).count();
        assert!(passing < 700, "{passing} of 100,000 neighbours");
    }

    #[test]
    fn what_cannot_be_filtered_has_no_filter() {
        assert_eq!(Fuse8::build(&[]), None);
        // A hash given twice never gets a place of its own.
        assert_eq!(Fuse8::build(&[5, 5, 9]), None);
        for (segments, bits) in [(0, 5), (1, 1), (1, 19), (1, 64), (1, 255)] {
            assert!(Fuse8::new(1, segments, bits, "filter").is_err());
        }
        let largest = Fuse8::new(1, u32::MAX, 18, "filter").expect("legal");
        for h in [0, 1, u64::MAX, 1 << 63] {
            assert!(largest.places(h).0.iter().all(|&place| place < largest.len()));
            assert!(!largest.may_contain(&[1, 2, 3], h));
        }
    }
}
