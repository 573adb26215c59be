//! idx tables: records in blocks on SSD, one index entry per key in memory.
//!
//! ```text
//!   part data   │ blocks (crate::table::disk) │ index lines, 64 bytes each │
//!
//!   line        0  slots
//!              57  end u16      the block behind the run of the last slot, counted from the base
//!              59  base u32     the first block of slot 0's run
//!              63  meta u8      bits 0–4: slots in use; bits 5–7: reach        as in crate::table::mem
//!   slot        low bytes of h │ delta u16    the first block of the record's run, counted from the base
//!
//!   header     24  probe u8 │ h bytes u8 │ slots u8 │ 0
//!              28  blocks u32 │ buckets u32 │ lines u32 │ d_max u32
//!              44  0 × 20
//!
//!   probe      0 scan: 3 bytes of h, 11 slots a line
//!              1 sorted: 8 bytes of h, 5 slots; buckets and d_max are 0
//! ```
//!
//! Lines are placed and scanned as those of a memory table are. Records with one `h` (only `bytes` keys can have that) are
//! one unit, in one run. A run ends where the next slot of the line that does not point to it points to, or at the line's
//! end: so the index tells how many blocks to read.
//!
//! A tag of 3 bytes in a line of 11 slots makes one absent key in about 1.5 million read a block in vain, and one present
//! key in as many read one block more.

mod build;
mod geometry;
mod layout;
mod lookup;

pub use build::{IdxBuilder, build_part};
pub use geometry::Geometry;
pub(in crate::table) use geometry::check;
pub use layout::IdxLayout;
pub use lookup::{Candidate, Candidates};

use crate::table::mem::line::{META, Probe, SlotSpec};

/// Bytes of `h` in a slot of a part that is scanned, and of one that is searched.
const TAG_H_BYTES: u8 = 3;
const SORTED_H_BYTES: u8 = 8;
/// Bytes of a delta.
const DELTA_BYTES: u8 = 2;
/// Where a line's end is, and its base.
const END: usize = META - 6;
const BASE: usize = META - 4;
/// Slots of a line of a part that is scanned, and of one that is searched.
const TAG_SLOTS: u8 = END as u8 / (TAG_H_BYTES + DELTA_BYTES);
const SORTED_SLOTS: u8 = END as u8 / (SORTED_H_BYTES + DELTA_BYTES);

/// What slots look like.
const fn slot_spec(probe: Probe) -> SlotSpec {
    match probe {
        Probe::Scan => SlotSpec::pointing(TAG_H_BYTES, DELTA_BYTES, TAG_SLOTS),
        Probe::Sorted => SlotSpec::pointing(SORTED_H_BYTES, DELTA_BYTES, SORTED_SLOTS),
    }
}
