//! Tables: how the records of one part are laid out so that they can be looked up.
//!
//! Every part has a header of 64 bytes, kept in the directory of its pack; the part's data is described by it and
//! nothing else. The first 24 bytes mean the same for every kind of table:
//!
//! ```text
//!   0  kind u8 │ key u8 │ flags u8 │ codec u8 │ value width u32
//!   8  records u64
//!  16  data length u64
//!  24  40 bytes of the kind's own
//!
//!   kind         1 mem, 2 idx, 3 blk
//!   key          0 u64, 1 bytes
//!   flags        bit 0: records carry an expiry time
//!   codec        0: values are not compressed
//!   value width  bytes of every stored value; 0xffff_ffff if they vary
//! ```

use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::schema::TableKind;

pub mod blk;
mod build;
pub mod disk;
pub mod idx;
mod intake;
mod layout;
pub mod mem;

pub(crate) use build::build_sections;
pub use build::{PartBuilder, PartGeometry, build_part, build_part_of};
pub use layout::{PartLayout, PartRecords};
pub use mem::Found;

/// Bytes of a part header.
pub const HEADER_BYTES: usize = 64;

/// A part header as stored.
pub type PartHeader = [u8; HEADER_BYTES];

/// The value width of a header whose values vary in length.
pub(crate) const WIDTH_VARIES: u32 = u32::MAX;

/// Number of a table kind in part headers.
pub(crate) const KIND_MEM: u8 = kind_number(TableKind::Mem);

/// Number of a table kind in part headers and schemas.
pub(crate) const fn kind_number(kind: TableKind) -> u8 {
    match kind {
        TableKind::Mem => 1,
        TableKind::Idx => 2,
        TableKind::Blk => 3,
    }
}

/// How parts are built: frozen with the version, so that whoever builds the same records builds the same bytes. A
/// server that cannot write a version's profile does not fold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Profile {
    /// Format version of parts.
    pub format: u16,
    /// How full index lines are meant to be, in thousandths.
    pub load_permille: u16,
    /// Compression of values; 0 is none, the only one so far.
    pub codec: u8,
    /// Filter of blk parts, which tells most absent keys without a read: 0 is none, 1 a binary fuse filter of 8 bits
    /// ([`Profile::FILTER_FUSE8`]). Parts of other kinds have none.
    #[serde(default)]
    pub filter: u8,
}

impl Profile {
    /// What this build writes.
    ///
    /// The load trades memory for time. A table of `f32` per `u64` key, 12 bytes of key and value, takes 11.9 bytes per
    /// record at 0.9, where a lookup that finds its key reads 1.6 lines; 12.6 bytes and 1.4 lines at 0.85; 11.5 bytes and
    /// 2.0 lines at 0.93. `docs/benchmarks.md` has the times.
    pub const CURRENT: Self = Self { format: 1, load_permille: 900, codec: 0, filter: 0 };
    /// The binary fuse filter: about 9 bits per key, and one absent key in 256 is read all the same.
    pub const FILTER_FUSE8: u8 = 1;

    /// Checks that this build can write the profile.
    ///
    /// # Errors
    /// `Version` or `Damaged`.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.format != Self::CURRENT.format {
            return Err(FormatError::Version {
                what: "build profile",
                found: u32::from(self.format),
                known: u32::from(Self::CURRENT.format),
            });
        }
        if !(100..=1000).contains(&self.load_permille) {
            return Err(FormatError::damaged("build profile", format!("a load of {} ‰", self.load_permille)));
        }
        if self.codec != 0 {
            return Err(FormatError::damaged("build profile", format!("unknown codec {}", self.codec)));
        }
        if self.filter > Self::FILTER_FUSE8 {
            return Err(FormatError::damaged("build profile", format!("unknown filter {}", self.filter)));
        }
        Ok(())
    }
}

/// The records of a part, from the fields common to all kinds of tables.
pub(crate) fn header_records(header: &PartHeader) -> u64 {
    u64::from_le_bytes(field(header, 8))
}

/// The data length of a part, from the fields common to all kinds of tables.
pub(crate) fn header_data_len(header: &PartHeader) -> u64 {
    u64::from_le_bytes(field(header, 16))
}

/// The length of the block section of a part, from the header. Memory parts have none.
pub(crate) fn header_block_len(header: &PartHeader) -> u64 {
    if header[0] == KIND_MEM {
        return 0;
    }
    u64::from(u32::from_le_bytes(field(header, disk::BLOCKS_AT))) * disk::BLOCK_BYTES as u64
}

/// `N` bytes of a header at `offset`, which is a constant of the format.
pub(crate) fn field<const N: usize>(header: &PartHeader, offset: usize) -> [u8; N] {
    std::array::from_fn(|index| header[offset + index])
}
