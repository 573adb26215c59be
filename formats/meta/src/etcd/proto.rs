//! The generated messages and clients.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

pub(super) mod mvccpb {
    tonic::include_proto!("mvccpb");
}

pub(super) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
