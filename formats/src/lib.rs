//! FeatureKV's byte formats: pure functions over bytes, no I/O, no async.
//!
//! ```text
//!   key ─ hash ─▶ h ─ route ─▶ part, f ─▶ role
//!   records in (h, key) order ─ merge ─▶ table/{mem} ─▶ pack ─▶ manifest (forms, layers, part tables)
//! ```

pub mod id;
pub mod schema;
