//! The client: batches of keys in, values of one version out.
//!
//! ```text
//!   batch_get(tables, keys)
//!      │  client         resolves tables, fixes read_ts and deadline
//!      │  split          keys ─▶ parts ─▶ roles (a stable counting sort, no allocation per key)
//!      │  plan           shares of keys ─▶ servers, requests; other sects where a server fails
//!      │  call           the state machine of one call; decides by
//!      │  sync_version   which content id to answer with when roles disagree, and the floor
//!      ▼  assemble       sections of several replies ─▶ the order of the caller's keys
//!   BatchAnswer: per table a label, a status per key, values
//! ```
//!
//! The client opens neither the metadata store nor the object store: it learns the topology from any KVSvr (`topology`), keeps
//! some connections to each (`servers`) and leaves sick ones alone for a while (`health`). Everything between a call's
//! first key and its answer that is not I/O is pure: `split`, `plan`, `call`, `sync_version`, `assemble`.

mod answer;
mod assemble;
pub mod blocking;
mod call;
mod client;
mod config;
mod error;
mod health;
mod hedge;
mod memory;
mod plan;
mod servers;
mod split;
mod sync_version;
mod topology;

pub use answer::{AnswerLabel, BatchAnswer, Effort, KeyStatus, TableAnswer};
pub use client::{Client, TableRead};
pub use config::{ClientConfig, Consistency, ReadOptions};
pub use error::ClientError;
pub use fkv_rpc::packed::{Shown, ValueForm};
pub use fkv_rpc::topology::{SectState, SectView, TableView, TopologyView};
pub use split::Keys;
