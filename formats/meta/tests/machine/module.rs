//! A small module driven step by step: two sects of two roles, one table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::id::{ContentId, Epoch, Slot, TaskId, Version};
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::Keys;
use fkv_meta::record::{
    Held, LoadMode, Report, SlotClaim, TableRecord, TaskError, TaskRecord, TaskState, VersionRecord,
};
use fkv_meta::store::{LeaseId, MetaStore, Revision, TxnOutcome};
use fkv_meta::{ChangeError, Meta, Planned, Refusal, Stamped, View, txn};

use crate::world::{build, content_of, new_table, object, servers, spec};

pub(crate) const TABLE: &str = "t";

pub(crate) struct Module {
    pub(crate) meta: Meta,
    pub(crate) lease: LeaseId,
    submits: u32,
}

pub(crate) fn slot(text: &str) -> Slot {
    text.parse().expect("a slot")
}

pub(crate) fn error(message: &str) -> TaskError {
    TaskError { at_ms: 7, attempt: 1, worker: "w".into(), message: message.into() }
}

impl Module {
    /// A cluster whose servers have claimed their slots, and a table without versions.
    pub(crate) async fn new() -> Self {
        let mut module = Self::bare().await;
        module.change(|view| txn::create_table(view, new_table(TABLE), 1)).await;
        module.claim_all().await;
        module
    }

    /// A cluster without a table, whose servers are not there.
    pub(crate) async fn bare() -> Self {
        let env = Env::real(1).expect("threads start");
        let store = Arc::new(EmbeddedStore::in_memory(&env));
        let lease = store.grant(Duration::from_secs(3600)).await.expect("granted");
        let meta = Meta::new(store, Keys::new("m").expect("a good name"));
        let mut module = Self { meta, lease, submits: 0 };
        let sects = BTreeMap::from([("a".to_owned(), servers("a", 2)), ("b".to_owned(), servers("b", 2))]);
        module.change(|view| txn::init_cluster(view, sects.clone())).await;
        module
    }

    pub(crate) async fn view(&self) -> View {
        self.meta.view().await.expect("read")
    }

    pub(crate) async fn table(&self) -> Stamped<TableRecord> {
        self.meta.table(TABLE).await.expect("read").expect("the table")
    }

    pub(crate) async fn task(&self, task: u64) -> Stamped<TaskRecord> {
        let uid = self.table().await.uid();
        self.meta.task(uid, TaskId(task)).await.expect("read").expect("the task")
    }

    pub(crate) async fn version(&self, version: u64) -> Stamped<VersionRecord> {
        let uid = self.table().await.uid();
        self.meta.version(uid, Version(version)).await.expect("read").expect("the version")
    }

    /// Makes a change that is legal.
    pub(crate) async fn change<T>(&mut self, plan: impl FnMut(&View) -> Result<Planned<T>, Refusal>) -> T {
        self.meta.change(plan).await.expect("a legal change").after
    }

    /// Why a change is not legal.
    pub(crate) async fn refusal<T: std::fmt::Debug>(
        &self,
        plan: impl FnMut(&View) -> Result<Planned<T>, Refusal>,
    ) -> Refusal {
        match self.meta.change(plan).await {
            Err(ChangeError::Refused(refusal)) => refusal,
            other => panic!("expected a refusal, not {other:?}"),
        }
    }

    /// Runs a plan made earlier.
    pub(crate) async fn run<T>(&self, planned: Planned<T>) -> Option<Revision> {
        match self.meta.run(planned.txn).await.expect("a transaction") {
            TxnOutcome::Committed(revision) => Some(revision),
            TxnOutcome::Refused => None,
        }
    }

    pub(crate) async fn claim(&self, slot: &Slot) -> u64 {
        let topology = self.meta.topology().await.expect("read").expect("a topology");
        let assigned = topology.value.assignment(slot).expect("a slot of the topology");
        let claim = SlotClaim { server: assigned.server.clone(), addr: assigned.addr.clone() };
        self.meta.claim_slot(slot, &claim, self.lease).await.expect("claimed")
    }

    pub(crate) async fn claim_all(&self) {
        for slot in ["a/0", "a/1", "b/0", "b/1"] {
            self.claim(&self::slot(slot)).await;
        }
    }

