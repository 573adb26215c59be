//! The one hash: xxh3_64 with seed 0.
//!
//! A `u64` key hashes its 8 little-endian bytes. On 8 bytes xxh3_64 is a bijection, and tables rely on it twice: two
//! keys never share a hash, so an exact match of hashes is an exact match of keys; and the key need not be stored,
//! because [`unhash_u64`] gets it back.

use xxhash_rust::xxh3::xxh3_64;

/// What xxh3 mixes into an 8-byte input: two words of its default secret.
const BITFLIP: u64 = 0x1cad_21f7_2c81_017c ^ 0xdb97_9083_e96d_d4de;
/// The multiplier of xxh3's `rrmxmx` mixer.
const PRIME: u64 = 0x9fb2_1c65_1e98_df25;
/// `PRIME`'s inverse modulo 2^64.
const PRIME_INVERSE: u64 = inverse(PRIME);

/// Newton's iteration: every step doubles the number of right low bits; an odd number is its own inverse modulo 8.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut right_bits = 3;
    while right_bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right_bits *= 2;
    }
    inverse
}

/// The hash of a `u64` key: xxh3_64 of its 8 little-endian bytes.
#[inline]
#[must_use]
pub const fn hash_u64(key: u64) -> u64 {
    let mut x = key.rotate_left(32) ^ BITFLIP;
    x ^= x.rotate_left(49) ^ x.rotate_left(24);
    x = x.wrapping_mul(PRIME);
    x ^= (x >> 35) + 8;
    x = x.wrapping_mul(PRIME);
    x ^ (x >> 28)
}

/// The key whose [`hash_u64`] is `h`.
#[inline]
#[must_use]
pub const fn unhash_u64(h: u64) -> u64 {
    let mut x = h ^ (h >> 28) ^ (h >> 56);
    x = x.wrapping_mul(PRIME_INVERSE);
    // The sum fits 30 bits, so that the bits it was shifted from are still there.
    x ^= (x >> 35) + 8;
    x = x.wrapping_mul(PRIME_INVERSE);
    // With P = 1 + r^49 + r^24 over GF(2), r a rotation by one: P^64 = 1, so P^63 is the inverse of P.
    let mut doubling = 0;
    while doubling < 6 {
        x ^= x.rotate_left((49 << doubling) % 64) ^ x.rotate_left((24 << doubling) % 64);
        doubling += 1;
    }
    (x ^ BITFLIP).rotate_left(32)
}

/// The hash of a byte-string key: xxh3_64 of its bytes.
#[inline]
#[must_use]
pub fn hash_bytes(key: &[u8]) -> u64 {
    xxh3_64(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_frozen() {
        assert_eq!(hash_bytes(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash_bytes(b"user:42"), xxh3_64(b"user:42"));
        assert_eq!(hash_u64(0), xxh3_64(&[0; 8]));
        assert_eq!(hash_u64(u64::MAX), xxh3_64(&[255; 8]));
    }

    proptest! {
        #[test]
        fn an_integer_key_hashes_like_its_bytes(key: u64) {
            prop_assert_eq!(hash_u64(key), xxh3_64(&key.to_le_bytes()));
        }

        #[test]
        fn a_hash_gives_its_integer_key_back(word: u64) {
            prop_assert_eq!(unhash_u64(hash_u64(word)), word);
            prop_assert_eq!(hash_u64(unhash_u64(word)), word);
        }
    }
}
