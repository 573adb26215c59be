//! The contract of a metadata store, as tests that run against any implementation, and random histories that must be
//! equal on all of them.

mod contracts;
mod history;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::Env;

pub use self::history::{Observation, history};
use crate::store::{Entry, LeaseId, MetaStore, Op, Revision, Txn, TxnOutcome};

/// A store under test. Nobody else may write to it meanwhile: revisions are counted.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn MetaStore>;
    /// Makes the store forget its history before `at`.
    async fn compact(&self, at: Revision);
}

/// Runs every contract, each under a prefix of its own.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn run(env: &Env, subject: &dyn Subject) {
    use contracts::*;
    compares_decide(subject, "/suite/compares/").await;
    a_transaction_is_one_revision_or_nothing(subject, "/suite/atomic/").await;
    a_transaction_without_effect_makes_no_revision(subject, "/suite/effect/").await;
    limits_are_refused(subject, "/suite/limits/").await;
    lists_are_of_one_revision(subject, "/suite/lists/").await;
    a_watch_misses_and_splits_nothing(env, subject, "/suite/watch/").await;
    concurrent_increments_are_all_counted(env, subject, "/suite/counter/").await;
    list_then_watch_has_no_gap(env, subject, "/suite/gap/").await;
    ended_leases_take_their_keys(env, subject, "/suite/lease/").await;
    leases_end_unless_renewed(env, subject, "/suite/expiry/").await;
    compacted_history_is_refused(env, subject, "/suite/compaction/").await;
}

fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

fn put_leased(key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: Some(lease) }
}

fn delete(key: impl Into<String>) -> Op {
    Op::Delete { key: key.into() }
}

/// Runs ops without a condition and gives the revision.
async fn write(store: &dyn MetaStore, ops: Vec<Op>) -> Revision {
    match store.txn(Txn { compares: vec![], ops }).await.expect("a write without a condition") {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Refused => panic!("a write without a condition was refused"),
    }
}

async fn read(store: &dyn MetaStore, key: &str) -> Option<Entry> {
    store.get(key).await.expect("a read")
}
