//! Object stores: where inputs come from (USER_FS) and where slices, packs and manifests go (FKV_FS).
//!
//! ```text
//!   open(url) ─▶ ObjectStore ── get / get_range / get_range_of / head / list / put / writer / delete
//!                file://  s3://
//!   limited(store)       bounds what is on its way at once
//!   inputs::resolve(url) the files that a user's file, directory or pattern stands for
//! ```

pub mod error;
mod file;
pub mod inputs;
pub mod limited;
pub mod object;
mod open;
pub mod options;
pub mod path;
mod s3;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::StoreError;
pub use inputs::{InputFile, Inputs};
pub use limited::{Limits, limited};
pub use object::{ObjectMeta, ObjectStore, ObjectWriter, Store};
pub use open::open;
pub use options::{NetworkOptions, S3Options, Secret, StoreOptions, WriteOptions};
