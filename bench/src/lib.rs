//! FeatureKV's benchmarks: each suite measures a physical limit, a rival and us in turn, in one run, and keeps the
//! ratios.
//!
//! ```text
//!   fkv-bench SUITE [--quick] [--json FILE]
//!     mem    batch lookups in memory tables     limit: prefetched gather     rival: hashbrown
//!     image  loading memory images             limit: fio read, memcpy
//!     idx    cold lookups, an entry per key    limit: fio randread           rivals: RocksDB, LMDB
//!     blk    cold lookups, an entry per block  limit: fio randread           rivals: RocksDB, LMDB
//! ```

#![allow(clippy::cast_precision_loss, reason = "ratios need no more than 52 bits")]

pub mod image;
pub mod machine;
pub mod mem;
pub mod report;
pub mod ssd;

mod fio;
mod huge;
mod keys;
#[cfg(feature = "rivals")]
mod rivals;
mod stored;
mod window;
#[cfg(any(test, feature = "rivals"))]
mod zipf;
