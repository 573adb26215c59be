//! Object stores: where inputs come from (USER_FS) and where slices, packs and manifests go (FKV_FS).
//!
//! ```text
//!   open(url) ─▶ ObjectStore ── get / get_range / head / list / put / put_stream / delete
//!                file://  s3://
//! ```

pub mod error;
pub mod object;
