//! KVSvr: loads table versions as images and answers BatchGet from them.
//!
//! ```text
//!   metadata ── watch ──▶ table (state machine) ── load ◀── fetch ── store
//!                 │              │                   └─▶ image (arena, pair, flip, late drop) + local files, STATE
//!                 │              └─▶ report ──▶ metadata
//!   clients ── service ── lookup ──▶ image
//! ```
//!
//! A server preloads a table's target while it serves what is aligned, reports what it holds whole, and flips a
//! pointer when the news of the alignment arrives. It serves on without metadata and without the store, also after a
//! restart.

mod cache;
mod config;
mod faults;
mod fence;
mod fetch;
mod image;
mod io;
mod ledger;
mod load;
mod lookup;
#[doc(hidden)]
pub mod measure;
mod report;
mod server;
mod service;
mod state_file;
mod table;
#[cfg(test)]
mod testing;
mod throttle;
mod watch;

pub use config::{BadConfig, IoConfig, IoEngine, KvConfig, RequestLimits};
pub use server::{KvServer, StartError};
