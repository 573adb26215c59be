//! What the fuzz targets share.
//!
//! ```text
//!   bytes of the fuzzer ─▶ Choices ─┬─ raw bytes ────────────────┐
//!                                   └─ a golden file ─▶ patches ─┴─▶ seal ─▶ readers ─▶ what must hold
//!                                                                    checksums made good, so that they
//!                                                                    do not stop the fuzzer at the door
//! ```
//!
//! An input of a few bytes so becomes a whole file that is wrong in a few places: it is mutated quickly, and a corpus is
//! small. Every target says in its first lines what its bytes mean.

mod base;
mod choices;
pub mod metadata;
pub mod pack;
pub mod part;
mod patch;
mod seal;
pub mod slice;

pub use base::{ORIGIN, PACKS, directory};
pub use choices::Choices;
pub use patch::patch;
pub use seal::{seal_directory, seal_pack, seal_runs};

/// The packed BatchGet body. It and what follows are compiled from their own sources: with the crates they belong to, all of
/// gRPC would be built with sanitizers too.
#[path = "../../../formats/rpc/src/packed/mod.rs"]
pub mod packed;

/// The keys of the metadata store.
#[allow(dead_code, reason = "not all of it is fuzzed")]
#[path = "../../../formats/meta/src/key.rs"]
mod key;

/// The records of the metadata store.
#[allow(dead_code, reason = "not all of it is fuzzed")]
#[path = "../../../formats/meta/src/record.rs"]
mod record;
