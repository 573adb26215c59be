//! blk tables: records in blocks on SSD; in memory four bytes per block, and a filter if the profile has one. How many keys
//! there are is not bounded by memory.
//!
//! ```text
//!   part data   │ blocks (crate::table::disk) │ resident section │
//!
//!   resident    entries        u32 per block: the top 32 bits of f of the first record of the block's run
//!               directory      u32 per 16 blocks, D in all; none below 32 blocks
//!               0…             to a multiple of 64, if there is a filter
//!               fingerprints   of the filter (crate::filter)
//!
//!   header     24  filter u8 │ segment bits u8 │ 0 × 2
//!              28  blocks u32
//!              32  segments u32 │ 0 × 4
//!              40  filter seed u64
//!              48  0 × 16
//!
//!   filter     0 none: the other filter fields are 0; 1 binary fuse, 8 bits
//! ```
//!
//! **Entries** ascend. Records that share the top 32 bits `t` of `f` are one unit, in one run, so that every run has an
//! entry of its own; the blocks of one run have equal entries. The run that may have a key is the one of the last entry not
//! above the key's `t`.
//!
//! **Directory.** Number `j` is the number of entries whose `(t·D) >> 32` is below `j`. A lookup counts the entries not above
//! its `t` between two numbers of the directory: among 16 of them or so, one cache line.

mod build;
mod layout;
mod lookup;

pub use build::{BlkBuilder, build_part};
pub use layout::BlkLayout;

use crate::route::place;

/// Blocks per number of the directory.
const BLOCKS_PER_NUMBER: u32 = 16;

/// The top 32 bits of a hash's place.
#[inline]
pub(crate) const fn top(h: u64) -> u32 {
    (place(h) >> 32) as u32
}

/// How many numbers the directory of so many blocks has. Of a few blocks all entries are compared.
const fn directory_len(blocks: u32) -> u32 {
    if blocks < 2 * BLOCKS_PER_NUMBER { 0 } else { blocks / BLOCKS_PER_NUMBER }
}

/// The number of the directory that `top` belongs to, below `numbers` unless that is 0.
#[inline]
const fn number_of(top: u32, numbers: u32) -> u32 {
    ((top as u64 * numbers as u64) >> 32) as u32
}
