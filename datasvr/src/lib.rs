//! DataSvr: the write side. It serves the control API, carries load tasks from files to committed versions, and
//! aligns what servers show.
//!
//! ```text
//!   control   the gRPC API: tables, tasks, versions, the cluster
//!   worker    which task and which job next, their locks
//!     plan      the frozen input list and the plan: which jobs there are
//!     input     Parquet files ─▶ rows
//!     build     rows ─▶ parts ─▶ packs, in the memory of one worker
//!     slice     rows ─▶ slices, one for each stretch of the input
//!     part      slices ─▶ parts ─▶ packs, a range of parts each
//!     publish   packs ─▶ form, content id, version
//!   align     target ─▶ aligned, once every required slot holds it
//! ```
//!
//! Workers are equal and keep nothing of their own: all state is in metadata, all data in the store.

mod align;
mod budget;
mod build;
mod config;
mod control;
mod error;
mod input;
mod job;
mod object;
mod part;
mod plan;
mod progress;
mod publish;
mod server;
mod slice;
mod worker;

pub use config::DataConfig;
pub use input::inflate::ExpansionLimits;
pub use input::source::{FileInputs, Sources};
pub use server::{DataServer, StartError};
