//! The stores against a real file system and a real S3 server.

#![allow(clippy::disallowed_methods, reason = "tests prepare and look at real files")]

mod answers;
mod contract;
mod faults;
mod file_store;
mod inputs;
mod limits;
mod recording_files;
mod s3_store;
mod scripted_server;
