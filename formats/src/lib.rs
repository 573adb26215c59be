//! FeatureKV's byte formats: pure functions over bytes, no I/O, no async.
//!
//! ```text
//!   key ─ hash ─▶ h ─ route ─▶ part, f ─▶ role
//!   records in (h, key) order ─ merge ─▶ table/{mem} ─▶ pack ─▶ manifest (forms, layers, part tables)
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
pub mod table;
pub mod value;
