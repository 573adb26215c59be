//! The stores against a real file system and a real S3 server.

#![allow(clippy::disallowed_methods, reason = "tests prepare and look at real files")]

mod contract;
