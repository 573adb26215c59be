//! DataSvr: the write side. It serves the control API, carries load tasks from files to committed versions, and
//! aligns what servers show.
//!
//! ```text
//!   control   the gRPC API: tables, tasks, versions, the cluster
//!   worker    which task next, its lock, one attempt at it
//!     plan      the frozen input list and the plan
//!     input     Parquet files ─▶ rows
//!     build     rows ─▶ parts ─▶ packs
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
mod object;
mod plan;
mod progress;
mod publish;
mod server;
mod worker;

pub use config::DataConfig;
pub use input::inflate::ExpansionLimits;
pub use input::source::{FileInputs, Sources};
pub use server::{DataServer, StartError};
