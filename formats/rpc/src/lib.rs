//! What clients and servers say to each other: the two gRPC services, the packed BatchGet body, and the meaning of
//! every error.
//!
//! ```text
//!   kv.proto ──────▶ kv        BatchGet(bytes), Topology, Status          client ◀▶ KVSvr
//!   control.proto ─▶ control   tables, tasks, versions, the cluster       CLI    ◀▶ DataSvr
//!
//!   BatchGetRequest.body ── packed::request    header, sections of keys
//!   BatchGetReply.body ──── packed::reply      header, sections of label, statuses, values
//!   errors ──────────────── status             error kinds ◀▶ tonic::Status
//!   TopologyReply ───────── topology           checked domain types
//! ```
//!
//! `docs/protocol.md` specifies all of it byte by byte, for clients in other languages.

pub mod packed;
pub mod status;
pub mod topology;

/// The read side: messages, client and server of `featurekv.kv.v1`, as generated.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated from kv.proto")]
pub mod kv {
    tonic::include_proto!("featurekv.kv.v1");
}

/// The write side: messages, client and server of `featurekv.control.v1`, as generated.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated from control.proto")]
pub mod control {
    tonic::include_proto!("featurekv.control.v1");
}

/// The encoded descriptors of both services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
