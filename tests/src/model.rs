//! What a read must answer, in closed form: no memory, so that a model of any size costs nothing.
//!
//! ```text
//!   (seed, key, data version) ─▶ present? expiry? value
//!   value of a bytes table     [key: 8][data version: 8][filler: 0..15]
//!   value of an i64 table      data version << 40 | low 40 bits of a mix of key and seed
//! ```
//!
//! Every value says which data it is of, and which keys are present differs from version to version: an answer put
//! together from two versions cannot look like one of them. The *data version* is the version whose load wrote the
//! data; a release shows old data under a new version number.

use fkv_formats::id::Version;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};

/// What must be read at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no record.
    Absent,
    /// There is a record, and it has expired by the read timestamp.
    Expired,
    /// This value.
    Found(Vec<u8>),
}

/// A record as a load writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The value.
    pub value: Vec<u8>,
    /// Unix seconds; 0 for never.
    pub expiry: u32,
}

/// The value shape of a modelled table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `bytes` values of varying length.
    Bytes,
    /// `i64` values.
    I64,
}

/// A table whose content is known for every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Makes tables differ.
    pub seed: u64,
    /// Keys are `0..keys`, spread over the 64-bit space by [`Model::key`].
    pub keys: u64,
    /// Shape of the values.
    pub shape: Shape,
    /// With expiry times: the Unix second around which records expire.
    pub expiring_around: Option<u32>,
}

/// A bijection of 64-bit numbers (the finaliser of splitmix64).
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Model {
    /// Seconds by which expiry times scatter around [`Model::expiring_around`].
    pub const EXPIRY_SPREAD_S: u32 = 1 << 16;

    /// A model without expiry times.
    #[must_use]
    pub const fn new(seed: u64, keys: u64, shape: Shape) -> Self {
        Self { seed, keys, shape, expiring_around: None }
    }

    /// The schema of the table.
    #[must_use]
    pub fn schema(&self) -> Schema {
        Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: match self.shape {
                Shape::Bytes => ValueType::Bytes,
                Shape::I64 => ValueType::I64,
            },
            storage: Storage::Native,
            f16_overflow: F16Overflow::Reject,
            ttl: self.expiring_around.is_some(),
        }
    }

    /// The key at `index`; indices from `keys` on give keys that no version has.
    #[must_use]
    pub const fn key(&self, index: u64) -> u64 {
        mix(index ^ self.seed.rotate_left(17))
    }

    /// The row of the key at `index` in the load that makes `version`; `None` if that load leaves it out.
    #[must_use]
    pub fn row(&self, version: Version, index: u64) -> Option<Row> {
        if index >= self.keys {
            return None;
        }
        let dice = mix(mix(self.seed ^ index).wrapping_add(version.0));
        if dice.is_multiple_of(8) {
            return None;
        }
        let key = self.key(index);
        let value = match self.shape {
            Shape::Bytes => {
                let filler = usize::try_from((dice >> 8) % 16).unwrap_or(0);
                let mut value = [key.to_le_bytes(), version.0.to_le_bytes()].concat();
                value.extend_from_slice(&[0xa5; 15][..filler]);
                value
            }
            Shape::I64 => {
                let low = mix(key ^ self.seed) & ((1 << 40) - 1);
                ((version.0 << 40) | low).to_le_bytes().to_vec()
            }
        };
        let expiry = self.expiring_around.map_or(0, |around| {
            if (dice >> 16).is_multiple_of(4) {
                return 0;
            }
            let offset = u32::try_from((dice >> 20) % (2 * u64::from(Self::EXPIRY_SPREAD_S))).unwrap_or(0);
            around.wrapping_sub(Self::EXPIRY_SPREAD_S).wrapping_add(offset)
        });
        Some(Row { value, expiry })
    }

    /// What a read of the key at `index` must answer where the data of `version`, built as of `as_of`, is shown.
    ///
    /// What expired by `as_of` is absent; what expires by the read timestamp is expired.
    #[must_use]
    pub fn answer(&self, version: Version, as_of: u32, index: u64, read_ts: u32) -> Answer {
        match self.row(version, index) {
            None => Answer::Absent,
            Some(Row { expiry, .. }) if expiry != 0 && expiry <= as_of => Answer::Absent,
            Some(Row { expiry, .. }) if expiry != 0 && expiry <= read_ts => Answer::Expired,
            Some(Row { value, .. }) => Answer::Found(value),
        }
    }

    /// The data version that a value says it is of; `None` if it is no value of this model at `index`.
    #[must_use]
    pub fn data_version(&self, index: u64, value: &[u8]) -> Option<Version> {
        let version = match self.shape {
            Shape::Bytes => u64::from_le_bytes(value.get(8..16)?.try_into().ok()?),
            Shape::I64 => u64::from_le_bytes(value.try_into().ok()?) >> 40,
        };
        let version = Version(version);
        (self.row(version, index)?.value == value).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_names_its_version_and_no_other() {
        for shape in [Shape::Bytes, Shape::I64] {
            let model = Model::new(7, 1000, shape);
            let mut present = 0;
            for index in 0..1000 {
                for version in 1..4 {
                    if let Some(row) = model.row(Version(version), index) {
                        present += 1;
                        assert_eq!(model.data_version(index, &row.value), Some(Version(version)));
                        assert_eq!(model.data_version(index + 1, &row.value), None, "a value of another key");
                    }
                }
            }
            assert!((2400..2850).contains(&present), "{present} of 3000: about an eighth is absent");
        }
    }

    #[test]
    fn which_keys_are_absent_differs_between_versions() {
        let model = Model::new(7, 1000, Shape::Bytes);
        let absent = |version| (0..1000).filter(|&i| model.row(Version(version), i).is_none()).collect::<Vec<_>>();
        assert_ne!(absent(1), absent(2));
        assert_eq!(model.row(Version(1), 1000), None, "beyond the keys");
    }

    #[test]
    fn expired_by_as_of_is_absent_and_later_is_expired() {
        let model = Model { expiring_around: Some(1_000_000), ..Model::new(3, 500, Shape::I64) };
        let (mut absent, mut expired, mut found) = (0, 0, 0);
        for index in 0..500 {
            match model.answer(Version(1), 980_000, index, 1_020_000) {
                Answer::Absent => absent += 1,
                Answer::Expired => expired += 1,
                Answer::Found(_) => found += 1,
            }
        }
        assert!(absent > 50 && expired > 50 && found > 50, "{absent} {expired} {found}");
    }
}
