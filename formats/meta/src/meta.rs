//! Typed reads of one module's metadata, and the loop that plans a change and runs it.

use std::sync::Arc;

use fkv_formats::id::{Slot, TableUid, TaskId, Version};

use crate::key::Keys;
use crate::record::{
    JobRecord, LockRecord, Progress, Record, Report, SlotClaim, SubmitRecord, TableRecord, TaskRecord, Topology,
    VersionRecord, WorkerRecord,
};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::store::{LeaseId, MetaError, MetaStore, Revision, Txn, TxnOutcome};
use crate::txn;
use crate::view::View;

/// The metadata of one module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The store.
    pub store: Arc<dyn MetaStore>,
    /// The module's keys.
    pub keys: Keys,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// The revision it was made at.
    pub revision: Revision,
    /// The records after it.
    pub after: T,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It is not legal.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed. After `Ambiguous` the change may have been made.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Others kept changing the same records.
    #[error("the records kept changing while they were being changed: try again")]
    Contended,
}

impl Meta {
    /// How often a change is planned anew when its records have changed in the meantime.
    const TRIES: usize = 32;

    /// The metadata of the module whose keys are `keys`.
    #[must_use]
    pub const fn new(store: Arc<dyn MetaStore>, keys: Keys) -> Self {
        Self { store, keys }
    }

    async fn read<T: Record>(&self, key: String) -> Result<Option<Stamped<T>>, MetaError> {
        self.store.get(&key).await?.map(Stamped::decode).transpose()
    }

    async fn read_all<T: Record>(&self, prefix: &str) -> Result<Vec<Stamped<T>>, MetaError> {
        let snapshot = self.store.list(prefix, None).await?;
        snapshot.entries.into_iter().map(Stamped::decode).collect()
    }

    /// Everything at one revision.
    ///
    /// # Errors
    /// As the store says. Values that cannot be read are in [`View::unreadable`].
    pub async fn view(&self) -> Result<View, MetaError> {
        Ok(View::of(self.keys.clone(), self.store.list(self.keys.all(), None).await?))
    }

    /// Plans a change from a fresh view and runs it; plans anew while others change the same records.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change<T>(
        &self,
        mut plan: impl FnMut(&View) -> Result<Planned<T>, Refusal>,
    ) -> Result<Change<T>, ChangeError> {
        for _ in 0..Self::TRIES {
            let planned = plan(&self.view().await?)?;
            if let TxnOutcome::Committed(revision) = self.store.txn(planned.txn).await? {
                return Ok(Change { revision, after: planned.after });
            }
        }
        Err(ChangeError::Contended)
    }

    /// Runs one planned transaction.
    ///
    /// # Errors
    /// As the store says.
    pub async fn run(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.store.txn(txn).await
    }

    /// Claims a slot for a server: evicts the claim that an earlier incarnation of the same server left behind, if
    /// there is one, and makes a new one. Gives the incarnation.
    ///
    /// # Errors
    /// `Refused` if the slot is another server's or another server's claim stands; otherwise as [`Meta::change`].
    pub async fn claim_slot(&self, slot: &Slot, claim: &SlotClaim, lease: LeaseId) -> Result<u64, ChangeError> {
        for _ in 0..Self::TRIES {
            let topology = self.topology().await?.ok_or(Refusal::NoTopology)?;
            let standing = self.claim(slot).await?;
            let planned = txn::claim_slot(&self.keys, &topology, slot, standing.as_ref(), claim, lease)?;
            match (self.store.txn(planned.txn).await?, planned.after) {
                (TxnOutcome::Committed(revision), txn::ClaimStep::Claimed) => return Ok(revision.0),
                (TxnOutcome::Committed(_), txn::ClaimStep::Evicted) | (TxnOutcome::Refused, _) => {}
            }
        }
        Err(ChangeError::Contended)
    }
}

macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $record:ty = $key:ident;)+) => {
        impl Meta {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As the store says; `Corrupt` if the value cannot be read.
                pub async fn $name(&self $(, $arg: $type)*) -> Result<Option<Stamped<$record>>, MetaError> {
                    self.read(self.keys.$key($($arg),*)).await
                }
            )+
        }
    };
}

reads! {
    /// The topology.
    topology() -> Topology = topology;
    /// A table by name.
    table(name: &str) -> TableRecord = table;
    /// A version.
    version(uid: TableUid, version: Version) -> VersionRecord = version;
    /// A task.
    task(uid: TableUid, task: TaskId) -> TaskRecord = task;
    /// What a submit id stands for.
    submit(uid: TableUid, submit_id: &str) -> SubmitRecord = submit;
    /// A job.
    job(uid: TableUid, task: TaskId, job: &str) -> JobRecord = job;
    /// The lock of a job, or of a task with job [`crate::key::TASK_LOCK`].
    lock(uid: TableUid, task: TaskId, job: &str) -> LockRecord = lock;
    /// A task's progress.
    progress(uid: TableUid, task: TaskId) -> Progress = progress;
    /// A slot's claim.
    claim(slot: &Slot) -> SlotClaim = claim;
    /// A slot's report.
    report(slot: &Slot) -> Report = report;
    /// A worker's presence.
    worker(worker: &str) -> WorkerRecord = worker;
}

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $record:ty = $key:ident;)+) => {
        impl Meta {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As the store says; `Corrupt` if a value cannot be read.
                pub async fn $name(&self $(, $arg: $type)*) -> Result<Vec<Stamped<$record>>, MetaError> {
                    self.read_all(&self.keys.$key($($arg),*)).await
                }
            )+
        }
    };
}

lists! {
    /// All tables by name.
    tables() -> TableRecord = tables;
    /// A table's versions, oldest first.
    versions(uid: TableUid) -> VersionRecord = versions;
    /// A table's tasks, oldest first.
    tasks(uid: TableUid) -> TaskRecord = tasks;
    /// A task's jobs that were ever claimed.
    jobs(uid: TableUid, task: TaskId) -> JobRecord = jobs;
    /// All workers by name.
    workers() -> WorkerRecord = workers;
}
