//! For tests, behind the feature `testing`: the contract of [`ObjectStore`](crate::ObjectStore) as a suite, a real S3
//! server process, and faults on demand. Everything here panics with a message instead of returning errors.

mod faults;
mod s3_process;
pub mod suite;

pub use faults::{Fault, Faults, Operation};
pub use s3_process::S3Process;