    /// The slots report that they hold these contents, and nothing else.
    pub(crate) async fn report(&self, slots: &[&str], contents: &[ContentId]) {
        let uid = self.table().await.uid();
        let held = contents.iter().map(|content| Held { content: *content, version: Version(1) }).collect();
        let tables = BTreeMap::from([(uid, held)]);
        for slot in slots {
            let slot = self::slot(slot);
            let claim = self.meta.claim(&slot).await.expect("read").expect("a claim");
            let standing = self.meta.report(&slot).await.expect("read").map(|report| report.modified);
            let (incarnation, tables) = (claim.created.0, tables.clone());
            let report = Report { incarnation, generation: 1, tables, problems: BTreeMap::new() };
            let outcome = self.meta.run(txn::report(&self.meta.keys, &slot, standing, &report)).await;
            assert!(matches!(outcome, Ok(TxnOutcome::Committed(_))), "{slot}");
        }
    }

    pub(crate) async fn report_all(&self, contents: &[ContentId]) {
        self.report(&["a/0", "a/1", "b/0", "b/1"], contents).await;
    }

    pub(crate) async fn submit(&mut self, mode: LoadMode) -> Result<TaskId, Refusal> {
        self.submits += 1;
        let id = format!("submit-{}", self.submits);
        let view = self.view().await;
        match txn::submit(&view, TABLE, None, &id, &spec(mode), 1)? {
            txn::Submitted::New(plan) => {
                let task = plan.after.task.task;
                assert!(self.run(*plan).await.is_some());
                Ok(task)
            }
            txn::Submitted::Already(task) => panic!("task {task} has a new submit id"),
        }
    }

    pub(crate) async fn start(&mut self, task: TaskId) {
        self.change(|view| txn::start_task(view, TABLE, task, 2)).await;
    }

    /// Claims a running task's lock, and gives the token.
    pub(crate) async fn lock(&mut self, task: TaskId) -> Revision {
        let (table, task) = (self.table().await, self.task(task.0).await);
        let plan = txn::claim_task(&self.meta.keys, &table, &task, "w", self.lease).expect("claimable");
        self.run(plan).await.expect("nobody else is at it")
    }

    pub(crate) async fn freeze(&mut self, task: TaskId, token: Revision) {
        let (table, task) = (self.table().await, self.task(task.0).await);
        let keys = &self.meta.keys;
        let plan = txn::freeze_plan(keys, &table, &task, token, 100, object("inputs"), object("plan"));
        assert!(self.run(plan.expect("not frozen yet")).await.is_some());
    }

    /// The plan of a commit of the n-th content.
    pub(crate) async fn plan_publish(
        &self,
        task: TaskId,
        token: Revision,
        content: u64,
    ) -> Result<Planned<txn::Published>, Refusal> {
        let (table, task) = (self.table().await, self.task(task.0).await);
        let base = self.meta.version(table.uid(), table.value.head).await.expect("read");
        let build = build(table.value.head.next(), content_of(content));
        txn::publish(&self.meta.keys, &table, &task, token, base.as_ref(), build, 3)
    }

    /// Submits a load and takes it to its commit.
    pub(crate) async fn commit(&mut self, mode: LoadMode, content: u64) -> (TaskId, Version) {
        let task = self.submit(mode).await.expect("submitted");
        self.start(task).await;
        let token = self.lock(task).await;
        self.freeze(task, token).await;
        let plan = self.plan_publish(task, token, content).await.expect("legal");
        let version = plan.after.version.version;
        assert!(self.run(plan).await.is_some());
        (task, version)
    }

    pub(crate) async fn flip(&mut self) {
        self.change(|view| txn::flip(view, TABLE, 4)).await;
    }

    /// A full load, shown by all servers, which afterwards hold it and the one before.
    pub(crate) async fn load(&mut self, content: u64) -> Version {
        let (task, version) = self.commit(LoadMode::Full, content).await;
        let held: BTreeSet<u64> = BTreeSet::from([content, content.saturating_sub(1)]);
        self.report_all(&held.into_iter().map(content_of).collect::<Vec<_>>()).await;
        self.flip().await;
        assert_eq!(self.task(task.0).await.value.state, TaskState::Finished);
        version
    }

    pub(crate) async fn rollback(&mut self, to: u64) -> txn::RolledBack {
        self.change(|view| txn::rollback(view, TABLE, Some(Version(to)), None, 5)).await
    }

    /// What the table shows: version and epoch.
    pub(crate) async fn shown(&self) -> Option<(Version, Epoch)> {
        self.table().await.value.aligned.map(|label| (label.version, label.epoch))
    }
}
