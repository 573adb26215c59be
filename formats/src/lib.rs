//! FeatureKV's byte formats: pure functions over bytes, no I/O, no async.
//!
//! ```text
//!   key ─ hash ─▶ h ─ route ─▶ part, f ─▶ role
//!   rows ─▶ slice (sorted runs of a task) ─ merge ─▶ records in (h, key) order
//!   records in (h, key) order ─ merge ─▶ table/{mem,idx,blk} ─▶ pack ─▶ manifest (forms, layers, part tables)
//! ```

pub mod checksum;
pub mod error;
mod filter;
pub mod hash;
pub mod id;
pub mod inspect;
pub mod manifest;
pub mod merge;
pub mod pack;
pub mod path;
pub mod record;
pub mod route;
pub mod schema;
pub mod slice;
pub mod table;
pub mod value;
