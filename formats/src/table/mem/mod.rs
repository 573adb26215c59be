//! Memory tables: the data of a part is the memory image, so that loading is reading and verifying.
//!
//! ```text
//!   image    inline shape   │ index lines │
//!            dense shape    │ records, one width │ 0… to 64 │ index lines │
//!            heap shape     │ records of any length │ 0… to 64 │ index lines │
//!
//!   line     64 bytes │ slot 0 │ slot 1 │ … │ 0… │ trailer │
//!   slot     low bytes of h │ payload            all numbers little-endian
//!
//!            payload                    trailer (the last bytes of the line)
//!   inline   value, [expiry u32]        meta u8
//!   dense    nothing                    ordinal of slot 0's record u32 │ meta u8
//!   heap     offset behind the base u32 base: offset of slot 0's record u48 │ meta u8
//!
//!   meta     bits 0–4: slots in use; bits 5–7: reach
//!   dense record   value, [expiry u32]
//!   heap record    [expiry u32], [key length, key], [value length], value
//! ```
//!
//! **Shape.** `u64` keys with values of one width up to 16 bytes sit inline; wider ones of one width are dense; all
//! others, and all `bytes` keys, go on the heap. Expiry times are there if the table declares TTL, a heap record's key
//! if it is of type `bytes`, its value length if values vary (lengths are LEB128, see [`crate::record`]).
//!
//! **Place.** Of `B` buckets a record's is `(f·B) >> 64`, `f` being its place within the part; the line of that number
//! is its home. Records come in `(h, key)` order and go to the line `max(home, line of the record before)`, or to the
//! next one if that is full. So building appends, a full line spills forward, and all records of a home follow each
//! other. No record lies more than `D_max` lines from home; a part whose keys cluster more is built with more buckets,
//! or, in the end, sorted.
//!
//! **Exactness.** `h` is a bijection of a `u64` key, and a line holds homes of at most `D_max + 1` buckets, hence at most
//! `(D_max + 1)·⌈2^64 / (2400·B)⌉` consecutive values of `h`. A slot stores just as many low bytes of `h` as tell those
//! apart, so that a match is exact and the key is not stored. For `bytes` keys a slot stores 2 bytes, and the whole
//! key is compared.
//!
//! **Reach** of a line: how many lines further the last record lives whose home it is, 7 standing for 7 or more. It
//! ends a scan as soon as absence is proven; at 7, the first line that is not full does.
//!
//! **Sorted parts** (probe 1) have no buckets: slots store all of `h`, lines are filled one after the other, and a lookup
//! is a binary search. No distribution of keys defeats them.

mod batch;
pub(in crate::table) mod build;
pub(in crate::table) mod geometry;
mod iter;
mod layout;
pub(in crate::table) mod line;
mod lookup;

pub use batch::{IndexLine, LineFormat};
pub use build::{MemBuilder, build_part};
pub use geometry::Geometry;
pub use iter::Records;
pub use layout::MemLayout;
pub use line::{Probe, Shape};
pub use lookup::{Beyond, Found, Home, Located};
