//! What stands in the metadata store: keys and records.
//!
//! ```text
//!   which u8 │ a record's JSON, or a key behind the module's prefix
//! ```

use std::fmt::Debug;

use crate::key::{Keys, Kind};
use crate::record::{self, Record, decode, encode};

/// Reads a record or a key made of `bytes`.
pub fn run(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    match which % 13 {
        0 => check::<record::Topology>(rest),
        1 => check::<record::TableRecord>(rest),
        2 => check::<record::DroppedTable>(rest),
        3 => check::<record::VersionRecord>(rest),
        4 => check::<record::TaskRecord>(rest),
        5 => check::<record::SubmitRecord>(rest),
        6 => check::<record::JobRecord>(rest),
        7 => check::<record::LockRecord>(rest),
        8 => check::<record::Progress>(rest),
        9 => check::<record::SlotClaim>(rest),
        10 => check::<record::Report>(rest),
        11 => check::<record::WorkerRecord>(rest),
        _ => key(rest),
    }
}

/// What is read is written in a form that is read as the same.
fn check<T: Record + PartialEq + Debug>(bytes: &[u8]) {
    match decode::<T>(bytes) {
        Ok(read) => assert_eq!(decode::<T>(&encode(&read)).as_ref(), Ok(&read)),
        Err(error) => assert!(error.to_string().contains(T::NOUN)),
    }
}

/// One thing has one key.
fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let keys = Keys::new("m").expect("a good name");
    let key = format!("{}{text}", keys.all());
    let again = match keys.parse(&key) {
        None | Some(Kind::Submit | Kind::Job) => return,
        Some(Kind::Topology) => keys.topology(),
        Some(Kind::Alignments) => keys.alignments(),
        Some(Kind::Table(name)) => keys.table(&name),
        Some(Kind::Dropped(uid)) => keys.dropped(uid),
        Some(Kind::Version(uid, version)) => keys.version(uid, version),
        Some(Kind::Task(uid, task)) => keys.task(uid, task),
        Some(Kind::Lock(uid, task, job)) => keys.lock(uid, task, &job),
        Some(Kind::Progress(uid, task)) => keys.progress(uid, task),
        Some(Kind::Claim(slot)) => keys.claim(&slot),
        Some(Kind::Report(slot)) => keys.report(&slot),
        Some(Kind::Worker(worker)) => keys.worker(&worker),
    };
    assert_eq!(again, key);
}
