//! What FeatureKV needs of a metadata store: etcd's multi-version key–value model, cut to the calls used.
//!
//! Revisions grow by one with every transaction that writes. A key knows the revision that created it and the one
//! that last wrote it; deleting and writing it again makes a new creation. Leased keys go when their lease ends.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// A point in the store's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that last wrote it.
    pub modified: Revision,
    /// The lease it hangs on, if any.
    pub lease: Option<LeaseId>,
}

/// The entries under a prefix, all as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The entries in the order of their keys.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was created by this revision.
    CreatedAt(String, Revision),
    /// The key exists and was last written by this revision.
    ModifiedAt(String, Revision),
    /// The key exists with this value.
    ValueIs(String, Bytes),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The lease the key shall hang on.
        lease: Option<LeaseId>,
    },
    /// Removes a key; nothing happens if it does not exist.
    Delete {
        /// The key.
        key: String,
    },
}

/// All compares hold → all ops happen at one revision; otherwise nothing happens. A key may be written once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The writes.
    pub ops: Vec<Op>,
}

impl Txn {
    /// The most compares and ops together.
    pub const OPERATIONS_MAX: usize = 128;
    /// The most bytes of keys and values together.
    pub const BYTES_MAX: usize = 1 << 20;

    /// Checks the limits that hold for every store.
    ///
    /// # Errors
    /// `Invalid` for too many operations or bytes, a key written twice, an empty key, or a compare with revision 0,
    /// at which nothing was ever written.
    pub fn validate(&self) -> Result<(), MetaError> {
        let invalid = |reason: String| Err(MetaError::Invalid(reason));
        let operations = self.compares.len() + self.ops.len();
        if operations > Self::OPERATIONS_MAX {
            return invalid(format!("{operations} operations in a transaction, the most is {}", Self::OPERATIONS_MAX));
        }
        let mut bytes = 0_usize;
        for compare in &self.compares {
            let (key, more) = match compare {
                Compare::Absent(key) => (key, 0),
                Compare::CreatedAt(key, revision) | Compare::ModifiedAt(key, revision) => {
                    if revision.0 == 0 {
                        return invalid(format!("a compare of `{key}` with revision 0"));
                    }
                    (key, 0)
                }
                Compare::ValueIs(key, value) => (key, value.len()),
            };
            if key.is_empty() {
                return invalid("a compare of an empty key".to_owned());
            }
            bytes = bytes.saturating_add(key.len()).saturating_add(more);
        }
        let mut written = BTreeSet::new();
        for op in &self.ops {
            let (key, more) = match op {
                Op::Put { key, value, .. } => (key, value.len()),
                Op::Delete { key } => (key, 0),
            };
            if key.is_empty() {
                return invalid("a write of an empty key".to_owned());
            }
            if !written.insert(key.as_str()) {
                return invalid(format!("key `{key}` is written twice in a transaction"));
            }
            bytes = bytes.saturating_add(key.len()).saturating_add(more);
        }
        if bytes > Self::BYTES_MAX {
            return invalid(format!("{bytes} bytes in a transaction, the most is {}", Self::BYTES_MAX));
        }
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Its ops happened, at this revision. A transaction that changes nothing (only deletes of missing keys, or no
    /// ops at all) makes no revision and gives the present one.
    Committed(Revision),
    /// A compare did not hold; nothing happened.
    Refused,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(Entry),
    /// The key was removed, or its lease ended.
    Delete {
        /// The key.
        key: String,
    },
}

/// All changes of one revision under the watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// The changes in the order of the transaction.
    pub events: Vec<Event>,
}

/// The stream of a watch. It ends with an error; then read again and watch from the revision read.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, MetaError>>;

/// What can go wrong between us and the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The store cannot be reached or is not serving; nothing happened. Try again later.
    #[error("the metadata store is unavailable: {0}")]
    Unavailable(String),
    /// A write was sent and its answer was lost: it may or may not have happened. Read back before going on.
    #[error("it is unknown whether a metadata write happened: {0}")]
    Ambiguous(String),
    /// The revision asked for is no longer kept. Read again at the present revision.
    #[error("the metadata revision {} is no longer kept", .0.0)]
    Compacted(Revision),
    /// The lease has ended; what hung on it is gone.
    #[error("the lease has ended")]
    LeaseGone,
    /// The request breaks a limit of the store; a fault of the caller.
    #[error("the metadata request is not allowed: {0}")]
    Invalid(String),
    /// A value that cannot be read stands under a key.
    #[error("the value of metadata key `{key}` cannot be used: {reason}")]
    Corrupt {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl MetaError {
    /// Whether the same call may go through later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Ambiguous(_) | Self::Compacted(_))
    }
}

/// A metadata store. Both implementations pass [`crate::suite`].
#[async_trait]
pub trait MetaStore: Send + Sync + Debug {
    /// Reads one key.
    ///
    /// # Errors
    /// `Unavailable`; `Invalid` for an empty key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError>;

    /// Reads all keys under a prefix at one revision: the present one, or `at`.
    ///
    /// # Errors
    /// `Unavailable`; `Compacted` if `at` is no longer kept; `Invalid` if `at` is 0 or lies in the future.
    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError>;

    /// Runs a transaction.
    ///
    /// # Errors
    /// `Unavailable`; `Ambiguous`; `LeaseGone` if an op names a lease that has ended; `Invalid` beyond the limits.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError>;

    /// Streams every change under `prefix` from revision `from` (inclusive, at least 1) on, without gaps, in order. A
    /// revision's changes come in one batch; `from` may lie in the future.
    ///
    /// # Errors
    /// `Unavailable`; `Invalid` if `from` is 0; the stream itself yields `Compacted` when `from` is no longer kept.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError>;

    /// Grants a lease that ends `ttl` (whole seconds, at least 1) after its last renewal. A store may make it longer.
    ///
    /// # Errors
    /// `Unavailable`; `Invalid` for a `ttl` under a second.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError>;

    /// Renews a lease.
    ///
    /// # Errors
    /// `Unavailable`; `LeaseGone` if it has ended.
    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError>;

    /// Ends a lease at once; its keys go. Ending an ended lease is no error.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError>;

    /// Waits until the store has failed for good in this process, and says why. A store that may come back never does.
    async fn failed(&self) -> String {
        std::future::pending().await
    }
}
